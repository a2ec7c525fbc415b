"""From nothing to a result and back, on AWS: an EKS cluster by Terraform, Ray on it by Helm, a job, and all of it gone.

**This costs money**: while it runs it has a Kubernetes cluster, machines and a network in a cloud. A run that was
interrupted may leave them: `ray-provider reap --infrastructure` finds them. Start with `ray_quickstart`, which runs on a laptop.

Needs an `aws` connection (or a worker with a role), a bucket for Terraform's state, and a `ray` connection whose backend
is `kubernetes`. Terraform 1.9 or newer (or OpenTofu) is on the worker. A cluster takes 15 to 20 minutes; the machines
for workers come when Ray asks for them, and go afterwards.

The Kubernetes API of a new network is closed: `RAY_EXAMPLE_AIRFLOW_CIDRS` says which addresses Airflow's workers come from
(`203.0.113.7/32`, several with commas), or `RAY_EXAMPLE_VPC_ID` and `RAY_EXAMPLE_SUBNET_IDS` name the network that they are
in. One of both is needed.

The two tasks `addons` and `delete_addons` need an administrator's rights in the Kubernetes cluster. Whoever makes an EKS
cluster has them; `RAY_EXAMPLE_ADMIN_CONN_ID` names another `ray` connection for these two.
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
REGION = os.environ.get("AWS_REGION", "eu-west-1")
AWS = os.environ.get("RAY_EXAMPLE_AWS_CONN_ID") or None
CONNECTION = "ray_default"
#: By whom the add-ons are installed: the only tasks that need an administrator's rights in Kubernetes.
ADMINISTRATOR = os.environ.get("RAY_EXAMPLE_ADMIN_CONN_ID", CONNECTION)
CIDRS = [cidr.strip() for cidr in os.environ.get("RAY_EXAMPLE_AIRFLOW_CIDRS", "").split(",") if cidr.strip()]
VPC = os.environ.get("RAY_EXAMPLE_VPC_ID")
#: How Airflow's workers reach the Kubernetes API: from named addresses, or because they are in the same network.
REACH: dict[str, object] = {}
if CIDRS:
    REACH |= {"endpoint_public_access": True, "endpoint_public_access_cidrs": CIDRS}
if VPC:
    SUBNETS = os.environ.get("RAY_EXAMPLE_SUBNET_IDS", "").split(",")
    REACH |= {"create_network": False, "vpc_id": VPC, "private_subnet_ids": SUBNETS}

with DAG(
    "ray_infrastructure_eks",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["ray", "example", "terraform", "eks"],
    doc_md=__doc__,
):
    infrastructure = SetupRayInfrastructure(
        task_id="infrastructure",
        module="eks",
        variables={
            "name": NAME,
            "deletion_protection": False,  # this DAG deletes it again
            "node_pools": {
                "cpu": {"machine_type": "m6i.2xlarge", "min": 0, "max": 4},
                "gpu": {"machine_type": "g5.xlarge", "capacity": "spot", "max": 2},
            },
            "gpu_image": {"tag": "2.60.0-gpu"},
            **REACH,
        },
        providers={"aws": {"region": REGION}},
        backend={
            "type": "s3",
            "bucket": os.environ.get("RAY_EXAMPLE_STATE_BUCKET", "my-terraform-states"),
            "key": f"{NAME}/terraform.tfstate",
            "region": REGION,
            "use_lockfile": True,
        },
        aws_conn_id=AWS,
    )

    # KubeRay's operator, and what GPU pods need: device plugin and cluster autoscaler, without which no machine comes.
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
        providers={"aws": {"region": REGION}},
        aws_conn_id=AWS,
    )

    infrastructure >> addons >> cluster >> job >> delete_cluster.as_teardown(setups=cluster)
    delete_cluster >> delete_addons.as_teardown(setups=addons)
    delete_addons >> delete_infrastructure.as_teardown(setups=infrastructure)
