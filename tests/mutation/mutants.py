"""Mutants of the provider's code: one small change of a condition, a comparison, a constant or a call each."""

from __future__ import annotations

import ast
import copy
import difflib
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Each of these has a least number of mutants in a draw.
AREAS = ("jobs", "clusters", "infrastructure", "operators", "hooks", "functions")
PACKAGE = "provider/ray_provider"
#: What nobody asserts, and what a process at work does not run.
_LEFT_OUT = ("testing", "_bundled")
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
#: Keys, states and arguments; not sentences, which a reader judges.
_WORD = re.compile(r"[\w./:-]{1,40}")


@dataclass(frozen=True)
class Mutant:
    """A change of one file.

    :param path: relative to the repository.
    :param first: first line that it changes.
    :param last: last one.
    :param whole_file: it lies outside of functions: what runs it is not told by lines.
    :param text: the file with the change.
    """

    path: str
    first: int
    last: int
    kind: str
    whole_file: bool
    before: str
    text: str

    @property
    def area(self) -> str:
        """The package that it lies in."""
        parts = Path(self.path).relative_to(PACKAGE).parts
        return parts[0] if len(parts) > 1 else "top"

    @property
    def diff(self) -> str:
        """What it changes."""
        lines = difflib.unified_diff(self.before.splitlines(), self.text.splitlines(), n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def _variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Give changed copies of a node, with the kind of change."""
    if isinstance(node, ast.Compare):
        made = copy.deepcopy(node)
        made.ops[0] = _COMPARISONS[type(node.ops[0])]()
        yield "comparison", made
    elif isinstance(node, ast.BoolOp):
        made = copy.deepcopy(node)
        made.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield "condition", made
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "condition", node.operand
    elif isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Constant):
        if not _type_checking(node.test):
            yield "condition", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            yield "constant", ast.Constant(not value)
        elif isinstance(value, int | float):
            yield "constant", ast.Constant(value + 1)
        elif isinstance(value, str) and _WORD.fullmatch(value):
            yield "constant", ast.Constant(value + "x")
    elif isinstance(node, ast.Expr):
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call) and not _is_log(call):
            yield "removed call", ast.Pass()


def _type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _is_log(call: ast.Call) -> bool:
    return bool(re.search(r"\blog(ger)?\.\w+$|super\(\)\.__init__$", ast.unparse(call.func)))


class _Places(ast.NodeVisitor):
    """Collects nodes that may be changed, and whether they lie in a function."""

    def __init__(self) -> None:
        self.found: list[tuple[ast.AST, ast.AST, str, bool]] = []  # where, made, kind, in a function
        self._depth = 0

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Call) and _is_log(node):
            return
        for kind, made in _variants(node):
            where = node.test if isinstance(node, ast.If | ast.While | ast.IfExp) else node
            self.found.append((where, made, kind, self._depth > 0))
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "type_params", "keywords"} and isinstance(
                node, ast.arg | ast.ClassDef
            ):
                continue
            self._enter(node, name, value)

    def _enter(self, node: ast.AST, name: str, value: object) -> None:
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if name in {"annotation", "returns", "decorator_list"} or isinstance(node, ast.JoinedStr):
            return  # types, dataclass(slots=True); text with values in it
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return
        if isinstance(node, ast.If) and _type_checking(node.test):
            return
        self._depth += function and name == "body"
        for one in value if isinstance(value, list) else [value]:
            docstring = name == "body" and isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
            if isinstance(one, ast.AST) and not docstring:
                self.visit(one)
        self._depth -= function and name == "body"


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """Give all mutants of a file."""
    source = (root / path).read_text()
    places = _Places()
    places.visit(ast.parse(source))
    found = []
    for where, made, kind, inside in places.found:
        text = _spliced(source, where, ast.unparse(ast.fix_missing_locations(made)), made)
        found.append(Mutant(path, where.lineno, where.end_lineno, kind, not inside, source, text))  # type: ignore[attr-defined]
    return found


def _spliced(source: str, where: ast.AST, code: str, made: ast.AST) -> str:
    """Put code in place of a node; nothing else in the file moves, but for the lines of the node itself."""
    lines = source.splitlines(keepends=True)
    first, last = where.lineno - 1, where.end_lineno - 1  # type: ignore[attr-defined]
    head = lines[first].encode()[: where.col_offset].decode()  # type: ignore[attr-defined]
    tail = lines[last].encode()[where.end_col_offset :].decode()  # type: ignore[attr-defined]
    if isinstance(made, ast.expr) and not isinstance(made, ast.Constant):
        code = f"({code})"
    return "".join([*lines[:first], head + code + tail, *lines[last + 1 :]])


def draw(root: Path, files: Sequence[str], *, seed: int, count: int, least: int) -> list[Mutant]:
    """Draw mutants, at most one of a line: ``least`` of each area, the others from all.

    :param seed: the same seed draws the same mutants of the same code.
    """
    chance = random.Random(seed)
    pool: list[Mutant] = []
    for path in sorted(files):
        if Path(path).relative_to(PACKAGE).parts[0] not in _LEFT_OUT:
            pool += mutants_of(root, path)
    chance.shuffle(pool)
    # There are many constants and few comparisons: the kinds take turns.
    turn: Counter[str] = Counter()
    order = []
    for mutant in pool:
        order.append((turn[mutant.kind], len(order)))
        turn[mutant.kind] += 1
    pool = [pool[place] for _, place in sorted(order)]
    drawn: dict[tuple[str, int], Mutant] = {}

    def take(number: int, area: str | None) -> None:
        for mutant in pool:
            if number <= 0:
                return
            place = (mutant.path, mutant.first)
            if place not in drawn and (area is None or mutant.area == area) and _compiles(mutant):
                drawn[place] = mutant
                number -= 1

    for area in AREAS:
        take(least, area)
    take(count - len(drawn), None)
    return sorted(drawn.values(), key=lambda mutant: (mutant.path, mutant.first))


def _compiles(mutant: Mutant) -> bool:
    try:
        tree = ast.parse(mutant.text)
    except SyntaxError:
        return False
    return ast.dump(tree) != ast.dump(ast.parse(mutant.before))
