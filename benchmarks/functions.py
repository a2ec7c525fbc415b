"""What ``@task.ray`` costs over a bare submit of the same work: 10 MB in, 10 MB out. Prints one JSON line.

    functions.py ADDRESS --runs N

Both do the same on the cluster: one makes its 10 MB there, the other is given them and gives them back. The runs
alternate, so that what the machine does beside them meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from datetime import UTC, datetime
from types import SimpleNamespace

MEGABYTES = 10
WORK = "import os; data = os.urandom({half}).hex(); assert data[::-1].count('a')"


class Task:
    """As much of a task instance as the operators use."""

    def __init__(self, number: int) -> None:
        self.dag_id, self.run_id, self.task_id, self.map_index = "bench", f"run-{os.getpid()}-{number}", "task", -1
        self.try_number, self.max_tries, self.start_date = 1, 0, datetime.now(UTC)

    def xcom_push(self, key, value):
        pass

    def xcom_pull(self, **_):
        return None


def seconds_of(operator, number: int):
    context = {"ti": Task(number), "dag_run": SimpleNamespace(start_date=datetime.now(UTC))}
    began = time.monotonic()
    value = operator.execute(context)
    return time.monotonic() - began, value


def text_back(data):
    assert data[::-1].count("a")
    return data


def array_back(data):
    assert data[::-1].sum()
    return data


def measure(runs: int) -> dict:
    import numpy as np

    from ray_provider.decorators.operator import RayDecoratedOperator
    from ray_provider.operators import SubmitRayJob

    half = MEGABYTES * 500_000
    common = {"task_id": "task", "conn_id": "ray_bench", "num_cpus": 0}
    text = os.urandom(half).hex()
    array = np.random.default_rng(1).normal(size=MEGABYTES * 125_000)

    def bare(number):
        entrypoint = [sys.executable, "-c", WORK.format(half=half)]
        return seconds_of(SubmitRayJob(entrypoint=shlex.join(entrypoint), **common), number)[0]

    def function(work, data, **more):
        def run(number):
            # Other bytes each time: the cluster would have the package already.
            data_now = text[number:] + text[:number] if data is text else np.roll(array, number)
            operator = RayDecoratedOperator(python_callable=work, op_args=[data_now], **common, **more)
            seconds, value = seconds_of(operator, number)
            assert len(value) == len(data_now)
            return seconds

        return run

    kinds = {
        "bare": bare,
        "json": function(text_back, text),
        "pickle": function(array_back, array, allow_pickle_results=True),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    number = 0
    for turn in range(runs + 1):
        for name, run in kinds.items():
            number += 1
            seconds = run(number)
            if turn:  # the first of each pays for imports
                found[name].append(seconds)
    return {f"{name}_s": statistics.median(values) for name, values in found.items()} | {"all": found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["functions"])
    parser.add_argument("address")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    out = os.dup(1)  # what the provider logs goes to a file of its own
    with open(os.environ["BENCH_LOG"], "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ["AIRFLOW_CONN_RAY_BENCH"] = json.dumps({"conn_type": "ray", "extra": {"address": arguments.address}})
    result = measure(arguments.runs)
    os.write(out, (json.dumps(result) + "\n").encode())


if __name__ == "__main__":
    main()
