"""The whole mission in one DAG, for each cloud: infrastructure, Ray, a job on a GPU, and all of it gone."""

from __future__ import annotations

import json
import os

from airflow.sdk import DAG

from ray_provider.operators import (
    DeleteRayAddons,
    DeleteRayCluster,
    DeleteRayInfrastructure,
    SetupRayAddons,
    SetupRayCluster,
    SetupRayInfrastructure,
    SubmitRayJob,
)

ON_A_GPU = """python -c "
import ray
ray.init()
@ray.remote(num_gpus=1, num_cpus=0)
def where():
    return ray.get_runtime_context().get_node_id()
head = ray.get_runtime_context().get_node_id()
assert ray.get(where.remote()) != head
print('ran on a worker with', ray.cluster_resources()['GPU'], 'GPU')
" """

#: The outputs are for machines of a cloud. What the test's own machine, with two cores, needs otherwise.
CPU = {"requests": {"cpu": "100m"}, "limits": {"cpu": "2"}}
SMALL = {
    "head": {
        "resources": CPU,
        # Ray's autoscaler does not listen when it is told to end: a delete would wait for it for half a minute.
        "podSpec": {"terminationGracePeriodSeconds": 5},
        "rayStartParams": {"object-store-memory": "100000000"},
        "autoscalerOptions": {
            "idleTimeoutSeconds": 600,
            "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        },
    },
    "additionalWorkerGroups": {"gpu": {"resources": CPU, "rayStartParams": {"object-store-memory": "80000000"}}},
}

for name, cloud in json.loads(os.environ["TEST_MISSIONS"]).items():
    common = {"terraform_binary": cloud["terraform"], "env": cloud["env"], **cloud["connections"]}
    with DAG(f"mission_{name}", schedule=None, catchup=False) as dag:
        infrastructure = SetupRayInfrastructure(
            task_id="infrastructure",
            module=name,
            variables=cloud["variables"],
            backend={"type": "local", "path": cloud["state"]},
            **common,
        )
        # The operator is there: no chart can be fetched here.
        addons = SetupRayAddons(
            task_id="addons",
            conn_id=cloud["conn_id"],
            infrastructure=infrastructure.output,
            kuberay_operator="require",
        )
        cluster = SetupRayCluster(
            task_id="cluster",
            conn_id=cloud["conn_id"],
            infrastructure=infrastructure.output,
            namespace=cloud["namespace"],
            create_namespace=True,
            values=SMALL,
            timeout_seconds=300,
            deferrable=True,
        )
        job = SubmitRayJob(
            task_id="job", conn_id=cloud["conn_id"], cluster=cluster.output, entrypoint=ON_A_GPU, deferrable=True
        )
        delete_cluster = DeleteRayCluster(task_id="delete_cluster", conn_id=cloud["conn_id"], cluster=cluster.output)
        delete_addons = DeleteRayAddons(
            task_id="delete_addons", conn_id=cloud["conn_id"], infrastructure=infrastructure.output
        )
        delete_infrastructure = DeleteRayInfrastructure(
            task_id="delete_infrastructure",
            infrastructure=infrastructure.output,
            confirm=cloud["variables"]["name"],
            **common,
        )
        infrastructure >> addons >> cluster >> job >> delete_cluster.as_teardown(setups=cluster)
        delete_cluster >> delete_addons.as_teardown(setups=addons)
        delete_addons >> delete_infrastructure.as_teardown(setups=infrastructure)
    globals()[dag.dag_id] = dag
