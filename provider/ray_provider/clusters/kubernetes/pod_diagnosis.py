"""Why a pod of a Ray cluster does not become ready. Pure functions of what Kubernetes says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from ray_provider.clusters.kubernetes.finding import IMAGE, NOW, SCHEDULING, SHORT, Finding, Json, condition, is_true

_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"}
_IMAGE_GONE = re.compile(
    r"not found|manifest unknown|does not exist|denied|unauthorized|invalid reference", re.IGNORECASE
)

#: The container by which KubeRay submits a job from the head's pod (SidecarMode). It ends with the job, and not as the
#: cluster: the pod is never ready again then, though its Ray is.
SUBMITTER = "ray-job-submitter"
#: What to do when nothing is known to be wrong.
MORE_TIME = "Allow more time, if it only is slow (large images, new nodes)."
#: How far a pod is that no node takes.
WITHOUT_NODE = "waiting for a node"


def pod_role(pod: Json) -> str:
    """Say which pod of a cluster it is: ``head pod x``, ``worker pod y``.

    :param pod: as the API server gives it.
    """
    labels = pod["metadata"].get("labels") or {}
    kind = labels.get("ray.io/node-type")
    name = pod["metadata"]["name"]
    return f"{kind} pod {name}" if kind in {"head", "worker"} else f"pod {name}"


def submitter_end(pod: Json) -> Json | None:
    """Give how the submitter in a head's pod has ended (``exitCode`` …); ``None``: there is none, or it has not.

    :param pod: of a head.
    """
    of_submitter = (one for one in _containers(pod) if one.get("name") == SUBMITTER)
    return next(((one.get("state") or {}).get("terminated") for one in of_submitter), None)


def ray_is_ready(pod: Json) -> bool:
    """Whether the container of Ray in a pod is ready, be the pod so or not.

    :param pod: of a Ray cluster; its first container is Ray's.
    """
    containers = (pod.get("spec") or {}).get("containers") or [{}]
    return any(one.get("ready") for one in _containers(pod) if one.get("name") == containers[0].get("name"))


def requests_of(pod: Json) -> str:
    """Say what a pod asks for: ``cpu 2, memory 4Gi``.

    :param pod: all of its containers count.
    """
    seen: dict[str, list[str]] = {}
    for container in (pod.get("spec") or {}).get("containers") or []:
        for key, value in ((container.get("resources") or {}).get("requests") or {}).items():
            seen.setdefault(key, []).append(str(value))
    return ", ".join(f"{key} {' + '.join(values)}" for key, values in sorted(seen.items()))


def pod_findings(pod: Json) -> list[Finding]:
    """Find out what is wrong with a pod.

    :param pod: as the API server gives it. One that is being deleted has nothing wrong.
    :return: none, if its status tells of nothing.
    """
    if pod["metadata"].get("deletionTimestamp"):
        return []
    found = [*_placement(pod)]
    status = pod.get("status") or {}
    for container in _containers(pod):
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


def _containers(pod: Json) -> list[Json]:
    """Give the status of each container, in the order in which they start."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


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
    if not ended or (ended.get("exitCode") == 0 and not previous) or (name == SUBMITTER and not previous):
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


def event_findings(pod: Json, events: Iterable[Json]) -> list[Finding]:
    """Find out from its events why a pod that has a node does not start: its status doesn't say.

    :param pod: whose events these are.
    :param events: of any type; warnings count, but for those that the pod's status tells better.
    :return: one for each reason, with its last message.
    """
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


def first_unready(pods: Iterable[Json]) -> Json | None:
    """Give the pod that is waited for: the head, for the workers wait for it; else a worker.

    :param pods: of one cluster.
    :return: ``None``: all are ready, or end.
    """
    unready = [pod for pod in pods if not is_true(pod, "Ready") and not pod["metadata"].get("deletionTimestamp")]
    return min(unready, key=lambda pod: (not pod_role(pod).startswith("head"), pod["metadata"]["name"]), default=None)


def slow_finding(pod: Json, events: Iterable[Json], now: datetime) -> Finding:
    """Say how far a pod has come in which nothing is wrong by its status: it has not become ready.

    :param pod: whose status tells of nothing wrong.
    :param events: those of the pod.
    :param now: with a time zone.
    """
    status = pod.get("status") or {}
    unready = [one for one in _containers(pod) if "terminated" not in (one.get("state") or {}) and not one.get("ready")]
    running = [one for one in unready if "running" in (one.get("state") or {})]
    one = (running or unready or [{}])[0]
    name = str(one.get("name") or "")
    limit = _limit_of(pod, name)
    if running:
        began = datetime.fromisoformat(one["state"]["running"]["startedAt"])
        text = f"the container {name!r} of {pod_role(pod)} has run for {(now - began).total_seconds():.0f} s "
        text += "and is not ready"
    else:
        reason = ((one.get("state") or {}).get("waiting") or {}).get("reason") or status.get("phase") or "no status yet"
        text = f"{f'the container {name!r} of ' if name else ''}{pod_role(pod)} has not started ({reason})"
    last = max(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), default=None)
    if last:
        text += f"; its last event is {last.get('reason')}: {str(last.get('message') or '').strip().rstrip('.')}"
    return Finding(
        cause="timeout",
        text=text,
        hint=f"{MORE_TIME} "
        + (
            f"A container close to its memory limit ({limit}) can stand still without being killed: "
            if running and limit
            else ""
        )
        + f"kubectl describe pod {pod['metadata']['name']} -n {pod['metadata'].get('namespace')}.",
        subject=pod["metadata"]["name"],
        container=name if running else None,
    )


def phase(pod: Json) -> str:
    """Say in a word or two how far a pod is.

    :param pod: that is not ready.
    """
    if pod["metadata"].get("deletionTimestamp"):
        return "ending"
    status = pod.get("status") or {}
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] != "PodInitializing":
            return str(waiting["reason"])
    if (condition(pod, "PodScheduled") or {}).get("status") == "False":
        return WITHOUT_NODE
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
