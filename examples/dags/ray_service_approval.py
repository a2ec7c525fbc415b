"""Deploy a new version beside the one that serves, have a person approve it, and only then give it the traffic (blue/green).

On Kubernetes with KubeRay, with Airflow 3.1 or newer. `deploy` makes the version as a RayService of its own and asks it for an
answer; nobody else does yet. `approve` waits for a person, with the address at which that version can be tried. Approved:
`promote` moves the traffic in one moment, and the version before stays for the way back. Rejected, or not answered within a
day: `take_down` deletes the new version. `ray_service_back` is the way back afterwards: run it by hand. The address of the
Service in front stays the same over all of it. See docs/rayservice.md.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, dag

from ray_provider.operators import DeployRayService, PromoteRayService, RollbackRayService

CONNECTION, NAME = "ray_default", "delays"
CODE = Path(__file__).resolve().parent / "include" / "serving" / "delay_model.py"
GROUP = {
    "containerEnv": [{"name": "PYTHONPATH", "value": "/code"}],
    "volumes": [{"name": "code", "configMap": {"name": f"{NAME}-code"}}],
    "volumeMounts": [{"name": "code", "mountPath": "/code"}],
}
VALUES = {
    "head": GROUP,
    "worker": GROUP,
    "extraObjects": [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{NAME}-code"},
            "data": {CODE.name: CODE.read_text()},
        }
    ],
}
START = pendulum.datetime(2026, 1, 1)


@dag(
    schedule=None,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    tags=["ray", "example"],
    doc_md=__doc__,
    render_template_as_native_obj=True,
    params={"minutes_per_minute": Param(0.9, type="number", description="How much of a late start arrives.")},
)
def ray_service_approval():
    model = {
        "columns": ["dep_delay"],
        "weights": [0.0, "{{ params.minutes_per_minute }}"],
        "version": "{{ run_id }}",
    }
    deploy = DeployRayService(
        task_id="deploy",
        conn_id=CONNECTION,
        name=NAME,
        values=VALUES,
        applications=[{"name": NAME, "import_path": "delay_model:build", "args": {"model": model}}],
        strategy="blue_green",
        promote=False,
        smoke_test={"method": "POST", "send": {"dep_delay": 10}, "json": {"version": "{{ run_id }}"}},
        deferrable=True,
    )
    approve = ApprovalOperator(
        task_id="approve",
        subject="Is the new version of the model to serve?",
        body="It answers at {{ ti.xcom_pull(task_ids='deploy')['version_url'] }}, and has no traffic yet.",
        defaults="Reject",
        execution_timeout=timedelta(days=1),
    )
    promote = PromoteRayService(task_id="promote", conn_id=CONNECTION, service=deploy.output)
    take_down = RollbackRayService(
        task_id="take_down",
        conn_id=CONNECTION,
        # Not deploy.output: then it would wait for `deploy`, too, which was not skipped.
        service="{{ ti.xcom_pull(task_ids='deploy') }}",
        trigger_rule="all_skipped",
    )
    deploy >> approve >> promote >> take_down


@dag(
    schedule=None,
    start_date=START,
    catchup=False,
    tags=["ray", "example"],
    doc_md="Gives the traffic back to the version before, and takes the other one down.",
)
def ray_service_back():
    RollbackRayService(task_id="back", conn_id=CONNECTION, name=NAME)


ray_service_approval()
ray_service_back()
