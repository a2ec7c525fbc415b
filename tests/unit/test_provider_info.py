"""What Airflow reads of the provider."""

from __future__ import annotations

import inspect
import itertools
import json
import pkgutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import airflow
import jsonschema
import pytest
from airflow.providers.common.compat.sdk import BaseHook, BaseOperator, BaseSensorOperator
from airflow.triggers.base import BaseTrigger

from ray_provider import __version__
from ray_provider.hooks import RayHook
from ray_provider.provider_info import CONNECTION_FIELDS, FORMER_FIELDS, get_provider_info
from tests.support.requirements import need

SCHEMAS = Path(airflow.__file__).parent


def test_the_metadata_satisfies_the_schema_airflow_checks_at_start():
    schema = json.loads((SCHEMAS / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_connection_fields_satisfy_the_schema_of_provider_yaml():
    path = SCHEMAS / "provider.yaml.schema.json"
    need("the schema of provider.yaml", present=path.exists(), how="Airflow 3.3 ships it.")
    schema = json.loads(path.read_text())["properties"]["connection-types"]
    jsonschema.validate(get_provider_info()["connection-types"], schema)


def test_the_entry_point_leads_to_it_and_the_package_is_named_as_it_is_distributed():
    found = [point for point in entry_points(group="apache_airflow_provider") if point.dist.name == "airflow-ray"]
    assert found
    assert found[0].load()()["package-name"] == "airflow-ray"
    assert get_provider_info()["versions"] == [__version__]


def test_all_that_is_named_exists():
    info = get_provider_info()
    names = [info["connection-types"][0]["hook-class-name"], info["task-decorators"][0]["class-name"]]
    for name in [*names, *info["extra-links"]]:
        module, _, attribute = name.rpartition(".")
        assert getattr(import_module(module), attribute)
    for kind in ("hooks", "operators", "sensors", "triggers"):
        for module in info[kind][0]["python-modules"]:
            import_module(module)


@pytest.mark.parametrize(
    ("kind", "base"),
    [("operators", BaseOperator), ("sensors", BaseSensorOperator), ("triggers", BaseTrigger), ("hooks", BaseHook)],
)
def test_all_that_exists_is_named(kind, base):
    """The modules in which a class that DAGs use is defined: these and no others. Aliases of old paths don't count."""
    package = import_module(f"ray_provider.{kind}")
    made = set()
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for _, one in inspect.getmembers(import_module(module.name), inspect.isclass):
            if issubclass(one, base) and one.__name__ in package.__all__ and not inspect.isabstract(one):
                made.add(one.__module__)
    assert made
    assert set(get_provider_info()[kind][0]["python-modules"]) == made


def test_the_form_has_all_fields_of_the_predecessor():
    theirs = {
        "address", "cookies", "metadata", "headers", "verify", "kube_config_path", "kube_config", "namespace",
        "cluster_context", "disable_verify_ssl", "disable_tcp_keepalive",
    }  # fmt: skip
    assert theirs == theirs & {*CONNECTION_FIELDS, *FORMER_FIELDS}
    assert not set(FORMER_FIELDS) & set(CONNECTION_FIELDS)
    assert CONNECTION_FIELDS["verify"]["schema"]["default"] is True


def test_each_field_stands_in_a_section_and_says_what_it_is():
    sections = [field["schema"]["section"] for field in CONNECTION_FIELDS.values()]
    assert [one for one, _ in itertools.groupby(sections)] == list(dict.fromkeys(sections)), (
        "each section is in one piece"
    )
    assert sections[0] == "Ray clusters"
    for name, field in CONNECTION_FIELDS.items():
        assert field["description"].endswith("."), name
        if "default" in field["schema"] or "enum" in field["schema"]:
            assert "default" in field["description"].lower(), name
    for name in ("kube_config", "ca_data"):
        assert CONNECTION_FIELDS[name]["schema"]["format"] == "multiline", "a form of one line loses its line ends"


def test_the_metadata_imports_nothing():
    code = (
        "import sys; from ray_provider.provider_info import get_provider_info; get_provider_info();"
        "print(sorted({'airflow', 'aiohttp', 'ray', 'yaml'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_operators_import_neither_ray_nor_kubernetes_nor_aiohttp():
    """What is heavy, or optional, is imported where it is used: a DAG file is parsed every few seconds."""
    heavy = (
        "aiohttp", "ray", "kubernetes", "kubernetes_asyncio", "pyhelm3", "boto3", "botocore", "google", "python_terraform",
        "cloudpickle", "psutil",
    )  # fmt: skip
    ours = "ray_provider.operators, ray_provider.sensors, ray_provider.triggers, ray_provider.hooks, ray_provider.decorators"
    code = (
        "import sys, importlib; import airflow.sdk; before = set(sys.modules)\n"
        f"for name in {ours!r}.split(', '):\n"
        "    module = importlib.import_module(name); [getattr(module, one) for one in module.__all__]\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported = set(out.stdout.strip().splitlines()[-1].split())
    assert "ray_provider" in imported, "else it says nothing"
    assert not imported & set(heavy)


def test_the_hook_describes_its_form_for_older_airflows():
    """As Airflow 2.11 to 3.1 check it, and so that nothing is asked for twice or never shown."""
    behaviour = RayHook.get_ui_field_behaviour()
    schema = json.loads((SCHEMAS / "customized_form_field_behaviours.schema.json").read_text())
    jsonschema.validate(behaviour, schema)
    info = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
    assert behaviour["hidden_fields"] == info["hidden-fields"]
    standard = {"description", "host", "port", "login", "password", "schema", "extra"}
    assert set(behaviour["hidden_fields"]) <= standard
    fields = set(CONNECTION_FIELDS)
    assert set(behaviour["placeholders"]) <= fields, "hints stand in fields that are shown"
    # A hidden field would be one that a person can't reach: each has a field of ours that says the same.
    assert {"address", "token"} <= fields
    assert not fields & set(behaviour["hidden_fields"])


class FormField:
    """A field as wtforms makes it, as far as it is asked for here."""

    def __init__(self, label: str, **_: object) -> None:
        self.label = label


def test_the_form_has_only_fields_that_airflow_2_takes(monkeypatch):
    """Airflow 2.11 asks for these very classes, and drops a hook with any other: its connection type would be unknown."""
    taken = {name: type(name, (FormField,), {}) for name in ("BooleanField", "PasswordField", "StringField")}
    for module, content in {
        "flask_appbuilder": {},
        "flask_appbuilder.fieldwidgets": {f"BS3{name}FieldWidget": object for name in ("Password", "TextArea", "Text")},
        "flask_babel": {"lazy_gettext": str},
        "wtforms": taken,
    }.items():
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**content))
    form = RayHook.get_connection_form_widgets()
    assert {name: field.label for name, field in form.items()} == {
        name: described["label"] for name, described in CONNECTION_FIELDS.items()
    }
    assert {type(field) for field in form.values()} == set(taken.values())
    hidden = {name for name, field in form.items() if isinstance(field, taken["PasswordField"])}
    assert "token" in hidden
    assert hidden == {name for name, field in CONNECTION_FIELDS.items() if field["schema"].get("format") == "password"}
