"""Kueue, as far as a RayJob or a RayCluster in one of its queues needs it: labels, and what a Workload says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.clusters.kubernetes.finding import condition, is_true
from ray_provider.exceptions import ConfigurationError

GROUP = "/apis/kueue.x-k8s.io"
#: Label of a Workload: the uid of what it is for (Kueue ≥ 0.6).
JOB_UID = "kueue.x-k8s.io/job-uid"
#: Labels of what is to wait in a queue: which LocalQueue, and which WorkloadPriorityClass.
QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
#: Annotation: Kueue may change the number of workers (its gate ``ElasticJobsViaWorkloadSlices``).
ELASTIC = "kueue.x-k8s.io/elastic-job"


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """What Kueue says of something that waits.

    :param text: in its own words.
    :param never: no waiting helps: the queue is not there, or closed.
    :param admitted: it was let go.
    """

    text: str
    never: bool = False
    admitted: bool = False


def labels_of(queue: str | None, priority_class: str | None) -> dict[str, str]:
    """Give the labels by which something waits in a queue.

    :param queue: name of the LocalQueue.
    :param priority_class: name of the WorkloadPriorityClass.
    """
    return {key: value for key, value in ((QUEUE, queue), (PRIORITY, priority_class)) if value}


def queue_of(document: Mapping[str, Any]) -> str | None:
    """Tell in which queue an object is to wait, if in one.

    :param document: an object of Kubernetes.
    :return: name of a LocalQueue; ``None``: it waits in none.
    """
    return (document["metadata"].get("labels") or {}).get(QUEUE) or None


def check_cluster(cluster: Mapping[str, Any], queue: str | None) -> None:
    """Refuse a RayCluster, as a chart makes it, that can't wait in its queue.

    :param cluster: as the chart made it.
    :param queue: the one that the task names.
    :raises ConfigurationError: the chart dropped the label, or the cluster has an autoscaler.
    """
    found = queue_of(cluster)
    if queue and found != queue:
        raise ConfigurationError(
            f"The chart has no value `labels` for its RayCluster, which is to wait in the queue {queue!r}: Kueue would "
            "not see it.",
            hint=f"Use the provider's own chart (leave `chart` out), or one that puts the label {QUEUE} on the "
            "RayCluster.",
            field="local_queue",
        )
    elastic = (cluster["metadata"].get("annotations") or {}).get(ELASTIC) == "true"
    refuse_autoscaler("RayCluster", cluster["spec"], found, elastic=elastic)


def refuse_autoscaler(kind: str, spec: Mapping[str, Any], queue: str | None, *, elastic: bool) -> None:
    """Refuse a cluster whose number of workers changes in a queue: Kueue does so too.

    :param kind: of what waits in the queue.
    :param spec: of the RayCluster.
    :param queue: name of the LocalQueue; ``None``: in none, and all is allowed.
    :param elastic: Kueue is told that it may change the number itself.
    :raises ConfigurationError: it has an autoscaler.
    """
    if queue and spec.get("enableInTreeAutoscaling") and not elastic:
        raise ConfigurationError(
            f"The cluster has an autoscaler (enableInTreeAutoscaling) and is to wait in the queue {queue!r}: "
            f"Kueue does not admit a {kind} whose number of workers changes.",
            hint="Leave the autoscaler out; or, where Kueue has its feature gate ElasticJobsViaWorkloadSlices on, give "
            f'values={{"annotations": {{"{ELASTIC}": "true"}}}}.',
            field="local_queue",
        )


def position(workloads: Iterable[Mapping[str, Any]]) -> QueuePosition | None:
    """Read what Kueue says by the Workloads of a job; ``None``: it has not looked at it yet.

    :param workloads: Kueue's, of one object: the latest counts.
    """
    found = sorted(workloads, key=lambda one: str(one["metadata"].get("creationTimestamp") or ""))
    if not found:
        return None
    workload = dict(found[-1])
    if is_true(workload, "Admitted"):
        return QueuePosition("admitted", admitted=True)
    reserved = condition(workload, "QuotaReserved") or {}
    message = _sentence(reserved) or eviction([workload])
    return QueuePosition(message or "it says nothing yet", never=reserved.get("reason") == "Inadmissible")


def eviction(workloads: Iterable[Mapping[str, Any]]) -> str:
    """Say why Kueue took the place away again, in its own words; empty where it does not say.

    :param workloads: Kueue's, of one object.
    """
    for workload in workloads:
        found = condition(dict(workload), "Evicted")
        if found and found.get("status") == "True":
            said = _sentence(found)
            return f"{found.get('reason')}: {said}" if said else str(found.get("reason"))
    return ""


def _sentence(found: Mapping[str, Any]) -> str:
    """Give a condition's message in one line, without its full stop."""
    return " ".join(str(found.get("message") or "").split()).rstrip(".")
