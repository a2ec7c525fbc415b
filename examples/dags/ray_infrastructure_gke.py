"""From nothing to a result and back, on Google Cloud: a GKE cluster by Terraform, Ray on it by Helm, a job, and all of it gone.

**This costs money**: while it runs it has a Kubernetes cluster, machines and a network in a cloud. A run that was
interrupted may leave them: `ray-provider reap --infrastructure` finds them. Start with `ray_quickstart`, which runs on a laptop.

Needs a `google_cloud_platform` connection (or a worker with an identity), a bucket for Terraform's state, and a `ray`
connection whose backend is `kubernetes`. Terraform 1.9 or newer (or OpenTofu) is on the worker. A cluster takes 15 to 20 minutes; the machines
for workers come when Ray asks for them, and go afterwards.

The Kubernetes API of a new network is closed to Airflow, which is not in it. It is reached by its DNS name, where IAM
decides who gets in (`container.clusters.connect`); or, with `RAY_EXAMPLE_AIRFLOW_CIDRS` (`203.0.113.7/32`, several with
commas), from those addresses. Google's APIs and the roles that it takes are in docs/infrastructure.md.

The two tasks `addons` and `delete_addons` need an administrator's rights in the Kubernetes cluster (`roles/container.admin`);
`RAY_EXAMPLE_ADMIN_CONN_ID` names another `ray` connection for these two.
"""

from __future__ import annotations

import os

import pendulum

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

from ray_provider.operators import (
    DeleteRayAddons,
    DeleteRayCluster,
    DeleteRayInfrastructure,
    SetupRayAddons,
    SetupRayCluster,
    SetupRayInfrastructure,
    SubmitRayJob,
)

NAME = "ray-airflow"
REGION = os.environ.get("RAY_EXAMPLE_GOOGLE_REGION", "europe-west4")
PROJECT = os.environ.get("RAY_EXAMPLE_GOOGLE_PROJECT", "my-project")
GOOGLE = os.environ.get("RAY_EXAMPLE_GCP_CONN_ID") or None
CONNECTION = "ray_default"
#: By whom the add-ons are installed: the only tasks that need an administrator's rights in Kubernetes.
ADMINISTRATOR = os.environ.get("RAY_EXAMPLE_ADMIN_CONN_ID", CONNECTION)
CIDRS = [cidr.strip() for cidr in os.environ.get("RAY_EXAMPLE_AIRFLOW_CIDRS", "").split(",") if cidr.strip()]
#: How Airflow's workers reach the Kubernetes API. In a network that is there: create_network, network, subnetwork, …
REACH: dict[str, object] = {"dns_endpoint": True}
if CIDRS:
    REACH = {"endpoint_public_access": True, "endpoint_public_access_cidrs": CIDRS}

with DAG(
    "ray_infrastructure_gke",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["ray", "example", "terraform", "gke"],
    doc_md=__doc__,
):
    infrastructure = SetupRayInfrastructure(
        task_id="infrastructure",
        module="gke",
        variables={
            "name": NAME,
            "project": PROJECT,
            "location": REGION,
            "deletion_protection": False,  # this DAG deletes it again
            "node_pools": {
                "cpu": {"machine_type": "n2-standard-8", "min": 0, "max": 4},
                "gpu": {"machine_type": "g2-standard-8", "capacity": "spot", "max": 2},
            },
            "gpu_image": {"tag": "2.60.0-gpu"},
            **REACH,
        },
        providers={"google": {"project": PROJECT, "region": REGION}},
        backend={
            "type": "gcs",
            "bucket": os.environ.get("RAY_EXAMPLE_STATE_BUCKET", "my-terraform-states"),
            "prefix": NAME,
        },
        gcp_conn_id=GOOGLE,
    )

    # KubeRay's operator. What GPU pods need, GKE brings itself.
    addons = SetupRayAddons(
        task_id="addons", conn_id=ADMINISTRATOR, infrastructure=infrastructure.output, namespaces=["ray"]
    )

    cluster = SetupRayCluster(
        task_id="cluster",
        conn_id=CONNECTION,
        infrastructure=infrastructure.output,
        namespace="ray",
    )

    job = SubmitRayJob(
        task_id="job",
        conn_id=CONNECTION,
        cluster=cluster.output,
        entrypoint="python -c 'import ray; ray.init(); print(ray.cluster_resources())'",
        deferrable=True,
    )

    delete_cluster = DeleteRayCluster(task_id="delete_cluster", conn_id=CONNECTION, cluster=cluster.output)

    # Before the infrastructure: nothing starts a machine any more then.
    delete_addons = DeleteRayAddons(
        task_id="delete_addons", conn_id=ADMINISTRATOR, infrastructure=infrastructure.output
    )

    delete_infrastructure = DeleteRayInfrastructure(
        task_id="delete_infrastructure",
        infrastructure=infrastructure.output,
        confirm=NAME,
        providers={"google": {"project": PROJECT, "region": REGION}},
        gcp_conn_id=GOOGLE,
    )

    infrastructure >> addons >> cluster >> job >> delete_cluster.as_teardown(setups=cluster)
    delete_cluster >> delete_addons.as_teardown(setups=addons)
    delete_addons >> delete_infrastructure.as_teardown(setups=infrastructure)
