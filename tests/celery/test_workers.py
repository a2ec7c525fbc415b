"""What becomes of a job when the Celery worker ends in which its task waits: a rollout, a drained node."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ray_provider.clusters.local.processes import descendants, signal_all
from ray_provider.testing import AirflowStack
from ray_provider.testing.parent import dying_with_parent
from tests.faults.cells import Case, Ground, until
from tests.support.postgres import PostgresServer
from tests.support.ray_head import RayHead
from tests.support.redis import RedisServer


class Workers:
    """Celery workers of a stack. A name, once used, stays used: it is the worker's for the whole stack."""

    def __init__(self, stack: AirflowStack) -> None:
        self._stack = stack
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> psutil.Process:
        """Start a worker, and wait until it takes tasks."""
        log = self._stack.logs / f"worker-{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                dying_with_parent(
                    [sys.executable, "-m", "airflow", "celery", "worker", "--celery-hostname", f"{name}@%h",
                     "--concurrency", "4", "--skip-serve-logs", "--without-mingle", "--without-gossip"],
                ),
                env=self._stack.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._running[name] = process

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            return " ready" in log.read_text()

        until(f"worker {name} takes tasks", ready)
        return psutil.Process(process.pid)

    def ended(self, name: str, seconds: float = 60.0) -> None:
        """Wait until a worker has ended by itself."""
        self._running[name].wait(seconds)

    def stop(self) -> None:
        """End all that still run, with their tasks."""
        for process in self._running.values():
            if process.poll() is None:
                signal_all(descendants(psutil.Process(process.pid)), signal.SIGKILL)
                process.wait(10)


@pytest.fixture(scope="module")
def ray() -> Iterator[RayHead]:
    with RayHead() as head:
        yield head


@pytest.fixture(scope="module")
def stack(tmp_path_factory, ray) -> Iterator[AirflowStack]:
    with PostgresServer() as database, RedisServer() as redis:
        airflow = AirflowStack(
            tmp_path_factory.mktemp("airflow"),
            sql_alchemy_conn=database.sqlalchemy_url,
            dags_folder=Path(__file__).parent / "dags",
            config={
                "core": {"executor": "CeleryExecutor"},
                "celery": {"broker_url": redis.url, "result_backend": f"db+{database.sqlalchemy_url}"},
            },
        )
        with airflow as stack:
            stack.client.add_connection("ray_faults", "ray", extra={"address": ray.url})
            yield stack


@pytest.fixture(scope="module")
def workers(stack) -> Iterator[Workers]:
    made = Workers(stack)
    yield made
    made.stop()


@pytest.fixture
def ground(stack, ray, tmp_path) -> Iterator[Ground]:
    ground = Ground(stack, ray, tmp_path)
    yield ground
    for case in ground.cases:
        print(case.describe())
    ground.close()


def start_function(ground: Ground) -> Case:
    """Start the run of a function; its job is known by the file in which it counts its runs."""
    flag, marker = ground.folder / "end-function", ground.folder / "ran"
    run_id = ground.stack.client.trigger_run("function_with_a_retry", conf={"flag": str(flag), "marker": str(marker)})
    case = Case(ground.stack, ground.ray.url, "function_with_a_retry", run_id, flag, marker)
    ground.cases.append(case)
    return case


def test_a_worker_that_is_told_to_end_leaves_its_jobs_to_their_retries(ground, workers):
    """A platform sends SIGTERM to all processes of a worker. No job that another try can take over runs twice."""
    worker = workers.start("first")
    job, function = ground.start("with_a_retry"), start_function(ground)
    last = ground.start("without_a_retry")
    submitted = [each.running()[0]["submission_id"] for each in (job, function, last)]
    until("the function runs", function.marker.exists)
    for case in (job, function, last):
        task, _ = case.worker()
        assert worker in task.parents()
    workers.start("second")

    signal_all(descendants(worker), signal.SIGTERM)

    workers.ended("first")
    # Nobody would take this one over.
    last.wait("failed")
    last.settled("STOPPED")
    last.told(f"Job {submitted[2]} was stopped")
    for case, submission_id in ((job, submitted[0]), (function, submitted[1])):
        case.told(f"job {submission_id} is left to the next try")
        case.wait("running", try_number=2)
        case.told(f"Taking over job {submission_id}", 2)
        assert [each["submission_id"] for each in case.running()] == [submission_id]
        case.let_end()
        case.wait("success")
        case.settled("SUCCEEDED")
    job.printed("ended", 2)
    assert ground.stack.client.xcom(function.dag, function.run_id, "job") == 1, "it ran once"


def test_what_a_user_ends_is_stopped_although_a_retry_could_take_it_over(ground, workers):
    workers.start("for-a-user")
    case = ground.start("with_a_retry")
    case.running()
    case.mark("failed")
    case.settled("STOPPED")
    case.wait("failed")
    assert "left to the next try" not in case.log()


def test_a_warm_shutdown_lets_a_job_end(ground, workers):
    """Only the worker's first process gets SIGTERM, as with Airflow's image: it waits for its tasks."""
    workers.stop()
    worker = workers.start("warm")
    case = ground.start("with_a_retry")
    case.running()
    worker.terminate()
    case.stays_running()
    case.let_end()
    case.wait("success", try_number=1)
    case.settled("SUCCEEDED")
    workers.ended("warm")
