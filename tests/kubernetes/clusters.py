"""What the tests of Ray clusters have in common: small clusters, and a look at what is left of one."""

from __future__ import annotations

import copy
import secrets
import time
from pathlib import Path
from typing import Any

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.helm.releases import HelmOptions
from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint
from ray_provider.clusters.kuberay.readiness import ReadinessOptions
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.lifecycle.removal import Leaving, delete_cluster
from ray_provider.clusters.lifecycle.setup import Applied, apply_cluster, set_up_cluster
from ray_provider.clusters.lifecycle.spec import ClusterRequest, KubernetesClusterSpec
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.submit.once import submit_once
from ray_provider.jobs.watch.watcher import JobWatcher, WatchOptions
from tests.support.kubernetes import Kubernetes

#: As small as a Ray can be.
HEAD: dict[str, Any] = {
    "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
    "rayStartParams": {"num-cpus": "1", "object-store-memory": "100000000"},
}
WORKER: dict[str, Any] = {
    "replicas": 1,
    "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
    "rayStartParams": {"num-cpus": "1", "object-store-memory": "80000000"},
}
HEAD_ONLY: dict[str, Any] = {"head": HEAD, "worker": {"disabled": True}, "headOnly": True}
HEAD_AND_WORKER: dict[str, Any] = {"head": HEAD, "worker": WORKER}

#: A job that fails unless it can run on two nodes at once.
ON_TWO_NODES = """python -c "
import ray
ray.init()
@ray.remote(num_cpus=1, scheduling_strategy='SPREAD')
def where():
    import time; time.sleep(1)
    return ray.get_runtime_context().get_node_id()
nodes = set(ray.get([where.remote() for _ in range(4)]))
assert len(nodes) == 2, nodes
print('ran on', len(nodes), 'nodes')
" """


#: A cluster as kubectl would make it, and something beside it.
MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: hello}
---
apiVersion: ray.io/v1
kind: RayCluster
metadata:
  name: from-manifest
  labels: {team: data}
spec:
  rayVersion: "2.60.0"
  headGroupSpec:
    serviceType: ClusterIP
    rayStartParams: {num-cpus: "1", object-store-memory: "100000000"}
    template:
      spec:
        containers:
          - name: ray-head
            image: rayproject/ray:2.60.0
            envFrom: [{configMapRef: {name: settings}}]
            resources: {requests: {cpu: 200m, memory: 1Gi}, limits: {cpu: "2", memory: 2Gi}}
"""


def values(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Give values with some of them changed: ``worker__replicas=2``."""
    made = copy.deepcopy(base)
    for path, value in changes.items():
        *folders, key = path.split("__")
        place = made
        for folder in folders:
            place = place.setdefault(folder, {})
        place[key] = value
    return made


class Scene:
    """A namespace of a Kubernetes, and clusters in it."""

    def __init__(
        self, kubernetes: Kubernetes, namespace: str, *, helm: Path | None = None, kubeconfig: Path | None = None
    ) -> None:
        self.kubernetes = kubernetes
        self.namespace = namespace
        self.helm = HelmOptions(path=str(helm or kubernetes.helm3))
        self.access = KubernetesAccess(kubeconfig_path=str(kubeconfig or kubernetes.kubeconfig), namespace=namespace)
        self.lines: list[tuple[float, str]] = []

    def say(self, line: str) -> None:
        self.lines.append((time.time(), line))

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def owner(self, run: str | None = None, task: str = "setup") -> dict[str, Any]:
        return {"dag_id": "dag", "run_id": run or f"run_{secrets.token_hex(4)}", "task_id": task, "map_index": -1}

    def spec(self, given: Any = None, *, owner: dict[str, Any] | None = None, **further: Any) -> KubernetesClusterSpec:
        options: dict[str, Any] = {"owner": owner or self.owner(), "helm": self.helm, **further}
        return ClusterRequest(values=given, **options).spec()

    async def set_up(
        self, spec: KubernetesClusterSpec, *, keep_on_failure: bool = False, **readiness: Any
    ) -> ClusterHandle:
        options = ReadinessOptions(**{"timeout_seconds": 300.0, **readiness})
        return await set_up_cluster(self.access, spec, options, keep_on_failure=keep_on_failure, say=self.say)

    async def apply(self, spec: KubernetesClusterSpec) -> Applied:
        """Make a cluster, and don't wait for it."""
        return await apply_cluster(self.access, spec, say=self.say)

    async def delete(self, handle: ClusterHandle, *, who: Leaving | None = None, **further: Any) -> bool:
        options: dict[str, Any] = {
            "name": handle.name,
            "namespace": handle.namespace,
            "release": handle.release,
            "who": who or Leaving(owner=handle.owner, found=not handle.created),
            "timeout": 300.0,
            **further,
        }
        return await delete_cluster(self.access, helm=self.helm, say=self.say, **options)

    async def job(
        self, handle: ClusterHandle, entrypoint: str, *, submission_id: str | None = None, log: list[str] | None = None
    ) -> str:
        """Run a job to its end through the API server's proxy, and give its log.

        :param log: gets the log's lines while the job runs.
        """
        log = [] if log is None else log
        endpoint = await kubernetes_endpoint(self.access, handle)
        async with RayJobsClient(endpoint) as client:
            submission_id = submission_id or f"job-{secrets.token_hex(4)}"
            await submit_once(client, JobSpec(entrypoint=entrypoint, submission_id=submission_id))
            watcher = JobWatcher(
                client,
                submission_id,
                WatchOptions(deadline=time.time() + 300),
                on_log=lambda batch: log.append(batch.text),
                on_progress=log.append,
            )
            outcome = await watcher.watch()
        outcome.raise_for_status()
        return "\n".join(log)

    def left(self, name: str) -> list[str]:
        """Name what is there of a cluster."""
        found: list[str] = []
        for kind in ("rayclusters", "pods", "services", "secrets", "networkpolicies", "configmaps"):
            for item in self.kubernetes.get(kind, "-n", self.namespace)["items"]:
                labels = item["metadata"].get("labels") or {}
                theirs = labels.get("ray.io/cluster"), labels.get("app.kubernetes.io/instance"), labels.get("name")
                if name in (*theirs, item["metadata"]["name"]):
                    found.append(f"{kind}/{item['metadata']['name']}")
        return found

    def pods(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.kubernetes.get("pods", "-n", self.namespace, "-l", f"ray.io/cluster={name}")[
            "items"
        ]
        return found

    def cluster(self, name: str) -> dict[str, Any]:
        return self.kubernetes.get("raycluster", name, "-n", self.namespace)


def operator_runs(kubernetes: Kubernetes) -> bool:
    """Whether the operator is available."""
    found = kubernetes.get("deployments", "-A", "-l", "app.kubernetes.io/name=kuberay-operator")["items"]
    return bool(found) and all((item.get("status") or {}).get("availableReplicas") for item in found)


def left_over(scene: Scene) -> list[str]:
    """Name the releases, and what else a cluster is made of, in the scene's namespace."""
    kinds = "rayclusters,pods,services,networkpolicies"
    objects = scene.kubernetes.kubectl("get", kinds, "-n", scene.namespace, "-o", "name").split()
    return scene.kubernetes.helm("list", "-a", "-q", "-n", scene.namespace).split() + objects


def show(error: BaseException) -> str:
    """Print an error as a user gets it (pytest -s shows it), and give it in one line for what is asserted."""
    print(f"\n--- {type(error).__name__}\n{error}")
    return " ".join(str(error).split())
