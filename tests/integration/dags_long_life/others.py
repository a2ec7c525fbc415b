"""What one Airflow does with DAGs over the weeks: paused, backfilled, started by assets, held by pools."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Asset, Param

from ray_provider.operators import SubmitRayJob

START = pendulum.datetime(2026, 1, 1)
PARAMS = {"gate": Param("")}
WAITS = "while [ ! -e {{ params.gate }} ]; do sleep 0.5; done; echo through"
MADE = Asset("x-life://made")


def job(task_id: str = "job", conn_id: str = "ray_life", **arguments) -> SubmitRayJob:
    return SubmitRayJob(task_id=task_id, conn_id=conn_id, deferrable=True, poll_interval=1, **arguments)


with DAG("paused", schedule=None, start_date=START, params=PARAMS):
    job(entrypoint=WAITS)

with DAG("secret", schedule=None, start_date=START, params=PARAMS):
    job(conn_id="ray_secret", entrypoint=WAITS)

with DAG("earlier", schedule=None, start_date=START):
    job(entrypoint="echo earlier")

# No run of its own: the days are over.
with DAG("daily", schedule="@daily", start_date=START, end_date=START.add(days=9), catchup=False):
    job(entrypoint="echo the day {{ ds }}")

# Backfilled over a run whose job goes on.
with DAG("again", schedule="@daily", start_date=START, end_date=START.add(days=9), catchup=False, params=PARAMS):
    job(entrypoint=WAITS)

with DAG("makes", schedule=None, start_date=START):
    job(entrypoint="echo made", outlets=[MADE])

with DAG("takes", schedule=[MADE], start_date=START):
    job(entrypoint="echo taken {% for asset in triggering_asset_events %}{{ asset.uri }}{% endfor %}")

for pool in ("counts_deferred", "counts_running"):
    with DAG(pool, schedule=None, start_date=START):
        SubmitRayJob.partial(task_id="job", conn_id="ray_life", deferrable=True, poll_interval=1, pool=pool).expand(
            entrypoint=[f"sleep 5; echo number {n}" for n in range(4)]
        )
