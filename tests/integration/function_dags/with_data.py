"""Functions on Ray whose arguments and values are arrays, tables and objects."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from datetime import timedelta

import numpy as np
import pandas as pd
import pendulum
from airflow.sdk import ObjectStoragePath, dag, task

from ray_provider.decorators import read_reference

SCALE = 7
CONFIG = {"conn_id": "ray_functions", "num_cpus": 0, "num_gpus": 0, "memory": 0, "poll_interval": 1}
STORE = os.environ.get("RAY_EXAMPLE_STORE", "file:///tmp/airflow-ray-results")


@dataclasses.dataclass
class Point:
    x: int
    y: int


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False)
def functions_with_data():
    @task.ray(**CONFIG, multiple_outputs=True)
    def compute(when: dt.datetime, point: Point, *, times: int, scale, array, frame) -> dict:
        import ray

        ray.init()

        @ray.remote
        def scaled(number: int) -> int:
            return scale(number)

        return {
            "numbers": ray.get([scaled.remote(number) for number in (1, 2, 3)]),
            "day": (when + timedelta(days=times)).date().isoformat(),
            "point": dataclasses.asdict(point),
            "array": float(array.sum()),
            "frame": frame["a"].sum(),
            "who": os.environ["AIRFLOW_CTX_TASK_ID"],
        }

    @task.ray(**CONFIG, allow_pickle_results=True)
    def pickled():
        return {"when": dt.datetime(2026, 1, 31, tzinfo=dt.UTC), "frame": pd.DataFrame({"a": [1, 2]})}

    @task.ray(**CONFIG, result_path=ObjectStoragePath(STORE) / "{{ run_id }}")
    def table():
        return pd.DataFrame({"key": np.arange(700_000), "value": np.random.default_rng(1).normal(size=700_000)})

    @task
    def use(computed: dict, found: dict, reference: dict) -> dict:
        return {
            "computed": sum(computed["numbers"]),
            "pickled": f"{found['when']:%Y-%m-%d} {found['frame']['a'].sum()}",
            "rows": len(read_reference(reference)),
        }

    computed = compute(
        dt.datetime(2026, 1, 31, tzinfo=dt.UTC),
        Point(1, 2),
        times=1,
        scale=lambda number: number * SCALE,
        array=np.arange(5),
        frame=pd.DataFrame({"a": [1, 2]}),
    )
    use(computed, pickled(), table())


functions_with_data()
