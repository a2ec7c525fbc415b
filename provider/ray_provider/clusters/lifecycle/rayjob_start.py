"""Waiting for the cluster of a RayJob: in a queue, then until its dashboard answers; and noticing when it is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ray_provider.clusters.handle import Access, ClusterHandle
from ray_provider.clusters.kuberay.queue_watch import QUEUE_SECONDS, QueueWatch
from ray_provider.clusters.kuberay.rayjob import RayJobState
from ray_provider.clusters.kuberay.readiness import ReadinessOptions, ReadinessWatch
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, open_kube, path_of
from ray_provider.clusters.lifecycle.rayjob import check_selected
from ray_provider.clusters.lifecycle.rayjob_watch import interruption, states, until_interrupted
from ray_provider.clusters.lifecycle.waiting import reached
from ray_provider.exceptions import (
    ClusterError,
    ClusterFailedError,
    ConfigurationError,
    RayProviderError,
)

Say = Callable[[str], None]


class RayJobOver(Exception):  # noqa: N818 - no error: the job may have succeeded
    """A RayJob has ended while its start was waited for, and its cluster is gone: only the RayJob tells how it ended.

    :param state: of it.
    """

    def __init__(self, state: RayJobState) -> None:
        super().__init__(f"{state.name}: {state.why}")
        self.state = state


def _quiet(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How long the parts of a start may take.

    :param queue_seconds: in a queue; ``None``: for ever.
    :param start_seconds: from its end until the dashboard answers.
    :param scheduling_seconds: how long a pod may wait for a node.
    :param operator_seconds: how long the operator may take to notice the RayJob.
    """

    queue_seconds: float | None = None
    start_seconds: float = 900.0
    scheduling_seconds: float = 300.0
    operator_seconds: float = 45.0

    def to_dict(self) -> dict[str, Any]:
        """Give them as plain data."""
        return asdict(self)


async def wait_started(
    kube_access: KubernetesAccess,
    handle: ClusterHandle,
    options: StartOptions,
    *,
    access: Access = "auto",
    since: float | None = None,
    say: Say = _quiet,
) -> ClusterHandle:
    """Wait until the dashboard of a RayJob's cluster answers. Its workers are not waited for: the job does that.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the RayJob's cluster, whose name need not be known.
    :param options: how long the parts of the start may take.
    :param access: how the dashboard is reached.
    :param since: when (seconds since 1970) waiting began; unless given, now.
    :param say: is given each line of progress. Default: nobody is.
    :return: the handle, with what is known only then.
    :raises ConfigurationError: the RayJob, or its queue, can't work.
    :raises ClusterFailedError: the cluster can't start.
    :raises ClusterTimeoutError: it did not in time.
    :raises RayJobOver: its job has ended already, and its cluster is gone.
    """
    began = since or time.time()
    while True:
        async with open_kube(kube_access) as kube:
            cluster = await _Start(kube, handle, options, began, say).wait()
        ready = await _reached(kube_access, replace(handle, name=cluster["metadata"]["name"]), cluster, access, say)
        if ready is not None:
            return ready
        began = time.time()


