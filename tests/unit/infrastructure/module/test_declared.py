"""What a module declares, read beside python-hcl2, which reads all of HCL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hcl2
import pytest

from ray_provider.infrastructure.errors import ModuleError
from ray_provider.infrastructure.module.declared import read_declared

TRICKY = {
    "heredoc": 'variable "a" {\n  description = <<-EOT\n    } b { "x"\n  EOT\n  default = 1\n}\n',
    "comments": 'variable "a" { # }\n /* { default = 2 */ nullable = false // }\n}\n#variable "b" {}\n',
    "validation": 'variable "a" {\n type = object({ x = optional(string, "y") })\n validation {\n'
    '  condition = can(regex("^[a-z]{3}$", var.a.x))\n  error_message = "not ${var.a.x}: {"\n }\n}\n',
    "a bare name": "variable a {}\n",
    "ends of lines of Windows": 'variable "a" {\r\n  default = 1\r\n}\r\nvariable "b" {\r\n}\r\n',
    "templates": 'variable "a" {\n  default = "%{ if true }a%{ endif }${"}"}$${x}"\n}\nvariable "b" {}\n',
    "on one line": 'variable "a" { type = string }\nvariable "b" { sensitive = true }\n',
    "no end of line": 'variable "a" { default = 1 }',
    "a default of null": 'variable "a" {\n  default = null\n}\n',
    "a default that is deep": 'variable "a" {\n  default = {\n    sensitive = true\n    type = "x"\n  }\n}\n',
    "none": "locals {\n  variable = { a = 1 }\n}\n",
}


def read_by_hcl2(text: str) -> dict[str, tuple[Any, ...]]:
    found = {}
    for block in hcl2.loads(text).get("variable", []):
        for name, body in block.items():
            if not name.startswith("__"):
                values = (body.get("sensitive") is True, body.get("nullable") is not False)
                found[name.strip('"')] = ("default" not in body, *values)
    return found


@pytest.mark.parametrize("text", TRICKY.values(), ids=TRICKY)
def test_declarations_are_read_as_python_hcl2_reads_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "main.tf").write_bytes(text.encode())
    ours = {name: (one.required, one.sensitive, one.nullable) for name, one in read_declared(tmp_path).items()}
    assert ours == read_by_hcl2(text)


def test_a_mistake_elsewhere_is_left_to_terraform_which_tells_its_place(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text('resource "x" "y" {\n  a =\n}\nvariable "a" {}\n')
    assert set(read_declared(tmp_path)) == {"a"}


def test_a_byte_order_mark_hides_no_variable(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text('variable "a" {}\n', encoding="utf-8-sig")
    assert set(read_declared(tmp_path)) == {"a"}


def test_a_folder_without_a_module(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"there is no \*\.tf file"):
        read_declared(tmp_path)
