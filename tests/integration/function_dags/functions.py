"""One DAG: functions on Ray that return, raise, skip, print and die."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from datetime import timedelta

import pendulum
from airflow.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk import dag, task

from ray_provider.decorators import ray as ray_alias

SCALE = 7
CONFIG = {"conn_id": "ray_functions", "num_cpus": 0, "num_gpus": 0, "memory": 0, "poll_interval": 1}


@dataclasses.dataclass
class Point:
    x: int
    y: int


def make_config(context) -> dict:
    return {**CONFIG, "runtime_env": {"env_vars": {"WHO": context["ti"].task_id}}}


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False)
def functions():
    @task
    def extract() -> dict:
        return {"numbers": [1, 2, 3]}

    @task.ray(**CONFIG, multiple_outputs=True)
    def compute(data: dict, when: dt.datetime, point: Point, *, times: int) -> dict:
        import ray

        ray.init()

        @ray.remote
        def scaled(number: int) -> int:
            return number * SCALE

        numbers = ray.get([scaled.remote(number) for number in data["numbers"]])
        return {
            "numbers": numbers,
            "day": (when + timedelta(days=times)).date().isoformat(),
            "point": dataclasses.asdict(point),
            "who": os.environ["AIRFLOW_CTX_TASK_ID"],
        }

    @task
    def use(result: dict) -> int:
        return sum(result["numbers"])

    @ray_alias.task(
        config=CONFIG,
    )
    def peers_form(n):
        return n * 2

    @ray_alias.task(config=make_config)
    def configured():
        return os.environ["WHO"]

    @task.ray(**CONFIG)
    def raises(divisor: int):
        return 1 / divisor

    @task.ray(**CONFIG)
    def skips():
        raise AirflowSkipException("nothing to do today")

    @task.ray(**CONFIG, retries=3, retry_delay=timedelta(seconds=1))
    def fails():
        raise AirflowFailException("not worth another try")

    @task.ray(**CONFIG, deferrable=True)
    def chatty():
        for number in range(50_000):
            print("line", number)
        return "x" * 1_000_000

    @task.ray(**CONFIG)
    def dies():
        os._exit(3)

    @task.ray(**CONFIG)
    def unserialisable():
        return {"lock": object()}

    use(compute(extract(), dt.datetime(2026, 1, 31, tzinfo=dt.UTC), Point(1, 2), times=1))
    peers_form(21)
    configured()
    raises(0)
    skips()
    fails()
    chatty()
    dies()
    unserialisable()


functions()
