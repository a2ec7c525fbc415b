"""Train a model, and serve it from a cluster that stays, without a failed request when it changes (a RayService).

On Kubernetes with KubeRay. `train` fits a model in a cluster of its own. `deploy` makes the service in the first run; in
each later one it updates the model that serves, in place, and puts the one before back where the new one can't be served.
`ask` is a task as any that needs the model. The code of the application comes by a ConfigMap here; usually it lies in the
image. No task of a run deletes the service: `ray_service_delete` does. See docs/rayservice.md.
"""

from __future__ import annotations

from pathlib import Path

import pendulum
from airflow.sdk import dag, task

from ray_provider.operators import DeleteRayService, DeployRayService

CONNECTION, NAME = "ray_default", "delay"
CODE = Path(__file__).resolve().parent / "include" / "serving" / "delay_model.py"
# As small as the model: a head alone, which trains and serves. A larger one has workers.
HEAD = {
    "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
    "rayStartParams": {"num-cpus": "1", "object-store-memory": "100000000"},
}
SMALL = {"head": HEAD, "worker": {"disabled": True}, "headOnly": True}
CODE_OF = {
    "containerEnv": [{"name": "PYTHONPATH", "value": "/code"}],
    "volumes": [{"name": "code", "configMap": {"name": f"{NAME}-code"}}],
    "volumeMounts": [{"name": "code", "mountPath": "/code"}],
}
VALUES = {
    **SMALL,
    "head": {**HEAD, **CODE_OF},
    "extraObjects": [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{NAME}-code"},
            "data": {CODE.name: CODE.read_text()},
        }
    ],
}
START = pendulum.datetime(2026, 1, 1)


@dag(schedule=None, start_date=START, catchup=False, max_active_runs=1, tags=["ray", "example"], doc_md=__doc__)
def ray_service():
    @task.ray(conn_id=CONNECTION, ray_job={"values": SMALL})
    def train(version: str) -> dict:
        import numpy as np

        random = np.random.default_rng(1)
        flights = random.uniform([0, 100, 5], [120, 3000, 23], (20_000, 3))
        late = 0.9 * flights[:, 0] - 0.002 * flights[:, 1] + random.normal(0, 5, len(flights))
        weights, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(flights)), flights]), late, rcond=None)
        return {
            "columns": ["dep_delay", "distance", "hour"],
            "weights": [float(one) for one in weights],
            "version": version,
        }

    deploy = DeployRayService(
        task_id="deploy",
        conn_id=CONNECTION,
        name=NAME,
        values=VALUES,
        applications=[{"name": NAME, "import_path": "delay_model:build", "args": {"model": train("{{ run_id }}")}}],
        smoke_test={"method": "POST", "send": {"dep_delay": 0, "hour": 9}, "json": {"version": "{{ run_id }}"}},
        deferrable=True,
    )

    @task
    def ask(service: dict) -> None:
        print(f"{service['name']} answers at {service['url']}, from the cluster {service['cluster']}")

    ask(deploy.output)


@dag(
    schedule=None,
    start_date=START,
    catchup=False,
    tags=["ray", "example"],
    doc_md="Deletes what `ray_service` deployed. Its traffic ends at once.",
)
def ray_service_delete():
    DeleteRayService(task_id="delete", conn_id=CONNECTION, name=NAME)


ray_service()
ray_service_delete()
