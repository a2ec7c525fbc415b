"""What every supported Airflow has to run; written in imports that all of them have."""

from __future__ import annotations

import json
import os
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task

from ray_provider.decorators import ray
from ray_provider.operators import SubmitRayJob
from ray_provider.sensors import RayJobSensor

CONN = "ray_compat"


def dag(dag_id: str) -> DAG:
    return DAG(dag_id, schedule=None, start_date=datetime(2026, 1, 1), catchup=False)


with dag("compat_jobs"):
    plain = SubmitRayJob(task_id="plain", conn_id=CONN, entrypoint="echo in the worker", deferrable=False)
    deferred = SubmitRayJob(task_id="deferred", conn_id=CONN, entrypoint=["echo", "in the triggerer"], deferrable=True)
    submitted = SubmitRayJob(task_id="submitted", conn_id=CONN, entrypoint="sleep 1", wait_for_completion=False)
    sensor = RayJobSensor(task_id="sensor", conn_id=CONN, submission_id=submitted.output, poke_interval=1)

    @task.ray(conn_id=CONN)
    def registered():
        return {"answer": 42}

    @ray.task(config={"conn_id": CONN, "num_cpus": 1, "poll_interval": 1, "runtime_env": {"env_vars": {"A": "b"}}})
    def old_name():
        import os

        return os.environ["A"]

    @task
    def check(plain, deferred, sensor, registered, old_name):
        values = {
            "plain": plain,
            "deferred": deferred,
            "sensor": sensor,
            "registered": registered,
            "old_name": old_name,
        }
        with open(os.environ["COMPAT_RESULT"], "w") as file:
            json.dump(values, file)

    check(
        plain=plain.output,
        deferred=deferred.output,
        sensor=sensor.output,
        registered=registered(),
        old_name=old_name(),
    )

for waiting in ("plain", "deferred"):
    with dag(f"compat_fails_{waiting}"):
        SubmitRayJob(
            task_id="fails", conn_id=CONN, entrypoint="echo the reason; exit 3", deferrable=waiting == "deferred"
        )
