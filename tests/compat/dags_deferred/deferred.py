"""One deferred job: what it runs is in the run's conf. Written in imports that every supported Airflow has."""

from __future__ import annotations

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from ray_provider.operators import SubmitRayJob

with DAG("deferred", schedule=None, start_date=datetime(2026, 1, 1), catchup=False):
    SubmitRayJob(
        task_id="job",
        conn_id="ray_compat",
        entrypoint="{{ dag_run.conf['entrypoint'] }}",
        deferrable=True,
        poll_interval=1,
    )
