"""Jobs in clusters that KubeRay makes for them, by DAGs on real Airflow components; exactly the provider's Role."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from ray_provider.testing import AirflowStack
from tests.kubernetes.dag_runs import Case, airflow, left
from tests.support.kubernetes import Kubernetes, until
from tests.support.reaping import reap

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def place(kubernetes: Kubernetes) -> Iterator[str]:
    with kubernetes.namespace("rayjobs") as name:
        yield name


@pytest.fixture(scope="module")
def stack(kubernetes: Kubernetes, place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    with airflow(kubernetes, place, tmp_path_factory.mktemp("airflow")) as stack:
        yield stack


@pytest.fixture
def case(kubernetes: Kubernetes, place: str, stack: AirflowStack) -> Any:
    return lambda dag: Case(kubernetes, place, stack, dag)


def test_jobs_and_a_function_run_in_clusters_of_their_own(kubernetes, place, stack, case):
    here, deferred, function = (case(f"rayjob_{which}") for which in ("worker", "deferred", "function"))
    until(lambda: deferred.job, 60, "the RayJob")
    spec = deferred.job["spec"]
    assert (spec["submissionMode"], spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (
        "InteractiveMode",
        0,
        True,
    )
    # Who may reach the cluster is limited, though only KubeRay knows its name.
    until(lambda: kubernetes.get("pods", "-n", place)["items"], 60, "a pod")
    for policy in kubernetes.get("networkpolicies", "-n", place)["items"]:
        labels = policy["spec"]["podSelector"]["matchLabels"]
        job = labels["airflow-ray/rayjob"]
        assert policy["metadata"]["ownerReferences"][0]["name"] == job
    for one in (here, deferred, function):
        one.ends("success")
    for one in (here, deferred):
        assert "says hello from a task" in one.log().splitlines()
        assert "is ready: Ray 2.60.0, head and 0 workers" in one.log(), (
            "how it started is told, also after the job's log has begun"
        )
        assert "Nothing is left of RayJob" in one.log()
    assert stack.client.xcom("rayjob_deferred", deferred.run, "job") == spec["jobId"]
    returned = stack.client.xcom("rayjob_function", function.run, "host")
    assert returned["word"] == "hello"
    assert "-head" in returned["host"]
    assert left(kubernetes, place) == []


def test_a_failure_is_explained_and_left_for_inspection(kubernetes, place, stack, case):
    failing = case("rayjob_failing")
    failing.ends("failed")
    log = failing.log()
    assert "the last words" in log.splitlines()
    assert "with exit code 3" in log
    assert "is left for inspection (keep_on_failure)" in log
    assert failing.job["metadata"]["name"] == "kept"
    # Somebody chose its name, so a reaper needs to be told that it may take it.
    assert "1 of 1 deleted." in reap(stack, "--conn-id", "kube", "--delete", "--named")
    assert left(kubernetes, place) == []


def test_a_cluster_that_can_not_start_is_explained_and_taken_back(kubernetes, place, stack, case):
    stuck, ended = case("rayjob_stuck"), case("rayjob_stuck")
    ended.told("head waiting for a node")
    stack.client.set_state("rayjob_stuck", ended.run, "job", "failed")
    until(ended.is_gone, 90, "the end of a RayJob whose task was ended")
    stuck.told("head waiting for a node")
    stack.kill_component("triggerer")
    stack.start_component("triggerer")
    # Until its trigger has begun anew, no code of ours hears of what becomes of the task.
    until(lambda: stuck.log().count("head waiting for a node") >= 2, 60, "the trigger's second start", every=1)
    assert not stuck.is_gone(), "a triggerer that is restarted deletes nothing"
    stack.client.set_state("rayjob_stuck", stuck.run, "job", "failed")
    until(stuck.is_gone, 120, "the end of the other one")
    assert left(kubernetes, place) == []


def test_a_job_outlives_its_worker_and_a_suspension(kubernetes, place, stack, case):
    watched, worker, ended = case("rayjob_waiting"), case("rayjob_waiting_worker"), case("rayjob_waiting")
    worker.printed("began")
    psutil.Process(stack.client.task_instance(worker.dag, worker.run, "job")["pid"]).kill()
    worker.told("Taking over job", try_number=2)
    worker.go()
    # A queue takes its cluster away, and gives the place back (Kueue does it by this field).
    watched.printed("began")
    watched.patch(suspend=True)
    watched.told("was suspended by somebody")
    watched.told("it is suspended")
    before = watched.job["spec"]["jobId"]
    watched.patch(suspend=False)
    until(lambda: watched.log().count("Submitting job") >= 2, 150, "the second submit", every=1)
    watched.printed("began")
    assert watched.job["spec"]["jobId"] == before
    watched.go()
    ended.printed("began")
    stack.client.set_state("rayjob_waiting", ended.run, "job", "failed")
    until(ended.is_gone, 90, "the end of a RayJob whose task was ended")
    for one in (watched, worker):
        one.ends("success")
    assert "went on" in worker.log(2).splitlines()
    assert worker.log(2).count("\nbegan") <= 1, "submitted once"
    assert "went on" in watched.log().splitlines()
    until(lambda: not left(kubernetes, place), 60, "the end of all")


def test_a_queue_without_kueue_is_told(kubernetes, place, stack, case):
    queued = case("rayjob_queued")
    until(lambda: queued.job, 60, "the RayJob")
    assert queued.job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    queued.patch(suspend=True)  # what Kueue's webhook does
    queued.ends("failed", timeout=120)
    assert "Kueue has made no Workload for the RayJob" in queued.log()
    assert left(kubernetes, place) == []


def test_several_jobs_share_a_cluster_and_the_last_one_out_deletes_it(kubernetes, place, stack, case):
    """A group's function, a RayJob that selects the group's cluster, and one of somebody else's that a sensor waits for."""
    by_hand = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "by-hand"},
        "spec": {
            "entrypoint": "echo by hand",
            "submissionMode": "HTTPMode",
            "jobId": "by-hand-1",
            "clusterSelector": {"ray.io/cluster": "shared"},
        },
    }
    kubernetes.apply(by_hand, place)
    try:
        shared = case("rayjob_shared")
        shared.ends("success")
        assert stack.client.xcom("rayjob_shared", shared.run, "group.by_hand") == "by-hand-1"
        assert stack.client.xcom("rayjob_shared", shared.run, "group.there").startswith("shared-head")
        log = shared.log(task="group.selecting")
        assert "says hello from there" in log.splitlines()
        assert "(on the Ray cluster shared)" in log
        assert "Nothing is left of RayJob" in log
        assert f"RayJob {place}/by-hand: its job by-hand-1 has succeeded" in shared.log(task="group.by_hand")
        deleted = stack.client.task_instance("rayjob_shared", shared.run, "group.delete_cluster")
        assert deleted["state"] == "success"
    finally:
        kubernetes.kubectl("delete", "rayjob", "by-hand", "-n", place, "--ignore-not-found")
    until(lambda: left(kubernetes, place) == [], 60, "end of all of it", every=1)
