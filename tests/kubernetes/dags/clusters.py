"""DAGs that make Ray clusters on the test Kubernetes."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from ray_provider.operators import DeleteRayCluster, SetupRayCluster, SubmitRayJob

SMALL = {
    "head": {
        "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        "rayStartParams": {"num-cpus": "1", "object-store-memory": "100000000"},
    },
    "worker": {
        "replicas": 1,
        "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "rayStartParams": {"num-cpus": "1", "object-store-memory": "80000000"},
    },
}
ON_TWO_NODES = """python -c "
import ray
ray.init()
@ray.remote(num_cpus=1, scheduling_strategy='SPREAD')
def where():
    import time; time.sleep(1)
    return ray.get_runtime_context().get_node_id()
print('ran on', len(set(ray.get([where.remote() for _ in range(4)]))), 'nodes')
" """
HELMS = {"worker": os.environ.get("TEST_HELM3"), "deferred": os.environ.get("TEST_HELM4")}

for where, helm in HELMS.items():
    deferrable = where == "deferred"
    with DAG(f"ray_{where}", schedule=None, catchup=False) as dag:
        setup = SetupRayCluster(
            task_id="setup", conn_id="kube", values=SMALL, helm_path=helm, deferrable=deferrable, timeout_seconds=150
        )
        job = SubmitRayJob(
            task_id="job", conn_id="kube", entrypoint=ON_TWO_NODES, cluster=setup.output, deferrable=deferrable
        )
        delete = DeleteRayCluster(task_id="delete", conn_id="kube", cluster=setup.output, helm_path=helm)
        setup >> job >> delete.as_teardown(setups=setup)
    globals()[dag.dag_id] = dag

    with DAG(f"ray_stuck_{where}", schedule=None, catchup=False) as dag:
        SetupRayCluster(
            task_id="setup",
            conn_id="kube",
            values=[
                SMALL,
                "head: {resources: {requests: {cpu: '200'}, limits: {cpu: '200'}}}\nworker: {disabled: true}",
                {"headOnly": True},
            ],
            helm_path=helm,
            deferrable=deferrable,
        )
    globals()[dag.dag_id] = dag

with DAG("ray_own", schedule=None, catchup=False) as dag:
    SubmitRayJob(
        task_id="job",
        conn_id="kube",
        entrypoint="echo ran for {{ run_id }}",
        ray_cluster_yaml="own_cluster.yaml",
        deferrable=True,
    )
