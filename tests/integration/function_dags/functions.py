"""Functions on Ray: what they are given, what they return, how they end. One DAG, and one whose task never ends.

Each task's process reads this file: what needs numpy and pandas is in ``with_data.py``.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk import dag, setup, task, teardown
from airflow.sdk import task as airflow_task

from ray_provider.decorators import ray as ray_alias

CONNECTION = "ray_functions"
CONFIG = {"conn_id": CONNECTION, "num_cpus": 0, "num_gpus": 0, "memory": 0, "poll_interval": 1}
OWN_CODE = Path(__file__).parent / "own_code"
RUNTIME_ENV = {
    "working_dir": str(OWN_CODE / "data"),
    "py_modules": [str(OWN_CODE / "geometry")],
    "env_vars": {"COLOUR": "blue"},
}
CARRIERS = ["UA", "B6"]


def make_config(context) -> dict:
    return {**CONFIG, "runtime_env": {"env_vars": {"WHO": context["ti"].task_id}}}


def deeper(divisor: int) -> float:
    return 1 / divisor


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1),
    catchup=False,
    default_args={"conn_id": CONNECTION},
)
def functions():
    # -- arguments -----------------------------------------------------------------------------------------------------

    # Parameters that are called like context keys, and code of one's own.
    @airflow_task.ray(**CONFIG, runtime_env=RUNTIME_ENV)
    def of_the_context(ds, run_id=None, *, params):
        from geometry import area

        return {
            "context": {"ds": ds, "run_id": run_id, "factor": params["factor"]},
            "code": {"area": area(6, 7), "note": Path("note.txt").read_text().strip(), "colour": os.environ["COLOUR"]},
        }

    @task.ray(**CONFIG)
    def scaled_length(carrier: str, factor: int) -> dict:
        return {"carrier": carrier, "value": len(carrier) * factor, "index": os.environ["AIRFLOW_CTX_MAP_INDEX"]}

    @task.ray(**CONFIG)
    def total(values: list, nested: dict, tripled: list, zipped: list) -> dict:
        return {
            "total": sum(found["value"] for found in values),
            "nested": sorted(found["carrier"] for found in nested["v"][0]),
            "tripled": list(tripled),
            "zipped": [[found["index"] for found in pair] for pair in zipped],
        }

    @task
    def extract_much() -> list[float]:
        return [float(number) for number in range(700_000)]

    @task.ray(**CONFIG)
    def measure(numbers: list[float]) -> dict:
        return {"count": len(numbers), "sum": sum(numbers)}

    # -- the predecessor's form ----------------------------------------------------------------------------------------

    @ray_alias.task(config=make_config, deferrable=True)
    def configured():
        import time

        time.sleep(3)
        return os.environ["WHO"]

    @ray_alias.task(config=lambda context: {**CONFIG, "entrypoint": f"echo instead of {context['ti'].task_id}"})
    def an_entrypoint():
        raise AssertionError

    # -- how it ends ---------------------------------------------------------------------------------------------------

    @task.ray(**CONFIG)
    def raises(divisor: int):
        try:
            return deeper(divisor)
        except ZeroDivisionError as error:
            raise RuntimeError("no quotient today") from error

    @task.ray(**CONFIG)
    def lacks_a_module():
        import a_module_that_is_nowhere  # noqa: F401

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
    def exits():
        os._exit(3)

    @task.ray(**CONFIG)
    def unserialisable():
        return {"deep": [{"lock": object()}]}

    # -- setup and teardown --------------------------------------------------------------------------------------------

    @setup
    @task.ray(**CONFIG)
    def prepare() -> str:
        return "prepared"

    @teardown
    @task.ray(**CONFIG)
    def clean_up(what: str) -> str:
        return f"{what}, cleaned up"

    of_the_context.override(params={"factor": 5}, task_id="in_context")()
    found = scaled_length.override(task_id="mapped", retries=1).partial(factor=10).expand(carrier=CARRIERS)
    total(found, {"v": [found]}, found.map(lambda one: 3 * one["value"]), found.zip(found))
    measure(extract_much())
    configured()
    an_entrypoint()
    lacks_a_module()
    skips()
    fails()
    chatty()
    exits()
    unserialisable()
    prepared = prepare()
    prepared >> raises(0) >> clean_up(prepared)


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False)
def functions_stuck():
    @task.ray(**CONFIG)
    def never_ends():
        import time

        print("it has begun", flush=True)
        while True:
            time.sleep(1)

    never_ends()


functions()
functions_stuck()
