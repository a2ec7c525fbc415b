"""Clusters made by DAGs on real Airflow components; the connection lies in the metadata database."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from ray_provider.testing import AirflowStack
from tests.kubernetes.airflow.dag_runs import left
from tests.kubernetes.clusters import operator_runs
from tests.support.kubernetes import Kubernetes, until
from tests.support.logs import begun_log
from tests.support.reaping import reap

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def whole_runs(stack: AirflowStack) -> dict[str, str]:
    """A run that waits on its worker and one that waits in the triggerer, beside each other."""
    return {dag: stack.client.trigger_run(dag) for dag in ("ray_worker", "ray_deferred")}


# The mission does it deferred, test_carriers_on_two_nodes on its worker, and what is rolled out is so with Helm 3.
@pytest.mark.slow
@pytest.mark.parametrize("where", ["worker", "deferred"])
def test_one_dag_sets_up_runs_and_deletes(kubernetes, place, stack, whole_runs, where):
    dag = f"ray_{where}"
    run = whole_runs[dag]
    stack.client.wait_run(dag, run, state="success", timeout=300)
    log = stack.client.log_text(dag, run, "setup")
    assert "is ready: Ray 2.60.0, head and 1 worker" in log
    assert "ran on 2 nodes" in stack.client.log_text(dag, run, "job")
    assert "Nothing is left of Ray cluster" in stack.client.log_text(dag, run, "delete")
    handle = stack.client.xcom(dag, run, "setup")
    assert handle["namespace"] == place
    assert stack.client.xcom(dag, run, "setup", key="dashboard") == handle["address"]
    assert not [name for name in left(kubernetes, place) if handle["name"] in name]
    if where == "deferred":  # the last of the two
        assert left(kubernetes, place) == []
        assert operator_runs(kubernetes)


def pods_of(kubernetes: Kubernetes, place: str, dag: str) -> list[str]:
    """Name the pods of the clusters that a DAG's runs have made."""
    made = kubernetes.get("rayclusters", "-n", place, "-l", f"airflow-ray/dag_id={dag}")["items"]
    names = ",".join(one["metadata"]["name"] for one in made) or "none"
    return kubernetes.kubectl("get", "pods", "-n", place, "-l", f"ray.io/cluster in ({names})", "-o", "name").split()


HUGE = {"requests": {"cpu": "200", "memory": "1Gi"}, "limits": {"cpu": "200"}}


@pytest.fixture(scope="module")
def faulty_runs(stack: AirflowStack) -> list[str]:
    """Runs whose clusters can't be; they fail while others are looked at."""
    confs = {"namespace": "kube-system"}, {"values": {"head": {"resources": HUGE}}}
    return [stack.client.trigger_run("ray_faulty", conf=conf, run_id=f"faulty-{n}") for n, conf in enumerate(confs)]


@pytest.fixture(scope="module")
def stuck_runs(kubernetes: Kubernetes, place: str, stack: AirflowStack, faulty_runs: list[str]) -> dict[str, str]:
    """A run that waits on its worker and one that waits in the triggerer; both are marked failed meanwhile."""
    del faulty_runs  # they are on their way
    runs = {dag: stack.client.trigger_run(dag) for dag in ("ray_stuck_worker", "ray_stuck_deferred")}
    dag, run = "ray_stuck_deferred", runs["ray_stuck_deferred"]
    stack.client.wait_task(dag, run, "setup", state="deferred", timeout=300)
    # A trigger that has not begun can do nothing about it: Airflow forgets it.
    until(lambda: "head waiting for a node" in begun_log(stack.client, dag, run, "setup"), 300, "trigger", every=1)
    for each, run in runs.items():
        until(lambda dag=each: pods_of(kubernetes, place, dag), 300, f"the pod of {each}")
        stack.client.set_state(each, run, "setup", "failed")
    return runs


@pytest.mark.parametrize("where", ["worker", "deferred"])
def test_a_task_marked_failed_while_it_waits_leaves_nothing(kubernetes, place, stack, stuck_runs, where):
    dag = f"ray_stuck_{where}"
    stack.client.wait_run(dag, stuck_runs[dag], state="failed", timeout=300)
    mine = ("rayclusters", "-n", place, "-l", f"airflow-ray/dag_id={dag}")
    until(lambda: not kubernetes.exists(*mine), 300, "end of the cluster")
    until(lambda: not left(kubernetes, place), 300, "end of both clusters")


@pytest.mark.slow  # test_a_function_with_a_cluster_of_its_own: the same operator below its decorator
def test_a_job_with_a_cluster_of_its_own(kubernetes, place, stack):
    run = f"own-{secrets.token_hex(3)}"
    stack.client.trigger_run("ray_own", run_id=run)
    stack.client.wait_run("ray_own", run, state="success", timeout=300)
    log = stack.client.log_text("ray_own", run, "job")
    assert f"ran for {run}" in log.splitlines()
    assert left(kubernetes, place) == []


