"""DAGs that make Ray clusters on the test Kubernetes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from airflow.sdk import DAG, Param, task

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
            task_id="setup", conn_id="kube", values=SMALL, helm_path=helm, deferrable=deferrable, timeout_seconds=300
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

HEAD_ONLY = {"head": SMALL["head"], "worker": {"disabled": True}, "headOnly": True}


@task
def hold(run: str) -> None:
    """Wait until the test lets this run go on."""
    while not Path(os.environ["TEST_GATES"], run).exists():
        time.sleep(0.2)


with DAG("ray_pair", schedule=None, catchup=False) as dag:
    setup = SetupRayCluster(task_id="setup", conn_id="kube", values=HEAD_ONLY, deferrable=True)
    job = SubmitRayJob(task_id="job", conn_id="kube", entrypoint="echo hello from {{ run_id }}", cluster=setup.output)
    delete = DeleteRayCluster(task_id="delete", conn_id="kube", cluster=setup.output)
    setup >> hold("{{ run_id }}") >> job >> delete.as_teardown(setups=setup)

with DAG("ray_kept", schedule=None, catchup=False, params={"values": Param({}, type="object")}) as dag:
    SetupRayCluster(
        task_id="setup",
        conn_id="kube",
        name="ray-kept",
        values=[SMALL, "{{ params['values'] | tojson }}"],
        update_if_exists=True,
        helm_path=HELMS["worker"],
        deferrable=True,
    )

with DAG("ray_kept_no_more", schedule=None, catchup=False) as dag:
    # The runs that set it up have not left it: they are recorded as its users for a day.
    DeleteRayCluster(task_id="delete", conn_id="kube", name="ray-kept", force=True)

faulty = {"values": Param({}, type="object"), "namespace": Param("")}
with DAG("ray_faulty", schedule=None, catchup=False, params=faulty) as dag:
    SetupRayCluster(
        task_id="setup",
        conn_id="kube",
        namespace="{{ params['namespace'] }}",
        values=[HEAD_ONLY, "{{ params['values'] | tojson }}"],
        scheduling_timeout_seconds=2,
        deferrable=True,
    )

NEVER = [HEAD_ONLY, {"head": {"resources": {"requests": {"cpu": "200"}, "limits": {"cpu": "200"}}}}]
with DAG("ray_forgotten", schedule=None, catchup=False) as dag:
    setup = SetupRayCluster(task_id="setup", conn_id="kube", values=NEVER, deferrable=True)
    delete = DeleteRayCluster(task_id="delete", conn_id="kube", cluster=setup.output, trigger_rule="all_done")
    setup >> delete
