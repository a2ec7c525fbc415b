"""Clusters made by DAGs on real Airflow components; the connection lies in the metadata database."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_provider.testing import AirflowStack
from tests.kubernetes.clusters import operator_runs
from tests.support.kubernetes import Kubernetes, until

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def place(kubernetes: Kubernetes) -> Iterator[str]:
    with kubernetes.namespace("dags") as name:
        yield name


@pytest.fixture(scope="module")
def stack(kubernetes: Kubernetes, place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    # Exactly the provider's Role: what DAGs do needs no more.
    kubeconfig = kubernetes.service_account_kubeconfig(place, Path("helm/roles/provider-role.yaml"))
    stack = AirflowStack(
        tmp_path_factory.mktemp("airflow"),
        dags_folder=Path(__file__).parent / "dags",
        env={
            "TEST_HELM3": str(kubernetes.helm3),
            "TEST_HELM4": str(kubernetes.helm4),
            "RAY_PROVIDER_HELM": str(kubernetes.helm4),
        },
        config={"core": {"parallelism": "4"}},
    )
    with stack:
        stack.client.add_connection(
            "kube", "ray", extra={"kube_config_path": str(kubeconfig), "namespace": place, "backend": "kubernetes"}
        )
        yield stack
    assert not stack.leftovers


def left(kubernetes: Kubernetes, place: str) -> list[str]:
    """Name what is there of any cluster; the service account and its Role are the test's own."""
    kinds = "rayclusters,pods,services,secrets,networkpolicies"
    names = kubernetes.kubectl("get", kinds, "-n", place, "-o", "name").split()
    return [name for name in names if "service-account" not in name]


@pytest.mark.parametrize("where", ["worker", "deferred"])
def test_one_dag_sets_up_runs_and_deletes(kubernetes, place, stack, where):
    dag = f"ray_{where}"
    run = stack.client.trigger_run(dag)
    stack.client.wait_run(dag, run, state="success", timeout=240)
    log = stack.client.log_text(dag, run, "setup")
    assert "is ready: Ray 2.60.0, head and 1 worker" in log
    assert "ran on 2 nodes" in stack.client.log_text(dag, run, "job")
    assert "Nothing is left of Ray cluster" in stack.client.log_text(dag, run, "delete")
    handle = stack.client.xcom(dag, run, "setup")
    assert handle["namespace"] == place
    assert stack.client.xcom(dag, run, "setup", key="dashboard") == handle["address"]
    assert left(kubernetes, place) == []
    assert operator_runs(kubernetes)


@pytest.mark.parametrize("where", ["worker", "deferred"])
def test_a_task_marked_failed_while_it_waits_leaves_nothing(kubernetes, place, stack, where):
    dag = f"ray_stuck_{where}"
    run = stack.client.trigger_run(dag)
    until(lambda: kubernetes.exists("pods", "-n", place), 90, "the cluster's pod")
    if where == "deferred":
        stack.client.wait_task(dag, run, "setup", state="deferred", timeout=60)
        # A trigger that has not begun can do nothing about it: Airflow forgets it.
        until(lambda: "head waiting for a node" in stack.client.log_text(dag, run, "setup"), 60, "trigger", every=1)
    stack.client.set_state(dag, run, "setup", "failed")
    until(lambda: not left(kubernetes, place), 40, "end of the cluster")


def test_a_job_with_a_cluster_of_its_own(kubernetes, place, stack):
    run = f"own-{secrets.token_hex(3)}"
    stack.client.trigger_run("ray_own", run_id=run)
    stack.client.wait_run("ray_own", run, state="success", timeout=200)
    log = stack.client.log_text("ray_own", run, "job")
    assert f"ran for {run}" in log
    assert left(kubernetes, place) == []
