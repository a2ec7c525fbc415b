"""A nightly training on GPUs that waits for its turn: a pool of GPU workers from a queue, several trainings on it, gone by morning.

On Kubernetes with KubeRay and Kueue. At one in the morning `pool` asks for a cluster with two GPU workers. No pod is made, and
no machine costs anything, before the queue has room for all of it; Kueue's own words are in the task's log meanwhile. Where it
has none by five, the run fails and says so. Then a training for each airport runs, with a GPU of its own, two at a time; `best`
tells what they found; `delete` gives the GPUs back, also where a training failed.

**It needs** GPU nodes (docs/gpus.md), an image with your framework, and once, from an administrator, a queue
(`RAY_EXAMPLE_LOCAL_QUEUE`, `gpus` unless set) whose quota covers the GPUs, and a priority:

```yaml
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata: {name: gpu-nodes}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata: {name: gpus}
spec:
  namespaceSelector: {}
  resourceGroups:
    - coveredResources: [cpu, memory, nvidia.com/gpu]
      flavors:
        - name: gpu-nodes
          resources:
            - {name: cpu, nominalQuota: "32"}
            - {name: memory, nominalQuota: 128Gi}
            - {name: nvidia.com/gpu, nominalQuota: "2"}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata: {name: gpus, namespace: ray}
spec: {clusterQueue: gpus}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: WorkloadPriorityClass
metadata: {name: nightly}
value: 100
```

**For data of your own** write `train`: what it is mapped over, and what it does with its GPU. Keep its value small, and write weights to your
storage. A single training needs no pool: `RunRayJob` takes the same queue, and gives its place back as soon as it ends.
"""

from __future__ import annotations

import os

import pendulum

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task

from ray_provider.operators import DeleteRayCluster, SetupRayCluster

CONNECTION = "ray_default"
QUEUE = os.environ.get("RAY_EXAMPLE_LOCAL_QUEUE", "gpus")
PROFILE = os.environ.get("RAY_EXAMPLE_GPU_PROFILE", "gpu-eks")
#: Of a fixed size: a queue admits no cluster that grows. The chart's CPU workers are left out.
POOL = {
    "worker": {"disabled": True},
    "additionalWorkerGroups": {"gpu": {"replicas": 2, "minReplicas": 2, "maxReplicas": 2}},
}
HOUR = 3600


@dag(
    schedule="0 1 * * *",
    start_date=pendulum.datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["ray", "example", "gpu"],
    doc_md=__doc__,
)
def ray_nightly_gpus():
    pool = SetupRayCluster(
        task_id="pool",
        conn_id=CONNECTION,
        profile=PROFILE,
        values=POOL,
        local_queue=QUEUE,
        priority_class="nightly",
        queue_timeout_seconds=4 * HOUR,
        # From the admission: machines that are made on demand take their time.
        timeout_seconds=HOUR / 2,
        scheduling_timeout_seconds=HOUR / 3,
        deferrable=True,
    )

    @task.ray(
        conn_id=CONNECTION,
        cluster=pool.output,
        num_gpus=1,
        runtime_env={"pip": ["torch"]},
        job_timeout_seconds=3 * HOUR,
        deferrable=True,
        retries=1,
    )
    def train(airport: str) -> dict:
        import torch

        rows = torch.rand(1_000_000, 8, device="cuda")
        late = rows @ torch.arange(8.0, device="cuda") + torch.randn(len(rows), device="cuda")
        weights = torch.linalg.lstsq(rows, late[:, None]).solution
        error = (rows @ weights - late[:, None]).square().mean().sqrt()
        return {"airport": airport, "error": round(error.item(), 3), "on": torch.cuda.get_device_name()}

    @task
    def best(trained: list[dict]) -> dict:
        found = min(trained, key=lambda one: one["error"])
        print(f"Of {len(trained)} trainings the best one is {found}")
        return found

    delete = DeleteRayCluster(task_id="delete", conn_id=CONNECTION, cluster=pool.output)
    trained = train.expand(airport=["EWR", "JFK", "LGA"])
    trained >> delete.as_teardown(setups=pool)
    best(trained)


ray_nightly_gpus()
