"""DAGs of the tests: what a run does is in its conf."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param, task

from ray_provider.operators import SubmitRayJob
from ray_provider.sensors import RayJobSensor

PARAMS = {
    "conn": Param("ray_jobs"),
    "entrypoint": Param("true"),
    "timeout": Param(600),
    "unreachable": Param(600),
    "submission_id": Param(""),
    "metadata": Param({}, type="object"),
}
JOB = {
    "task_id": "job",
    "conn_id": "{{ params.conn }}",
    "entrypoint": "{{ params.entrypoint }}",
    "job_timeout_seconds": "{{ params.timeout }}",
    "max_unreachable_seconds": "{{ params.unreachable }}",
    "submission_id": "{{ params.submission_id }}",
    "metadata": "{{ params.metadata }}",
}


def dag(dag_id: str) -> DAG:
    return DAG(
        dag_id,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=16,
        render_template_as_native_obj=True,
        params=PARAMS,
    )


for waiting in ("plain", "deferred"):
    with dag(waiting):
        SubmitRayJob(deferrable=waiting == "deferred", **JOB)

with dag("retried"):
    SubmitRayJob(deferrable=True, retries=1, retry_delay=pendulum.duration(seconds=1), **JOB)

with dag("not_waiting"):
    submitted = SubmitRayJob(wait_for_completion=False, **JOB)
    RayJobSensor(task_id="poke", conn_id="{{ params.conn }}", submission_id=submitted.output, poke_interval=1)
    RayJobSensor(task_id="wait", conn_id="{{ params.conn }}", submission_id=submitted.output, deferrable=True)

with dag("mapped"):
    SubmitRayJob.partial(task_id="job", conn_id="{{ params.conn }}", deferrable=True).expand(
        entrypoint=[f"echo number {n}" for n in range(3)]
    )

with dag("function"):

    @task.ray(conn_id="{{ params.conn }}", deferrable=True)
    def answer():
        print("on the cluster")
        return {"answer": 42}

    @task
    def check(value):
        assert value == {"answer": 42}, value

    @task.ray(config={"conn_id": "{{ params.conn }}", "entrypoint": "echo the entrypoint form"})
    def entrypoint_form(): ...

    check(answer())
    entrypoint_form()
