"""A deferred job on Airflow's own components: a real scheduler, and a triggerer that watches it and is restarted.

The same rows for every Airflow; only how it is started and asked differs. Needs nothing of pytest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from tests.support.ray_head import RayHead

DAGS = Path(__file__).parent / "dags_deferred"
DAG, TASK = "deferred", "job"
SECONDS = 240


class Components(Protocol):
    """An Airflow whose components run."""

    def trigger(self, entrypoint: str) -> str:
        """Start a run of the DAG, and give its id."""

    def state(self, run_id: str) -> str | None:
        """Give the state of its task."""

    def triggerer(self, run_id: str) -> Any:
        """Give what tells the triggerer that has its trigger, or nothing."""

    def log(self, run_id: str) -> str:
        """Give the task's log, the triggerer's part too."""

    def xcom(self, run_id: str) -> Any:
        """Give what the task returned."""

    def mark_failed(self, run_id: str) -> None:
        """Do what a person does in the web interface."""

    def restart_triggerer(self) -> None:
        """End it in order, and start another."""


def wait(what: str, look: Callable[[], Any], seconds: float = SECONDS, told: Callable[[], str] = str) -> Any:
    until = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:.0f} s: {what}\n{told()}")
        time.sleep(0.5)
    return found


def check(airflow: Components, head: RayHead, home: Path, say: Callable[[str], None]) -> None:
    """Run the rows."""

    def job(run_id: str) -> dict:
        [found] = [each for each in head.jobs() if each["metadata"]["airflow_run_id"] == run_id]
        return found

    def wait_state(run_id: str, state: str) -> None:
        told = lambda: f"it is {airflow.state(run_id)}; its log:\n{airflow.log(run_id)[-6000:]}"  # noqa: E731
        wait(f"the task of {run_id} is {state}", lambda: airflow.state(run_id) == state, told=told)

    def watched(run_id: str, *, not_by: Any = None) -> Any:
        wait_state(run_id, "deferred")
        return wait(
            f"a triggerer has the trigger of {run_id}",
            lambda: (found := airflow.triggerer(run_id)) and found != not_by and found,
            told=lambda: airflow.log(run_id)[-6000:],
        )

    gate = home / "gate"
    waits = airflow.trigger(f"echo up; while [ ! -e {gate} ]; do sleep 0.2; done; echo opened")
    killed = airflow.trigger("echo up; sleep 600")
    fails = airflow.trigger("echo the reason; exit 3")

    wait_state(fails, "failed")
    log = airflow.log(fails)
    for words in ("JobFailedError", "What to do"):
        assert words in log, f"{words!r} is not in the log:\n{log[-6000:]}"
    assert "the reason" in log.replace("echo the reason", ""), log[-6000:]
    say("a deferred job that fails: the task has failed, and its log says why")

    first = watched(waits)
    watched(killed)
    wait("the log of a job that runs is shown", lambda: "is RUNNING" in airflow.log(waits))
    airflow.restart_triggerer()
    watched(waits, not_by=first)
    watched(killed, not_by=first)
    assert job(waits)["status"] == job(killed)["status"] == "RUNNING", "the restart of the triggerer stopped a job"
    gate.touch()
    wait_state(waits, "success")
    assert job(waits)["status"] == "SUCCEEDED"
    assert airflow.xcom(waits) == job(waits)["submission_id"]
    log = airflow.log(waits)
    assert sum(line.rstrip().endswith("opened") and "echo" not in line for line in log.splitlines()) == 1, log[-6000:]
    say("a deferred job over a restart of the triggerer: ended right, once, and its log is shown")

    airflow.mark_failed(killed)
    wait("the job of the task that was marked failed is stopped", lambda: job(killed)["status"] == "STOPPED")
    assert airflow.state(killed) == "failed"
    say("a deferred task that is marked failed: its job is stopped")
    assert not [each for each in head.jobs() if each["status"] in ("PENDING", "RUNNING")]


@contextlib.contextmanager
def airflow_3(home: Path, head: RayHead) -> Iterator[Components]:
    from ray_provider.testing import AirflowStack

    with AirflowStack(home / "stack", dags_folder=DAGS, start_timeout=SECONDS) as stack:
        stack.client.add_connection("ray_compat", "ray", extra={"address": head.url, "token": head.token})
        yield Three(stack)
    assert not stack.leftovers, stack.leftovers


class Three:
    """Airflow 3, by its REST API."""

    def __init__(self, stack: Any) -> None:
        self.stack, self.client = stack, stack.client

    def trigger(self, entrypoint: str) -> str:
        return self.client.trigger_run(DAG, conf={"entrypoint": entrypoint})

    def _task(self, run_id: str) -> dict[str, Any]:
        found = {each["task_id"]: each for each in self.client.task_instances(DAG, run_id)}
        return found.get(TASK, {})

    def state(self, run_id: str) -> str | None:
        return self._task(run_id).get("state")

    def triggerer(self, run_id: str) -> Any:
        return (self._task(run_id).get("triggerer_job") or {}).get("id")

    def log(self, run_id: str) -> str:
        return self.client.log_text(DAG, run_id, TASK)

    def xcom(self, run_id: str) -> Any:
        return self.client.xcom(DAG, run_id, TASK)

    def mark_failed(self, run_id: str) -> None:
        self.client.set_state(DAG, run_id, TASK, "failed")

    def restart_triggerer(self) -> None:
        self.stack.stop_component("triggerer")
        self.stack.start_component("triggerer")


@contextlib.contextmanager
def airflow_2(home: Path, head: RayHead) -> Iterator[Components]:
    """Start the two components that Airflow 2 needs: its scheduler reads the DAGs, too. Asked by its own models."""
    two = Two(home)
    try:
        two.start("scheduler")
        two.start("triggerer")
        two.wait_for_dag()
        yield two
    finally:
        for name in list(two.processes):
            two.end(name)


class Two:
    """Airflow 2; the caller's environment has its home, its database and the connection."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        from ray_provider.testing.parent import dying_with_parent

        with (self.home / f"{name}.log").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                dying_with_parent([sys.executable, "-W", "ignore", "-m", "airflow", name, "--skip-serve-logs"]),
                env={
                    **os.environ,
                    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
                    # The executor starts "airflow".
                    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def restart_triggerer(self) -> None:
        self.end("triggerer")
        self.start("triggerer")

    def wait_for_dag(self) -> None:
        from airflow.models import DagModel
        from airflow.utils.session import create_session

        def known() -> bool:
            for name, process in self.processes.items():
                assert process.poll() is None, (self.home / f"{name}.log").read_text()[-4000:]
            with create_session() as session:
                return bool(session.query(DagModel).filter_by(dag_id=DAG).update({"is_paused": False}))

        wait("the DAG is known", known, told=lambda: (self.home / "scheduler.log").read_text()[-4000:])

    def trigger(self, entrypoint: str) -> str:
        from airflow.api.common.trigger_dag import trigger_dag

        time.sleep(1.1)  # a run's date has no fractions of a second
        run_id = f"run-{time.time()}"
        trigger_dag(DAG, run_id, {"entrypoint": entrypoint})
        return run_id

    def _instance(self, run_id: str, session: Any) -> Any:
        from airflow.models import TaskInstance

        return session.query(TaskInstance).filter_by(dag_id=DAG, run_id=run_id, task_id=TASK).one_or_none()

    def state(self, run_id: str) -> str | None:
        from airflow.utils.session import create_session

        with create_session() as session:
            instance = self._instance(run_id, session)
            return None if instance is None or instance.state is None else str(instance.state)

    def triggerer(self, run_id: str) -> Any:
        from airflow.models.trigger import Trigger
        from airflow.utils.session import create_session

        with create_session() as session:
            instance = self._instance(run_id, session)
            trigger = instance.trigger_id and session.get(Trigger, instance.trigger_id)
            return trigger and trigger.triggerer_id

    def log(self, run_id: str) -> str:
        files = sorted((self.home / "logs" / f"dag_id={DAG}" / f"run_id={run_id}" / f"task_id={TASK}").glob("*"))
        return "\n".join(file.read_text() for file in files if file.is_file())

    def xcom(self, run_id: str) -> Any:
        from airflow.models import XCom

        return XCom.get_one(dag_id=DAG, run_id=run_id, task_id=TASK, key="return_value")

    def mark_failed(self, run_id: str) -> None:
        from airflow.models import DagBag
        from airflow.utils.state import TaskInstanceState

        dag = DagBag(read_dags_from_db=True).get_dag(DAG)
        dag.set_task_instance_state(task_id=TASK, run_id=run_id, state=TaskInstanceState.FAILED, commit=True)


def run(home: Path, head: RayHead, say: Callable[[str], None]) -> None:
    """Start this environment's Airflow, and run the rows on it."""
    import airflow

    start = airflow_2 if airflow.__version__.startswith("2.") else airflow_3
    with start(home, head) as components:
        check(components, head, home, say)
