"""A Jobs API in a process of its own that answers as a real one was measured to, however many jobs it holds.

A look at a job takes 6 ms, a log's new lines come within half a second, a job's last line is there 0.1 s before its
status. It does what the lines on its standard input say, and answers each with a line of JSON:

    jobs N          N running jobs, with a few lines of log
    log BYTES       one running job, "long", with a log of numbered lines of about 100 bytes
    end N           end N of the running jobs at once: {"at": …, "ids": […]}
    streams         how many log streams are open
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from tests.support.jobs_api import JobsApi

STATUS_SECONDS = 0.006
LOG_SECONDS = 0.5
LINE_TO_STATUS_SECONDS = 0.1


async def obey(api: JobsApi, command: str, amount: int) -> Any:
    if command == "jobs":
        for number in range(amount):
            job = api.add(f"job-{len(api.jobs)}", f"python train.py --shard {number}")
            job.request["metadata"] = {"airflow_dag_id": "bench", "airflow_run_id": "run", "airflow_task_id": "job"}
            job.run("".join(f"{job.submission_id} epoch {epoch}: loss 0.1234\n" for epoch in range(20)).encode())
        return len(api.jobs)
    if command == "log":
        line = "line {:09d} " + "x" * 84 + "\n"
        count = amount // len(line.format(0))
        api.add("long").run("".join(line.format(number) for number in range(count)).encode())
        return count
    if command == "end":
        ending = [job for job in api.jobs.values() if job.status == "RUNNING"][:amount]
        for job in ending:
            job.write(f"{job.submission_id} done\n")
        await asyncio.sleep(LINE_TO_STATUS_SECONDS)
        for job in ending:
            job.end(exit_code=0)
        return {"at": time.time(), "ids": [job.submission_id for job in ending]}
    if command == "streams":
        return api.streams_open
    raise ValueError(f"unknown command {command!r}")


async def main() -> None:
    async with JobsApi() as api:
        api.delay, api.stream_pause = STATUS_SECONDS, LOG_SECONDS
        print(json.dumps(api.url), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, _, amount = line.strip().partition(" ")
            print(json.dumps(await obey(api, command, int(amount or 0))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
