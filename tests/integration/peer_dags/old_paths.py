# ruff: noqa: AIR311, F401, I001 - as its users write it
"""The import paths of astro-provider-ray 0.1 and 0.2 (before its 0.3.0), which most public DAGs still have."""

from datetime import datetime, timedelta
from pathlib import Path

from airflow import DAG
from ray_provider.decorators.ray import ray
from ray_provider.hooks.ray import RayHook  # noqa: F401
from ray_provider.operators.ray import DeleteRayCluster, SetupRayCluster, SubmitRayJob
from ray_provider.triggers.ray import RayJobTrigger  # noqa: F401

SPEC = Path(__file__).parent / "ray.yaml"

with DAG(
    "old_paths",
    start_date=datetime(2024, 1, 1),
    schedule=None,
    default_args={"retries": 1, "retry_delay": timedelta(0)},
):
    setup = SetupRayCluster(
        task_id="SetupRayCluster", conn_id="ray_conn", ray_cluster_yaml=SPEC, update_if_exists=False
    )
    job = SubmitRayJob(
        task_id="SubmitRayJob",
        conn_id="ray_conn",
        entrypoint="python script.py",
        runtime_env={"working_dir": str(SPEC.parent / "ray_scripts")},
        num_cpus=1,
        num_gpus=0,
        memory=0,
        resources={},
        xcom_task_key="SetupRayCluster.dashboard",
        job_timeout_seconds=600,
    )
    delete = DeleteRayCluster(task_id="DeleteRayCluster", conn_id="ray_conn", ray_cluster_yaml=SPEC)
    setup.as_setup() >> job >> delete.as_teardown()
    setup >> delete
