"""Why a Ray cluster does not become ready, in words, with what to do. Pure functions of what Kubernetes says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]

#: How long a cause has to last before waiting is given up (seconds); by the kind of patience it deserves.
NOW, SHORT, IMAGE, SCHEDULING, OPERATOR = "now", "short", "image", "scheduling", "operator"

_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"}
_IMAGE_GONE = re.compile(
    r"not found|manifest unknown|does not exist|denied|unauthorized|invalid reference", re.IGNORECASE
)
_INVALID_EVENTS = {"InvalidRayClusterSpec", "InvalidRayClusterMetadata", "InvalidRayClusterStatus"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that keeps a cluster from becoming ready.

    :param cause: in one or two words, for programs.
    :param text: what is wrong, as a sentence without its full stop.
    :param hint: what to do about it.
    :param patience: how long it may last: ``now``, ``short``, ``image``, ``scheduling`` or ``operator``.
    :param subject: which object it is about.
    :param container: whose log tells more, if one does.
    :param previous: the log of its last run, not of the present one.
    """

    cause: str
    text: str
    hint: str
    patience: str = NOW
    subject: str = ""
    container: str | None = None
    previous: bool = False


def condition(obj: Json, kind: str) -> Json | None:
    """Give a condition of an object's status."""
    found: Iterable[Json] = (obj.get("status") or {}).get("conditions") or ()
    return next((one for one in found if one.get("type") == kind), None)


def is_true(obj: Json, kind: str) -> bool:
    """Whether a condition is there and true."""
    return (condition(obj, kind) or {}).get("status") == "True"


def pod_role(pod: Json) -> str:
    """Say which pod of a cluster it is: ``head pod x``, ``worker pod y``."""
    labels = pod["metadata"].get("labels") or {}
    kind = labels.get("ray.io/node-type")
    name = pod["metadata"]["name"]
    return f"{kind} pod {name}" if kind in {"head", "worker"} else f"pod {name}"


def requests_of(pod: Json) -> str:
    """Say what a pod asks for: ``cpu 2, memory 4Gi``."""
    seen: dict[str, list[str]] = {}
    for container in (pod.get("spec") or {}).get("containers") or []:
        for key, value in ((container.get("resources") or {}).get("requests") or {}).items():
            seen.setdefault(key, []).append(str(value))
    return ", ".join(f"{key} {' + '.join(values)}" for key, values in sorted(seen.items()))


def pod_findings(pod: Json) -> list[Finding]:
    """Find out what is wrong with a pod."""
    if pod["metadata"].get("deletionTimestamp"):
        return []
    found = [*_placement(pod)]
    status = pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        finding = _container(pod, container)
        if finding:
            found.append(finding)
    if not found and status.get("phase") == "Failed":
        say = status.get("message") or status.get("reason") or "it gives no reason"
        found.append(
            Finding(
                cause=str(status.get("reason") or "pod failed"),
                text=f"{pod_role(pod)} failed: {say}",
                hint="Evicted means that the node ran out of memory or disk: ask for what the pod really needs.",
                patience=SHORT,
                subject=pod["metadata"]["name"],
            )
        )
    return found


def _placement(pod: Json) -> Iterable[Finding]:
    scheduled = condition(pod, "PodScheduled") or {}
    if scheduled.get("status") == "False":
        gated = scheduled.get("reason") == "SchedulingGated"
        asks = requests_of(pod)
        yield Finding(
            cause="gated" if gated else "unschedulable",
            text=f"{pod_role(pod)} can't be placed on a node{f' (it asks for {asks})' if asks else ''}: "
            f"{scheduled.get('message') or scheduled.get('reason') or 'no reason given'}".rstrip(". "),
            hint="Ask for less, add nodes or let the pool grow; or correct nodeSelector, tolerations and affinity. "
            "Where nodes are made on demand, allow more time.",
            patience=SCHEDULING,
            subject=pod["metadata"]["name"],
        )


