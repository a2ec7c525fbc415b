"""Values files in the form of KubeRay's ray-cluster chart, and what they render to.

``NAME.yaml`` is a values file as its users have it, ``NAME.expect.yaml`` says by path what the RayCluster's spec has
(null: has not). Lists are entered by the name of their entry or by its place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.definition import errors
from tests.support.helm import rayclusters_definition
from tests.support.requirements import need

FOLDER = Path(__file__).parent / "official-values"
FILES = sorted(p for p in FOLDER.glob("*.yaml") if not p.name.endswith(".expect.yaml"))
PART = re.compile(r"(?P<key>[^.\[\]]+)(?:\[(?P<entry>[^\]]+)\])?")


def look_up(node: Any, path: str) -> Any:
    """Give what lies at a path, or nothing."""
    for part in PART.finditer(path):
        node = node.get(part["key"]) if isinstance(node, dict) else None
        if (entry := part["entry"]) is not None and node is not None:
            if entry.isdigit():
                node = node[int(entry)]
            else:
                node = next((e for e in node if entry in (e.get("groupName"), e.get("name"))), None)
        if node is None:
            return None
    return node


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_official_values_render_to_what_they_mean(helm, file):
    cluster = helm.template(files=[file]).cluster
    expected = yaml.safe_load(file.with_name(f"{file.stem}.expect.yaml").read_text())
    found = {path: look_up(cluster, path) for path in expected}
    assert found == expected


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_official_values_render_to_what_kuberay_knows(helm4, file):
    definition = rayclusters_definition()
    need("the definition of RayCluster", present=definition is not None, how="make kubernetes-build")
    assert errors(definition, helm4.template(files=[file]).one("RayCluster")) == []


def test_every_values_file_says_what_it_means():
    assert len(FILES) >= 10
    assert {p.stem for p in FILES} == {p.name.removesuffix(".expect.yaml") for p in FOLDER.glob("*.expect.yaml")}
    table = (FOLDER / "README.md").read_text()
    for file in FILES:
        told = file.read_text().splitlines()[0].lstrip("# ")
        assert f"| [{file.name}]({file.name}) | {told} | [{file.stem}.expect.yaml]" in table
