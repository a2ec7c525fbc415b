"""What is known of a Ray cluster on Kubernetes at one moment, and whether that is enough."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_provider.clusters.kuberay.operator import Operator
from ray_provider.clusters.kuberay.raycluster import desired_workers
from ray_provider.clusters.kubernetes.client import Json
from ray_provider.clusters.kubernetes.finding import condition, is_true
from ray_provider.clusters.kubernetes.pod_diagnosis import pod_role, ray_is_ready, submitter_end


@dataclass
class ClusterView:
    """What is known of a cluster at this moment.

    :param cluster: the RayCluster; ``None``: there is none, or it was not read yet.
    :param cluster_known: it was read, or found missing.
    :param was_there: it was there once.
    :param pods: by uid.
    :param pods_known: they were listed.
    :param events: by uid.
    :param stale_events: those that were there when we began to look: their ``resourceVersion``, by uid.
    :param operator: the Deployment of KubeRay's operator, as far as we may look at it.
    :param settled: an operator that runs has had the time to look at the spec.
    """

    cluster: Json | None = None
    cluster_known: bool = False
    was_there: bool = False
    pods: dict[str, Json] = field(default_factory=dict)
    pods_known: bool = False
    events: dict[str, Json] = field(default_factory=dict)
    stale_events: dict[str, str] = field(default_factory=dict)
    operator: Operator | None = None
    settled: bool = False

    @property
    def unacknowledged(self) -> bool:
        """Whether the operator has not written down that it knows the spec as it is now."""
        if self.cluster is None:
            return False
        status = self.cluster.get("status") or {}
        return int(status.get("observedGeneration") or 0) < int(self.cluster["metadata"].get("generation") or 1)

    @property
    def operator_stopped(self) -> bool:
        """Whether the operator is known not to run."""
        return self.operator is not None and (self.operator.replicas == 0 or self.operator.available == 0)

    def _unnoticed(self) -> bool:
        """Whether the operator has yet to look at the spec.

        KubeRay (1.6.1 and before) writes ``observedGeneration`` only together with something else in the status: a
        change that replaces no pod and wants as many as before is never acknowledged.
        """
        if self.cluster is None or not self.unacknowledged:
            return False
        status = self.cluster.get("status") or {}
        as_before = int(status.get("desiredWorkerReplicas") or 0) == desired_workers(self.cluster)
        return not (self.settled and status.get("observedGeneration") and as_before)

    def fresh_events(self) -> list[Json]:
        """Give the events that came after we began to look."""
        return [
            event
            for uid, event in self.events.items()
            if self.stale_events.get(uid) != event["metadata"].get("resourceVersion")
        ]

    def missing(self, wait_for_workers: bool | int, stale_pods: frozenset[str]) -> str | None:
        """Say what is not ready yet; ``None`` if all is.

        :param wait_for_workers: true for all that are wanted, false for none, or a number.
        :param stale_pods: uids of pods that have to be gone.
        """
        cluster = self.cluster
        if cluster is None:
            return "the RayCluster"
        status = cluster.get("status") or {}
        if self._unnoticed():
            return "the operator's notice"
        # Pods that were not listed yet are not gone.
        if stale_pods and (not self.pods_known or stale_pods & self.pods.keys()):
            return "the end of pods of the former version"
        if not self._head_ready(cluster, status):
            return "the head"
        ready = int(status.get("readyWorkerReplicas") or 0)
        if wait_for_workers is True:
            desired = int(status.get("desiredWorkerReplicas") or 0)
            provisioned = condition(cluster, "RayClusterProvisioned")
            if (provisioned is not None and provisioned.get("status") != "True") or ready < desired:
                return f"{max(desired - ready, 0)} workers"
        elif ready < int(wait_for_workers):
            return f"{int(wait_for_workers) - ready} workers"
        return None

    def _head_ready(self, cluster: Json, status: Json) -> bool:
        heads = (pod for pod in self.pods.values() if pod_role(pod).startswith("head"))
        if any(submitter_end(pod) is not None and ray_is_ready(pod) for pod in heads):
            return True
        if condition(cluster, "HeadPodReady") is None:  # conditions can be switched off in the operator
            return status.get("state") == "ready"
        return is_true(cluster, "HeadPodReady")
