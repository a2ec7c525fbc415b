"""Set-up, job and delete on the local backend, as a setup and a teardown."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param, task

from ray_provider.operators import DeleteRayCluster, SetupRayCluster, SubmitRayJob

with DAG(
    "local_backend",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    params={"code": Param("print('hello from ray')"), "name": Param("")},
    render_template_as_native_obj=False,
):
    setup = SetupRayCluster(task_id="setup", name="{{ params.name }}", local={"num_cpus": 1})
    job = SubmitRayJob(task_id="job", entrypoint=["python", "-c", "{{ params.code }}"], cluster=setup.output)
    # As astro-provider-ray's users have it: the dashboard's URL by XCom.
    again = SubmitRayJob(task_id="again", entrypoint="true", xcom_task_key="setup.dashboard", deferrable=True)
    delete = DeleteRayCluster(task_id="delete", cluster=setup.output)
    setup >> job >> again >> delete.as_teardown(setups=setup)

with DAG("local_left", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC")):
    SetupRayCluster(task_id="setup", local={"num_cpus": 1})

with DAG("local_gpu", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), default_args={"retries": 1}):

    @task.ray(conn_id="ray_default", num_gpus=1)
    def fit() -> int:
        return 1

    fit()
