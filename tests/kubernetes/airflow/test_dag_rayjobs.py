"""Jobs in clusters that KubeRay makes for them, by DAGs on real Airflow components; exactly the provider's Role."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from ray_provider.testing import AirflowStack
from tests.kubernetes.airflow.dag_runs import Case, left
from tests.support.kubernetes import Kubernetes, until
from tests.support.reaping import reap

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def case(kubernetes: Kubernetes, place: str, stack: AirflowStack) -> Any:
    return lambda dag: Case(kubernetes, place, stack, dag)


@pytest.fixture(scope="module")
def runs(kubernetes: Kubernetes, place: str, stack: AirflowStack) -> dict[str, Case]:
    """A job, and one that fails, beside each other."""
    return {which: Case(kubernetes, place, stack, f"rayjob_{which}") for which in ("deferred", "failing")}


def test_a_job_runs_in_a_cluster_of_its_own(kubernetes, place, stack, runs):
    deferred = runs["deferred"]
    until(lambda: deferred.job, 300, "the RayJob")
    spec = deferred.job["spec"]
    assert (spec["submissionMode"], spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (
        "InteractiveMode",
        0,
        True,
    )
    # Who may reach the cluster is limited, though only KubeRay knows its name.
    until(lambda: kubernetes.get("pods", "-n", place)["items"], 300, "a pod")
    for policy in kubernetes.get("networkpolicies", "-n", place)["items"]:
        labels = policy["spec"]["podSelector"]["matchLabels"]
        job = labels["airflow-ray/rayjob"]
        assert policy["metadata"]["ownerReferences"][0]["name"] == job
    deferred.ends("success")
    assert deferred.is_gone()
    check_its_log(deferred)
    assert stack.client.xcom("rayjob_deferred", deferred.run, "job") == spec["jobId"]


@pytest.mark.slow  # test_dag_rayservice.py trains by such a function
def test_a_function_runs_in_a_cluster_of_its_own(kubernetes, place, stack, case):
    function = case("rayjob_function")
    function.ends("success")
    assert function.is_gone()
    returned = stack.client.xcom("rayjob_function", function.run, "host")
    assert returned["word"] == "hello"
    assert "-head" in returned["host"]


def check_its_log(job: Case) -> None:
    log = job.log()
    assert "says hello from a task" in log.splitlines()
    assert "is ready: Ray 2.60.0, head and 0 workers" in log, "how it started is told, also after the job's log began"
    assert "Nothing is left of RayJob" in log


@pytest.mark.slow  # test_a_job_outlives_its_worker_and_a_suspension_and_ends_with_its_task has one that is watched on its worker
def test_a_job_that_is_watched_on_its_worker(kubernetes, place, case):
    here = case("rayjob_worker")
    here.ends("success")
    check_its_log(here)
    assert left(kubernetes, place) == []


def test_a_failure_is_explained_and_left_for_inspection(kubernetes, place, stack, runs):
    failing = runs["failing"]
    failing.ends("failed")
    log = failing.log()
    assert "the last words" in log.splitlines()
    assert "with exit code 3" in log
    assert "is left for inspection (keep_on_failure)" in log
    assert failing.job["metadata"]["name"] == "kept"
    # Somebody chose its name, so a reaper needs to be told that it may take it.
    assert "1 of 1 deleted." in reap(stack, "--conn-id", "kube", "--delete", "--named")
    assert left(kubernetes, place) == []


@pytest.mark.slow  # test_dag_clusters.py, test_a_task_marked_failed_while_it_waits…; the next one restarts what watches it
def test_a_cluster_that_can_not_start_is_explained_and_taken_back(kubernetes, place, stack, case):
    stuck, ended = case("rayjob_stuck"), case("rayjob_stuck")
    ended.told("head waiting for a node")
    stack.client.set_state("rayjob_stuck", ended.run, "job", "failed")
    until(ended.is_gone, 300, "the end of a RayJob whose task was ended")
    stuck.told("head waiting for a node")
    stack.kill_component("triggerer")
    stack.start_component("triggerer")
    # Until its trigger has begun anew, no code of ours hears of what becomes of the task.
    until(lambda: stuck.log().count("head waiting for a node") >= 2, 300, "the trigger's second start", every=1)
    assert not stuck.is_gone(), "a triggerer that is restarted deletes nothing"
    stack.client.set_state("rayjob_stuck", stuck.run, "job", "failed")
    until(stuck.is_gone, 300, "the end of the other one")
    assert left(kubernetes, place) == []


def test_a_job_outlives_its_worker_and_a_suspension_and_ends_with_its_task(kubernetes, place, stack, case):
    watched, worker = case("rayjob_waiting"), case("rayjob_waiting_worker")
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
    until(lambda: watched.log().count("Submitting job") >= 2, 300, "the second submit", every=1)
    # What it printed before may be gone: Airflow begins the file anew of a triggerer that gets a trigger back. (3.3)
    until(lambda: (watched.job.get("status") or {}).get("jobStatus") == "RUNNING", 300, "the job's second beginning")
    watched.printed("began")
    assert watched.job["spec"]["jobId"] == before
    # It runs again, and goes with its task. Another one goes on to its end (test_dag_rayjobs_queues.py).
    stack.client.set_state("rayjob_waiting", watched.run, "job", "failed")
    until(watched.is_gone, 300, "the end of a RayJob whose task was ended")
    worker.ends("success")
    assert "went on" in worker.log(2).splitlines()
    assert worker.log(2).count("\nbegan") <= 1, "submitted once"
    until(lambda: not left(kubernetes, place), 300, "the end of all")


@pytest.mark.slow  # tests/apiserver/test_tasks.py: a set-up in the triggerer, by the same watch of its queue
def test_a_queue_without_kueue_is_told(kubernetes, place, stack, case):
    queued = case("rayjob_queued")
    until(lambda: queued.job, 300, "the RayJob")
    assert queued.job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    queued.patch(suspend=True)  # what Kueue's webhook does
    queued.ends("failed", timeout=300)
    assert "Kueue has made no Workload for the RayJob" in queued.log()
    assert left(kubernetes, place) == []


@pytest.mark.slow  # tests/apiserver: test_rayjobs.py, test_rayjob_users.py and test_rayjob_sensor.py, each its part
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
    until(lambda: left(kubernetes, place) == [], 300, "end of all of it", every=1)
