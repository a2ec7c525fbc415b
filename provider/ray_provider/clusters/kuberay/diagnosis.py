"""Why a Ray cluster does not become ready, in words, with what to do. Pure functions of what Kubernetes says."""

from __future__ import annotations

from collections.abc import Iterable

from ray_provider.clusters.kubernetes.finding import NOW, OPERATOR, SHORT, Finding, Json, condition, is_true
from ray_provider.clusters.kubernetes.pod_diagnosis import WITHOUT_NODE, phase

_INVALID_EVENTS = {"InvalidRayClusterSpec", "InvalidRayClusterMetadata", "InvalidRayClusterStatus"}


def cluster_findings(cluster: Json, events: Iterable[Json]) -> list[Finding]:
    """Find out what is wrong with a RayCluster itself.

    :param cluster: the RayCluster.
    :param events: those of it that are newer than what was changed.
    """
    found = []
    name = cluster["metadata"]["name"]
    warnings = [event for event in events if event.get("type") == "Warning"]
    for event in warnings:
        if event.get("reason") in _INVALID_EVENTS:
            message = str(event.get("message") or "").strip().rstrip(".")
            found.append(
                Finding(
                    cause="invalid spec",
                    text=f"the KubeRay operator refuses the spec: {message}",
                    hint="Correct the values (or the manifest). The operator does nothing for this cluster until then.",
                    subject=name,
                )
            )
    failure = condition(cluster, "ReplicaFailure")
    if failure and failure.get("status") == "True":
        message = str(failure.get("message") or "").removeprefix(str(failure.get("reason"))).strip().rstrip(".")
        quota = "exceeded quota" in message
        found.append(
            Finding(
                cause="quota" if quota else "replica failure",
                text=f"the operator can't make the cluster's pods ({failure.get('reason')}): {message}",
                hint="The namespace's quota is used up: ask for less, delete what is not needed, or have it raised."
                if quota
                else "Correct what Kubernetes refuses there: a missing service account, a policy, a webhook.",
                patience=SHORT,
                subject=name,
            )
        )
    elif not (cluster.get("status") or {}).get("observedGeneration"):
        found += [
            _operator_event(event, name) for event in warnings if str(event.get("reason", "")).startswith("FailedTo")
        ]
    return found


def _operator_event(event: Json, name: str) -> Finding:
    return Finding(
        cause=str(event.get("reason")),
        text=f"the operator reports {event.get('reason')}: {str(event.get('message') or '').strip().rstrip('.')}",
        hint="The operator's log may tell more.",
        patience=OPERATOR,
        subject=name,
    )


def no_operator(cluster: str, seconds: float, operator: str | None) -> Finding:
    """Say that nobody looks after RayClusters.

    :param cluster: its namespace and name.
    :param seconds: for so long nobody has taken notice.
    :param operator: what is known of the operator, in words.
    """
    return Finding(
        cause="operator not running",
        text=f"no KubeRay operator has taken notice of RayCluster {cluster} for {seconds:.0f} s"
        + (f": {operator}" if operator else ": it does not run, or does not watch this namespace"),
        hint="kubectl get deployments -A -l app.kubernetes.io/name=kuberay-operator; look at its replicas, its log "
        "and its value watchNamespace.",
        patience=NOW,
        subject=cluster,
    )


def summary(cluster: Json | None, pods: Iterable[Json]) -> str:
    """Say in one line how far a cluster is.

    :param cluster: the RayCluster; ``None``: there is none.
    :param pods: of the cluster.
    """
    if cluster is None:
        return "the RayCluster is not there yet"
    status = cluster.get("status") or {}
    generation = int(cluster["metadata"].get("generation") or 1)
    if int(status.get("observedGeneration") or 0) < generation:
        return "waiting for the KubeRay operator to take notice"
    if is_true(cluster, "RayClusterSuspended"):
        return "suspended: waiting to be admitted"
    by_type: dict[str, list[Json]] = {"head": [], "worker": []}
    for pod in pods:
        by_type.setdefault(str((pod["metadata"].get("labels") or {}).get("ray.io/node-type")), []).append(pod)
    heads = by_type["head"]
    head = "head ready" if is_true(cluster, "HeadPodReady") else f"head {phase(heads[0]) if heads else 'not made yet'}"
    desired = int(status.get("desiredWorkerReplicas") or 0)
    ready = int(status.get("readyWorkerReplicas") or 0)
    # What may last: nodes come slowly, or never.
    homeless = sum(phase(pod) == WITHOUT_NODE for pod in by_type["worker"])
    waiting = f", {homeless} {WITHOUT_NODE}" if homeless else ""
    return f"{head}, {ready} of {desired} worker{'' if desired == 1 else 's'} ready{waiting}"
