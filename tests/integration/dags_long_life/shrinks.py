"""The test takes the second task out of this file while both jobs run."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param

from ray_provider.operators import SubmitRayJob

PARAMS = {"gate": Param("")}
WAITS = "while [ ! -e {{ params.gate }} ]; do sleep 0.5; done; echo through"

with DAG("shrinks", schedule=None, start_date=pendulum.datetime(2026, 1, 1), params=PARAMS):
    SubmitRayJob(task_id="stays", conn_id="ray_life", entrypoint=WAITS, deferrable=True, poll_interval=1)
    SubmitRayJob(task_id="goes", conn_id="ray_life", entrypoint="sleep 900", deferrable=True, poll_interval=1)
