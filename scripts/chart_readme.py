#!/usr/bin/env python3
"""What is said twice about the chart is written by this script, from the one place where it is said first.

* the tables of values in ``helm/README.md`` and ``helm/ray-service/README.md`` come from the comments of
  ``values.yaml`` (those that begin with ``# --``); the second one has the values that are the chart's own;
* the part of ``values.schema.json`` that refuses unknown keys (``strict: true``) comes from its own list of keys.

``chart_readme.py`` writes both, ``chart_readme.py --check`` only says what is not up to date.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HELM = Path(__file__).resolve().parent.parent / "helm"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
#: Below it, a values file has what another chart says.
SHARED = "# Below: the values of the chart ray-cluster."
KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][\w.\-/]*):(?P<rest>.*)$")
MAX_DEFAULT = 70


@dataclass(frozen=True)
class Value:
    """One documented key."""

    path: str
    default: Any
    description: str

    def row(self) -> str:
        """Give its line of the table."""
        default = json.dumps(self.default)
        if len(default) > MAX_DEFAULT:
            default = "see values.yaml"
        cells = (f"`{self.path}`", f"`{default}`", self.description.replace("|", "\\|"))
        return f"| {' | '.join(cells)} |"


def documented(text: str) -> list[Value]:
    """Read the documented keys of a values file, in its order.

    :param text: the file.
    :raises ValueError: a description stands before something that is no key.
    """
    values = yaml.safe_load(text)
    found: list[Value] = []
    path: list[tuple[int, str]] = []
    description: str | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            description = stripped.removeprefix("# -- ")
            continue
        if stripped.startswith("#") and description is not None:
            description += " " + stripped.removeprefix("#").strip()
            continue
        match = KEY.match(line)
        if not match:
            if description is not None:
                raise ValueError(f"no key follows the description {description!r}, but {line!r}")
            continue
        indent = len(match["indent"])
        path = [*(p for p in path if p[0] < indent), (indent, match["key"])]
        if description is not None:
            keys = [key for _, key in path]
            default = values
            for key in keys:
                default = default[key]
            found.append(Value(".".join(keys), default, description))
            description = None
    return found


def table(values: list[Value]) -> str:
    """Give the Markdown table of the values."""
    return "\n".join(["| Key | Default | |", "|---|---|---|", *(value.row() for value in values)])


def with_table(readme: str, values: str) -> str:
    """Put the table of ``values`` (a values file) between the marks of ``readme``."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        raise ValueError(f"the README has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{table(documented(values))}\n{END}{after}"


def _known(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Give what ``node`` has to fulfil for having no unknown key: nothing, or a schema."""
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/definitions/")
        strict = _known(definitions[name], definitions)
        return {"$ref": f"#/definitions/strict-{name}"} if strict else {}
    properties = node.get("properties")
    if properties is not None:
        return {
            "additionalProperties": False,
            "properties": {key: _known(value, definitions) for key, value in properties.items()},
        }
    items = node.get("items")
    if isinstance(items, dict) and (strict := _known(items, definitions)):
        return {"items": strict}
    further = node.get("additionalProperties")
    if isinstance(further, dict) and (strict := _known(further, definitions)):
        return {"additionalProperties": strict}
    return {}


def with_strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Write the strict part of the schema anew."""
    definitions = {k: v for k, v in schema["definitions"].items() if not k.startswith("strict-")}
    strict = {f"strict-{k}": s for k, v in definitions.items() if (s := _known(v, definitions))}
    return {
        **schema,
        "definitions": {**definitions, **strict},
        "if": {"required": ["strict"], "properties": {"strict": {"enum": [True, "true"]}}},
        "then": _known({"properties": schema["properties"]}, definitions),
    }


def main(arguments: list[str]) -> int:
    """Write, or with ``--check`` compare."""
    check = "--check" in arguments
    chart = HELM / "ray-cluster"
    schema = chart / "values.schema.json"
    wanted = {schema: json.dumps(with_strict(json.loads(schema.read_text())), indent=2) + "\n"}
    readme = HELM / "README.md"
    wanted[readme] = with_table(readme.read_text(), (chart / "values.yaml").read_text())
    service = HELM / "ray-service"
    own, _, _ = (service / "values.yaml").read_text().partition(SHARED)
    readme = service / "README.md"
    wanted[readme] = with_table(readme.read_text(), own)
    stale = [path for path, text in wanted.items() if path.read_text() != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(HELM.parent)} is not up to date: run scripts/chart_readme.py", file=sys.stderr)
        else:
            path.write_text(wanted[path])
            print(f"wrote {path.relative_to(HELM.parent)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
