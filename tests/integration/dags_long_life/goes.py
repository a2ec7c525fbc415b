"""The test deletes this file, and then its DAG, while the job runs."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from ray_provider.operators import SubmitRayJob

with DAG("goes", schedule=None, start_date=pendulum.datetime(2026, 1, 1)):
    SubmitRayJob(task_id="job", conn_id="ray_life", entrypoint="sleep 900", deferrable=True, poll_interval=1)
