"""DAGs of Ray jobs that run until a file appears. What a run does is in its conf."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import DAG, Param, task_group

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
    "conn_id": "{{ params.conn }}",
    "job_timeout_seconds": "{{ params.timeout }}",
    "max_unreachable_seconds": 240,
    "retry_delay": timedelta(seconds=1),
}
PARAMS = {"conn": "ray_faults", "entrypoint": "true", "timeout": 600, "marker": "", "resources": {}}


def dag(name: str) -> DAG:
    return DAG(
        name,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=16,
        max_active_tasks=64,
        render_template_as_native_obj=True,
        params={key: Param(value) for key, value in PARAMS.items()},
    )


def make(name: str, *, retries: int = 0, operator=SubmitRayJob, **arguments) -> DAG:
    with dag(name) as made:
        # Not for a mapped task: Airflow's ``partial`` keeps ``resources`` for itself.
        asked = {"entrypoint": "{{ params.entrypoint }}", "resources": "{{ params.resources }}"}
        operator(task_id="job", retries=retries, **asked, **COMMON, **arguments)
    return made


worker = make("worker", deferrable=False)
worker_retry = make("worker_retry", retries=1, deferrable=False)
worker_own = make("worker_own", deferrable=False, cancel_on_kill=False)
worker_anew = make("worker_anew", retries=1, deferrable=False, durable=False)
worker_brief = make("worker_brief", deferrable=False, execution_timeout=timedelta(seconds=60))
deferred = make("deferred", deferrable=True)
deferred_own = make("deferred_own", deferrable=True, cancel_on_kill=False)
deferred_brief = make("deferred_brief", deferrable=True, execution_timeout=timedelta(seconds=60))
deferred_terse = make("deferred_terse", deferrable=True, log_max_lines=100)
resuming = make("resuming", retries=1, deferrable=True, operator=SlowResume, marker="{{ params.marker }}")


def make_mapped(count: int) -> DAG:
    with dag(f"mapped_{count}") as made:

        @task_group
        def shard(number):
            SubmitRayJob.partial(
                # A retry is for Airflow: it may fail a task that comes back too soon. There is one job all the same.
                task_id="job",
                deferrable=True,
                retries=1,
                max_active_tis_per_dagrun=6,
                **COMMON,
            ).expand(entrypoint=number)

        shard(
            [f"echo shard {number} started; sleep {number % 5}; echo shard {number} ended" for number in range(count)]
        )
    return made


mapped_5, mapped_50 = make_mapped(5), make_mapped(50)
