"""The instrument for one event loop full of our triggers, built from what they serialize to, as a triggerer does it.

    python -m benchmarks.triggerer many --jobs 1000     memory, worst ticks, and how soon the ends of jobs are known
    python -m benchmarks.triggerer log --megabytes 100  one long log: each line once and in order, memory, worst tick

Runs a Jobs API double beside itself (``jobs_double.py``) and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import logging
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import Any, Self

import aiohttp

TICK = 0.01
NUMBERED = re.compile(r"line (\d{9}) ")


class Double:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.jobs_double"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(30)

    def _answer(self) -> Any:
        return json.loads(self._process.stdout.readline())

    def ask(self, command: str) -> Any:
        print(command, file=self._process.stdin, flush=True)
        return self._answer()

    async def tell(self, command: str) -> Any:
        return await asyncio.to_thread(self.ask, command)


def rss() -> float:
    """Resident memory in KB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1024


def full_collection_ms() -> float:
    """Give how long the loop stands still where Python looks for garbage in all that is there, Airflow included."""
    began = time.monotonic()
    gc.collect()
    return round((time.monotonic() - began) * 1e3, 1)


class Ticker:
    """Wakes every 10 ms and notes how late it was."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        due = clock() + TICK
        while True:
            await asyncio.sleep(max(0.0, due - clock()))
            now = clock()
            self._late.append(now - due)
            due = now + TICK

    def worst_ms(self) -> float:
        """Give the worst since the last call."""
        late, self._late = self._late, []
        return round(max(late, default=0.0) * 1e3, 1)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def build(job: str) -> Any:
    from ray_provider.triggers import RayJobTrigger

    path, kwargs = RayJobTrigger(job, "ray_bench").serialize()
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(**kwargs)


async def drive(trigger: Any, ends: dict[str, float]) -> None:
    async for event in trigger.run():
        assert event.payload["status"] == "SUCCEEDED", event.payload
        ends[trigger.job_id] = time.time()
        return


async def many(double: Double, jobs: int) -> dict[str, Any]:
    await double.tell(f"jobs {jobs}")
    ends: dict[str, float] = {}
    await warm_up(double, ends)
    asking = await asking_s(double, jobs)
    gc.collect()
    before = rss()
    ticker = Ticker()
    began = time.monotonic()
    tasks = []
    for number in range(1, jobs):
        tasks.append(asyncio.create_task(drive(build(f"job-{number}"), ends)))
        await asyncio.sleep(0)  # as a triggerer does
    while await double.tell("streams") < jobs - 1:
        await asyncio.sleep(0.2)
    found: dict[str, Any] = {
        "asking_s": asking,
        "start_s": time.monotonic() - began,
        "start_tick_ms": ticker.worst_ms(),
    }
    await asyncio.sleep(10)
    found["steady_tick_ms"] = ticker.worst_ms()
    found["kb_per_trigger"] = (rss() - before) / (jobs - 1)
    found["collection_ms"] = full_collection_ms()
    await asyncio.sleep(5 * TICK)
    ticker.worst_ms()  # that was us

    async def phase(name: str, ending: list[int], pause: float) -> None:
        told: dict[str, float] = {}
        for count in ending:
            answer = await double.tell(f"end {count}")
            told |= dict.fromkeys(answer["ids"], answer["at"])
            await asyncio.sleep(pause)
        while not told.keys() <= ends.keys():
            await asyncio.sleep(0.05)
        seconds = [ends[job] - at for job, at in told.items()]
        found[name] = {
            "jobs": len(seconds),
            "median_s": statistics.median(seconds),
            "worst_s": max(seconds),
            "tick_ms": ticker.worst_ms(),
        }

    await phase("one by one", [1] * 100, 0.05)
    await asyncio.sleep(2)
    await phase("300 at once", [300], 0)
    await asyncio.sleep(2)
    await phase("the rest at once", [jobs], 0)
    await asyncio.gather(*tasks)
    await ticker.stop()
    return found


async def asking_s(double: Double, jobs: int) -> float:
    """Give how long it takes to ask for each job's state once, all at the same time, and to do nothing with it."""
    async with aiohttp.ClientSession(double.url) as session:

        async def ask(number: int) -> None:
            async with session.get(f"/api/jobs/job-{number}") as answer:
                await answer.json()

        began = time.monotonic()
        await asyncio.gather(*map(ask, range(jobs)))
        return round(time.monotonic() - began, 3)


