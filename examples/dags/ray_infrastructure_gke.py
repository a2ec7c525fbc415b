"""From nothing to a result and back, on Google Cloud: a GKE cluster by Terraform, Ray on it by Helm, a job, and all of it gone.

Needs a `google_cloud_platform` connection (or a worker with an identity), a bucket for Terraform's state, and a `ray`
connection whose backend is `kubernetes`. Terraform 1.9 or newer (or OpenTofu) is on the worker. A cluster takes 15 to 20 minutes; the machines
with GPUs come when Ray asks for them, and go afterwards.
"""

from __future__ import annotations

import os

import pendulum

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

from ray_provider.operators import (
    DeleteRayCluster,
    DeleteRayInfrastructure,
    SetupRayCluster,
    SetupRayInfrastructure,
    SubmitRayJob,
)

NAME = "ray-airflow"
REGION = os.environ.get("RAY_EXAMPLE_GOOGLE_REGION", "europe-west4")
PROJECT = os.environ.get("RAY_EXAMPLE_GOOGLE_PROJECT", "my-project")
GOOGLE = os.environ.get("RAY_EXAMPLE_GCP_CONN_ID") or None
CONNECTION = "ray_default"

with DAG(
    "ray_infrastructure_gke",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["ray", "example", "terraform", "gke"],
):
    infrastructure = SetupRayInfrastructure(
        task_id="infrastructure",
        module="gke",
        variables={
            "name": NAME,
            "project": PROJECT,
            "location": REGION,
            "deletion_protection": False,  # this DAG deletes it again
            # Airflow is in no network of the cluster: the API server is reached by its name, and IAM decides who gets in.
            # In a network of your own: create_network, network, subnetwork, pod_range, service_range instead.
            "dns_endpoint": True,
            "node_pools": {
                "cpu": {"machine_type": "n2-standard-8", "min": 0, "max": 4},
                "gpu": {"machine_type": "g2-standard-8", "capacity": "spot", "max": 2},
            },
            "gpu_image": {"tag": "2.60.0-gpu"},
        },
        providers={"google": {"project": PROJECT, "region": REGION}},
        backend={
            "type": "gcs",
            "bucket": os.environ.get("RAY_EXAMPLE_STATE_BUCKET", "my-terraform-states"),
            "prefix": NAME,
        },
        gcp_conn_id=GOOGLE,
    )

    cluster = SetupRayCluster(
        task_id="cluster",
        conn_id=CONNECTION,
        infrastructure=infrastructure.output,
        kuberay_operator="install",
    )

    job = SubmitRayJob(
        task_id="job",
        conn_id=CONNECTION,
        cluster=cluster.output,
        entrypoint="python -c 'import ray; ray.init(); print(ray.cluster_resources())'",
        deferrable=True,
    )

    delete_cluster = DeleteRayCluster(task_id="delete_cluster", conn_id=CONNECTION, cluster=cluster.output)

    delete_infrastructure = DeleteRayInfrastructure(
        task_id="delete_infrastructure",
        infrastructure=infrastructure.output,
        confirm=NAME,
        providers={"google": {"project": PROJECT, "region": REGION}},
        gcp_conn_id=GOOGLE,
    )

    infrastructure >> cluster >> job >> delete_cluster.as_teardown(setups=cluster)
    delete_cluster >> delete_infrastructure.as_teardown(setups=infrastructure)
