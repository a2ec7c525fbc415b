"""``make demo``: a real Airflow runs the quickstart on a Ray of its own, and shows what happens."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ray_provider.terminal import working
from ray_provider.testing.client import FINISHED, AirflowApiError, AirflowClient
from ray_provider.testing.stack import AirflowStack, StackError

DAG_ID = "ray_quickstart"
JOB = "delays"
TASKS = ("setup", "delays", "delete")
_LOOK_SECONDS = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


#: Of a task's records these are about the job; the rest is Airflow's own.
_LOGGERS = ("ray_provider", "RayJob")


class _Stopped(Exception):  # noqa: N818 - not an error: somebody wants to stop
    """Ctrl-C, SIGTERM, or the terminal was closed.

    :param number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Demo:
    """Runs the quickstart and tells about it.

    :param dags: folder of the example DAGs.
    :param image: where the job leaves its picture.
    :param keep_web: whether somebody will look at them all. Default: no, only the quickstart is there.
    """

    def __init__(self, dags: Path, image: Path, *, keep_web: bool = False) -> None:
        self.dags = dags
        self.image = image
        self.keep_web = keep_web
        self._began = time.monotonic()
        self._shown: set[tuple[Any, ...]] = set()

    def say(self, text: str) -> None:
        """Print a line with the time since the start.

        :param text: the line, without its end.
        """
        sys.stdout.write(f"{time.monotonic() - self._began:6.1f} s  {text}\n")
        sys.stdout.flush()

    @contextlib.contextmanager
    def airflow(self) -> Iterator[AirflowStack]:
        """Start Airflow with a connection to the local backend; stop it, and what it left, in all cases."""
        home = Path(tempfile.mkdtemp(prefix="airflow-ray-demo-"))
        try:
            # Airflow reads every file of the folder, at a second or more each, before or while the one DAG runs.
            dags = self.dags if self.keep_web else _quickstart_alone(self.dags, home / "dags")
            # A local Ray that the DAG did not come to delete (Ctrl-C) lies in the stack's home, and ends with it.
            stack = AirflowStack(home, dags_folder=dags, env={"RAY_EXAMPLE_IMAGE": str(self.image)})
            self.say("starting Airflow: scheduler, DAG processor, triggerer, API server")
            with contextlib.ExitStack() as running:
                with working("Airflow starts; this takes half a minute"):
                    running.enter_context(stack)
                stack.client.add_connection("ray_default", "ray", extra={"backend": "local"})
                self.say(f"Airflow is up: {stack.url}")
                self.say("everybody who reaches it is an administrator: it listens on this machine only (127.0.0.1)")
                yield stack
        finally:
            shutil.rmtree(home, ignore_errors=True)
            self.say("everything is stopped")

    def run(self, client: AirflowClient) -> bool:
        """Run the DAG. Gives whether it succeeded.

        :param client: of the Airflow that runs it.
        """
        run_id = client.trigger_run(DAG_ID)
        self.say(f"DAG {DAG_ID}: {' >> '.join(TASKS)}")
        states: dict[str, Any] = {}
        with working(f"DAG {DAG_ID} runs"):
            state = self._follow(client, run_id, states)
        if state != "success":
            self._explain(client, run_id, states)
        return bool(state == "success")

    def _follow(self, client: AirflowClient, run_id: str, states: dict[str, Any]) -> str:
        """Tell what happens until the run has ended. Gives its state, and puts those of its tasks into ``states``."""
        while True:
            # Before its tasks: what ends between two looks at them is told all the same.
            state = str(client.run(DAG_ID, run_id)["state"])
            for instance in client.task_instances(DAG_ID, run_id):
                name, reached = instance["task_id"], instance["state"]
                if reached and states.get(name) != reached:
                    states[name] = reached
                    self.say(f"{name}: {reached}")
            if states.get(JOB) in FINISHED | {"running", "deferred"}:
                self._show_log(client, run_id)
            if state in FINISHED:
                return state
            time.sleep(_LOOK_SECONDS)

    def _show_log(self, client: AirflowClient, run_id: str) -> None:
        """Print what is new of the job's log. A late record of the worker can come before the triggerer's."""
        with contextlib.suppress(AirflowApiError):  # the log's first line is not there yet
            for entry in client.log_entries(DAG_ID, run_id, JOB):
                key = (entry.get("timestamp"), entry.get("logger"), entry["event"])
                if key in self._shown or not any(name in str(entry.get("logger")) for name in _LOGGERS):
                    continue
                self._shown.add(key)
                for line in str(entry["event"]).splitlines():
                    sys.stdout.write(f"          | {line}\n")
            sys.stdout.flush()

    def _explain(self, client: AirflowClient, run_id: str, states: dict[str, Any]) -> None:
        for name, state in states.items():
            if state == "failed":
                sys.stdout.write(f"\n{name} failed:\n{client.log_text(DAG_ID, run_id, name)}\n")


def _quickstart_alone(examples: Path, folder: Path) -> Path:
    """Copy the DAG that the demonstration runs, and what it reads, to a folder; give the folder."""
    shutil.copytree(examples / "include", folder / "include", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(examples / f"{DAG_ID}.py", folder)
    return folder


def _on_signal(number: int, _frame: FrameType | None) -> None:
    # Once: a second Ctrl-C must not end the stopping.
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise _Stopped(number)


def run_demo(*, dags: Path, image: Path, keep_web: bool = False) -> int:
    """Run the demonstration.

    :param dags: folder of the example DAGs.
    :param image: where the job leaves its picture.
    :param keep_web: leave the web interface up until Ctrl-C instead of running the DAG.
    :return: the process's exit status.
    """
    demo = Demo(dags, image, keep_web=keep_web)
    for number in _SIGNALS:
        signal.signal(number, _on_signal)
    try:
        with demo.airflow() as stack:
            if keep_web:
                demo.say(f"open {stack.url}; Ctrl-C stops it")
                threading.Event().wait()
            good = demo.run(stack.client)
    except _Stopped as stopped:
        demo.say(f"ended by {signal.Signals(stopped.number).name}")
        return 0 if keep_web else 128 + stopped.number
    except StackError as error:
        sys.stderr.write(f"Airflow did not start: {error}\n")
        return 1
    demo.say(f"done; the picture: {image}" if good else "the DAG failed")
    return 0 if good and image.exists() else 1
