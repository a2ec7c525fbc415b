"""The local backend in DAGs, on real Airflow components, with the connection in the metadata database."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import pytest

from ray_provider.clusters.local.head import MARK
from ray_provider.clusters.local.processes import family
from ray_provider.clusters.local.state import LocalPaths
from ray_provider.testing import AirflowStack
from tests.support.logs import begun_log
from tests.support.reaping import reap

DAG = "local_backend"
README = "first_ray_function"
#: One run has a Ray of its own, and that has to start.
pytestmark = pytest.mark.timeout(1200)

EXAMPLE, GROUP = "ray_shared_cluster", "local_group"
SET_UP, DELETE = "work.setup_cluster", "work.delete_cluster"
FIRST, INSIDE, BESIDE = "work.first", "work.deeper.inside", "work.beside"


@pytest.fixture(scope="module")
def stack(shared_stack: AirflowStack) -> AirflowStack:
    return shared_stack


def clusters(stack: AirflowStack) -> list[str]:
    """The names of the clusters of which anything is there."""
    home = stack.local_ray_home
    return sorted(entry.name for entry in home.iterdir()) if home.is_dir() else []


def test_the_first_snippet_of_the_readme_runs_on_a_laptop(stack):
    """A connection of two words is all that it needs. Before: 732 s, and an error."""
    client = stack.client
    run_id = client.trigger_run(README)
    client.wait_run(README, run_id, state="success", timeout=500)
    assert client.xcom(README, run_id, "sum_of_squares") == 14
    assert "The sum is 14" in client.log_text(README, run_id, "report")
    told = client.log_text(README, run_id, "sum_of_squares")
    assert "the task makes one for itself on this machine" in told
    assert clusters(stack) == []
    assert family(MARK, str(stack.local_ray_home)) == []


@pytest.mark.slow  # what lacks on one node: tests/unit/jobs; a task with a Ray of its own: the README's, before this
def test_a_function_that_asks_for_a_gpu_is_refused_on_a_laptop(stack):
    """Before: it waited 600 s for a GPU that a local Ray never gets."""
    client = stack.client
    run_id = client.trigger_run("local_gpu")
    client.wait_run("local_gpu", run_id, state="failed", timeout=500)
    assert client.task_instance("local_gpu", run_id, "fit")["try_number"] == 1
    told = client.log_text("local_gpu", run_id, "fit")
    assert "The job asks for 1 GPU, and this local Ray has" in told
    assert "What to do: Ask for less" in told
    assert clusters(stack) == []


@pytest.mark.slow  # test_a_task_that_fails_fails_the_run_… shows it with the operators that a task group makes
def test_a_job_on_a_cluster_of_its_run(stack):
    client = stack.client
    run_id = client.trigger_run(DAG)
    client.wait_task(DAG, run_id, "setup", state="success", timeout=500)
    handle = client.xcom(DAG, run_id, "setup")
    assert client.xcom(DAG, run_id, "setup", key="dashboard") == handle["address"]
    assert handle["name"] in clusters(stack)
    assert handle["owner"]["run_id"] == run_id
    token = Path(handle["auth"]["path"]).read_text()
    client.wait_run(DAG, run_id, state="success", timeout=500)
    assert "hello from ray" in client.log_text(DAG, run_id, "job").splitlines()
    assert "takes jobs after" in client.log_text(DAG, run_id, "setup")
    assert "is deleted" in client.log_text(DAG, run_id, "delete")
    assert clusters(stack) == []
    paths = LocalPaths.of(handle["name"], stack.local_ray_home)
    assert family(MARK, str(paths.folder)) == []
    for task in ("setup", "job", "again", "delete"):
        assert token not in client.log_text(DAG, run_id, task)


@pytest.mark.slow
def test_the_cluster_of_a_failed_job_is_deleted(stack):
    client = stack.client
    run_id = client.trigger_run(DAG, conf={"code": "raise SystemExit(3)"})
    client.wait_run(DAG, run_id, state="failed", timeout=500)
    assert client.task_instance(DAG, run_id, "job")["state"] == "failed"
    assert client.task_instance(DAG, run_id, "delete")["state"] == "success"
    assert clusters(stack) == []


def test_a_set_up_that_is_marked_failed_half_way_takes_back_what_it_made(stack):
    client = stack.client
    run_id = client.trigger_run(DAG, conf={"name": "half-way"})
    paths = LocalPaths.of("half-way", stack.local_ray_home)

    def starting() -> bool:
        for process in family(MARK, str(paths.folder)):
            with contextlib.suppress(psutil.NoSuchProcess):  # of what a start runs, some has ended meanwhile
                if process.name() == "gcs_server":
                    return True
        return False

    client.wait_until("Ray is starting", starting, timeout=400)
    client.set_state(DAG, run_id, "setup", "failed")
    client.wait_until("nothing of it is left", lambda: not family(MARK, str(paths.folder)), timeout=300)
    client.wait_until("its folder is gone", lambda: not paths.folder.exists(), timeout=300)
    client.wait_run(DAG, run_id, state="failed", timeout=400)


def test_a_name_that_can_not_work_is_told_and_not_retried(stack):
    client = stack.client
    run_id = client.trigger_run(DAG, conf={"name": "No Name!"})
    client.wait_run(DAG, run_id, state="failed", timeout=500)
    log = client.log_text(DAG, run_id, "setup")
    assert "'No Name!' can't name a RayCluster" in log
    assert "lower case letters" in log
    assert clusters(stack) == []


@pytest.mark.slow  # test_dag_clusters.py has a cluster that is found and deleted, tests/faults jobs that are stopped
def test_what_a_run_left_behind_is_listed_and_deleted_when_told(stack):
    client = stack.client
    run_id = client.trigger_run("local_left")
    client.wait_run("local_left", run_id, state="success", timeout=500)
    (name,) = [entry for entry in clusters(stack) if not entry.endswith(".lock")]
    told = reap(stack)
    row = next(line for line in told.splitlines() if name in line)
    assert f"local_left  {run_id}  setup" in row
    assert row.endswith("success  delete  its run has ended")
    assert "1 of 1 would be deleted. Nothing was: --delete does it." in told
    paths = LocalPaths.of(name, stack.local_ray_home)
    assert family(MARK, str(paths.folder))
    assert reap(stack, "--jobs", "--stop").splitlines()[-1] == "0 of 0 stopped.", "its Ray is asked, and has no job"
    told = reap(stack, "--delete")
    assert f"The local Ray {name!r} is deleted" in told
    assert "1 of 1 deleted." in told
    assert clusters(stack) == []
    assert family(MARK, str(paths.folder)) == []
    assert "No task's Ray cluster is on this machine." in reap(stack, "--delete")


@pytest.mark.slow  # test_serve_real_ray.py, and tests/kubernetes/airflow/test_dag_rayservice.py for what is Airflow's
def test_a_model_is_deployed_updated_and_deleted(stack):
    """Plain and deferred; an update that fails, and one that is marked failed, leave what served before."""
    client = stack.client
    run_id = client.trigger_run("serves", conf={"seconds": 1200})
    client.wait_until(
        "the slow one is watched by its trigger",
        lambda: "Application 'greeter': DEPLOYING" in begun_log(client, "serves", run_id, "slow"),
        timeout=600,
    )
    client.set_state("serves", run_id, "slow", "failed")
    client.wait_until(
        "the run has ended",
        lambda: client.run("serves", run_id)["state"] in ("success", "failed"),
        timeout=500,
    )
    states = {
        one: client.task_instance("serves", run_id, one)["state"] for one in ("plain", "deferred", "back", "drop")
    }
    assert set(states.values()) == {"success"}, states
    assert client.task_instance("serves", run_id, "broken")["state"] == "failed"
    assert client.xcom("serves", run_id, "after") == "good day", "what served before both"
    url = client.xcom("serves", run_id, "plain", key="ray_serve_url")
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/greet")
    told = {one: client.log_text("serves", run_id, one) for one in ("plain", "deferred", "broken", "slow", "drop")}
    assert "The smoke test of 'greeter' passed" in told["plain"]
    assert "ValueError: no word to greet with" in told["broken"]
    assert "The former version was put back, and runs." in told["broken"]
    assert "Application 'greeter' is gone." in told["drop"]
    assert clusters(stack) == []
    secret = "hunter2-of-the-greeter"
    for one, text in told.items():
        assert secret not in text, one


@pytest.mark.slow
def test_the_example_that_trains_and_serves(stack):
    client = stack.client
    run_id = client.trigger_run("ray_serve")
    client.wait_run("ray_serve", run_id, state="success", timeout=500)
    assert 40 < client.xcom("ray_serve", run_id, "ask") < 80
    assert "The smoke test of 'delay' passed" in client.log_text("ray_serve", run_id, "deploy")
    assert clusters(stack) == []


# Several tasks on one cluster ---------------------------------------------------------------------------------------


def nothing_is_left(stack: AirflowStack) -> bool:
    return clusters(stack) == [] and family(MARK, str(stack.local_ray_home)) == []


def group_states(stack: AirflowStack, run_id: str) -> dict[str, str]:
    """How each task ended."""
    return {one["task_id"]: one["state"] for one in stack.client.task_instances(GROUP, run_id)}


@pytest.mark.slow  # the next one has the same group; submitting_clear of tests/faults is a task that is cleared
def test_the_example_runs_and_a_task_that_is_cleared_gets_a_cluster_anew(stack):
    client = stack.client
    run_id = client.trigger_run(EXAMPLE)
    client.wait_task(EXAMPLE, run_id, "on_ray.setup_cluster", state="success", timeout=500)
    handle = client.xcom(EXAMPLE, run_id, "on_ray.setup_cluster")
    assert handle["name"] in clusters(stack)
    assert handle["owner"]["run_id"] == run_id
    token = Path(handle["auth"]["path"]).read_text()
    client.wait_run(EXAMPLE, run_id, state="success", timeout=500)
    assert nothing_is_left(stack)
    assert client.xcom(EXAMPLE, run_id, "report").startswith("pi is about 3.")
    assert "nodes: 1" in client.log_text(EXAMPLE, run_id, "on_ray.check")
    for task in ("on_ray.setup_cluster", "on_ray.delete_cluster"):
        assert token not in client.log_text(EXAMPLE, run_id, task)
    for task, index in (("on_ray.check", -1), ("on_ray.count", 0), ("on_ray.count", 1)):
        told = client.log_text(EXAMPLE, run_id, task, map_index=index)
        assert token not in told
        assert f" to {handle['address']}: " in told, "they share a cluster"

    client.clear(EXAMPLE, run_id, [("on_ray.count", 1)])
    client.wait_task(EXAMPLE, run_id, "on_ray.count", map_index=1, state="success", try_number=2, timeout=500)
    client.wait_run(EXAMPLE, run_id, state="success", timeout=500)
    found = {(one["task_id"], one["map_index"]): one for one in client.task_instances(EXAMPLE, run_id)}
    tries = {key: one["try_number"] for key, one in found.items()}
    assert {one["state"] for one in found.values()} == {"success"}
    assert tries["on_ray.setup_cluster", -1] == tries["on_ray.delete_cluster", -1] == tries["on_ray.count", 1] == 2
    assert tries["on_ray.count", 0] == tries["on_ray.check", -1] == 1
    anew = client.xcom(EXAMPLE, run_id, "on_ray.setup_cluster")
    assert (anew["name"], anew["created"]) == (handle["name"], True)
    assert "takes jobs after" in client.log_text(EXAMPLE, run_id, "on_ray.setup_cluster", try_number=2), "another Ray"
    assert "is deleted" in client.log_text(EXAMPLE, run_id, "on_ray.delete_cluster", try_number=2)
    assert nothing_is_left(stack)


def test_a_task_that_fails_fails_the_run_and_the_cluster_goes(stack):
    client = stack.client
    run_id = client.trigger_run(GROUP, conf={"first": "raise SystemExit(3)"})
    client.wait_run(GROUP, run_id, state="failed", timeout=500)
    assert group_states(stack, run_id) == {
        SET_UP: "success",
        FIRST: "failed",
        INSIDE: "upstream_failed",
        BESIDE: "success",
        "after": "upstream_failed",
        DELETE: "success",
    }
    assert nothing_is_left(stack)


@pytest.mark.slow
def test_a_task_that_is_skipped_leaves_no_cluster(stack):
    client = stack.client
    code = "from airflow.exceptions import AirflowSkipException; raise AirflowSkipException('nothing to do')"
    run_id = client.trigger_run(GROUP, conf={"inside": code})
    client.wait_run(GROUP, run_id, state="success", timeout=500)
    ended = group_states(stack, run_id)
    assert (ended[INSIDE], ended["after"]) == ("skipped", "skipped")
    assert (ended[FIRST], ended[BESIDE], ended[DELETE]) == ("success", "success", "success")
    assert nothing_is_left(stack)


@pytest.mark.slow
def test_in_a_mapped_group_each_index_has_a_cluster_of_its_own(stack):
    client, dag = stack.client, "local_group_each"
    run_id = client.trigger_run(dag)
    client.wait_run(dag, run_id, state="success", timeout=500)
    tasks = {index: {"setup": "each.own.setup_cluster", "square": "each.own.square"} for index in (0, 1)}
    names = {client.xcom(dag, run_id, one["setup"], map_index=index)["name"] for index, one in tasks.items()}
    assert len(names) == 2
    assert [client.xcom(dag, run_id, one["square"], map_index=index) for index, one in tasks.items()] == [4, 9]
    assert nothing_is_left(stack)