async def _reached(
    kube_access: KubernetesAccess, handle: ClusterHandle, cluster: Json, access: Access, say: Say
) -> ClusterHandle | None:
    """Wait until the dashboard answers. ``None``: the cluster was taken away at this very moment."""
    reaching = asyncio.ensure_future(reached(kube_access, handle, cluster, access, say))
    listening = asyncio.ensure_future(until_interrupted(kube_access, handle))
    try:
        await asyncio.wait({reaching, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not reaching.done() and listening.exception() is None:
            return None
        return await reaching
    except RayProviderError:
        if await interruption(kube_access, handle) is None:
            raise
        return None
    finally:
        for each in (reaching, listening):
            each.cancel()
        await asyncio.gather(reaching, listening, return_exceptions=True)


class _Start:
    """Watches one RayJob until the head of its cluster is ready.

    :param kube: where.
    :param handle: of the RayJob's cluster, whose name need not be known.
    :param options: how long the parts of the start may take.
    :param since: when (seconds since 1970) waiting began.
    :param say: is given a line when something changes.
    """

    def __init__(self, kube: Kube, handle: ClusterHandle, options: StartOptions, since: float, say: Say) -> None:
        self._kube = kube
        self._namespace, self._name = str(handle.namespace), str(handle.rayjob)
        self._options = options
        self._since = since
        self._say = say
        self._changed = asyncio.Event()
        self._known = False
        self._state: RayJobState | None = None
        self._queue = QueueWatch(kube, "RayJob", self._namespace, self._name, options.queue_seconds, say)
        self._held_since: float | None = None
        #: Since when it is for KubeRay's operator to do something with it.
        self._idle_since: float | None = None
        #: When its time in the queue began: of each time.
        self._queue_since = since

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def wait(self) -> Json:
        """Wait, and give the RayCluster when its head is ready."""
        following = asyncio.create_task(self._follow(), name=f"RayJob {self._name}")
        try:
            while True:
                cluster = await self._ready(await self._let_go(following), following)
                if cluster is not None:
                    return cluster
                self._queue_since = time.time()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self) -> None:
        async for state in states(self._kube, self._namespace, self._name):
            self._state, self._known = state, True
            self._changed.set()

    async def _let_go(self, following: asyncio.Task[None]) -> RayJobState:
        """Wait until KubeRay has a cluster for the RayJob: it is in no queue, or out of it."""
        while True:
            self._changed.clear()
            if following.done():
                following.result()
            if self._known:
                state = self._checked()
                await self._check_not_over(state)
                if state.selected:
                    await check_selected(self._kube, self._namespace, self._name, state.selected)
                if state.cluster and not state.is_suspended:
                    self._held_since = None
                    return state
                await self._judge(state)
            await self._news(following, within=QUEUE_SECONDS)

    async def _news(self, *others: asyncio.Task[Any], within: float | None = None) -> None:
        """Wait for news of the RayJob, the end of one of the others, or the end of some seconds."""
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait([changed, *others], timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    def _checked(self) -> RayJobState:
        """Give what is known of the RayJob.

        :raises ClusterError: it is gone, or can't work.
        """
        state = self._state
        if state is None or state.deleting:
            raise ClusterFailedError(
                f"The RayJob {self._where} {'is being' if state else 'was'} deleted while its cluster was waited for.",
                hint="Somebody deleted it. Clear the task to run it anew.",
                cause="deleted",
                namespace=self._namespace,
                name=self._name,
            )
        if state.deployment == "ValidationFailed":
            raise ConfigurationError(
                f"KubeRay refuses the RayJob {self._where}: {state.why.removeprefix('ValidationFailed: ')}.",
                hint="Correct the values (or the manifest), and clear the task: it is made anew.",
                cause="invalid spec",
                namespace=self._namespace,
                name=self._name,
            )
        if state.has_failed and not state.submitter_has_failed:
            raise ClusterFailedError(
                f"KubeRay gave up the RayJob {self._where} before its job could be submitted: {state.why}.",
                hint=f"kubectl -n {self._namespace} describe rayjob {self._name}",
                cause=state.reason or "failed",
                namespace=self._namespace,
                name=self._name,
            )
        return state

    async def _check_not_over(self, state: RayJobState) -> None:
        """Tell a start that may still come from one that has been.

        :raises RayJobOver: KubeRay has finished with it, and has deleted its cluster.
        """
        if not state.is_over:
            return
        path = path_of("rayclusters", self._namespace, state.cluster, api=RAY)
        if not state.cluster or await self._kube.find(path) is None:
            raise RayJobOver(state)

    # -- in a queue, or unnoticed --------------------------------------------------------------------------------------

    async def _judge(self, state: RayJobState) -> None:
        """Judge a RayJob that has no cluster yet.

        :raises ClusterError: it will not get one, or its time is over.
        """
        now = time.time()
        self._held_since = (self._held_since or now) if state.is_suspended else None
        queued = await self._queue.ask(state.uid, state.queue) if self._held_since is not None else None
        let_go = queued is not None and queued.admitted
        # Also of one that is resumed, it says nothing for a moment.
        self._idle_since = (self._idle_since or now) if let_go or not state.deployment else None
        if self._idle_since is not None:
            if now - self._idle_since >= self._options.operator_seconds:
                raise self._unnoticed(state, now - self._idle_since)
            return
        if self._held_since is not None:
            self._queue.judge(state.queue, held=now - self._held_since, waited=now - self._queue_since)

    def _unnoticed(self, state: RayJobState, seconds: float) -> ClusterFailedError:
        if state.managed_by and state.managed_by != "ray.io/kuberay-operator":
            why = f"it says managedBy: {state.managed_by}, and that one does nothing with it"
        else:
            why = "it does not run, or does not watch this namespace"
        return ClusterFailedError(
            f"No KubeRay operator has taken notice of the RayJob {self._where} for {seconds:.0f} s: {why}.",
            hint="kubectl get deployments -A -l app.kubernetes.io/name=kuberay-operator; look at its replicas, its log "
            "and its value watchNamespace.",
            cause="operator not running",
            namespace=self._namespace,
            name=self._name,
        )

    # -- starting ------------------------------------------------------------------------------------------------------

    async def _ready(self, state: RayJobState, following: asyncio.Task[None]) -> Json | None:
        """Wait for the head. ``None``: the cluster was taken away again, or is another one by now."""
        began = state.started.timestamp() if state.started else time.time()
        options = ReadinessOptions(
            timeout_seconds=self._options.start_seconds,
            wait_for_workers=False,
            scheduling_seconds=self._options.scheduling_seconds,
        )
        watch = ReadinessWatch(
            self._kube,
            self._namespace,
            state.cluster,
            options,
            say=self._say,
            deadline=max(began, self._since) + self._options.start_seconds,
        )
        ready = asyncio.create_task(watch.wait(), name=f"head of {state.cluster}")
        try:
            while not ready.done():
                self._changed.clear()
                if following.done():
                    following.result()
                now = self._checked()
                await self._check_not_over(now)
                if now.is_suspended or now.cluster != state.cluster:
                    return None
                await self._news(ready, following)
            return ready.result()
        except ClusterError:
            # What became of the cluster says the RayJob, if it is about that: it may be a moment late.
            if await self._taken_away(state):
                return None
            raise
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    async def _taken_away(self, state: RayJobState) -> bool:
        found = await self._kube.find(path_of("rayjobs", self._namespace, self._name, api=RAY))
        self._state = RayJobState.of(found) if found else None
        now = self._checked()
        await self._check_not_over(now)
        return now.is_suspended or now.cluster != state.cluster
