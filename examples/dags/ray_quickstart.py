"""The quickstart: set up a Ray cluster, run a job on it, delete it.

Start with this one. With a connection whose `backend` is `local` the cluster is a Ray on this machine; with a connection
to Kubernetes, the same DAG makes it there. `ray-provider demo` runs this DAG. It uses `airflow-ray[examples]`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pendulum

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

from ray_provider.operators import DeleteRayCluster, SetupRayCluster, SubmitRayJob

CONNECTION = "ray_default"
INCLUDE = str(Path(__file__).resolve().parent / "include")
IMAGE = os.environ.get("RAY_EXAMPLE_IMAGE", str(Path(tempfile.gettempdir()) / "flight_delays.png"))

with DAG(
    "ray_quickstart",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["ray", "example"],
    doc_md=__doc__,
):
    setup = SetupRayCluster(task_id="setup", conn_id=CONNECTION)

    delays = SubmitRayJob(
        task_id="delays",
        conn_id=CONNECTION,
        cluster=setup.output,
        entrypoint=["python", "flight_delays.py", IMAGE],
        runtime_env={"working_dir": INCLUDE},
        deferrable=True,
    )

    delete = DeleteRayCluster(task_id="delete", conn_id=CONNECTION, cluster=setup.output)

    setup >> delays >> delete.as_teardown(setups=setup)
