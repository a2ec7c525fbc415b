"""The forms in which DAGs for astro-provider-ray 0.4.0 are written, argument by argument. They have to run unchanged."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from airflow.sdk import dag, task

from ray_provider.decorators import ray
from ray_provider.operators import DeleteRayCluster, SetupRayCluster, SubmitRayJob

CONN_ID = "ray_conn"
FOLDER_PATH = Path(__file__).parent / "ray_scripts"
RAY_SPEC = Path(__file__).parent / "ray.yaml"
RAY_TASK_CONFIG = {
    "conn_id": CONN_ID,
    "runtime_env": {"working_dir": str(FOLDER_PATH)},
    "num_cpus": 1,
    "num_gpus": 0,
    "memory": 0,
    "poll_interval": 5,
    "ray_cluster_yaml": str(RAY_SPEC),
    "xcom_task_key": "dashboard",
}
EXISTING_CLUSTER_CONFIG = {
    "conn_id": CONN_ID,
    "runtime_env": {"working_dir": str(FOLDER_PATH)},
    "num_cpus": 1,
    "num_gpus": 0,
    "memory": 0,
    "poll_interval": 5,
    "xcom_task_key": "SetupRayCluster.dashboard",
}


@dag(start_date=datetime(2026, 1, 1), schedule=None, catchup=False)
def peer_taskflow():
    @task
    def generate_data() -> list[int]:
        return [1, 2, 3, 4]

    @ray.task(config=RAY_TASK_CONFIG)
    def process_data_with_ray(data):
        import ray

        @ray.remote
        def square(x):
            return x * x

        ray.init()
        beside = Path("numbers.txt").read_text().split()
        return {"squares": ray.get([square.remote(x) for x in data]), "beside": beside}

    @task
    def use(found):
        return sum(found["squares"]) + len(found["beside"])

    use(process_data_with_ray(generate_data()))


@dag(start_date=datetime(2026, 1, 1), schedule=None, catchup=False)
def peer_setup_teardown():
    setup_cluster = SetupRayCluster(
        task_id="SetupRayCluster", conn_id=CONN_ID, ray_cluster_yaml=str(RAY_SPEC), update_if_exists=True
    )
    submit_ray_job = SubmitRayJob(
        task_id="SubmitRayJob",
        conn_id=CONN_ID,
        entrypoint="python script.py",
        runtime_env={"working_dir": str(FOLDER_PATH)},
        num_cpus=1,
        num_gpus=0,
        memory=0,
        resources={},
        fetch_logs=True,
        wait_for_completion=True,
        job_timeout_seconds=600,
        xcom_task_key="SetupRayCluster.dashboard",
        poll_interval=5,
    )

    @ray.task(config=EXISTING_CLUSTER_CONFIG)
    def on_the_same_cluster(numbers):
        import ray

        ray.init()
        return {"sum": sum(numbers), "cpus": int(ray.cluster_resources()["CPU"])}

    delete_cluster = DeleteRayCluster(task_id="DeleteRayCluster", conn_id=CONN_ID, ray_cluster_yaml=str(RAY_SPEC))

    setup_cluster.as_setup() >> [submit_ray_job, on_the_same_cluster([20, 22])] >> delete_cluster.as_teardown()
    setup_cluster >> delete_cluster


@dag(start_date=datetime(2026, 1, 1), schedule=None, catchup=False)
def peer_single_operator():
    SubmitRayJob(
        task_id="SubmitRayJob",
        conn_id=CONN_ID,
        entrypoint="python script.py",
        runtime_env={"working_dir": str(FOLDER_PATH)},
        num_cpus=1,
        num_gpus=0,
        memory=0,
        resources={},
        ray_cluster_yaml=str(RAY_SPEC),
        fetch_logs=True,
        wait_for_completion=True,
        job_timeout_seconds=600,
        xcom_task_key="dashboard",
        poll_interval=5,
    )


peer_taskflow()
peer_setup_teardown()
peer_single_operator()
