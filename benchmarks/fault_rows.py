"""The rows of the fault matrix that the peer can run at all, for the peer or for us: what came of each.

    python -m benchmarks.fault_rows PYTHON [ROW…]

A real Airflow runs in the environment of that interpreter, against a real Ray. It knows both providers only by what
they share, and judges by what a user sees: the task's state, how many jobs were submitted, what still runs 15 seconds
after the task has ended, and the job's lines in the task's log. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ray_provider.testing import AirflowStack
from tests.support.gate import Gate
from tests.support.postgres import PostgresServer
from tests.support.ray_head import RayHead

DAGS = Path(__file__).parent / "dags_faults"
FINAL = {"SUCCEEDED", "FAILED", "STOPPED"}
ENDED = {"success", "failed"}
OUTAGE_SECONDS = 120
GRACE_SECONDS = 15
PATIENCE_SECONDS = 150.0


class NotReachedError(Exception):
    """The row did not get as far as its fault, or the task did not end."""


def until(what: str, look: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise NotReachedError(what)
        time.sleep(0.5)
    return found


class Run:
    """A DAG run and its job, which ends when it is told to. Jobs are known by what they execute."""

    def __init__(self, stack: AirflowStack, head: RayHead, folder: Path, dag: str, gate: Gate | None = None) -> None:
        self.stack, self.head, self.dag = stack, head, dag
        self.flag, self.marker = folder / "end", folder / "resuming"
        connection = f"ray_{folder.name}"
        address = gate.url if gate else head.url
        stack.client.add_connection(connection, "ray", extra={"address": address, "verify": False})
        # Its last word is none of the job's lines: a task may tell what it submits.
        entrypoint = f"echo started; while [ ! -e {self.flag} ]; do sleep 0.2; done; echo ended; true"
        conf = {"conn": connection, "entrypoint": entrypoint, "marker": str(self.marker)}
        self.run_id = stack.client.trigger_run(dag, conf=conf)

    def instance(self) -> dict[str, Any]:
        return self.stack.client.task_instance(self.dag, self.run_id, "job")

    def jobs(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.head.url}/api/jobs/", timeout=30) as answer:
            return [job for job in json.load(answer) if str(self.flag) in job["entrypoint"]]

    def running(self, count: int = 1) -> None:
        def look() -> bool:
            states = [job["status"] for job in self.jobs()]
            return len(states) == count and states.count("RUNNING") == 1

        until(f"{count} jobs, one running", look)

    def wait(self, *states: str) -> None:
        until(f"the task is {' or '.join(states)}", lambda: self.instance()["state"] in states)

    def deferred(self) -> None:
        self.wait("deferred")
        self.running()

    def let_end(self) -> None:
        self.flag.touch()

    def mark(self, state: str) -> None:
        self.stack.client.set_state(self.dag, self.run_id, "job", state)

    def clear(self) -> None:
        self.stack.client.clear(self.dag, self.run_id, ["job"])

    def kill_worker(self) -> None:
        task = psutil.Process(self.instance()["pid"])
        supervisor = task.parent()
        supervisor.kill()
        task.kill()

    def lines(self) -> list[str]:
        """All lines of the last try's log."""
        number = self.instance()["try_number"]
        text = self.stack.client.log_text(self.dag, self.run_id, "job", try_number=number)
        # The peer has its own prefix before a job's line.
        return [line.strip().rpartition(" ")[2] for line in text.splitlines()]


@dataclass(frozen=True)
class End:
    """What a run came to: a row's own Ray goes with the row."""

    state: str
    jobs: list[dict[str, Any]]
    lines: list[str]


@dataclass(frozen=True)
class Row:
    """A row of the matrix.

    :param act: gets the stack, the Ray and a folder; does what the row says and gives what it came to.
    :param state: how the task has to end.
    :param jobs: how many jobs have to be submitted in all.
    :param once: the job's lines have to be in the log once each.
    :param alone: it disturbs other rows.
    """

    act: Callable[[AirflowStack, RayHead, Path], End]
    state: str
    jobs: int
    once: bool = False
    alone: bool = False


def submitting(dag: str, act: Callable[[Run], None], end: Callable[[Run], None] = lambda _run: None) -> Any:
    def play(stack: AirflowStack, head: RayHead, folder: Path) -> End:
        with Gate(head.url) as gate:
            gate.hold_submits = True
            run = Run(stack, head, folder, dag, gate)
            run.running()
            act(run)
            time.sleep(8)  # what the act sets off gets its time before Ray's answer is let through
            gate.hold_submits = False
            end(run)
            return settle(run)

    return play


def deferred(act: Callable[[Run], None], dag: str = "plain_job") -> Any:
    def play(stack: AirflowStack, head: RayHead, folder: Path) -> End:
        run = Run(stack, head, folder, dag)
        run.deferred()
        act(run)
        return settle(run)

    return play


def resuming(act: Callable[[Run], None]) -> Any:
    def play(stack: AirflowStack, head: RayHead, folder: Path) -> End:
        run = Run(stack, head, folder, "resuming_job")
        run.deferred()
        run.let_end()
        until("the task resumes", run.marker.exists)
        act(run)
        return settle(run)

    return play


def second_try(run: Run) -> None:
    until("a second try", lambda: run.instance()["try_number"] > 1 and run.instance()["state"] not in ENDED)
    run.let_end()


def cleared(run: Run) -> None:
    run.clear()
    run.running(2)
    run.let_end()


def let_second_end(run: Run) -> None:
    until("the task has been submitted again", lambda: len(run.jobs()) == 2)
    run.let_end()


def settle(run: Run) -> End:
    run.wait(*ENDED)
    time.sleep(GRACE_SECONDS)
    return End(run.instance()["state"], run.jobs(), run.lines())


