"""What the stack's own test runs."""

from __future__ import annotations

import os
from pathlib import Path

import pendulum
from airflow.sdk import DAG, BaseHook, Param, task

with DAG("stack_small", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), params={"x": Param(1)}):

    @task
    def look(x: str, **context):
        for number in range(300):
            print(f"    line {number} ünïcode")
        connection = BaseHook.get_connection("of_the_test")
        return {
            "host": connection.host,
            "x": x,
            "try": context["ti"].try_number,
            "variables": sorted(name for name in os.environ if name.startswith("AIRFLOW")),
            "given": os.environ.get("GIVEN"),
        }

    @task
    def numbers():
        return [1, 2]

    @task
    def double(number: int):
        print(f"double of {number}")
        return number * 2

    look("{{ params.x }}")
    double.expand(number=numbers())

with DAG("stack_waits", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC")):

    @task
    def waits(**context):
        import time

        Path(os.environ["GIVEN"]).touch()
        time.sleep(600)

    waits()
