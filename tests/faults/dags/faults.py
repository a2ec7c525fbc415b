"""One task per DAG: a Ray job that runs until a file appears. What a run does is in its conf."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import DAG, Param

from ray_provider.operators import SubmitRayJob


class SlowResume(SubmitRayJob):
    """Takes its time between the trigger's event and the end, so that a test can step in."""

    template_fields = (*SubmitRayJob.template_fields, "marker")

    def __init__(self, *, marker: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.marker = marker

    def execute_complete(self, context, event):
        path = Path(self.marker)
        if not path.exists():
            path.touch()
            time.sleep(20)
        return super().execute_complete(context, event)


COMMON = {
    "task_id": "job",
    "conn_id": "{{ params.conn }}",
    "entrypoint": "{{ params.entrypoint }}",
    "job_timeout_seconds": "{{ params.timeout }}",
    "max_unreachable_seconds": 180,
    "retry_delay": timedelta(seconds=1),
}


def make(name: str, *, retries: int, operator=SubmitRayJob, **arguments) -> DAG:
    with DAG(
        name,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=16,
        render_template_as_native_obj=True,
        params={"conn": Param("ray_faults"), "entrypoint": Param("true"), "timeout": Param(600), "marker": Param("")},
    ) as dag:
        operator(retries=retries, **COMMON, **arguments)
    return dag


worker = make("worker", retries=0, deferrable=False)
worker_retry = make("worker_retry", retries=1, deferrable=False)
deferred = make("deferred", retries=0, deferrable=True)
resuming = make("resuming", retries=1, deferrable=True, operator=SlowResume, marker="{{ params.marker }}")
