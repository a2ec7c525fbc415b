"""What somebody meets who begins: an extra that is missing, a connection with nothing in it, arguments without effect."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ray_provider.clusters.helm.releases import open_helm
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.local import cluster as local
from ray_provider.exceptions import ClusterError, ConfigurationError
from ray_provider.operators import DeleteRayCluster, SetupRayCluster
from ray_provider.sensors import RayClusterSensor

KUBECONFIG = {
    "current-context": "x",
    "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}],
    "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    "users": [{"name": "x", "user": {}}],
}
TASKS = pytest.mark.parametrize(
    "task",
    [
        SetupRayCluster(task_id="t", conn_id="c"),
        DeleteRayCluster(task_id="t", conn_id="c", name="x"),
        RayClusterSensor(task_id="t", conn_id="c", name="x"),
    ],
    ids=lambda task: type(task).__name__,
)


@pytest.fixture
def without(monkeypatch):
    """As where a package is not installed."""

    def without(package: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)

    return without


@pytest.mark.parametrize("made", [SetupRayCluster, DeleteRayCluster])
def test_kubernetes_without_its_extra_gives_the_pip_line(context: Any, connection: dict[str, Any], without, made: Any):
    connection.clear()
    connection["kube_config"] = json.dumps(KUBECONFIG)
    without("pyhelm3")
    with pytest.raises(AirflowFailException, match="pyhelm3 is not installed") as raised:
        made(task_id="t", conn_id="c", name="x").execute(context)
    assert "pip install 'airflow-ray[kubernetes]'" in str(raised.value)


async def test_helm_without_its_package_gives_the_pip_line(without):
    without("pyhelm3")
    with pytest.raises(ConfigurationError, match="pip install 'airflow-ray\\[kubernetes\\]'"):
        async with open_helm(KubernetesAccess(kubeconfig=KUBECONFIG)):
            pass


@TASKS
def test_a_connection_with_nothing_in_it_is_offered_the_local_backend(
    context: Any, connection: dict[str, Any], monkeypatch, tmp_path, task: Any
):
    """Before: "Check `kube_config_path` of the connection", which nobody had given."""
    connection.clear()
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AirflowFailException, match="names no Kubernetes cluster, and there is no kubeconfig") as raised:
        task.execute(context)
    assert "set the connection's field `backend` to `local`" in str(raised.value)
    assert "Check `kube_config_path`" not in str(raised.value)


def test_arguments_that_the_local_backend_has_no_use_for_are_named(
    context: Any, connection: dict[str, Any], monkeypatch, capsys
):
    connection.clear()
    connection["backend"] = "local"

    async def start(*_: Any, **__: Any) -> None:
        raise ClusterError("not in this test")

    monkeypatch.setattr(local, "start_local", start)
    given = {"profile": "gpu-eks", "values": {"worker": {"replicas": 3}}, "namespace": "team", "local_queue": "team"}
    with pytest.raises(ClusterError, match="not in this test"):
        SetupRayCluster(task_id="t", conn_id="c", **given).execute(context)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "The backend is local" in line]
    assert all(f"`{name}`" in line for name in given), line
    assert "have no effect there" in line
    with pytest.raises(ClusterError, match="not in this test"):
        SetupRayCluster(task_id="t", conn_id="c", local={"num_cpus": 1}).execute(context)
    assert "no effect" not in capsys.readouterr().out
