"""One Ray job a run, for the peer and for us: only arguments that both know, and waiting where both can wait."""

from __future__ import annotations

import inspect
import time
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import DAG, Param

from ray_provider.operators import SubmitRayJob

#: The peer always waits in the triggerer; ours has to be told.
KNOWN = inspect.signature(SubmitRayJob.__init__).parameters
DEFERRED = {"deferrable": True} if "deferrable" in KNOWN else {}


class SlowResume(SubmitRayJob):
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


def make(name: str, operator=SubmitRayJob, *, retries: int = 0, timeout: int = 900, **arguments) -> DAG:
    with DAG(
        name,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=16,
        params={key: Param("") for key in ("conn", "entrypoint", "marker")},
    ) as made:
        operator(
            task_id="job",
            conn_id="{{ params.conn }}",
            entrypoint="{{ params.entrypoint }}",
            runtime_env={},
            num_cpus=0,
            num_gpus=0,
            memory=0,
            job_timeout_seconds=timeout,
            fetch_logs=True,
            poll_interval=2,
            retries=retries,
            retry_delay=timedelta(seconds=1),
            **DEFERRED,
            **arguments,
        )
    return made


plain = make("plain_job")
retried = make("retried_job", retries=1)
brief = make("brief_job", timeout=12)
resuming = make("resuming_job", SlowResume, retries=1, marker="{{ params.marker }}")
