"""Packs functions and classes as source, for a cluster whose Python can't read this one's bytecode."""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import functools
import inspect
import linecache
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any

from cloudpickle.cloudpickle import _should_pickle_by_reference

from ray_provider.functions import from_source

_ANNOTATIONS = __future__.annotations.compiler_flag
_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL", "DELETE_GLOBAL"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_OURS = (from_source.make_function, from_source.set_function, from_source.make_class, from_source.set_class)


class NoSourceError(Exception):
    """Something can't be sent as source; the message says what, and why."""


def named(thing: Any) -> Any:
    """Say what is found by its name on the cluster, where a pickle would look in a place that it may not have.

    :param thing: any that the call holds.
    :return: what :func:`~ray_provider.functions.from_source.named` reads; ``None``: it travels.
    """
    if any(thing is each for each in _OURS):
        return thing.__name__
    # Python 3.13 says pathlib._local, which others don't have.
    if isinstance(thing, type) and issubclass(thing, PurePath) and thing.__module__.startswith("pathlib."):
        return ("pathlib", thing.__name__)
    if thing is functools._CacheInfo:  # noqa: SLF001 - of functools.cache's wrappers: it has another name there
        return ("functools", "_CacheInfo")
    return None


def reduce(thing: Any) -> Any:
    """Say how a function or a class is made again from source; ``None`` for what needs no source.

    :param thing: any that the call holds.
    :raises NoSourceError: there is none, or it is not what runs here.
    """
    if isinstance(thing, types.CodeType):
        raise NoSourceError(f"{thing.co_name} is bytecode")
    if isinstance(thing, types.FunctionType) and not _should_pickle_by_reference(thing):
        return _function(thing)
    if isinstance(thing, type) and thing.__module__ != "builtins" and not _should_pickle_by_reference(thing):
        return _class(thing)
    return None


def _function(function: types.FunctionType) -> Any:
    code = function.__code__
    name = f"the function {function.__qualname__} (line {code.co_firstlineno})"
    if code.co_name == "<lambda>":
        raise NoSourceError(f"{name} has no source of its own: write a def")
    told = {
        "source": _source_of(code, name),
        "line": code.co_firstlineno,
        "file": code.co_filename,
        "module": str(function.__globals__.get("__name__")),
        "name": function.__name__,
        "free": list(code.co_freevars),
        "flags": code.co_flags & _ANNOTATIONS,
    }
    try:
        from_source.function_code(told)
    except (SyntaxError, StopIteration) as error:
        raise NoSourceError(f"{name} can't be read in {code.co_filename}: {error}") from error
    _check_unchanged(code, name)
    state = {
        "globals": _values(_names(code), function.__globals__),
        "closure": dict(_closure(function)),
        "attributes": {
            "__defaults__": function.__defaults__,
            "__kwdefaults__": function.__kwdefaults__,
            "__qualname__": function.__qualname__,
            "__module__": function.__module__,
            "__doc__": function.__doc__,
            **function.__dict__,
        },
    }
    return from_source.make_function, (told,), state, None, None, from_source.set_function


def _class(made: type) -> Any:
    name = f"the class {made.__qualname__}"
    module = sys.modules.get(made.__module__)
    space = vars(module) if module else {}
    if "." not in made.__qualname__ and space.get(made.__name__) is not made:
        raise NoSourceError(f"{name} is not what {made.__module__} has by that name")
    source, line, file = _source_of_class(made, name)
    flags = _ANNOTATIONS if space.get("annotations") is __future__.annotations else 0
    told = {
        "source": source,
        "line": line,
        "file": file,
        "module": made.__module__,
        "name": made.__name__,
        "qualname": made.__qualname__,
        "flags": flags,
    }
    try:
        code = from_source.class_code(told)
    except SyntaxError as error:
        raise NoSourceError(f"{name} can't be read in {file}: {error}") from error
    for each in vars(made).values():
        own = getattr(each, "__func__", each)
        if isinstance(own, types.FunctionType) and own.__code__.co_filename == file:
            _check_unchanged(own.__code__, name)
    used = {each.id for each in ast.walk(from_source.definition(source, line)) if isinstance(each, ast.Name)}
    if "." in made.__qualname__ and (around := (_locals_around(file, line) - {made.__name__}) & used):
        raise NoSourceError(f"{name} uses {', '.join(sorted(around))} of the function around it")
    at_once, later = _names_of_class(code)
    needed = _values((each for each in at_once if each != made.__name__), space)
    return (
        from_source.make_class,
        (told, needed),
        {**_values(later, space), made.__name__: made},
        None,
        None,
        from_source.set_class,
    )


