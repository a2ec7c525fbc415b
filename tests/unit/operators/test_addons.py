"""What SetupRayAddons and DeleteRayAddons read of their arguments, and when they touch no Kubernetes at all."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ray_provider.hooks import RayHook
from ray_provider.operators import DeleteRayAddons, SetupRayAddons
from tests.support.airflow_task import FakeTask, context_of

LIST = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-the-module"}}],
}
OTHER = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}}


def handle(**outputs: Any) -> dict[str, Any]:
    found = {"cloud": "aws", "cluster_name": "c", "location": "eu-west-1", **outputs}
    return {"module": "eks", "variables": {}, "backend": {"type": "local"}, "outputs": found}


@pytest.fixture(autouse=True)
def connection(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    extra: dict[str, Any] = {"backend": "kubernetes", "kube_config_path": "/nowhere/kubeconfig"}
    own = {"host": None, "port": None, "schema": None, "password": None, "login": None}
    monkeypatch.setattr(
        RayHook,
        "get_connection",
        staticmethod(lambda _: SimpleNamespace(extra=json.dumps(extra), extra_dejson=extra, **own)),
    )
    return extra


def names(**arguments: Any) -> list[str]:
    spec = SetupRayAddons(task_id="t", **arguments).spec(context_of(FakeTask()))
    return [one["metadata"]["name"] for one in spec.documents]


def test_the_modules_objects_are_meant_unless_others_are_named() -> None:
    infrastructure = handle(kubernetes_manifests=LIST)
    assert names(infrastructure=infrastructure) == ["of-the-module"]
    assert names(infrastructure=infrastructure, manifests=[OTHER]) == ["mine"]
    assert names(infrastructure=infrastructure, manifests=["infrastructure", OTHER]) == ["of-the-module", "mine"]
    assert names(infrastructure=infrastructure, manifests=[]) == []
    assert names() == []
    assert names(manifests=OTHER) == ["mine"]


def test_a_cloud_with_an_operator_of_its_own_gets_no_second_one() -> None:
    def mode(**outputs: Any) -> str:
        return (
            SetupRayAddons(task_id="t", infrastructure=handle(**outputs)).spec(context_of(FakeTask())).kuberay_operator
        )

    assert mode(ray_operator_managed=False) == "install"
    assert mode(ray_operator_managed=True) == "require"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"manifests": "infrastructure"}, '`manifests` is "infrastructure", and `infrastructure` is not given'),
        ({"charts": [{"chart": "oci://example.org/efa"}]}, r"`charts\[0\]` does not say `name` and `chart`"),
        ({"charts": [{"name": "a", "chart": "b", "set": {}}]}, r"`charts\[0\]` has what a chart has not: set"),
        ({"charts": ["karpenter"]}, r"`charts\[0\]` does not say"),
        ({"charts": [{"name": "a", "chart": "b", "repo": "http://example.org"}]}, "plain http"),
        ({"kuberay_operator": "remove"}, "`kuberay_operator` is 'remove'"),
        ({"manifests": "http://example.org/plugin.yaml"}, "http"),
    ],
)
def test_what_can_not_be_meant_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AirflowFailException, match=message):
        SetupRayAddons(task_id="t", **arguments).execute(context_of(FakeTask()))


@pytest.mark.parametrize("empty", [None, {}])
def test_an_infrastructure_that_was_not_set_up_is_not_taken_for_the_connections_kubernetes(empty: Any) -> None:
    """Its template gave nothing: what the connection leads to is somebody else's, and would lose its operator."""
    remove = DeleteRayAddons(task_id="t", infrastructure="{{ nothing }}")
    remove.infrastructure = empty
    assert remove.execute(context_of(FakeTask())) == {"removed": []}
    step = SetupRayAddons(task_id="t", infrastructure="{{ nothing }}")
    step.infrastructure = empty
    with pytest.raises(AirflowFailException, match="`infrastructure` is empty"):
        step.execute(context_of(FakeTask()))


def test_an_infrastructure_that_was_not_finished_has_nothing_to_remove() -> None:
    unfinished = {**handle(), "outputs": {}, "variables": {"name": "c"}, "complete": False}
    assert DeleteRayAddons(task_id="t", infrastructure=unfinished).execute(context_of(FakeTask())) == {"removed": []}


def test_a_local_ray_needs_nothing(connection: dict[str, Any]) -> None:
    connection.clear()
    connection["backend"] = "local"
    context = context_of(FakeTask())
    assert SetupRayAddons(task_id="t").execute(context) == {"installed": []}
    assert DeleteRayAddons(task_id="t").execute(context) == {"removed": []}
