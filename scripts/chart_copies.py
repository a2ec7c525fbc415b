#!/usr/bin/env python3
"""What the chart ray-service shares with ray-cluster is written by this script, from ray-cluster alone.

Helm takes only what lies in a chart's own folder, so that each can be installed alone from a checkout, an archive or a
registry. Of ray-cluster come:

* the templates that both have, under names of the copy's own;
* the values below the mark in ``values.yaml``, without those that the copy says itself or that make no sense there;
* the properties and definitions of ``values.schema.json`` that are not the copy's own.

``chart_copies.py`` writes them, ``chart_copies.py --check`` only says what is not up to date. Run it before
``chart_readme.py``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from chart_readme import HELM, SHARED, with_strict

SOURCE, COPY = "ray-cluster", "ray-service"
#: What each has for itself.
OWN_TEMPLATES = frozenset({"_own.tpl", "NOTES.txt", "raycluster.yaml"})
#: Values of a RayCluster that nobody but its own user changes: KubeRay makes those of a RayService anew.
LEFT_OUT = frozenset({"keepReplicas"})
MARK = f"{SHARED} scripts/chart_copies.py writes them.\n"
_KEY = re.compile(r"^([A-Za-z][\w-]*):")
#: Stands at the names of the copy's own definitions.
_OWN_DEFINITION = "serve-"


def renamed(text: str) -> str:
    """Give a template under the copy's name."""
    return text.replace(SOURCE, COPY)


def blocks(text: str) -> list[tuple[str | None, str]]:
    """Take a values file apart at its top-level keys, each with the comment above it.

    :param text: of the file.
    :return: key (``None``: a comment that belongs to no key) and text.
    """
    found: list[tuple[str | None, str]] = []
    key: str | None = None
    pending: list[str] = []
    for line in text.splitlines(keepends=True):
        if match := _KEY.match(line):
            found.append((match[1], "".join(pending) + line))
            key, pending = match[1], []
        elif key is not None and line.startswith(" ") and not pending:
            found[-1] = (key, found[-1][1] + line)
        else:
            if line.strip() == "" and pending:
                found.append((None, "".join(pending)))
                pending = []
            pending.append(line)
    return [*found, *([(None, "".join(pending))] if pending else [])]


def with_values(own: str, source: str) -> str:
    """Put the source's values below the mark of a values file, without those that it says itself.

    :param own: the copy's values file.
    :param source: the values file of the source.
    """
    above, mark, _ = own.partition(MARK)
    if not mark:
        raise ValueError(f"the values of {COPY} have no line {MARK!r}")
    said = LEFT_OUT | {key for key, _ in blocks(above) if key}
    kept = [text for key, text in blocks(source)[1:] if key not in said]
    return above + mark + re.sub(r"\n{3,}", "\n\n", "".join(kept))


def with_schema(own: dict[str, Any], source: dict[str, Any], said: set[str]) -> dict[str, Any]:
    """Give the copy's schema: its own properties, and the source's others.

    :param own: the copy's schema.
    :param source: the schema of the source.
    :param said: the values that the copy says itself.
    """
    definitions = {key: value for key, value in source["definitions"].items() if not key.startswith("strict-")}
    mine = {key: value for key, value in own["definitions"].items() if key.startswith(_OWN_DEFINITION)}
    shared = {k: v for k, v in source["properties"].items() if k not in said | LEFT_OUT}
    return {
        **own,
        "required": source["required"],
        "properties": {**{key: own["properties"][key] for key in own["properties"] if key in said}, **shared},
        "definitions": {**definitions, **mine},
    }


def wanted() -> dict[Path, str]:
    """Give what the copy's files have to hold."""
    source, copy = HELM / SOURCE, HELM / COPY
    files = {copy / ".helmignore": (source / ".helmignore").read_text()}
    for path in sorted((source / "templates").iterdir()):
        if path.name not in OWN_TEMPLATES:
            files[copy / "templates" / path.name] = renamed(path.read_text())
    values = with_values((copy / "values.yaml").read_text(), (source / "values.yaml").read_text())
    files[copy / "values.yaml"] = values
    schema = copy / "values.schema.json"
    own = {key for key, _ in blocks(values.partition(MARK)[0]) if key}
    made = with_schema(json.loads(schema.read_text()), json.loads((source / schema.name).read_text()), own)
    files[schema] = json.dumps(with_strict(made), indent=2) + "\n"
    return files


def main(arguments: list[str]) -> int:
    """Write, or with ``--check`` compare."""
    check = "--check" in arguments
    stale = [(path, text) for path, text in wanted().items() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        if check:
            print(f"{path.relative_to(HELM.parent)} is not up to date: run scripts/chart_copies.py", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(HELM.parent)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
