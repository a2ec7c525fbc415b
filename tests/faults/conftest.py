"""One real Airflow and one real Ray for all rows; each row has a DAG run, and a gate to Ray, of its own."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ray_provider.testing import AirflowStack
from tests.support.gate import Gate
from tests.support.ray_head import RayHead

FINAL = {"SUCCEEDED", "FAILED", "STOPPED"}


def jobs_of(address: str, run_id: str) -> list[dict]:
    """All jobs that were ever submitted for a run, as Ray lists them."""
    for attempt in range(5):  # the test's own look must not fall over a dashboard that is just starting
        try:
            with urllib.request.urlopen(f"{address}/api/jobs/", timeout=30) as response:
                jobs = json.load(response)
            break
        except OSError:
            if attempt == 4:
                raise
            time.sleep(1)
    return [job for job in jobs if (job["metadata"] or {}).get("airflow_run_id") == run_id]


@dataclass
class Case:
    """A DAG run whose job runs until it is told to end."""

    stack: AirflowStack
    ray: str
    dag: str
    run_id: str
    flag: Path
    marker: Path

    def wait(self, state, *, try_number=None, timeout=90.0) -> dict:
        return self.stack.client.wait_task(
            self.dag, self.run_id, "job", state=state, try_number=try_number, timeout=timeout
        )

    def jobs(self) -> list[dict]:
        return jobs_of(self.ray, self.run_id)

    def until(self, what: str, look, timeout=60.0):
        return self.stack.client.wait_until(f"{self.dag}/{self.run_id}: {what}", look, timeout=timeout)

    def running(self, count: int = 1) -> list[dict]:
        """Wait until the job runs on Ray."""

        def look():
            jobs = self.jobs()
            return jobs if [job["status"] for job in jobs].count("RUNNING") == 1 and len(jobs) == count else None

        return self.until(f"{count} job(s), one of them running", look)

    def let_end(self) -> None:
        self.flag.touch()

    def settled(self, count: int, timeout=60.0) -> list[dict]:
        """Wait until no job of the run is running, and check how many there ever were."""
        jobs = self.until("no job left running", lambda: _all_final(self.jobs()), timeout=timeout)
        assert len(jobs) == count, [(job["submission_id"], job["status"]) for job in jobs]
        return jobs

    def log(self, try_number: int = 1) -> str:
        return self.stack.client.log_text(self.dag, self.run_id, "job", try_number=try_number)

    def kill_worker(self) -> None:
        """Kill the task's process and the one that supervises it, as an eviction would."""
        pid = self.stack.client.task_instance(self.dag, self.run_id, "job")["pid"]
        task = psutil.Process(pid)
        supervisor = task.parent()
        supervisor.kill()
        task.kill()


def _all_final(jobs: list[dict]) -> list[dict] | None:
    return jobs if jobs and all(job["status"] in FINAL for job in jobs) else None


@pytest.fixture(scope="session")
def ray(tmp_path_factory) -> Iterator[RayHead]:
    with RayHead() as head:
        yield head


@pytest.fixture(scope="session")
def stack(tmp_path_factory, ray) -> Iterator[AirflowStack]:
    stack = AirflowStack(
        tmp_path_factory.mktemp("airflow"),
        dags_folder=Path(__file__).parent / "dags",
        config={
            "core": {"parallelism": "8"},
            "scheduler": {
                "task_instance_heartbeat_timeout": "15",
                "task_instance_heartbeat_timeout_detection_interval": "3",
            },
        },
    )
    with stack:
        stack.client.add_connection("ray_faults", "ray", extra={"address": ray.url})
        yield stack
    assert not stack.leftovers


@pytest.fixture
def start(stack, ray, tmp_path):
    """Give a function that starts a run: ``start(dag, gate=None, head=None, timeout=600)``."""
    made: list[str] = []
    counter = iter(range(100))

    def go(dag: str, *, gate: Gate | None = None, address: str | None = None, timeout: int = 600) -> Case:
        number = next(counter)
        flag, marker = tmp_path / f"end-{number}", tmp_path / f"resuming-{number}"
        connection = "ray_faults"
        if gate or address:
            connection = f"ray_faults_{number}_{time.time_ns()}"
            stack.client.add_connection(connection, "ray", extra={"address": gate.url if gate else address})
            made.append(connection)
        entrypoint = f"echo started; while [ ! -e {flag} ]; do sleep 0.2; done; echo ended"
        conf = {"conn": connection, "entrypoint": entrypoint, "timeout": timeout, "marker": str(marker)}
        run_id = stack.client.trigger_run(dag, conf=conf)
        return Case(stack, address or ray.url, dag, run_id, flag, marker)

    yield go
    for connection in made:
        stack.client.delete_connection(connection)
