"""Functions on Ray whose right ends are known: each task's comment says what it has to end in."""

from __future__ import annotations

import functools
import os
import signal
import sys
from datetime import datetime

from airflow.sdk import dag, task

from ray_provider.decorators import ray as ray_alias


@functools.lru_cache
def remembered() -> int:
    return 5


def square(x: int) -> int:
    return x * x


class NotForTheCluster:
    """Can be pickled here, and not be unpickled anywhere."""

    def __reduce__(self):
        return int, ("not a number",)


@dag(schedule=None, start_date=datetime(2026, 1, 1), default_args={"retries": 0, "conn_id": "ray_functions"})
def functions_at_the_edges() -> None:
    @task.ray
    def squared(x: int) -> int:
        return x * x

    @task.ray
    def total(values: list[int]) -> int:  # 14
        return sum(values)

    @task.ray
    def nested(given: dict) -> int:  # 14
        return sum(given["v"])

    mapped = squared.expand(x=[1, 2, 3])
    total(mapped)
    nested({"v": mapped})

    @task.ray
    def exits_with_256() -> None:  # failed, not skipped
        sys.exit(os.system("exit 1"))

    @task.ray
    def raises() -> None:  # failed; the log has no "What to do" about a module
        raise ValueError("my own error")

    @task.ray
    def uses_a_cache() -> int:  # 5
        return remembered()

    @task.ray
    def in_processes() -> list[int]:  # [1, 4]
        import multiprocessing

        with multiprocessing.Pool(2) as pool:
            return pool.map(square, [1, 2])

    @task.ray
    def closes_its_output() -> int:  # 1
        sys.stdout.close()
        return 1

    class BadText(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    @task.ray
    def raises_without_text() -> None:  # failed; the log names BadText
        raise BadText

    @task.ray(runtime_env={"working_dir": "{{ '' }}"})
    def empty_working_dir() -> list[str]:  # nothing of the worker's folder is there
        return sorted(os.listdir("."))

    @ray_alias.task(config={"conn_id": "ray_functions", "num_cpus": 0, "poll_interval": 1})
    def peers_form(n: int) -> int:  # 42
        return n * 2

    @task.ray
    def bare():  # nothing
        return None

    @task.ray
    def raises_far_away() -> None:  # failed; the log names the Ray task
        import ray

        @ray.remote
        def beside_the_driver():
            raise LookupError("lost in a Ray task")

        ray.get(beside_the_driver.remote())

    @task.ray
    def cannot_be_unpickled(argument):  # failed; the log says that it was not the function
        return argument

    @task.ray
    def exits_content() -> None:  # success
        sys.exit()

    @task.ray
    def is_killed() -> None:  # failed; the log has the exit code
        os.kill(os.getpid(), signal.SIGKILL)

    peers_form(21)
    bare()
    raises_far_away()
    cannot_be_unpickled(NotForTheCluster())
    exits_content()
    is_killed()
    exits_with_256()
    raises()
    uses_a_cache()
    in_processes()
    closes_its_output()
    raises_without_text()
    empty_working_dir()


functions_at_the_edges()
