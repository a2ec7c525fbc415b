"""DAGs whose task waits in a Celery worker for a job that runs until a file appears."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param, task

from ray_provider.operators import SubmitRayJob


def dag(name: str) -> DAG:
    return DAG(
        name,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1),
        catchup=False,
        params={"conn": Param("ray_faults"), "entrypoint": Param("true")},
    )


def make(name: str, *, retries: int) -> DAG:
    with dag(name) as made:
        SubmitRayJob(
            task_id="job",
            conn_id="{{ params.conn }}",
            entrypoint="{{ params.entrypoint }}",
            deferrable=False,
            retries=retries,
            retry_delay=timedelta(seconds=1),
        )
    return made


with_a_retry = make("with_a_retry", retries=1)
without_a_retry = make("without_a_retry", retries=0)

with dag("function_with_a_retry") as function_with_a_retry:

    @task.ray(
        task_id="job",
        config={"conn_id": "ray_faults", "num_cpus": 0, "num_gpus": 0, "memory": 0},
        deferrable=False,
        retries=1,
        retry_delay=timedelta(seconds=1),
    )
    def job(flag: str, marker: str) -> int:
        """Count a run in a file, and wait."""
        import time
        from pathlib import Path

        with Path(marker).open("a") as file:
            file.write("ran\n")
        while not Path(flag).exists():
            time.sleep(0.2)
        return Path(marker).read_text().count("ran")

    job("{{ params.flag }}", "{{ params.marker }}")
