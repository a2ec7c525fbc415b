"""What a module's root declares about its variables, read without Terraform, so that a wrong name is found at once.

This is no parser of HCL: it finds the blocks ``variable "…" { … }`` and the plain arguments on their first level, which
is all that is needed. Terraform itself checks the rest. Why not python-hcl2: docs/decisions/module-variables.md.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_provider.infrastructure.errors import ModuleError, VariableError

_BLOCK = re.compile(r'^[ \t]*variable[ \t]+"?([A-Za-z_][\w-]*)"?[ \t]*\{', re.MULTILINE)
_HEREDOC = re.compile(r"<<[-~]?([A-Za-z_]\w*)")
_ARGUMENT = re.compile(r"^[ \t]*(type|sensitive|ephemeral|default|nullable)[ \t]*=(?!=)[ \t]*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DeclaredVariable:
    """A variable of a module.

    :param type: as the module writes it.
    :param required: it has no default.
    :param sensitive: Terraform does not show it.
    :param ephemeral: it is in no plan and no state, and is given again with each command.
    :param nullable: null is a value of its own, and not the default.
    """

    name: str
    type: str = "any"
    required: bool = True
    sensitive: bool = False
    ephemeral: bool = False
    nullable: bool = True


def read_declared(folder: Path) -> dict[str, DeclaredVariable]:
    """Give the variables that the module in ``folder`` declares.

    :param folder: the module's root.
    :raises ModuleError: there is no module here.
    """
    sources = sorted([*folder.glob("*.tf"), *folder.glob("*.tofu")])
    json_sources = sorted([*folder.glob("*.tf.json"), *folder.glob("*.tofu.json")])
    if not sources and not json_sources:
        raise ModuleError(f"module: there is no *.tf file in {folder}.", field="module")
    found: dict[str, DeclaredVariable] = {}
    for path in sources:
        text = _blank_out(path.read_text(encoding="utf-8-sig", errors="replace"))
        for match in _BLOCK.finditer(text):
            body = _body(text, match.end())
            found[match.group(1)] = _from_hcl(match.group(1), body)
    for path in json_sources:
        try:
            blocks = json.loads(path.read_text(encoding="utf-8")).get("variable") or {}
        except (ValueError, AttributeError) as error:
            raise ModuleError(f"module: {path.name} is not a JSON object: {error}.", field="module") from error
        for block in blocks if isinstance(blocks, list) else [blocks]:
            for name, value in block.items():
                found[name] = DeclaredVariable(
                    name=name,
                    type=str(value.get("type", "any")),
                    required="default" not in value,
                    sensitive=value.get("sensitive") is True,
                    ephemeral=value.get("ephemeral") is True,
                    nullable=value.get("nullable") is not False,
                )
    return found


def check_variables(
    declared: Mapping[str, DeclaredVariable], given: Mapping[str, Any], *, elsewhere: Mapping[str, Any]
) -> None:
    """Check names and outer types.

    :param declared: what the module declares.
    :param given: the variables of this run.
    :param elsewhere: variables that come from the environment or from files in the module.
    :raises VariableError: with every problem, and the names in ``data["variables"]``.
    """
    problems: dict[str, str] = {}
    for name, value in given.items():
        variable = declared.get(name)
        if variable is None:
            near = difflib.get_close_matches(name, declared, n=1)
            problems[name] = f"the module has no such variable{f'; did you mean {near[0]!r}?' if near else ''}"
        elif value is None and not variable.nullable:
            problems[name] = "it must not be null"
        elif value is not None and (wanted := _mismatch(variable.type, value)):
            problems[name] = f"it has to be {wanted}, not {_kind(value)}"
    for name, variable in declared.items():
        if variable.required and name not in given and name not in elsewhere:
            problems[name] = "it has no default, and no value was given"
    if problems:
        raise VariableError(
            "Wrong variables: " + "; ".join(f"variables.{name}: {problem}" for name, problem in problems.items()) + ".",
            hint=f"The module takes: {', '.join(sorted(declared)) or 'none'}.",
            variables=list(problems),
        )


#: What a destroy gives to a variable that is wanted and that nobody set: it says nothing about what is destroyed.
_PLACEHOLDERS: dict[str, Any] = {"string": "unknown", "number": 0, "bool": False, "list": [], "set": [], "tuple": []}


def for_destroy(
    declared: Mapping[str, DeclaredVariable], given: Mapping[str, Any], *, elsewhere: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Fit variables to a module that may have changed since they were given: a destroy hardly needs them.

    :param declared: what the module declares.
    :param given: the variables of this run.
    :param elsewhere: variables that come from the environment or from files in the module.
    :return: the variables, and what is to be told about them.
    """
    fitting: dict[str, Any] = {}
    told: list[str] = []
    for name, value in given.items():
        variable = declared.get(name)
        if variable is None:
            told.append(f"WARNING: the module has no variable {name} (any more): it is left out.")
        elif (value is None and not variable.nullable) or (value is not None and _mismatch(variable.type, value)):
            told.append(f"WARNING: variables.{name} does not fit the module (any more): it is left out.")
        else:
            fitting[name] = value
    for name, variable in declared.items():
        if variable.required and name not in fitting and name not in elsewhere:
            outer = re.split(r"[^a-z]", variable.type, maxsplit=1)[0]
            fitting[name] = None if variable.nullable else _PLACEHOLDERS.get(outer, {})
            told.append(f"WARNING: the module wants a variable {name}, which nobody gave: it gets {fitting[name]!r}.")
    return fitting, told