def away(stack: AirflowStack, head: RayHead, folder: Path, *, early: bool) -> End:
    with Gate(head.url) as gate:
        gate.closed = early
        run = Run(stack, head, folder, "plain_job", gate)
        if early:
            run.wait("running", *ENDED)
        else:
            run.deferred()
        gate.closed = True
        time.sleep(OUTAGE_SECONDS)
        gate.closed = False
        if run.instance()["state"] not in ENDED:
            run.running()
            run.let_end()
        return settle(run)


def head_killed(stack: AirflowStack, _head: RayHead, folder: Path) -> End:
    with RayHead() as head:
        run = Run(stack, head, folder, "plain_job")
        run.deferred()
        head.kill()
        head.stop()
        head.start()
        return settle(run)


def triggerer_killed(stack: AirflowStack, head: RayHead, folder: Path) -> End:
    run = Run(stack, head, folder, "plain_job")
    run.deferred()
    time.sleep(8)
    stack.kill_component("triggerer", signal.SIGKILL)
    stack.start_component("triggerer")
    run.let_end()
    return settle(run)


def triggerer_stalls(stack: AirflowStack, head: RayHead, folder: Path) -> End:
    run = Run(stack, head, folder, "plain_job")
    run.deferred()
    second = stack.add_triggerer()
    try:
        stack.kill_component("triggerer", signal.SIGSTOP)
        try:
            time.sleep(45)
        finally:
            stack.kill_component("triggerer", signal.SIGCONT)
        time.sleep(10)
        run.let_end()
        return settle(run)
    finally:
        stack.stop_component(second)


ROWS = {
    "no fault": Row(deferred(Run.let_end), "success", 1, once=True),
    "submitting: 503 for 2 min": Row(lambda *given: away(*given, early=True), "success", 1, once=True),
    "deferred: 503 for 2 min": Row(lambda *given: away(*given, early=False), "success", 1, once=True),
    "deferred: head killed": Row(head_killed, "failed", 0),
    "submitting: mark failed": Row(submitting("plain_job", lambda run: run.mark("failed")), "failed", 1),
    "submitting: clear": Row(submitting("plain_job", Run.clear, let_second_end), "success", 2),
    "submitting: worker SIGKILL": Row(submitting("retried_job", Run.kill_worker, second_try), "success", 1),
    "deferred: mark failed": Row(deferred(lambda run: run.mark("failed")), "failed", 1),
    "deferred: mark success": Row(deferred(lambda run: run.mark("success")), "success", 1),
    "deferred: clear": Row(deferred(cleared), "success", 2),
    "deferred: time-out": Row(deferred(lambda _run: None, "brief_job"), "failed", 1),
    "resuming: mark failed": Row(resuming(lambda run: run.mark("failed")), "failed", 1),
    "resuming: clear": Row(resuming(Run.clear), "success", 1),
    "resuming: worker SIGKILL": Row(resuming(Run.kill_worker), "success", 1),
    "deferred: triggerer SIGKILL": Row(triggerer_killed, "success", 1, once=True, alone=True),
    "deferred: triggerer SIGSTOP 45 s": Row(triggerer_stalls, "success", 1, alone=True),
}


def judge(row: Row, end: End) -> dict[str, Any]:
    """Say what came of a row, and whether it is what has to."""
    left = [job for job in end.jobs if job["status"] not in FINAL]
    told = [f"task {end.state}", f"{len(end.jobs)} job{'' if len(end.jobs) == 1 else 's'}"]
    good = end.state == row.state and len(end.jobs) == row.jobs and not left
    if left:
        told.append(f"{len(left)} still running")
    if row.once:
        counts = {text: end.lines.count(text) for text in ("started", "ended")}
        good = good and set(counts.values()) == {1}
        told += [f"'{text}' {count} times in the log" for text, count in counts.items() if count != 1]
    return {"good": good, "told": ", ".join(told)}


def play(stack: AirflowStack, head: RayHead, name: str) -> dict[str, Any]:
    row = ROWS[name]
    with tempfile.TemporaryDirectory(prefix="fault-row-", ignore_cleanup_errors=True) as folder:
        try:
            return judge(row, row.act(stack, head, Path(folder)))
        except NotReachedError as error:
            return {"good": False, "told": f"not within {PATIENCE_SECONDS:.0f} s: {error}"}
        finally:
            (Path(folder) / "end").touch()  # whatever still runs ends now
            time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="of the environment")
    parser.add_argument("rows", nargs="*", help="all unless named")
    arguments = parser.parse_args()
    names = arguments.rows or list(ROWS)
    lock = threading.Lock()
    found: dict[str, dict[str, Any]] = {}
    config = {
        "core": {"parallelism": "16"},
        "scheduler": {
            "task_instance_heartbeat_timeout": "20",
            "task_instance_heartbeat_timeout_detection_interval": "3",
        },
    }
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as home,
        PostgresServer() as database,
        RayHead() as head,
        AirflowStack(
            Path(home) / "airflow",
            sql_alchemy_conn=database.sqlalchemy_url,
            dags_folder=DAGS,
            config=config,
            python=arguments.python,
        ) as stack,
        ThreadPoolExecutor(4) as pool,
    ):

        def one(name: str) -> None:
            came = play(stack, head, name)
            with lock:
                found[name] = came
                print(f"{name}: {came['told']}", file=sys.stderr, flush=True)

        list(pool.map(one, [name for name in names if not ROWS[name].alone]))
        for name in names:
            if ROWS[name].alone:
                one(name)
    print(json.dumps({name: found[name] for name in names}), flush=True)


if __name__ == "__main__":
    main()
