"""What a template may be in: each field that an operator calls one is there, and is rendered."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from ray_provider import operators, sensors
from ray_provider.exceptions import ConfigurationError
from ray_provider.operators import SetupRayCluster

REQUIRED: dict[str, dict[str, Any]] = {
    "DeleteRayInfrastructure": {"confirm": "c"},
    "DeployServeApplication": {"name": "a", "import_path": "m:app"},
    "RayJobSensor": {"submission_id": "j"},
    "SubmitRayJob": {"entrypoint": "true"},
}
KINDS = sorted(
    {
        kind
        for module in (operators, sensors)
        for kind in (getattr(module, name) for name in module.__all__)
        if inspect.isclass(kind) and hasattr(kind, "template_fields")
    },
    key=lambda kind: kind.__name__,
)


def made(kind: type, **further: Any) -> Any:
    with DAG("d", schedule=None):
        return kind(task_id="t", **{**REQUIRED.get(kind.__name__, {}), **further})


def test_all_of_them_are_looked_at() -> None:
    names = {kind.__name__ for kind in KINDS}
    assert {"SetupRayCluster", "DeleteRayCluster", "SubmitRayJob", "RayClusterSensor", "RayJobSensor"} <= names


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_template_field_is_one_of_the_operators_own(kind: type) -> None:
    operator = made(kind)
    for name in operator.template_fields:
        assert hasattr(operator, name), f"Airflow would refuse to render {kind.__name__}.{name}"
    assert set(operator.template_fields_renderers) <= set(operator.template_fields)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_template_field_is_rendered(kind: type) -> None:
    operator = made(kind)
    for name in operator.template_fields:
        setattr(operator, name, "{{ value }}")
    operator.render_template_fields({"value": "rendered", "ti": None})
    assert {name: getattr(operator, name) for name in operator.template_fields} == dict.fromkeys(
        operator.template_fields, "rendered"
    )


@pytest.mark.parametrize("field", ["timeout_seconds", "scheduling_timeout_seconds"])
@pytest.mark.parametrize("seconds", [0, -1])
def test_a_time_limit_that_is_none_is_refused(field: str, seconds: int) -> None:
    with pytest.raises(ConfigurationError, match="have to be more than 0") as caught:
        made(SetupRayCluster, **{field: seconds})._readiness()
    assert caught.value.data["field"] == "timeout_seconds"
    found = made(SetupRayCluster, timeout_seconds=1, scheduling_timeout_seconds=2, wait_for_workers=3)._readiness()
    assert (found.timeout_seconds, found.scheduling_seconds, found.wait_for_workers) == (1.0, 2.0, 3)
