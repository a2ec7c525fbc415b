"""Functions on Ray: what they are given, what they return, how they end. One DAG, and one whose task never ends."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import os
import signal
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pendulum
from airflow.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk import ObjectStoragePath, dag, setup, task, teardown
from airflow.sdk import task as airflow_task

from ray_provider.decorators import ray as ray_alias
from ray_provider.decorators import read_reference

SCALE = 7
CONNECTION = "ray_functions"
CONFIG = {"conn_id": CONNECTION, "num_cpus": 0, "num_gpus": 0, "memory": 0, "poll_interval": 1}
OWN_CODE = Path(__file__).parent / "own_code"
RUNTIME_ENV = {
    "working_dir": str(OWN_CODE / "data"),
    "py_modules": [str(OWN_CODE / "geometry")],
    "env_vars": {"COLOUR": "blue"},
}
RUNTIME_ENV_BEFORE = copy.deepcopy(RUNTIME_ENV)
STORE = os.environ.get("RAY_EXAMPLE_STORE", "file:///tmp/airflow-ray-results")
CARRIERS = ["UA", "B6", "EV"]


@dataclasses.dataclass
class Point:
    x: int
    y: int


class NotForTheCluster:
    """Can be pickled here, and not be unpickled anywhere."""

    def __reduce__(self):
        return int, ("not a number",)


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

    @task
    def extract() -> dict:
        return {"numbers": [1, 2, 3]}

    @task.ray(
        **CONFIG,
        multiple_outputs=True,
    )
    def compute(data: dict, when: dt.datetime, point: Point, *, times: int, scale, array, frame) -> dict:
        import ray

        ray.init()

        @ray.remote
        def scaled(number: int) -> int:
            return scale(number)

        return {
            "numbers": ray.get([scaled.remote(number) for number in data["numbers"]]),
            "day": (when + timedelta(days=times)).date().isoformat(),
            "point": dataclasses.asdict(point),
            "array": float(array.sum()),
            "frame": frame["a"].sum(),
            "who": os.environ["AIRFLOW_CTX_TASK_ID"],
        }

    @task
    def use(result: dict) -> int:
        return sum(result["numbers"])

    @task.ray
    def bare():
        return None

    @airflow_task.ray(**CONFIG)
    def of_the_context(ds, run_id=None, *, params):
        return {"ds": ds, "run_id": run_id, "factor": params["factor"]}

    @task.ray(**CONFIG)
    def scaled_length(carrier: str, factor: int) -> dict:
        return {"carrier": carrier, "value": len(carrier) * factor, "index": os.environ["AIRFLOW_CTX_MAP_INDEX"]}

    @task
    def collect(found) -> list[str]:
        return sorted(each["carrier"] for each in found)

    @task
    def extract_much() -> list[float]:
        return [float(number) for number in range(700_000)]

    @task.ray(**CONFIG)
    def measure(numbers: list[float]) -> dict:
        return {"count": len(numbers), "sum": sum(numbers)}

    # -- the predecessor's form ----------------------------------------------------------------------------------------

    @ray_alias.task(
        config=CONFIG,
    )
    def peers_form(n):
        return n * 2

    @ray_alias.task(config=make_config, deferrable=True)
    def configured():
        import time

        time.sleep(3)
        return os.environ["WHO"]

    @ray_alias.task(config=lambda context: {**CONFIG, "entrypoint": f"echo instead of {context['ti'].task_id}"})
    def an_entrypoint():
        raise AssertionError

    # -- map and reduce ------------------------------------------------------------------------------------------------

    @task.ray(**CONFIG)
    def squared(x: int) -> int:
        return x * x

    @task.ray(**CONFIG)
    def total(values: list, nested: dict, tripled: list, zipped: list) -> dict:
        return {
            "total": sum(values),
            "nested": sum(nested["v"][0]),
            "tripled": list(tripled),
            "zipped": [list(pair) for pair in zipped],
        }

    # -- code of one's own ---------------------------------------------------------------------------------------------

    @task.ray(**CONFIG, runtime_env=RUNTIME_ENV)
    def own_code() -> dict:
        from geometry import area

        return {"area": area(6, 7), "note": Path("note.txt").read_text().strip(), "colour": os.environ["COLOUR"]}

    @task
    def untouched() -> bool:
        return RUNTIME_ENV == RUNTIME_ENV_BEFORE

    # -- what comes back -----------------------------------------------------------------------------------------------

    @task.ray(**CONFIG, allow_pickle_results=True)
    def pickled():
        return {"when": dt.datetime(2026, 1, 31, tzinfo=dt.UTC), "frame": pd.DataFrame({"a": [1, 2]})}

    @task
    def use_pickled(found) -> str:
        return f"{found['when']:%Y-%m-%d} {found['frame']['a'].sum()}"

    @task.ray(**CONFIG, result_path=ObjectStoragePath(STORE) / "{{ run_id }}")
    def table():
        return pd.DataFrame({"key": np.arange(700_000), "value": np.random.default_rng(1).normal(size=700_000)})

    @task
    def use_table(reference: dict) -> dict:
        found = read_reference(reference)
        return {"rows": len(found), "mean": round(float(found["value"].mean()), 3)}

    # -- how it ends ---------------------------------------------------------------------------------------------------

    @task.ray(**CONFIG)
    def raises(divisor: int):
        try:
            return deeper(divisor)
        except ZeroDivisionError as error:
            raise RuntimeError("no quotient today") from error

    @task.ray(**CONFIG)
    def raises_far_away():
        import ray

        @ray.remote
        def beside_the_driver():
            raise LookupError("lost in a Ray task")

        ray.get(beside_the_driver.remote())

    @task.ray(**CONFIG)
    def cannot_be_unpickled(argument):
        return argument

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
    def exits_with_256():
        import sys

        sys.exit(os.system("exit 1"))  # noqa: S605, S607

    @task.ray(**CONFIG)
    def exits_content():
        import sys

        sys.exit()

    @task.ray(**CONFIG)
    def is_killed():
        os.kill(os.getpid(), signal.SIGKILL)

    @task.ray(**CONFIG)
    def unserialisable():
        return {"deep": [{"lock": object()}]}

    # -- setup and teardown --------------------------------------------------------------------------------------------

    @setup
    @task.ray(**CONFIG)
    def prepare() -> str:
        return "prepared"

    @task.ray(**CONFIG)
    def work_that_fails(what: str):
        raise ValueError(what)

    @teardown
    @task.ray(**CONFIG)
    def clean_up(what: str) -> str:
        return f"{what}, cleaned up"

    use(
        compute(
            extract(),
            dt.datetime(2026, 1, 31, tzinfo=dt.UTC),
            Point(1, 2),
            times=1,
            scale=lambda number: number * SCALE,
            array=np.arange(5),
            frame=pd.DataFrame({"a": [1, 2]}),
        )
    )
    bare()
    of_the_context.override(params={"factor": 5}, task_id="in_context")()
    collect(scaled_length.override(task_id="mapped", retries=1).partial(factor=10).expand(carrier=CARRIERS))
    measure(extract_much())
    peers_form(21)
    configured()
    an_entrypoint()
    squares = squared.expand(x=[1, 2, 3])
    total(squares, {"v": [squares]}, squares.map(lambda n: 3 * n), squares.zip(squares))
    own_code() >> untouched()
    use_pickled(pickled())
    use_table(table())
    raises(0)
    raises_far_away()
    cannot_be_unpickled(NotForTheCluster())
    lacks_a_module()
    skips()
    fails()
    chatty()
    exits_with_256()
    exits_content()
    exits()
    is_killed()
    unserialisable()
    prepared = prepare()
    prepared >> work_that_fails("on purpose") >> clean_up(prepared)


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
