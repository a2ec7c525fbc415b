"""What a module declares, and what is said of variables that do not fit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_provider.infrastructure.errors import ModuleError, VariableError
from ray_provider.infrastructure.module.declared import (
    DeclaredVariable,
    check_variables,
    for_destroy,
    names_in_files,
    read_declared,
)


def declared(*variables: DeclaredVariable) -> dict[str, DeclaredVariable]:
    return {each.name: each for each in variables}


def optional(name: str, type_: str, **further: Any) -> DeclaredVariable:
    return DeclaredVariable(name, type_, required=False, **further)


def read(tmp_path: Path, text: str) -> dict[str, DeclaredVariable]:
    (tmp_path / "main.tf").write_text(text)
    return read_declared(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '# variable "x" {}\n',
        '// variable "x" {}\n',
        '/* variable "x" {}\n*/\n',
        '/* never closed\nvariable "x" {}\n',
        'locals {\n  a = "${upper("}")} { \\" {"\n  b = "$${ {"\n  c = "%%{ {"\n  d = "%{ if true }{%{ endif }"\n}\n',
        'locals {\n  text = <<EOT\nvariable "x" {}\n} } }\nEOT\n}\n',
        'locals {\n  text = <<-EOT\n    variable "x" {}\n  EOT\n}\n',
    ],
)
def test_what_stands_in_comments_and_strings_declares_nothing_and_hides_nothing(tmp_path: Path, text: str) -> None:
    assert set(read(tmp_path, f'{text if "never" not in text else ""}variable "y" {{}}\n')) == {"y"}
    if "never" in text:
        assert read(tmp_path, text) == {}


def test_a_heredoc_that_never_ends_hides_the_rest(tmp_path: Path) -> None:
    assert set(read(tmp_path, 'variable "y" {}\nlocals {\n a = <<EOT\nvariable "x" {}\n')) == {"y"}


def test_arguments_count_on_the_first_level_only(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        'variable "x" {\n  type = map(object({\n    default = string\n    sensitive = bool\n  }))\n'
        "  validation {\n    default = 1\n  }\n}\n"
        'variable "bare" { type = string }\n'
        "variable unquoted {\n  default   = 5\n  sensitive = false\n  nullable  = true\n}\n"
        'variable "equal" {\n  type == string\n}\n',
    )
    assert (found["x"].required, found["x"].sensitive) == (True, False)
    assert found["x"].type.startswith("map(")
    assert (found["unquoted"].required, found["unquoted"].sensitive, found["unquoted"].nullable) == (False, False, True)
    assert found["equal"].type == "any"


def test_opentofus_and_json_files_count_too(tmp_path: Path) -> None:
    (tmp_path / "a.tofu").write_text('variable "a" {}\n')
    (tmp_path / "b.tofu.json").write_text(json.dumps({"variable": {"b": {"sensitive": True, "nullable": False}}}))
    (tmp_path / "c.tf.json").write_text(
        json.dumps({"variable": [{"c": {"type": "bool", "default": None}}, {"d": {"ephemeral": True}}]})
    )
    found = read_declared(tmp_path)
    assert set(found) == {"a", "b", "c", "d"}
    assert found["b"] == DeclaredVariable("b", "any", required=True, sensitive=True, ephemeral=False, nullable=False)
    assert found["c"] == DeclaredVariable("c", "bool", required=False)
    assert found["d"] == DeclaredVariable("d", required=True, ephemeral=True)


def test_json_alone_is_a_module_and_nothing_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"there is no \*\.tf file") as caught:
        read_declared(tmp_path)
    assert caught.value.data["field"] == "module"
    (tmp_path / "main.tf.json").write_text("{}")
    assert read_declared(tmp_path) == {}
    (tmp_path / "main.tf.json").write_text("[1]")
    with pytest.raises(ModuleError, match=r"main\.tf\.json is not a JSON object") as caught:
        read_declared(tmp_path)
    assert caught.value.data["field"] == "module"


# ---------------------------------------------------------------- what fits


@pytest.mark.parametrize(
    ("type_", "fits", "does_not", "wanted"),
    [
        ("string", ["x", True, 1, 1.5], [["x"], {"a": 1}], "text"),
        ("number", [1, 1.5, "7", "1e3"], [True, "seven", [1]], "a number"),
        ("bool", [True, False, "true", "false"], ["yes", 1], "true or false"),
        ("list(string)", [[], ("a",), {"a"}], ["a", {"a": 1}], "a list"),
        ("set(number)", [[1]], [1], "a list"),
        ("tuple([string])", [["a"]], ["a"], "a list"),
        ("map(string)", [{}, {"a": 1}], [[], "a"], "a mapping"),
        ("object({a=string})", [{"a": 1}], [["a"]], "a mapping"),
        ("any", ["x", 1, [], {}], [], ""),
    ],
)
def test_outer_types(type_: str, fits: list[Any], does_not: list[Any], wanted: str) -> None:
    known = declared(optional("x", type_))
    for value in [*fits, None]:
        check_variables(known, {"x": value}, elsewhere={})
    for value in does_not:
        with pytest.raises(VariableError, match=f"variables.x: it has to be {wanted}, not ") as caught:
            check_variables(known, {"x": value}, elsewhere={})
        assert caught.value.data["variables"] == ["x"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, "a boolean"), (1, "a number"), (1.5, "a number"), ("x", "text"), ((1,), "a list"), (object(), "object")],
)
def test_what_was_given_is_named_in_words(value: Any, kind: str) -> None:
    with pytest.raises(VariableError, match=f"it has to be a mapping, not {kind}"):
        check_variables(declared(optional("x", "map(any)")), {"x": value}, elsewhere={})
    with pytest.raises(VariableError, match="it has to be a list, not a mapping"):
        check_variables(declared(optional("x", "list(any)")), {"x": {}}, elsewhere={})


def test_every_problem_is_told_at_once() -> None:
    known = declared(
        DeclaredVariable("name"),
        DeclaredVariable("region"),
        optional("pools", "map(any)", nullable=False),
    )
    with pytest.raises(VariableError) as caught:
        check_variables(known, {"pool": {}, "pools": None, "strange": 1}, elsewhere={"region": None})
    text = str(caught.value)
    assert "variables.pool: the module has no such variable; did you mean 'pools'?" in text
    assert "variables.strange: the module has no such variable; variables.name" in text
    assert "variables.pools: it must not be null" in text
    assert "variables.name: it has no default, and no value was given" in text
    assert "The module takes: name, pools, region." in text
    assert caught.value.data["variables"] == ["pool", "pools", "strange", "name"]
    with pytest.raises(VariableError, match="The module takes: none"):
        check_variables({}, {"x": 1}, elsewhere={})


def test_a_destroy_takes_what_fits_and_makes_up_the_rest() -> None:
    known = declared(
        DeclaredVariable("name", "string", nullable=False),
        DeclaredVariable("count", "number", nullable=False),
        DeclaredVariable("on", "bool", nullable=False),
        DeclaredVariable("zones", "list(string)", nullable=False),
        DeclaredVariable("tags", "map(string)", nullable=False),
        DeclaredVariable("maybe", "string"),
        DeclaredVariable("set_elsewhere", "string"),
        optional("pools", "map(any)", nullable=False),
        optional("kept", "string"),
    )
    given = {"kept": "x", "pools": None, "gone": 1, "zones": "not a list"}
    fitting, told = for_destroy(known, given, elsewhere={"set_elsewhere": None})
    assert fitting == {
        "kept": "x",
        "name": "unknown",
        "count": 0,
        "on": False,
        "zones": [],
        "tags": {},
        "maybe": None,
    }
    assert "WARNING: the module has no variable gone (any more): it is left out." in told
    assert "WARNING: variables.pools does not fit the module (any more): it is left out." in told
    assert "WARNING: variables.zones does not fit the module (any more): it is left out." in told
    assert "WARNING: the module wants a variable maybe, which nobody gave: it gets None." in told
    assert len(told) == 9
    assert for_destroy(known, {**fitting, "set_elsewhere": "s"}, elsewhere={})[1] == []


def test_values_in_the_modules_own_files_count_as_given(tmp_path: Path) -> None:
    (tmp_path / "terraform.tfvars").write_text('a = 1\n"b" = 2\n# c = 3\n  d= 4\nnested {\n')
    (tmp_path / "x.auto.tfvars").write_text("e = 5\n")
    (tmp_path / "other.tfvars").write_text("f = 6\n")
    (tmp_path / "terraform.tfvars.json").write_text('{"g": 7}')
    (tmp_path / "x.auto.tfvars.json").write_text('{"h": 8}')
    (tmp_path / "folder.auto.tfvars").mkdir()
    (tmp_path / "folder.auto.tfvars.json").mkdir()
    assert set(names_in_files(tmp_path)) == {"a", "b", "d", "e", "g", "h"}