def names_in_files(root: Path) -> dict[str, Any]:
    """Give the names of variables that the module's own automatic files set; the values don't matter here.

    :param root: the module's folder.
    """
    names: dict[str, Any] = {}
    for path in [root / "terraform.tfvars", *root.glob("*.auto.tfvars")]:
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            names |= dict.fromkeys(re.findall(r"^\s*\"?([A-Za-z_][\w-]*)\"?\s*=", text, re.MULTILINE))
    for path in [root / "terraform.tfvars.json", *root.glob("*.auto.tfvars.json")]:
        if path.is_file():
            names |= dict.fromkeys(json.loads(path.read_text(encoding="utf-8")))
    return names


def _from_hcl(name: str, body: str) -> DeclaredVariable:
    arguments: dict[str, str] = {}
    for match in _ARGUMENT.finditer(body):
        if _depth(body, match.start()) == 0:
            arguments[match.group(1)] = body[match.end() :].splitlines()[0].strip() if body[match.end() :] else ""
    return DeclaredVariable(
        name=name,
        type=arguments.get("type", "any"),
        required="default" not in arguments,
        sensitive=arguments.get("sensitive", "").startswith("true"),
        ephemeral=arguments.get("ephemeral", "").startswith("true"),
        nullable=not arguments.get("nullable", "").startswith("false"),
    )


def _blank_out(text: str) -> str:
    """Replace what stands in strings, comments and heredocs, so that brackets mean brackets. Names of blocks stay."""
    out: list[str] = []
    position, end = 0, len(text)
    while position < end:
        two = text[position : position + 2]
        if text[position] == "#" or two == "//":
            position = _line_end(text, position)
        elif two == "/*":
            close = text.find("*/", position + 2)
            close = end if close < 0 else close + 2
            out.append("\n" * text.count("\n", position, close))
            position = close
        elif two == "<<" and (heredoc := _HEREDOC.match(text, position)):
            close_line = re.compile(rf"^[ \t]*{re.escape(heredoc.group(1))}[ \t]*$", re.MULTILINE)
            closing = close_line.search(text, _line_end(text, position))
            stop = closing.end() if closing else end
            out.append('""' + "\n" * text.count("\n", position, stop))
            position = stop
        elif text[position] == '"':
            stop = _string_end(text, position)
            content = text[position + 1 : stop - 1]
            out.append(f'"{content}"' if re.fullmatch(r"[\w-]*", content) else '""')
            position = stop
        else:
            out.append(text[position])
            position += 1
    return "".join(out)


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _string_end(text: str, position: int) -> int:
    """Give the position behind a quoted string, with the templates in it, which may hold strings of their own."""
    position += 1
    while position < len(text):
        if text[position] == "\\":
            position += 2
        elif text[position : position + 3] in {"$${", "%%{"}:
            position += 3
        elif text[position : position + 2] in {"${", "%{"}:
            position = _template_end(text, position + 2)
        elif text[position] in '"\n':
            return position + 1
        else:
            position += 1
    return position


def _template_end(text: str, position: int) -> int:
    depth = 1
    while position < len(text) and depth:
        if text[position] == '"':
            position = _string_end(text, position)
            continue
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        position += 1
    return position


def _body(text: str, start: int) -> str:
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return text[start:]


def _depth(text: str, end: int) -> int:
    before = text[:end]
    return sum(before.count(character) for character in "{([") - sum(before.count(character) for character in "})]")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, (list, tuple, set)) else type(value).__name__


def _mismatch(declared: str, value: Any) -> str | None:
    """Say what is wanted if the value can't be converted to it, as Terraform converts."""
    outer = re.split(r"[^a-z]", declared, maxsplit=1)[0]
    if outer == "string":
        return None if isinstance(value, (str, bool, int, float)) else "text"
    if outer == "number":
        fits = (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
            isinstance(value, str) and _is_number(value)
        )
        return None if fits else "a number"
    if outer == "bool":
        return None if isinstance(value, bool) or value in ("true", "false") else "true or false"
    if outer in {"list", "set", "tuple"}:
        return None if isinstance(value, (list, tuple, set)) else "a list"
    if outer in {"map", "object"}:
        return None if isinstance(value, Mapping) else "a mapping"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
