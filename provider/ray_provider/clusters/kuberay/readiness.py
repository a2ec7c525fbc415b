"""Waiting until a Ray cluster is ready, by watching it: no sleeping, and no waiting for what can't come."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ray_provider._shared.plain_text import clean
from ray_provider.clusters.kuberay import diagnosis
from ray_provider.clusters.kuberay.operator import SELECTOR, Operator
from ray_provider.clusters.kuberay.queue_watch import QUEUE_SECONDS, ClusterHold
from ray_provider.clusters.kuberay.queueing import queue_of
from ray_provider.clusters.kuberay.view import ClusterView
from ray_provider.clusters.kubernetes import pod_diagnosis
from ray_provider.clusters.kubernetes.client import (
    RAY,
    UNREACHABLE_SECONDS,
    Json,
    Kube,
    WatchEvent,
    path_of,
    pod_events,
)
from ray_provider.clusters.kubernetes.finding import IMAGE, NOW, OPERATOR, SCHEDULING, SHORT, Finding, is_true
from ray_provider.exceptions import ClusterFailedError, ClusterTimeoutError, KubernetesAccessError, KubernetesError

Say = Callable[[str], None]
_STUCK_SECONDS = 15.0
_LOG_LINES = 15
#: How long a watch that begins past its deadline (no triggerer ran meanwhile) waits for what there is.
FIRST_LOOK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ReadinessOptions:
    """What is waited for, and how long.

    :param timeout_seconds: for all of it.
    :param wait_for_workers: true for all that are wanted, false for none, or a number.
    :param scheduling_seconds: how long a pod may wait for a node.
    :param image_seconds: how long an image may fail to be pulled for a cause that may pass.
    :param operator_seconds: how long the operator may take to notice the cluster.
    :param short_seconds: how long what may pass by itself may last.
    :param settle_seconds: after this, an operator that runs has looked at a change, whether it wrote that down or not.
    :param queue_apart: the time in one of Kueue's queues does not count: that for all begins when it lets go.
    :param queue_seconds: how long it may be in a queue; ``None``: for ever.
    """

    timeout_seconds: float = 900.0
    wait_for_workers: bool | int = True
    scheduling_seconds: float = 300.0
    image_seconds: float = 90.0
    operator_seconds: float = 45.0
    short_seconds: float = 20.0
    settle_seconds: float = 5.0
    queue_apart: bool = False
    queue_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give them as plain data."""
        return asdict(self)

    def patience(self, kind: str) -> float:
        """Give how long a finding may last.

        :param kind: a finding's: ``now``, ``short``, ``image``, ``scheduling`` or ``operator``.
        :return: seconds.
        """
        known = {
            NOW: 0.0,
            SHORT: self.short_seconds,
            IMAGE: self.image_seconds,
            SCHEDULING: self.scheduling_seconds,
            OPERATOR: self.operator_seconds,
        }
        return known[kind]


