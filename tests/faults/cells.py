"""The ground that all rows stand on: cases with a job each, and many rows under way at the same time.

A row mostly waits: for a heartbeat, a task to be started, an outage to end. So the rows that leave Airflow and Ray alone
run beside each other on one Airflow and one Ray; those that kill a triggerer come after them, one by one.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from _pytest.mark import ParameterSet

from ray_provider.testing import AirflowStack
from tests.support.gate import Gate
from tests.support.logs import begun_log
from tests.support.ray_head import RayHead

FINAL = {"SUCCEEDED", "FAILED", "STOPPED"}
#: So many rows at a time: more would only wait for the two cores that start their tasks.
AT_ONCE = 5
#: Between two looks. Many rows look, at one API server: twice a second they took a fifth of a CPU.
LOOK_SECONDS = 1.0
#: For what a quiet machine does in seconds. It stands between slow and never: a row that passes does not wait for it.
PATIENCE = 600.0


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


def until(what: str, look: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Look until something true comes, and give it."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:.0f} s: {what}")
        time.sleep(LOOK_SECONDS)


@dataclass
class Case:
    """A DAG run whose job runs until it is told to end."""

    stack: AirflowStack
    ray: str
    dag: str
    run_id: str
    flag: Path
    marker: Path
    task: str = "job"
    seen: list[tuple[int, str]] = field(default_factory=list)

    # -- what there is -------------------------------------------------------------------------------------------

    def instance(self) -> dict:
        found = self.stack.client.task_instance(self.dag, self.run_id, self.task)
        now = (found["try_number"], str(found["state"]))
        if not self.seen or self.seen[-1] != now:
            self.seen.append(now)
        return found

    def jobs(self) -> list[dict]:
        return jobs_of(self.ray, self.run_id)

    def log(self, try_number: int = 1) -> str:
        return begun_log(self.stack.client, self.dag, self.run_id, self.task, try_number=try_number)

    def lines(self, try_number: int = 1) -> list[str]:
        return [line.strip() for line in self.log(try_number).splitlines()]

    def watched_by(self) -> int | None:
        """The triggerer, by its id in Airflow's table of jobs, that has the trigger and has seen the job run."""
        found = self.instance()
        job, number = (found["triggerer_job"] or {}).get("id"), found["try_number"]
        folder = self.stack.logs / f"dag_id={self.dag}" / f"run_id={self.run_id}" / f"task_id={self.task}"
        log = folder / f"attempt={number}.log.trigger.{job}.log"
        return job if log.is_file() and " is RUNNING" in log.read_text() else None

    # -- waiting -------------------------------------------------------------------------------------------------

    def until(self, what: str, look: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        return until(f"{self.dag}/{self.run_id}: {what}", look, timeout)

    def wait(self, *states: str, try_number: int | None = None, timeout: float = PATIENCE) -> dict:
        """Wait until the task is in one of the states."""

        def look() -> dict | None:
            found = self.instance()
            return found if found["state"] in states and try_number in (None, found["try_number"]) else None

        return self.until(f"the task is {' or '.join(states)}", look, timeout)

    def running(self, count: int = 1) -> list[dict]:
        """Wait until the job runs on Ray: one, of so many that were ever submitted."""

        return self._with_one("RUNNING", count)

    def pending(self, count: int = 1) -> list[dict]:
        """Wait until the job waits for resources: one, of so many that were ever submitted."""

        return self._with_one("PENDING", count)

    def _with_one(self, status: str, count: int) -> list[dict]:
        def look() -> list[dict] | None:
            jobs = self.jobs()
            if [job["status"] for job in jobs].count(status) == 1 and len(jobs) == count:
                return jobs
            # One that has ended submits no more: whoever waits on would only be told later.
            if len(jobs) < count and self.instance()["state"] in {"failed", "success"}:
                raise AssertionError(
                    f"{self.dag}/{self.run_id}: the task has ended, and {len(jobs)} job(s) were submitted"
                )
            return None

        return self.until(f"{count} job(s), one of them {status}", look)

    def told(self, text: str, try_number: int = 1, timeout: float = PATIENCE) -> None:
        """Wait until the task's log holds a text: its last lines may come after the task's state."""
        self._logged(f"{text!r}", lambda: text in self.log(try_number), try_number, timeout)

    def printed(self, line: str, try_number: int = 1, timeout: float = PATIENCE) -> None:
        """Wait until the task's log holds a line of the job's own: the task itself tells the entrypoint's text."""
        self._logged(f"the line {line!r}", lambda: line in self.lines(try_number), try_number, timeout)

    def _logged(self, what: str, look: Callable[[], bool], try_number: int, timeout: float) -> None:
        try:
            self.until(f"{what} in the log", look, timeout)
        except TimeoutError as error:
            raise AssertionError(f"{error}; it has:\n{self.log(try_number)}") from None

    def settled(self, *statuses: str) -> list[dict]:
        """Wait until no job of the run is running, and check how all that there ever were ended."""

        def look() -> list[dict] | None:
            jobs = self.jobs()
            return jobs if jobs and all(job["status"] in FINAL for job in jobs) else None

        jobs = self.until("no job left running", look)
        assert sorted(job["status"] for job in jobs) == sorted(statuses), [job["submission_id"] for job in jobs]
        return jobs

    def stays_running(self, count: int = 1, seconds: float = 6.0) -> None:
        """Make sure that the one running job goes on: what would stop it has had its time."""
        time.sleep(seconds)
        jobs = self.jobs()
        assert len(jobs) == count, [(job["submission_id"], job["status"]) for job in jobs]
        assert [job["status"] for job in jobs].count("RUNNING") == 1, [job["status"] for job in jobs]

    # -- acts ----------------------------------------------------------------------------------------------------

    def let_end(self) -> None:
        self.flag.touch()

    def mark(self, state: str) -> None:
        self.stack.client.set_state(self.dag, self.run_id, self.task, state)

    def mark_run(self, state: str) -> None:
        self.stack.client.set_run_state(self.dag, self.run_id, state)

    def clear(self) -> None:
        self.stack.client.clear(self.dag, self.run_id, [self.task])

    def worker(self) -> tuple[psutil.Process, psutil.Process]:
        """The task's process and the one that supervises it."""
        task = psutil.Process(self.instance()["pid"])
        return task, task.parent()

    def kill_worker(self) -> None:
        """Kill the task's process and the one that supervises it, as an eviction would."""
        task, supervisor = self.worker()
        supervisor.kill()
        task.kill()

    def describe(self) -> str:
        """All that helps to understand a failure."""
        parts = [f"--- {self.dag}/{self.run_id}: (try, state) seen: {self.seen}"]
        with contextlib.suppress(Exception):
            parts += [f"  job {job['submission_id']}: {job['status']} {job['message']}" for job in self.jobs()]
        with contextlib.suppress(Exception):
            for number in range(1, self.instance()["try_number"] + 1):
                parts.append(f"  log of try {number}:\n" + self.log(number))
        return "\n".join(parts)


class Ground:
    """What a row works with: the Airflow, the Ray, and what it makes for itself, which goes with it."""

    def __init__(self, stack: AirflowStack, ray: RayHead, folder: Path) -> None:
        self.stack = stack
        self.ray = ray
        self.folder = folder
        self.cases: list[Case] = []
        self._made = ExitStack()
        self._numbers = iter(range(1000))

    def close(self) -> None:
        self._made.close()

    def gate(self, head: RayHead | None = None) -> Gate:
        """Put a gate of its own between Airflow and Ray."""
        return self._made.enter_context(Gate((head or self.ray).url))

    def head(self) -> RayHead:
        """Start a Ray of its own."""
        return self._made.enter_context(RayHead())

    @contextmanager
    def second_triggerer(self) -> Iterator[str]:
        name = self.stack.add_triggerer()
        try:
            yield name
        finally:
            if name in self.stack.components:
                self.stack.stop_component(name)

    def start(
        self, dag: str, *, gate: Gate | None = None, head: RayHead | None = None, task: str = "job", **conf: Any
    ) -> Case:
        """Start a run.

        :param gate: between it and Ray.
        :param head: another Ray.
        :param conf: of the run: ``timeout``, ``entrypoint``, ``resources``, ``extra`` (of the connection).
        """
        number = next(self._numbers)
        flag, marker = self.folder / f"end-{number}", self.folder / f"resuming-{number}"
        connection = "ray_faults"
        extra = conf.pop("extra", {})
        if gate or head or extra:
            connection = f"ray_faults_{number}_{time.time_ns()}"
            address = gate.url if gate else (head or self.ray).url
            self.stack.client.add_connection(connection, "ray", extra={"address": address, **extra})
            self._made.callback(self.stack.client.delete_connection, connection)
        waiting = f"echo started; while [ ! -e {flag} ]; do sleep 0.2; done; echo ended"
        conf = {"conn": connection, "entrypoint": waiting, "timeout": 900, "marker": str(marker), **conf}
        run_id = self.stack.client.trigger_run(dag, conf=conf)
        case = Case(self.stack, (head or self.ray).url, dag, run_id, flag, marker, task)
        self.cases.append(case)
        return case


@dataclass(frozen=True)
class Row:
    """One scenario, and the cells of the matrix that it shows.

    :param alone: it does something to the Airflow that all rows share.
    :param long: it begins first.
    :param slow: ``make test`` leaves it out: another row shows there what it is about.
    """

    name: str
    run: Callable[[Ground], None]
    cells: tuple[tuple[str, str], ...]
    alone: bool
    long: bool
    slow: bool


ROWS: dict[str, Row] = {}


def row(
    *cells: tuple[str, str], alone: bool = False, long: bool = False, slow: bool = False
) -> Callable[[Callable[[Ground], None]], Callable[[Ground], None]]:
    """Register a scenario.

    :param cells: (state of the task, event); none: it is beyond the matrix.
    :param alone: it does something to the Airflow that all rows share.
    :param long: it begins first.
    :param slow: ``make test`` leaves it out: another row shows there what it is about.
    """

    def register(run: Callable[[Ground], None]) -> Callable[[Ground], None]:
        ROWS[run.__name__] = Row(run.__name__, run, cells, alone, long, slow)
        return run

    return register


def parameters(rows: Iterable[Row]) -> list[ParameterSet]:
    """Give the rows as what a test takes."""
    return [pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.slow else []) for each in rows]


class Rows:
    """Runs the chosen rows, beside each other where they may, and remembers what came of each."""

    def __init__(self, chosen: list[Row], make_ground: Callable[[], Ground]) -> None:
        self._make_ground = make_ground
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="row")
        self._stopping = threading.Event()
        self._running: dict[str, Future[None]] = {
            each.name: self._pool.submit(self._run, each) for each in chosen if not each.alone
        }

    def result(self, row: Row) -> None:
        """Give what came of a row: raises what it raised."""
        if row.alone:
            for other in self._running.values():
                other.exception()
            self._run(row)
        else:
            self._running[row.name].result()

    def close(self) -> None:
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, row: Row) -> None:
        if self._stopping.is_set():
            return
        began = time.monotonic()
        ground = self._make_ground()
        try:
            row.run(ground)
        except BaseException as error:
            print(f"{row.name}: {type(error).__name__}: {error}")
            error.add_note("\n".join(case.describe() for case in ground.cases))
            raise
        finally:
            ground.close()
            print(f"{row.name}: {time.monotonic() - began:.0f} s")
