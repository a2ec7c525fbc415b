"""The test takes a task out of this file while its job runs."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param

from ray_provider.operators import SubmitRayJob

WAITS = "while [ ! -e {{ params.gate }} ]; do sleep 0.5; done; echo through"
COMMON = {"conn_id": "ray_life", "deferrable": True, "poll_interval": 1}

with DAG("loses", schedule=None, start_date=pendulum.datetime(2026, 1, 1), params={"gate": Param("")}):
    SubmitRayJob(task_id="job", entrypoint=WAITS, **COMMON)
    SubmitRayJob(task_id="lost", entrypoint="sleep 900", **COMMON)