def _container(pod: Json, container: Json) -> Finding | None:
    name, who = str(container.get("name", "")), pod_role(pod)
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "").strip()
    subject = pod["metadata"]["name"]
    if reason in _IMAGE_REASONS:
        image = container.get("image") or _image_of(pod, name)
        sure = reason in {"InvalidImageName", "ErrImageNeverPull"} or bool(_IMAGE_GONE.search(message))
        return Finding(
            cause="image",
            text=f"the image {image!r} of {who} can't be pulled ({reason}): {message or 'no reason given'}".rstrip(
                ". "
            ),
            hint="Check the image's name and tag, that the nodes reach its registry, and imagePullSecrets.",
            patience=SHORT if sure else IMAGE,
            subject=subject,
        )
    if reason in _CONFIG_REASONS:
        return Finding(
            cause="container config",
            text=f"the container {name!r} of {who} can't be started ({reason}): {message or 'no reason given'}".rstrip(
                ". "
            ),
            hint="A Secret, ConfigMap or volume that it names is missing, or its command can't be run.",
            patience=SHORT,
            subject=subject,
        )
    ended = state.get("terminated") or {}
    previous = not ended
    if previous:
        ended = (container.get("lastState") or {}).get("terminated") or {}
    if not ended or (ended.get("exitCode") == 0 and not previous):
        return None
    restarts = int(container.get("restartCount") or 0)
    never = (pod.get("spec") or {}).get("restartPolicy") == "Never"
    if ended.get("reason") == "OOMKilled":
        limit = _limit_of(pod, name)
        return Finding(
            cause="OOMKilled",
            text=f"the container {name!r} of {who} was killed for memory (OOMKilled"
            f"{f', its limit is {limit}' if limit else ''}{f', {_times(restarts)}' if restarts else ''})",
            hint="Give it more memory: a Ray head needs 2 GiB at the least, better 4 GiB, and some more for each job.",
            patience=NOW if restarts >= 2 or never or reason == "CrashLoopBackOff" else SHORT,
            subject=subject,
            container=name,
            previous=previous,
        )
    if reason == "CrashLoopBackOff" or restarts >= 3 or never or ended is state.get("terminated"):
        return Finding(
            cause="crash",
            text=f"the container {name!r} of {who} ends again and again (exit status {ended.get('exitCode')}, "
            f"{ended.get('reason') or 'no reason given'}, {_times(restarts)})",
            hint="Its last lines tell why; `ray start` ends at once when a parameter or the image does not fit.",
            patience=NOW if restarts >= 2 else SHORT,
            subject=subject,
            container=name,
            previous=previous,
        )
    return None


def cluster_findings(cluster: Json, events: Iterable[Json]) -> list[Finding]:
    """Find out what is wrong with a RayCluster itself.

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


def event_findings(pod: Json, events: Iterable[Json]) -> list[Finding]:
    """Find out from its events why a pod that has a node does not start: its status doesn't say."""
    texts: dict[str, str] = {}
    for event in events:
        if event.get("type") == "Warning" and event.get("reason") not in {"FailedScheduling", "BackOff", "Unhealthy"}:
            texts[str(event.get("reason"))] = str(event.get("message") or "").strip().rstrip(".")
    return [
        Finding(
            cause=reason,
            text=f"{pod_role(pod)} does not start ({reason}): {message}",
            hint="Correct the volume, Secret, network or node that it names.",
            patience=IMAGE,
            subject=pod["metadata"]["name"],
        )
        for reason, message in texts.items()
    ]


def summary(cluster: Json | None, pods: Iterable[Json]) -> str:
    """Say in one line how far a cluster is."""
    if cluster is None:
        return "the RayCluster is not there yet"
    status = cluster.get("status") or {}
    generation = int(cluster["metadata"].get("generation") or 1)
    if int(status.get("observedGeneration") or 0) < generation:
        return "waiting for the KubeRay operator to take notice"
    if is_true(cluster, "RayClusterSuspended"):
        return "suspended: waiting to be admitted"
    heads = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("ray.io/node-type") == "head"]
    head = "head ready" if is_true(cluster, "HeadPodReady") else f"head {_phase(heads[0]) if heads else 'not made yet'}"
    desired = int(status.get("desiredWorkerReplicas") or 0)
    ready = int(status.get("readyWorkerReplicas") or 0)
    return f"{head}, {ready} of {desired} worker{'' if desired == 1 else 's'} ready"


def _phase(pod: Json) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "ending"
    status = pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] != "PodInitializing":
            return str(waiting["reason"])
    if (condition(pod, "PodScheduled") or {}).get("status") == "False":
        return "waiting for a node"
    return {"Running": "starting", "Pending": "starting its container"}.get(str(status.get("phase")), "starting")


def _times(restarts: int) -> str:
    return f"{restarts} restart{'' if restarts == 1 else 's'}"


def _image_of(pod: Json, container: str) -> str:
    spec = pod.get("spec") or {}
    for one in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        if one.get("name") == container:
            return str(one.get("image"))
    return "?"


def _limit_of(pod: Json, container: str) -> str | None:
    for one in (pod.get("spec") or {}).get("containers") or []:
        if one.get("name") == container:
            limit = ((one.get("resources") or {}).get("limits") or {}).get("memory")
            return str(limit) if limit else None
    return None
