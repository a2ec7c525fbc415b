"""The instrument: runs inside the environment under test (ours or the peer's) and prints one JSON line.

It knows both providers only by what they share: ``ray_provider.triggers.RayJobTrigger`` and
``ray_provider.operators.SubmitRayJob``. Jobs are submitted, and their true end is read, by plain HTTP.

    measure.py latency ADDRESS --runs N        from the job's last line to the trigger's event, at default settings
    measure.py loop ADDRESS --via URL          worst delay of an event loop that runs 50 triggers with logs
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import os
import re
import shlex
import statistics
import sys
import time
import urllib.request
import uuid

END = re.compile(r"END (\d{10}\.\d+)")
LINE = re.compile(r"LINE (\d{5})")
TICK = 0.01
#: How long the loop is watched before it has anything to do: what the machine itself makes of a tick.
IDLE_SECONDS = 3.0
JOB = (
    "import time\n"
    "for i in range({lines}): print(f'LINE {{i:05d}}', flush=True)\n"
    "time.sleep({sleep})\n"
    "print(f'END {{time.time():.6f}}', flush=True)  # {tag}\n"
)


def call(address: str, path: str, data: dict | None = None) -> dict:
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("BENCH_RAY_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    body = json.dumps(data).encode() if data is not None else None
    request = urllib.request.Request(address + path, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def submit(address: str, lines: int, sleep: float) -> str:
    code = JOB.format(lines=lines, sleep=sleep, tag=uuid.uuid4().hex)
    entrypoint = f"{shlex.quote(sys.executable)} -u -c {shlex.quote(code)}"
    return call(address, "/api/jobs/", {"entrypoint": entrypoint})["submission_id"]


def wait_running(address: str, job: str) -> None:
    """Wait until the job's program runs: its start keeps every core of a small machine busy."""
    until = time.monotonic() + 120
    while "END" not in (log := call(address, f"/api/jobs/{job}/logs")["logs"]) and "LINE" not in log:
        if time.monotonic() > until:
            raise RuntimeError(f"{job} did not print a line within 120 s")
        time.sleep(0.2)


def true_end(address: str, job: str) -> float:
    return float(END.search(call(address, f"/api/jobs/{job}/logs")["logs"])[1])


def make_trigger(job: str, poll: float | None):
    """Build the trigger as Airflow does: from what ``serialize`` gave, in another process."""
    from ray_provider.operators import SubmitRayJob
    from ray_provider.triggers import RayJobTrigger

    parameters = inspect.signature(SubmitRayJob.__init__).parameters
    default = parameters["poll_interval"].default
    trigger = RayJobTrigger(
        job_id=job,
        conn_id="ray_bench",
        xcom_dashboard_url=None,
        ray_cluster_yaml=None,
        gpu_device_plugin_yaml="",
        poll_interval=default if poll is None else poll,
        fetch_logs=True,
    )
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(**kwargs)


async def drive(trigger) -> tuple[float, str | None]:
    try:
        async for _event in trigger.run():
            return time.time(), None
    except Exception as error:
        return time.time(), f"{type(error).__name__}: {str(error)[:200]}"
    return time.time(), "no event"


def latency(arguments: argparse.Namespace) -> dict:
    rows, limits = [], []

    async def one() -> None:
        job = submit(arguments.address, arguments.lines, arguments.sleep)
        watcher = asyncio.create_task(asyncio.to_thread(visible_end, job))
        at, error = await drive(make_trigger(job, arguments.poll))
        limits.append(await watcher - true_end(arguments.address, job))
        rows.append({"seconds": at - true_end(arguments.address, job), "error": error})

    def visible_end(job: str) -> float:
        """When the end could be known at all: a look every 20 ms."""
        while call(arguments.address, f"/api/jobs/{job}")["status"] in {"PENDING", "RUNNING"}:
            time.sleep(0.02)
        return time.time()

    for _ in range(arguments.runs):
        asyncio.run(one())
    good = [row["seconds"] for row in rows if not row["error"]]
    return {
        "median_s": statistics.median(good) if good else None,
        "max_s": max(good, default=None),
        "limit_median_s": statistics.median(limits),
        "errors": [row["error"] for row in rows if row["error"]],
    }


def loop(arguments: argparse.Namespace) -> dict:
    if len(os.sched_getaffinity(0)) > 1:
        # The loop has a core of its own, as that of a triggerer on a node of its own: what is measured is how long the
        # provider holds it, not how long the system lets something else run. Ray has the other cores (run.py).
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    jobs = [submit(arguments.address, arguments.lines, arguments.sleep) for _ in range(arguments.jobs)]
    for job in jobs:
        wait_running(arguments.address, job)
    make_trigger(jobs[0], arguments.poll)  # imports of the trigger are paid before the clock runs
    late: list[float] = []
    idle: list[float] = []

    async def ticker() -> None:
        clock = asyncio.get_running_loop().time
        due = clock() + TICK
        while True:
            await asyncio.sleep(max(0.0, due - clock()))
            now = clock()
            late.append(now - due)
            due = now + TICK

    async def main() -> list[tuple[float, str | None]]:
        tick = asyncio.create_task(ticker())
        await asyncio.sleep(IDLE_SECONDS)
        idle.extend(late)
        late.clear()
        triggers = [make_trigger(jobs[i % len(jobs)], arguments.poll) for i in range(arguments.triggers)]
        results = await asyncio.gather(*(drive(trigger) for trigger in triggers))
        tick.cancel()
        return results

    results = asyncio.run(main())
    ends = {job: true_end(arguments.address, job) for job in jobs}
    over = [at - ends[jobs[i % len(jobs)]] for i, (at, error) in enumerate(results) if not error]
    return {
        "idle_worst_tick_ms": max(idle) * 1e3,
        "worst_tick_ms": max(late) * 1e3,
        "p99_tick_ms": sorted(late)[int(len(late) * 0.99)] * 1e3,
        "end_to_event_median_s": statistics.median(over) if over else None,
        "events": len(over),
        "errors": sorted({error for _, error in results if error}),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["latency", "loop"])
    parser.add_argument("address")
    parser.add_argument("--via", help="address that the provider is given, if another")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--poll", type=float)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--sleep", type=float, default=6)
    parser.add_argument("--triggers", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.poll is not None and arguments.poll == int(arguments.poll):
        arguments.poll = int(arguments.poll)
    out = os.dup(1)  # what the provider logs goes to a file of its own, so that writing it costs what it costs
    with open(os.environ["BENCH_LOG"], "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    extra = {"address": arguments.via or arguments.address, "verify": False}
    if token := os.environ.get("BENCH_RAY_TOKEN"):
        extra["headers"] = json.dumps({"Authorization": f"Bearer {token}"})
    os.environ["AIRFLOW_CONN_RAY_BENCH"] = json.dumps({"conn_type": "ray", "extra": extra})
    import airflow  # noqa: F401 - Airflow's own start-up is not what is measured

    result = {"latency": latency, "loop": loop}[arguments.what](arguments)
    os.write(out, (json.dumps(result) + "\n").encode())


if __name__ == "__main__":
    main()