class ReadinessWatch:
    """Watches one cluster until it is ready.

    :param kube: where.
    :param namespace: in which namespace.
    :param name: of the RayCluster.
    :param options: what is waited for.
    :param say: is given a line when something changes.
    :param stale_pods: uids of pods that have to be gone, after an update.
    :param deadline: when (``time.time()``) waiting ends; else by the options, from now on.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        options: ReadinessOptions,
        *,
        say: Say = lambda _: None,
        stale_pods: Iterable[str] = (),
        deadline: float | None = None,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._options = options
        self._say = say
        self._stale_pods = frozenset(stale_pods)
        self._began = time.time()
        self._deadline = deadline or self._began + options.timeout_seconds
        self.view = ClusterView()
        self._changed = asyncio.Event()
        self._first_seen: dict[tuple[str, str], float] = {}
        self._unnoticed_since: float | None = None
        self._looked_at: dict[str, float] = {}
        self._pod_findings: dict[str, list[Finding]] = {}
        self._last_line = ""
        self._hold = ClusterHold(kube, namespace, name, options.queue_seconds, say)

    async def wait(self) -> Json:
        """Wait, and give the RayCluster as it is when it is ready.

        :raises ClusterFailedError: it can't become ready; the cause is in the message.
        :raises ClusterTimeoutError: it did not in time; what is known of the cause is in the message.
        :raises KubernetesError: the API server stayed away.
        """
        watches = [asyncio.ensure_future(watch) for watch in self._watches()]
        try:
            while True:
                self._changed.clear()
                for done in (watch for watch in watches if watch.done()):
                    done.result()  # raises what ended it
                ready, pause = await self._look()
                if ready is not None:
                    return ready
                waiter = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait([waiter, *watches], timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiter.cancel()
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    # -- what is watched -----------------------------------------------------------------------------------------------

    def _watches(self) -> list[Any]:
        where, name = self._namespace, self._name
        return [
            self._follow(
                path_of("rayclusters", where, api=RAY), self._on_cluster, fieldSelector=f"metadata.name={name}"
            ),
            self._follow(path_of("pods", where), self._on_pod, labelSelector=f"ray.io/cluster={name}"),
            self._follow(
                path_of("events", where),
                self._on_event,
                optional=True,
                fieldSelector=f"involvedObject.kind=RayCluster,involvedObject.name={name}",
            ),
            self._follow("/apis/apps/v1/deployments", self._on_operator, optional=True, labelSelector=SELECTOR),
        ]

    async def _follow(
        self, path: str, take: Callable[[WatchEvent], None], *, optional: bool = False, **query: str
    ) -> None:
        """Take in what a watch tells. An optional one may be forbidden: then less is known."""
        patience = max(UNREACHABLE_SECONDS, self._options.short_seconds)
        try:
            async for event in self._kube.watch(path, patience=patience, **query):
                take(event)
                self._changed.set()
        except KubernetesAccessError:
            if not optional:
                raise
            await asyncio.Event().wait()

    def _on_cluster(self, event: WatchEvent) -> None:
        items = event.items if event.type == "SYNC" else (() if event.type == "DELETED" else (event.object,))
        self.view.cluster = items[0] if items else None
        self.view.was_there |= bool(items)
        self.view.cluster_known = True

    def _on_pod(self, event: WatchEvent) -> None:
        if event.type == "SYNC":
            self.view.pods = {item["metadata"]["uid"]: item for item in event.items}
            self.view.pods_known = True
        elif event.type == "DELETED":
            self.view.pods.pop(event.object["metadata"]["uid"], None)
        else:
            self.view.pods[event.object["metadata"]["uid"]] = event.object

    def _on_event(self, event: WatchEvent) -> None:
        if event.type == "SYNC":
            if not self.view.events and self._stale_pods:
                # After an update: what the operator said of the spec before is no news.
                self.view.stale_events = {
                    item["metadata"]["uid"]: item["metadata"].get("resourceVersion", "") for item in event.items
                }
            self.view.events = {item["metadata"]["uid"]: item for item in event.items}
        elif event.type != "DELETED":
            self.view.events[event.object["metadata"]["uid"]] = event.object

    def _on_operator(self, event: WatchEvent) -> None:
        if event.type == "SYNC":
            self.view.operator = Operator.of(event.items[0]) if event.items else None
        else:
            self.view.operator = None if event.type == "DELETED" else Operator.of(event.object)

    # -- what it means -------------------------------------------------------------------------------------------------

    async def _look(self) -> tuple[Json | None, float]:
        """Judge what is known. Gives the cluster if it is ready, else when to look again if nothing changes."""
        now = time.time()
        view = self.view
        cluster = view.cluster
        if cluster is None and view.was_there:
            raise self._failed(
                Finding("deleted", "the RayCluster was deleted while we waited for it", "Set it up anew."), []
            )
        if cluster is not None and cluster["metadata"].get("deletionTimestamp"):
            raise self._failed(Finding("deleted", "the RayCluster is being deleted", "Set it up anew."), [])
        if cluster is not None and (held := await self._hold.look(cluster, now)) is not None:
            return None, await self._held(held, now, in_queue=queue_of(cluster) is not None)
        self._let_go(cluster, now)
        self._settle(now)
        if cluster is not None and view.missing(self._options.wait_for_workers, self._stale_pods) is None:
            return cluster, 0.0
        self._progress()
        findings = [*self._findings(now)]
        findings += await self._stuck(now)
        keys = {(finding.cause, finding.subject) for finding in findings}
        self._first_seen = {key: self._first_seen.get(key, now) for key in keys}
        until = self._ends()
        pause = until - now
        if self._unnoticed_since is not None:
            ends = (self._unnoticed_since + limit - now for limit in self._notice_limits())
            pause = min([pause, *(end for end in ends if end > 0)])
        for finding in findings:
            left = self._first_seen[finding.cause, finding.subject] + self._options.patience(finding.patience) - now
            if left <= 0:
                raise self._failed(finding, await self._last_lines(finding))
            pause = min(pause, left)
        if now >= until:
            raise await self._timed_out(findings)
        return None, max(0.05, min(pause, _STUCK_SECONDS))

    def _ends(self) -> float:
        """Give when waiting ends: not before anything is known of the cluster, which may be ready for long.

        One that was in a queue may have more time than this watch was told, too: that is known when it is read.
        """
        if self.view.cluster_known and self.view.pods_known:
            return self._deadline
        return math.inf if self._options.queue_apart else max(self._deadline, self._began + FIRST_LOOK_SECONDS)

    async def _held(self, held: Finding, now: float, *, in_queue: bool) -> float:
        """Wait on for a cluster that is suspended. Gives when to look again.

        :raises ClusterTimeoutError: its time is over, where that counts.
        """
        self._first_seen, self._unnoticed_since, self._last_line = {}, None, ""
        left = self._deadline - now
        if in_queue and self._options.queue_apart:
            return QUEUE_SECONDS
        if left <= 0:
            raise await self._timed_out([held])
        return min(QUEUE_SECONDS, left)

    def _let_go(self, cluster: Json | None, now: float) -> None:
        """Let the time for a cluster begin that came out of a queue."""
        since = self._hold.let_go(cluster) if cluster is not None else None
        if since is not None and self._options.queue_apart:
            self._began = max(self._began, min(since, now))
            self._deadline = max(self._deadline, since + self._options.timeout_seconds)

    def _settle(self, now: float) -> None:
        """Keep in mind since when the spec is not acknowledged, and whether that still means something."""
        view = self.view
        if not view.unacknowledged:
            self._unnoticed_since, view.settled = None, False
            return
        self._unnoticed_since = self._unnoticed_since or now
        view.settled = now - self._unnoticed_since >= self._options.settle_seconds and not view.operator_stopped

    def _findings(self, now: float) -> Iterable[Finding]:
        view = self.view
        if view.cluster is not None:
            yield from diagnosis.cluster_findings(view.cluster, view.fresh_events())
        for uid, pod in view.pods.items():
            if uid not in self._stale_pods:
                yield from pod_diagnosis.pod_findings(pod)
        missing = view.missing(self._options.wait_for_workers, frozenset())
        if missing != "the operator's notice" or self._unnoticed_since is None:
            return
        lasted = now - self._unnoticed_since
        operator, known = view.operator, None
        if operator is not None and operator.replicas == 0:
            known = f"its Deployment {operator.namespace}/{operator.name} is scaled to zero"
        elif operator is not None and operator.available == 0:
            known = f"its Deployment {operator.namespace}/{operator.name} has no pod that runs"
        if lasted >= (min(self._notice_limits()) if known else self._options.operator_seconds):
            yield diagnosis.no_operator(f"{self._namespace}/{self._name}", lasted, known)

    def _notice_limits(self) -> tuple[float, ...]:
        """Give when to judge an operator that has not noticed: sooner, if it is known not to run."""
        options = self._options
        return options.operator_seconds, (
            options.short_seconds if self.view.operator_stopped else options.settle_seconds
        )

    async def _stuck(self, now: float) -> list[Finding]:
        """Look at the events of pods that have a node and do not start: only there it stands why."""
        found = []
        for uid, pod in list(self.view.pods.items()):
            started = is_true(pod, "PodScheduled") and (pod.get("status") or {}).get("phase") == "Pending"
            if not started or uid in self._stale_pods:
                self._pod_findings.pop(uid, None)
                self._looked_at.pop(uid, None)
                continue
            if now - self._looked_at.setdefault(uid, now) >= _STUCK_SECONDS:
                self._looked_at[uid] = now
                self._pod_findings[uid] = pod_diagnosis.event_findings(
                    pod, await pod_events(self._kube, self._namespace, uid)
                )
            found += self._pod_findings.get(uid, [])
        return found

    def _progress(self) -> None:
        if self.view.cluster is None:  # not read yet, or about to be made
            return
        line = diagnosis.summary(self.view.cluster, self.view.pods.values())
        if line != self._last_line:
            self._last_line = line
            self._say(clean(f"Ray cluster {self._namespace}/{self._name}: {line}."))

    # -- how it ends badly ---------------------------------------------------------------------------------------------

    def _failed(self, finding: Finding, lines: list[str]) -> ClusterFailedError:
        text = f"The Ray cluster {self._namespace}/{self._name} can't become ready: {finding.text}."
        if lines:
            text += "\nIts last lines:\n  " + "\n  ".join(lines)
        return ClusterFailedError(
            text, hint=finding.hint, cause=finding.cause, namespace=self._namespace, name=self._name
        )

    async def _timed_out(self, findings: list[Finding]) -> ClusterTimeoutError:
        missing = self.view.missing(self._options.wait_for_workers, self._stale_pods)
        state = diagnosis.summary(self.view.cluster, self.view.pods.values())
        lasted = time.time() - self._began
        text = f"The Ray cluster {self._namespace}/{self._name} was not ready after {lasted:.0f} s: {state}"
        if findings:
            text += f". What stands in its way: {'; '.join(finding.text for finding in findings)}"
        else:
            text += f". What is missing: {missing}" if missing else ""
            findings = await self._slow()
            text += "".join(f". So far, {finding.text}" for finding in findings)
        lines = await self._last_lines(findings[0]) if findings else []
        text += "."
        if lines:
            text += "\nLast lines:\n  " + "\n  ".join(lines)
        return ClusterTimeoutError(
            text,
            hint=findings[0].hint if findings else pod_diagnosis.MORE_TIME,
            cause=findings[0].cause if findings else "timeout",
            namespace=self._namespace,
            name=self._name,
        )

    async def _slow(self) -> list[Finding]:
        """Tell how far the pod is that is waited for, when nothing is known to be wrong."""
        pods = {uid: pod for uid, pod in self.view.pods.items() if uid not in self._stale_pods}
        pod = pod_diagnosis.first_unready(pods.values())
        if pod is None:
            return []
        events = await pod_events(self._kube, self._namespace, pod["metadata"]["uid"])
        return [pod_diagnosis.slow_finding(pod, events, datetime.now(UTC))]

    async def _last_lines(self, finding: Finding) -> list[str]:
        if not finding.container:
            return []
        path = f"{path_of('pods', self._namespace, finding.subject)}/log"
        query = {"container": finding.container, "tailLines": str(_LOG_LINES)}
        if finding.previous:
            query["previous"] = "true"
        try:
            text = await self._kube.request("GET", path, query=query, text=True)
        except KubernetesError:
            return []  # the pod is gone, or its log may not be read: the cause is told without it
        return [line[:500] for line in str(text).splitlines() if line.strip()]
