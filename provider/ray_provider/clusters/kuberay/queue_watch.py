"""What Kueue says of something that waits in one of its queues: asked, told, and judged whether waiting helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from ray_provider._shared.plain_text import clean
from ray_provider.clusters.kuberay.queueing import GROUP, JOB_UID, QueuePosition, eviction, position, queue_of
from ray_provider.clusters.kubernetes.client import Json, Kube, path_of
from ray_provider.clusters.kubernetes.finding import Finding, condition, is_true
from ray_provider.exceptions import (
    ClusterTimeoutError,
    ConfigurationError,
    KubernetesAccessError,
    KubernetesError,
)

Say = Callable[[str], None]

#: So often it is asked what Kueue says: its objects change with every other job of the queue.
QUEUE_SECONDS = 5.0
#: So long Kueue may take to look at something that it holds.
UNSEEN_SECONDS = 20.0
#: Kueue's integration that has to be switched on for it.
_FRAMEWORKS = {"RayJob": "ray.io/rayjob", "Ray cluster": "ray.io/raycluster"}


async def workloads_of(kube: Kube, namespace: str, uid: str) -> list[Json]:
    """Give Kueue's Workloads of an object; none where there is no Kueue.

    :param kube: where.
    :param namespace: of the object.
    :param uid: of the object.
    :raises KubernetesAccessError: they may not be read.
    """
    group = await kube.find(GROUP)
    if group is None:
        return []
    version = (group.get("preferredVersion") or {}).get("groupVersion")
    found = await kube.find(path_of("workloads", namespace, api=f"/apis/{version}"), labelSelector=f"{JOB_UID}={uid}")
    items: list[Json] = (found or {}).get("items") or []
    return items


async def queue_position(
    kube: Kube, namespace: str, uid: str, before: QueuePosition | None = None
) -> QueuePosition | None:
    """Ask what Kueue says of an object that waits; ``None``: nothing.

    :param kube: where.
    :param namespace: of the object.
    :param uid: of the object.
    :param before: what it said when it was asked last: that counts where it can't be asked now.
    """
    try:
        return position(await workloads_of(kube, namespace, uid))
    except KubernetesAccessError as error:
        return QueuePosition(f"what Kueue says can't be read ({error.message})")
    except KubernetesError:  # it is asked again; the watch over the RayJob gives up where Kubernetes stays away
        return before or QueuePosition("Kueue can't be asked now")


async def taken_away(kube: Kube, what: str, namespace: str, name: str, *, uid: str, queue: str | None) -> str:
    """Say who took the place of something away, and why; without a full stop.

    :param kube: where; what Kueue says is left out where it can't be read.
    :param what: ``RayJob`` or ``Ray cluster``.
    :param namespace: of it.
    :param name: of it.
    :param uid: of it.
    :param queue: in which it waits now, if in one.
    """
    why = ""
    if queue:
        with suppress(KubernetesError):
            why = eviction(await workloads_of(kube, namespace, uid))
    by = f"Kueue took the place of {what} {namespace}/{name} in the queue {queue!r} away"
    other = f"The {what} {namespace}/{name} was suspended by somebody"
    return f"{by if queue else other}{f' ({why})' if why else ''}"


async def warn_without_kueue(kube: Kube, queue: str | None, say: Say) -> None:
    """Tell where nobody looks at a queue: what is to wait there is not suspended, and takes what it wants.

    :param kube: where.
    :param queue: name of a LocalQueue; ``None``: there is nothing to wait in.
    :param say: is given the warning.
    """
    if queue and await kube.find(GROUP) is None:
        say(f"WARNING: There is no Kueue here (nothing knows kueue.x-k8s.io): the queue {queue!r} has no effect.")


class QueueWatch:
    """Asks Kueue about one object that is suspended, tells what it waits for, and ends what is in vain.

    :param kube: where.
    :param what: ``RayJob`` or ``Ray cluster``.
    :param namespace: of it.
    :param name: of it.
    :param limit: how long it may be in the queue (seconds); ``None``: for ever.
    :param say: is given a line when something changes.
    """

    def __init__(self, kube: Kube, what: str, namespace: str, name: str, limit: float | None, say: Say) -> None:
        self._kube = kube
        self._what, self._namespace, self._name = what, namespace, name
        self._limit = limit
        self._say = say
        self._line = ""
        self.position: QueuePosition | None = None

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def ask(self, uid: str, queue: str | None) -> QueuePosition | None:
        """Ask what Kueue says of the object; ``None``: nothing.

        :param uid: of the object.
        :param queue: in which it waits; ``None``: Kueue has nothing to say, and is not asked.
        """
        self.position = await queue_position(self._kube, self._namespace, uid, self.position) if queue else None
        return self.position

    def judge(self, queue: str | None, *, held: float, waited: float) -> None:
        """Tell what it waits for.

        :param queue: in which it waits; ``None``: somebody suspended it otherwise.
        :param held: for so many seconds we know it as suspended.
        :param waited: for so many seconds it has waited.
        :raises ConfigurationError: no waiting helps.
        :raises ClusterTimeoutError: its time in the queue is over.
        """
        if queue is None:
            self.tell("it is suspended, and in no queue: somebody has to resume it (spec.suspend: false)")
        elif self.position is None:
            self.tell(f"it waits for Kueue to look at it (queue {queue!r})")
            if held >= UNSEEN_SECONDS:
                raise self._unseen(queue, held)
        elif self.position.never:
            raise ConfigurationError(
                f"The {self._what} {self._where} can't be admitted by the queue {queue!r}: {self.position.text}.",
                hint=f"Is `local_queue` the name of a LocalQueue in this namespace? kubectl -n {self._namespace} get "
                "localqueues.",
                cause="queue",
                namespace=self._namespace,
                name=self._name,
            )
        else:
            self.tell(f"it waits in the queue {queue!r}: {self.position.text}")
        if self._limit is not None and waited >= self._limit:
            raise self._too_long(queue, waited)

    def forget(self) -> None:
        """Tell it anew where it comes back to the queue."""
        self._line, self.position = "", None

    def tell(self, line: str) -> None:
        """Tell a line, unless it is the last one.

        :param line: without the object's name and without a full stop.
        """
        if line != self._line:
            self._line = line
            self._say(clean(f"{self._what} {self._where}: {line}."))

    def _too_long(self, queue: str | None, waited: float) -> ClusterTimeoutError:
        said = self.position.text if self.position else "nobody resumed it"
        return ClusterTimeoutError(
            f"The {self._what} {self._where} was not admitted after {waited:.0f} s"
            f"{f' in the queue {queue!r}' if queue else ''}: {said}.",
            hint="Raise queue_timeout_seconds, give it a higher priority_class, or have the queue's quota raised.",
            cause="queue",
            namespace=self._namespace,
            name=self._name,
        )

    def _unseen(self, queue: str, held: float) -> ConfigurationError:
        return ConfigurationError(
            f"Kueue has made no Workload for the {self._what} {self._where} in {held:.0f} s: nobody lets it go. It is "
            f"suspended for the queue {queue!r}.",
            hint=f"Does Kueue run, with the framework {_FRAMEWORKS[self._what]}, and does it manage this namespace? "
            "kubectl get deployments -A -l app.kubernetes.io/name=kueue",
            cause="queue",
            namespace=self._namespace,
            name=self._name,
        )


class ClusterHold:
    """Knows of one RayCluster whether it is suspended, and since when; says how that goes on.

    :param kube: where.
    :param namespace: of the cluster.
    :param name: of it.
    :param limit: how long it may be in a queue (seconds); ``None``: for ever.
    :param say: is given a line when something changes.
    """

    def __init__(self, kube: Kube, namespace: str, name: str, limit: float | None, say: Say) -> None:
        self._kube, self._namespace, self._name, self._say = kube, namespace, name, say
        self._queue = QueueWatch(kube, "Ray cluster", namespace, name, limit, say)
        self._since: float | None = None
        self._was_free = False

    async def look(self, cluster: Mapping[str, Any], now: float) -> Finding | None:
        """Tell what holds the cluster; ``None``: nothing does.

        :param cluster: the RayCluster as it is now.
        :param now: seconds since 1970.
        :raises ConfigurationError: it is held for ever.
        :raises ClusterTimeoutError: its time in the queue is over.
        """
        if not cluster["spec"].get("suspend"):
            return None
        uid, queue = str(cluster["metadata"].get("uid") or ""), queue_of(cluster)
        if self._since is None:
            self._since = now
            if self._was_free:
                by = await taken_away(self._kube, "Ray cluster", self._namespace, self._name, uid=uid, queue=queue)
                self._say(clean(f"{by}: its pods end, and it waits for its turn again."))
        said = await self._queue.ask(uid, queue)
        waiting_since = min(_changed(cluster, "True") or self._since, self._since)
        self._queue.judge(queue, held=now - self._since, waited=now - waiting_since)
        in_queue = f"it waits in the queue {queue!r}: {said.text}" if said else f"nobody has looked at it ({queue!r})"
        return Finding(
            cause="queue",
            text=in_queue if queue else "it is suspended, and in no queue",
            hint="A queue lets it go when there is a place; whoever suspended it otherwise resumes it "
            "(spec.suspend: false).",
        )

    def let_go(self, cluster: Mapping[str, Any]) -> float | None:
        """Tell since when (seconds since 1970) a cluster that is not held may start; ``None``: it never was held.

        :param cluster: the RayCluster as it is now, which is not suspended.
        """
        self._was_free = True
        if self._since is not None:
            self._since = None
            self._queue.forget()
            return time.time()
        # Known to be resumed by what KubeRay wrote: whoever looks may be another than the one that saw it waiting.
        return _changed(cluster, "False") if cluster["spec"].get("suspend") is False else None


def _changed(cluster: Mapping[str, Any], status: str) -> float | None:
    """Tell when the cluster became suspended, or was no longer, by KubeRay's condition."""
    found = condition(cluster, "RayClusterSuspended")
    if found is None or is_true(cluster, "RayClusterSuspended") is not (status == "True"):
        return None
    try:
        return datetime.fromisoformat(str(found.get("lastTransitionTime"))).timestamp()
    except ValueError:
        return None
