"""The local backend in DAGs, on real Airflow components, with the connection in the metadata database."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ray_provider.clusters.local.head import MARK
from ray_provider.clusters.local.processes import family
from ray_provider.clusters.local.state import LocalPaths
from ray_provider.testing import AirflowStack
from tests.support.reaping import reap
from tests.support.snippets import snippets

DAG = "local_backend"
README = "first_ray_function"


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[AirflowStack]:
    dags = tmp_path_factory.mktemp("dags")
    shutil.copytree(Path(__file__).parent / "dags_local_backend", dags, dirs_exist_ok=True)
    [first, *_] = (one for one in snippets("README.md") if one.language == "python")
    (dags / "readme.py").write_text(first.code)
    with AirflowStack(tmp_path_factory.mktemp("airflow"), dags_folder=dags) as stack:
        stack.client.add_connection("ray_default", "ray", extra={"backend": "local"})
        yield stack


def clusters(stack: AirflowStack) -> list[str]:
    """The names of the clusters of which anything is there."""
    home = stack.local_ray_home
    return sorted(entry.name for entry in home.iterdir()) if home.is_dir() else []


def test_the_first_snippet_of_the_readme_runs_on_a_laptop(stack):
    """A connection of two words is all that it needs. Before: 732 s, and an error."""
    client = stack.client
    run_id = client.trigger_run(README)
    client.wait_run(README, run_id, state="success", timeout=200)
    assert client.xcom(README, run_id, "sum_of_squares") == 14
    assert "The sum is 14" in client.log_text(README, run_id, "report")
    told = client.log_text(README, run_id, "sum_of_squares")
    assert "the task makes one for itself on this machine" in told
    assert clusters(stack) == []
    assert family(MARK, str(stack.local_ray_home)) == []


def test_a_function_that_asks_for_a_gpu_is_refused_on_a_laptop(stack):
    """Before: it waited 600 s for a GPU that a local Ray never gets."""
    client = stack.client
    run_id = client.trigger_run("local_gpu")
    client.wait_run("local_gpu", run_id, state="failed", timeout=150)
    assert client.task_instance("local_gpu", run_id, "fit")["try_number"] == 1
    told = client.log_text("local_gpu", run_id, "fit")
    assert "The job asks for 1 GPU, and this local Ray has" in told
    assert "What to do: Ask for less" in told
    assert clusters(stack) == []


def test_a_job_on_a_cluster_of_its_run(stack):
    client = stack.client
    run_id = client.trigger_run(DAG)
    client.wait_task(DAG, run_id, "setup", state="success", timeout=200)
    handle = client.xcom(DAG, run_id, "setup")
    assert client.xcom(DAG, run_id, "setup", key="dashboard") == handle["address"]
    assert handle["name"] in clusters(stack)
    assert handle["owner"]["run_id"] == run_id
    token = Path(handle["auth"]["path"]).read_text()
    client.wait_run(DAG, run_id, state="success", timeout=200)
    assert "hello from ray" in client.log_text(DAG, run_id, "job").splitlines()
    assert "takes jobs after" in client.log_text(DAG, run_id, "setup")
    assert "is deleted" in client.log_text(DAG, run_id, "delete")
    assert clusters(stack) == []
    paths = LocalPaths.of(handle["name"], stack.local_ray_home)
    assert family(MARK, str(paths.folder)) == []
    for task in ("setup", "job", "again", "delete"):
        assert token not in client.log_text(DAG, run_id, task)


def test_the_cluster_of_a_failed_job_is_deleted(stack):
    client = stack.client
    run_id = client.trigger_run(DAG, conf={"code": "raise SystemExit(3)"})
    client.wait_run(DAG, run_id, state="failed", timeout=300)
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

    client.wait_until("Ray is starting", starting, timeout=120)
    client.set_state(DAG, run_id, "setup", "failed")
    client.wait_until("nothing of it is left", lambda: not family(MARK, str(paths.folder)), timeout=30)
    client.wait_until("its folder is gone", lambda: not paths.folder.exists(), timeout=10)
    client.wait_run(DAG, run_id, state="failed", timeout=60)


def test_a_name_that_can_not_work_is_told_and_not_retried(stack):
    client = stack.client
    run_id = client.trigger_run(DAG, conf={"name": "No Name!"})
    client.wait_run(DAG, run_id, state="failed", timeout=90)
    log = client.log_text(DAG, run_id, "setup")
    assert "'No Name!' can't name a RayCluster" in log
    assert "lower case letters" in log
    assert clusters(stack) == []


def test_what_a_run_left_behind_is_listed_and_deleted_when_told(stack):
    client = stack.client
    run_id = client.trigger_run("local_left")
    client.wait_run("local_left", run_id, state="success", timeout=200)
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
