"""README, schema and values say the same."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest
import yaml

from tests.support.helm import CHART, ROOT, SERVICE_CHART

SCRIPTS = ROOT / "scripts"


def script(name="chart_readme"):
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.mark.parametrize("name", ["chart_copies", "chart_readme"])
def test_what_scripts_write_is_up_to_date(name):
    done = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_check_sees_a_change():
    module = script()
    readme = (ROOT / "helm" / "README.md").read_text()
    values = (CHART / "values.yaml").read_text()
    assert module.with_table(readme, values) == readme
    assert module.with_table(readme, values.replace("maxReplicas: 5", "maxReplicas: 6")) != readme


def test_a_copy_has_what_the_source_says_but_what_it_says_itself():
    module = script("chart_copies")
    own = f"# -- Mine.\nlabels: {{}}\n\n{module.MARK}# stale\nold: 1\n"
    source = "# About it.\n\n# -- A.\na:\n  # -- B.\n  b: 1\n# -- Theirs.\nlabels: {}\nkeepReplicas: true\nz: 2\n"
    made = module.with_values(own, source)
    assert made == f"# -- Mine.\nlabels: {{}}\n\n{module.MARK}\n# -- A.\na:\n  # -- B.\n  b: 1\nz: 2\n"
    assert yaml.safe_load(made) == {"labels": {}, "a": {"b": 1}, "z": 2}


@pytest.mark.parametrize("chart", [CHART, SERVICE_CHART], ids=lambda path: path.name)
def test_every_value_is_documented_and_in_the_schema(chart):
    values = yaml.safe_load((chart / "values.yaml").read_text())
    schema = json.loads((chart / "values.schema.json").read_text())
    documented = {v.path for v in script().documented((chart / "values.yaml").read_text())}

    def walk(node, known, path):
        for key, value in node.items():
            here = f"{path}.{key}".lstrip(".")
            if here == "additionalWorkerGroups.smallGroup":
                continue
            below = known["properties"][key]
            while "$ref" in below:
                below = schema["definitions"][below["$ref"].rpartition("/")[2]]
            if isinstance(value, dict) and value and here not in documented:
                walk(value, below, here)
            else:
                assert here in documented, here

    walk(values, schema, "")


def test_the_readme_lists_what_needs_a_newer_operator():
    from tests.helm.test_refusals import GATED

    readme = (ROOT / "helm" / "README.md").read_text()
    for fields in GATED.values():
        for field in fields:
            assert f"`{field.replace('worker.', '<group>.')}`" in readme, field