def _source_of(code: types.CodeType, name: str) -> str:
    try:
        linecache.checkcache(code.co_filename)
        return inspect.getsource(code)
    except (OSError, TypeError, IndentationError, SyntaxError) as error:
        raise NoSourceError(f"{name} has no source in {code.co_filename}") from error


def _source_of_class(made: type, name: str) -> tuple[str, int, str]:
    try:
        file = inspect.getsourcefile(made) or ""
        linecache.checkcache(file)
        lines, line = inspect.getsourcelines(made)
    except (OSError, TypeError, IndentationError, SyntaxError) as error:
        raise NoSourceError(f"{name} has no source in a file") from error
    return "".join(lines), line, file


def _check_unchanged(code: types.CodeType, name: str) -> None:
    """See that the file still holds what runs here."""
    there = _codes("".join(linecache.getlines(code.co_filename)), code.co_filename)
    if not any(_same(each, code) for each in there.get((code.co_name, code.co_firstlineno), ())):
        raise NoSourceError(f"{name} is another one in {code.co_filename} now: the file has changed since it was read")


@functools.lru_cache(maxsize=4)
def _codes(text: str, file: str) -> dict[tuple[str, int], list[types.CodeType]]:
    """Compile a file, and give all code in it by its name and line."""
    found: dict[tuple[str, int], list[types.CodeType]] = {}
    for each in _nested(compile(text, file, "exec", dont_inherit=True)):
        found.setdefault((each.co_name, each.co_firstlineno), []).append(each)
    return found


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield each
            yield from _nested(each)


def _same(one: types.CodeType, other: types.CodeType) -> bool:
    """Tell whether two pieces of bytecode are the same but for their lines."""
    if (one.co_code, one.co_names, one.co_varnames, one.co_freevars) != (
        other.co_code,
        other.co_names,
        other.co_varnames,
        other.co_freevars,
    ):
        return False
    if len(one.co_consts) != len(other.co_consts):
        return False
    for mine, theirs in zip(one.co_consts, other.co_consts, strict=True):
        if isinstance(mine, types.CodeType) and isinstance(theirs, types.CodeType):
            if not _same(mine, theirs):
                return False
        elif type(mine) is not type(theirs) or mine != theirs:
            return False
    return True


def _names(code: types.CodeType) -> list[str]:
    """Give the globals that a piece of code and what is in it use."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname in _GLOBALS}
    for each in _nested(code):
        found |= {one.argval for one in dis.get_instructions(each) if one.opname in _GLOBALS}
    return sorted(found)


def _names_of_class(code: types.CodeType) -> tuple[list[str], list[str]]:
    """Give what a class uses when it is defined, and what its methods use later."""
    at_once: set[str] = set()
    later: set[str] = set()

    def look(one: types.CodeType) -> None:
        at_once.update(each.argval for each in dis.get_instructions(one) if each.opname in _GLOBALS)
        for each in one.co_consts:
            if isinstance(each, types.CodeType):
                runs_later = each.co_flags & inspect.CO_OPTIMIZED and (
                    not each.co_name.startswith("<") or each.co_name == "<lambda>"
                )
                if runs_later:
                    later.update(_names(each))
                else:
                    look(each)

    look(code)
    return sorted(at_once), sorted(later)


def _values(names: Iterable[str], space: dict[str, Any]) -> dict[str, Any]:
    return {name: space[name] for name in names if name in space and not _is_builtin(name, space)}


def _is_builtin(name: str, space: dict[str, Any]) -> bool:
    return space[name] is getattr(builtins, name, space) or name in {"__name__", "__file__", "__builtins__"}


def _closure(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # it has no value yet
            continue


def _locals_around(file: str, line: int) -> set[str]:
    """Give the local names of the functions that a line of a file stands in."""
    found: set[str] = set()
    for around in ast.walk(ast.parse("".join(linecache.getlines(file)))):
        if isinstance(around, _FUNCTIONS) and around.lineno < line <= (around.end_lineno or 0):
            found.update(each.arg for each in ast.walk(around.args) if isinstance(each, ast.arg))
            found.update(_bound(around))
    return found


def _bound(node: ast.AST) -> Iterator[str]:
    """Give the names that a function's own statements bind."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, (*_FUNCTIONS, ast.ClassDef)):
            yield each.name
            continue
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            yield each.id
        elif isinstance(each, ast.alias):
            yield (each.asname or each.name).partition(".")[0]
        yield from _bound(each)
