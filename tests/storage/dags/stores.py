"""Functions on Ray whose arguments and values go through object storage."""

from __future__ import annotations

import random

import pendulum
from airflow.sdk import dag, task

from ray_provider.decorators import read_reference

CONFIG = {"conn_id": "ray", "num_cpus": 0, "memory": 0, "poll_interval": 1}
#: Tasks read by the connection `store`. The cluster gets the address alone, and has credentials of its own.
S3, GCS = "s3://store@results/{{ run_id }}", "gs://results/{{ run_id }}"
ROWS = 50_000
#: More than a package takes, and nothing that could be compressed.
CONTENT = random.Random(1).randbytes(101 << 20)


def values(store: str) -> None:
    """A table and a value that are too large for XCom, and who reads them."""

    @task.ray(**CONFIG, result_path=store)
    def table(rows: int):
        import pandas as pd

        return pd.DataFrame({"key": range(rows)})

    @task.ray(**CONFIG, result_path=store)
    def large(rows: int):
        return {"names": [f"row {number}" for number in range(rows)]}

    @task
    def use(frame: dict, value: dict):
        return {
            "where": frame["path"].rpartition("/")[0],
            "keys": int(read_reference(frame)["key"].sum()),
            "names": len(read_reference(value)["names"]),
        }

    use(table(ROWS), large(ROWS))


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False)
def s3():
    values(S3)

    @task.ray(**CONFIG, result_path=S3)
    def count():
        return len(CONTENT)

    @task.ray(**CONFIG, result_path="s3://store@nowhere/{{ run_id }}")
    def no_bucket():
        import pandas as pd

        return pd.DataFrame({"key": range(3)})

    count()
    no_bucket()


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False)
def gcs():
    values(GCS)


s3()
gcs()
