"""A result too large for XCom: a table of more than 10 MB goes to object storage, a reference comes back.

``result_path`` is any fsspec URL that both the cluster and the worker reach (``s3://…``, ``gs://…``; a local path does
for the local backend).
"""

from __future__ import annotations

import os
import tempfile

import pendulum
from airflow.sdk import dag, task

from ray_provider.operators import DeleteRayCluster, SetupRayCluster

CONNECTION = "ray_default"
STORE = os.environ.get("RAY_EXAMPLE_STORE", f"file://{tempfile.gettempdir()}/airflow-ray-results")


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False, tags=["ray", "example"], doc_md=__doc__)
def ray_large_result():
    cluster = SetupRayCluster(task_id="cluster", conn_id=CONNECTION)

    @task.ray(conn_id=CONNECTION, cluster=cluster.output, result_path=STORE + "/{{ run_id }}")
    def build(rows: int = 700_000):
        import numpy as np
        import pandas as pd

        random = np.random.default_rng(1)
        return pd.DataFrame({"key": np.arange(rows), "value": random.normal(size=rows)})

    @task
    def use(reference: dict) -> dict:
        from ray_provider.decorators import read_reference

        table = read_reference(reference)
        print(f"{reference['bytes']:,} bytes at {reference['path']}")
        return {"rows": len(table), "mean": round(float(table["value"].mean()), 3)}

    delete = DeleteRayCluster(task_id="delete", conn_id=CONNECTION, cluster=cluster.output)
    use(build()) >> delete.as_teardown(setups=cluster)


ray_large_result()
