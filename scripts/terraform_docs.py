#!/usr/bin/env python3
"""Write the tables of inputs and outputs into the READMEs of the Terraform modules.

``--check`` writes nothing and fails where a README isn't up to date. Everything outside the markers is left as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- BEGIN TABLES -->", "<!-- END TABLES -->"


def modules() -> Iterator[Path]:
    """Every folder with inputs: modules, nested ones and examples."""
    for path in sorted((ROOT / "terraform").rglob("variables.tf")):
        if ".terraform" not in path.parts:
            yield path.parent


def blocks(path: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Read the blocks of a kind, by name."""
    import hcl2

    if not path.exists():
        return {}
    with path.open() as file:
        found = hcl2.load(file).get(kind, [])
    return {name.strip('"'): body for entry in found for name, body in entry.items() if not name.startswith("__")}


def text(value: Any) -> str:
    """Give a string's text: python-hcl2 leaves quotes and heredoc markers in."""
    string = str(value)
    heredoc = re.match(r'^"?<<-?(\w+)\n(.*?)\n\s*\1"?$', string, re.DOTALL)
    if heredoc:
        lines = heredoc[2].split("\n")
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        return "\n".join(line[indent:] for line in lines)
    return string.removeprefix('"').removesuffix('"').replace('\\"', '"')


def source(path: Path, name: str, argument: str) -> str | None:
    """Give an argument of a variable as it is written."""
    body = re.search(rf'^variable "{name}" {{\n(.*?)^}}', path.read_text(), re.DOTALL | re.MULTILINE)
    if body is None:
        return None
    found = re.search(rf"^  {argument}\s+= (.*?)(?=^  \w|^\s*$|\Z)", body[1], re.DOTALL | re.MULTILINE)
    return found[1].rstrip() if found else None


def cell(value: str) -> str:
    """Put text into one cell of a table."""
    lines = value.strip().split("\n")
    joined = lines[0]
    for line in lines[1:]:
        joined += f"<br>• {line[2:]}" if line.startswith("- ") else f" {line.strip()}"
    return joined.replace("|", "\\|")


def kind_of(value: str | None) -> str:
    """Shorten a type: the description says what is in an object."""
    if not value:
        return ""
    flat = re.sub(r"\s+", " ", value)
    return re.sub(r"object\(\{.*\}\)", "object", flat) if "object" in flat else flat


def tables(folder: Path) -> str:
    """Make the tables of a module."""
    variables = folder / "variables.tf"
    lines = ["## Inputs", "", "| name | type | default | description |", "|---|---|---|---|"]
    for name, body in blocks(variables, "variable").items():
        default = source(variables, name, "default")
        if default is None:
            shown = "**required**"
        else:
            shown = f"`{' '.join(default.split())}`" if len(default) < 40 else "see `variables.tf`"
        lines.append(
            f"| `{name}` | `{kind_of(source(variables, name, 'type'))}` | {shown} | {cell(text(body['description']))} |"
        )
    outputs = blocks(folder / "outputs.tf", "output")
    if outputs:
        lines += ["", "## Outputs", "", "| name | description |", "|---|---|"]
        for name, body in outputs.items():
            secret = " Sensitive." if body.get("sensitive") else ""
            lines.append(f"| `{name}` | {cell(text(body['description']))}{secret} |")
    return "\n".join(lines)


def render(folder: Path) -> str:
    """Give the README with fresh tables."""
    readme = folder / "README.md"
    current = readme.read_text() if readme.exists() else f"# {folder.name}\n\n{BEGIN}\n{END}\n"
    if BEGIN not in current or END not in current:
        raise SystemExit(f"{readme.relative_to(ROOT)} lacks the markers {BEGIN} and {END}")
    before, after = current.split(BEGIN)[0], current.split(END)[1]
    return f"{before}{BEGIN}\n{tables(folder)}\n{END}{after}"


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a README is not up to date")
    check = parser.parse_args().check
    stale = []
    for folder in modules():
        readme, fresh = folder / "README.md", render(folder)
        if not readme.exists() or readme.read_text() != fresh:
            stale.append(str(readme.relative_to(ROOT)))
            if not check:
                readme.write_text(fresh)
    if stale:
        print(("not up to date, run scripts/terraform_docs.py: " if check else "written: ") + ", ".join(stale))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
