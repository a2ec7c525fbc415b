"""README, schema and values say the same."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import yaml

from tests.support.helm import CHART, ROOT

SCRIPT = ROOT / "scripts" / "chart_readme.py"


def script():
    spec = importlib.util.spec_from_file_location("chart_readme", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["chart_readme"] = module
    spec.loader.exec_module(module)
    return module


def test_the_readme_and_the_schema_are_up_to_date():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_check_sees_a_change():
    module = script()
    readme = (ROOT / "helm" / "README.md").read_text()
    values = (CHART / "values.yaml").read_text()
    assert module.with_table(readme, values) == readme
    assert module.with_table(readme, values.replace("maxReplicas: 5", "maxReplicas: 6")) != readme


def test_every_value_is_documented_and_in_the_schema():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    documented = {v.path for v in script().documented((CHART / "values.yaml").read_text())}

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