# The mission sets up, runs and deletes; tests/apiserver/test_ownership.py has two runs at once.
@pytest.mark.slow
def test_two_runs_at_once_do_not_meet(kubernetes, place, stack):
    """Each sets a cluster up, runs a job on it and deletes it; one is over while the other holds its own."""
    gates = Path(stack.environment["TEST_GATES"])
    first, second = (stack.client.trigger_run("ray_pair", run_id=f"pair-{n}") for n in (1, 2))
    handles = []
    for run in (first, second):
        stack.client.wait_task("ray_pair", run, "setup", state="success", timeout=300)
        handles.append(stack.client.xcom("ray_pair", run, "setup"))
        assert handles[-1]["namespace"] == place
        assert stack.client.xcom("ray_pair", run, "setup", key="dashboard") == handles[-1]["address"]
        assert "is ready: Ray 2.60.0, head and 0 workers" in stack.client.log_text("ray_pair", run, "setup")
    names = [handle["name"] for handle in handles]
    assert names[0] != names[1]
    (gates / first).touch()
    stack.client.wait_run("ray_pair", first, state="success", timeout=300)
    assert not [name for name in left(kubernetes, place) if names[0] in name]
    assert kubernetes.exists("raycluster", names[1], "-n", place)
    (gates / second).touch()
    stack.client.wait_run("ray_pair", second, state="success", timeout=300)
    for run in (first, second):
        assert f"hello from {run}" in stack.client.log_text("ray_pair", run, "job").splitlines()
        assert "Nothing is left of Ray cluster" in stack.client.log_text("ray_pair", run, "delete")
    assert left(kubernetes, place) == []
    assert operator_runs(kubernetes)


@pytest.mark.slow  # test_clusters_lifecycle.py has the same change, without a DAG
def test_a_change_is_rolled_out_and_waited_for(kubernetes, place, stack):
    def run(**values: object) -> str:
        """Give the log of a set-up with these values."""
        run_id = stack.client.trigger_run("ray_kept", conf={"values": values})
        stack.client.wait_run("ray_kept", run_id, state="success", timeout=300)
        return stack.client.log_text("ray_kept", run_id, "setup")

    def pods() -> list[dict]:
        return kubernetes.get("pods", "-n", place, "-l", "ray.io/cluster=ray-kept")["items"]

    run(head={"rayVersion": "2.59.0"})
    before = {pod["metadata"]["uid"] for pod in pods()}
    image, _, tag = kubernetes.ray_image_again.rpartition(":")
    worker = {"resources": {"requests": {"memory": "600Mi"}}}
    changed = {"head": {"rayVersion": "2.60.0"}, "image": {"repository": image, "tag": tag}, "worker": worker}
    assert "All 2 pods are replaced, as their spec changed." in run(**changed)
    after = pods()
    assert len(after) == 2
    assert not before & {pod["metadata"]["uid"] for pod in after}
    assert all(status["ready"] for pod in after for status in pod["status"]["containerStatuses"])
    assert {pod["spec"]["containers"][0]["image"] for pod in after} == {kubernetes.ray_image_again}
    assert "600Mi" in [pod["spec"]["containers"][0]["resources"]["requests"]["memory"] for pod in after]
    assert kubernetes.get("raycluster", "ray-kept", "-n", place)["spec"]["rayVersion"] == "2.60.0"
    # It was given a name, and so is not taken for something that was left behind.
    assert "somebody chose its name" in reap(stack, "--conn-id", "kube", "--delete")
    gone = stack.client.trigger_run("ray_kept_no_more")
    stack.client.wait_run("ray_kept_no_more", gone, state="success", timeout=300)
    assert left(kubernetes, place) == []


def test_the_log_of_a_task_says_why_its_cluster_can_not_be(kubernetes, place, stack, faulty_runs):
    def log_of(run: str) -> str:
        stack.client.wait_run("ray_faulty", run, state="failed", timeout=300)
        return stack.client.log_text("ray_faulty", run, "setup")

    log = log_of(faulty_runs[0])
    assert f"system:serviceaccount:{place}:provider may not create rayclusters.ray.io" in log
    assert "provider-role.yaml" in log
    log = log_of(faulty_runs[1])
    assert "it asks for cpu 200, memory 1Gi" in log
    assert "Insufficient cpu" in log
    assert left(kubernetes, place) == []


def test_what_was_ended_before_anything_watched_it_is_found_and_deleted(kubernetes, place, stack):
    def names() -> set[str]:
        return set(kubernetes.kubectl("get", "rayclusters", "-n", place, "-o", "name").split())

    stack.stop_component("triggerer")
    dag = "ray_stuck_deferred"
    ended, kept = stack.client.trigger_run(dag), stack.client.trigger_run(dag)
    forgotten = stack.client.trigger_run("ray_forgotten")
    for one, run in ((dag, ended), (dag, kept), ("ray_forgotten", forgotten)):
        stack.client.wait_task(one, run, "setup", state="deferred", timeout=300)
    assert len(names()) == 3
    # No code of ours runs when Airflow ends these two: there is no trigger yet.
    stack.client.set_state("ray_forgotten", forgotten, "setup", "failed")
    stack.client.set_state(dag, ended, "setup", "failed")
    # A delete that runs in any case finds what its set-up left.
    stack.client.wait_task("ray_forgotten", forgotten, "delete", state="success", timeout=300)
    assert "Nothing is left of Ray cluster" in stack.client.log_text("ray_forgotten", forgotten, "delete")
    stack.client.wait_run(dag, ended, state="failed", timeout=300)
    assert len(names()) == 2
    told = reap(stack, "--conn-id", "kube")
    assert "1 of 2 would be deleted. Nothing was: --delete does it." in told
    assert "delete  its run has ended" in told
    assert f"keep    it is used by dag {dag}, run {kept}" in told
    assert len(names()) == 2
    assert "1 of 1 deleted." in reap(stack, "--conn-id", "kube", "--delete")
    assert len(names()) == 1
    stack.start_component("triggerer")
    until(lambda: "head waiting for a node" in begun_log(stack.client, dag, kept, "setup"), 300, "trigger", every=1)
    stack.client.set_state(dag, kept, "setup", "failed")
    until(lambda: not left(kubernetes, place), 300, "end of the cluster")