async def warm_up(double: Double, ends: dict[str, float]) -> None:
    """Pay for imports before the clock runs."""
    warm = asyncio.create_task(drive(build("job-0"), ends))
    while not await double.tell("streams"):
        await asyncio.sleep(0.1)
    await double.tell("end 1")
    await warm


class Checked(logging.Handler):
    """Takes the place of the log file: it checks what it gets, and writes it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.expected = 0
        self.wrong: list[str] = []
        self._file = open(path, "w", buffering=1)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._file.write(text + "\n")
        for number in map(int, NUMBERED.findall(text)):
            if number != self.expected and len(self.wrong) < 5:
                self.wrong.append(f"line {number} where {self.expected} was due")
            self.expected = number + 1


async def long_log(double: Double, megabytes: int, checked: Checked) -> dict[str, Any]:
    await double.tell("jobs 1")
    ends: dict[str, float] = {}
    await warm_up(double, ends)
    lines = await double.tell(f"log {megabytes * 1_000_000}")
    gc.collect()
    before, peak = rss(), Peak()
    ticker = Ticker()
    began = time.monotonic()
    task = asyncio.create_task(drive(build("long"), ends))
    while checked.expected < lines and not task.done():
        await asyncio.sleep(0.2)
    passed = time.monotonic() - began
    await double.tell("end 1")
    await task
    worst = ticker.worst_ms()
    await ticker.stop()
    return {
        "lines": lines,
        "lines_passed_on": checked.expected,
        "wrong": checked.wrong,
        "seconds": passed,
        "mb_per_s": megabytes / passed,
        "added_mb": (peak.stop() - before) / 1024,
        "tick_ms": worst,
    }


class Peak:
    """The most memory of a while, looked for by a thread: the loop's own look would come between two pieces."""

    def __init__(self) -> None:
        self._most = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self._most = max(self._most, rss())

    def stop(self) -> float:
        self._done.set()
        self._thread.join()
        return self._most


@contextmanager
def core(*, last: bool):
    """Start or be something on the last core, or on the others."""
    cores = os.sched_getaffinity(0)
    mine = {max(cores)}
    os.sched_setaffinity(0, mine if last else cores - mine or cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["many", "log"])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray-bench-") as folder:
        os.environ.update(AIRFLOW_HOME=folder, AIRFLOW__CORE__LOAD_EXAMPLES="False")
        out = os.dup(1)
        with open(f"{folder}/provider.log", "ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)  # what the provider logs costs what writing it costs
        with core(last=False):
            double = Double()
        with double, core(last=True):
            extra = {"address": double.url}
            os.environ["AIRFLOW_CONN_RAY_BENCH"] = json.dumps({"conn_type": "ray", "extra": extra})
            import airflow  # noqa: F401 - its start-up is not what is measured

            if arguments.what == "many":
                found = asyncio.run(many(double, arguments.jobs))
            else:
                checked = Checked(f"{folder}/task.log")
                from ray_provider.triggers import RayJobTrigger

                logger = logging.getLogger("benchmarks.task")
                logger.setLevel(logging.INFO)
                logger.propagate = False
                logger.addHandler(checked)
                RayJobTrigger.log = logger  # type: ignore[assignment,method-assign]
                found = asyncio.run(long_log(double, arguments.megabytes, checked))
        os.write(out, (json.dumps(found) + "\n").encode())


if __name__ == "__main__":
    main()
