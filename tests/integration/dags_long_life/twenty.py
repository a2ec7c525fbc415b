"""Twenty jobs that run until a file appears. The test changes this file meanwhile."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param

from ray_provider.operators import SubmitRayJob

PARAMS = {"gate": Param("")}

with DAG("twenty", schedule=None, start_date=pendulum.datetime(2026, 1, 1), params=PARAMS, max_active_tasks=32):
    jobs = SubmitRayJob.partial(task_id="job", conn_id="ray_life", deferrable=True, poll_interval=1).expand(
        entrypoint=[f"while [ ! -e {{{{ params.gate }}}} ]; do sleep 0.5; done; echo number {n}" for n in range(20)]
    )
