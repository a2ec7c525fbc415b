"""The triggers of RayJobs: one waits until the cluster of a RayJob takes its job, one for the end of somebody's."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ray_provider import _compat
from ray_provider._compat import BaseTrigger, TriggerEvent, TriggerTask
from ray_provider.exceptions import RayProviderError
from ray_provider.hooks.allowed import CHECKED
from ray_provider.hooks.ray import RayHook
from ray_provider.triggers import coming_back, ending, failure, watching
from ray_provider.triggers.log_end import LogEnd

if TYPE_CHECKING:
    from ray_provider.clusters.handle import Access, ClusterHandle

#: So many lines of a start are told again by the task: Airflow (3.3) begins the log of a triggerer anew with each
#: deferral of a try, and those of the start would be gone when the job is watched.
_LINES_AGAIN = 100
_LINE_LENGTH = 500


class RayJobStartTrigger(BaseTrigger):
    """Watches a RayJob through its queue, and until the head of its cluster answers. Fires once.

    It never deletes the RayJob because a triggerer is restarted or moved; it does when a user ends the task.

    :param conn_id: connection of type ``ray``.
    :param cluster: the handle of the RayJob's cluster, which has no name before KubeRay gives it one.
    :param start: how long the parts may take (fields of ``StartOptions``).
    :param since: when (seconds since 1970) waiting began.
    :param access: how the dashboard is reached; unless given, as the connection says.
    :param deferred_at: when (seconds since 1970) the task was deferred: it does not come back at once.
    """

    _DEFAULTS: ClassVar[Mapping[str, Any]] = {"access": None, "deferred_at": None}

    def __init__(
        self,
        conn_id: str,
        cluster: Mapping[str, Any],
        start: Mapping[str, Any],
        since: float,
        *,
        access: str | None = None,
        deferred_at: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.cluster = dict(cluster)
        self.start = dict(start)
        self.since = since
        self.access = access
        self.deferred_at = deferred_at
        self.hook = RayHook(conn_id, allowed=CHECKED)
        self._fired = False
        self._said: deque[str] = deque(maxlen=_LINES_AGAIN)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what the trigger is built from again: no secret, and no argument that has its default value."""
        changed = {
            name: getattr(self, name) for name, default in self._DEFAULTS.items() if getattr(self, name) != default
        }
        return "ray_provider.triggers.RayJobStartTrigger", {
            "conn_id": self.conn_id,
            "cluster": self.cluster,
            "start": self.start,
            "since": self.since,
            **changed,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch the RayJob.

        :yield: one event: ``status`` (``ready``, ``over`` or ``failed``), ``cluster``, ``said`` (the lines of progress,
            for the task to tell them again) or, of a failure, ``error``; of a job that has ended already, and whose
            cluster is gone, ``job``: what its RayJob says.
        """
        from ray_provider.clusters.lifecycle.rayjob_start import RayJobOver

        began = time.time()
        try:
            ready = await self._watch()
            event: dict[str, Any] = {"status": "ready", "cluster": ready.to_dict(), "said": list(self._said)}
        except RayJobOver as over:
            told = {
                "job_id": over.state.job_id,
                "status": over.state.job,
                "message": _compat.redact(over.state.message),
            }
            event = {"status": "over", "cluster": self.cluster, "job": told}
        except RayProviderError as error:
            event = {"status": "failed", "cluster": self.cluster, "error": failure.told(error)}
        await coming_back.wait(self.deferred_at, began)
        await LogEnd().taken(TriggerTask.of(self), self.log)
        self._fired = True
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _watch(self) -> ClusterHandle:
        from ray_provider.clusters.handle import ClusterHandle
        from ray_provider.clusters.lifecycle.rayjob_start import StartOptions, wait_started

        kube_access, access = await ending.reach(self.hook, self.cluster.get("kubernetes"), self.log)
        return await wait_started(
            kube_access,
            ClusterHandle.from_dict(self.cluster),
            StartOptions(**self.start),
            access=cast("Access", self.access or access),
            since=self.since,
            say=self._say,
        )

    def _say(self, line: str) -> None:
        self._said.append(f"{datetime.now(UTC):%H:%M:%S} {line[:_LINE_LENGTH]}")
        self.log.info("%s", line)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def on_kill(self) -> None:
        """Delete the RayJob: a user ended the task. Airflow (3.3) calls this, and waits for about a second only."""
        await self._in_background()

    async def cleanup(self) -> None:
        """Delete nothing on an ordinary exit. Before Airflow 3.3 this is the only sign of a kill."""
        if not self._fired and ending.shows_a_kill(TriggerTask.of(self)):
            await self._in_background()

    async def _in_background(self) -> None:
        await ending.to_its_end(self._delete())

    async def _delete(self) -> None:
        from ray_provider.clusters.handle import ClusterHandle
        from ray_provider.hooks import own_cluster

        handle = ClusterHandle.from_dict(self.cluster)
        try:
            if not await ending.was_ended(TriggerTask.of(self), self.log):
                return
            self.log.info("The task was ended: deleting its RayJob %s/%s.", handle.namespace, handle.rayjob)
            await own_cluster.delete(self.hook, handle)
        except Exception:
            # Nobody waits for this any more: the log is the one place where it can be told.
            self.log.exception("RayJob %s/%s could not be deleted. It is still there.", handle.namespace, handle.rayjob)


class RayJobEndTrigger(BaseTrigger):
    """Watches a RayJob that somebody else looks after until it has ended. Fires once.

    Whatever becomes of its task: it never stops the job, and deletes nothing.

    :param conn_id: connection of type ``ray``.
    :param cluster: the handle that names the RayJob; its cluster need not be known.
    :param deadline: when (seconds since 1970) waiting ends.
    :param since: when (seconds since 1970) it began.
    :param max_unreachable_seconds: how long a Ray that has answered before may not answer.
    :param deferred_at: when (seconds since 1970) the task was deferred: it does not come back at once.
    """

    def __init__(
        self,
        conn_id: str,
        cluster: Mapping[str, Any],
        deadline: float,
        since: float,
        *,
        max_unreachable_seconds: float = 600.0,
        deferred_at: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.cluster = dict(cluster)
        self.deadline = deadline
        self.since = since
        self.max_unreachable_seconds = max_unreachable_seconds
        self.deferred_at = deferred_at
        self.hook = RayHook(conn_id, allowed=CHECKED)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what the trigger is built from again: no secret."""
        return "ray_provider.triggers.RayJobEndTrigger", {
            "conn_id": self.conn_id,
            "cluster": self.cluster,
            "deadline": self.deadline,
            "since": self.since,
            "max_unreachable_seconds": self.max_unreachable_seconds,
            "deferred_at": self.deferred_at,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch the RayJob.

        :yield: one event: ``status`` (``ended`` or ``failed``), ``job_id`` and ``where`` (the RayJob), or ``error``.
        """
        began = time.time()
        try:
            event: dict[str, Any] = {"status": "ended", **await self._watch()}
        except RayProviderError as error:
            event = {"status": "failed", "error": failure.told(error)}
        await coming_back.wait(self.deferred_at, began)
        await LogEnd().taken(TriggerTask.of(self), self.log)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _watch(self) -> dict[str, str]:
        from ray_provider.clusters.handle import ClusterHandle
        from ray_provider.clusters.lifecycle.rayjob_end import wait_ended
        from ray_provider.hooks import own_rayjob

        handle = ClusterHandle.from_dict(self.cluster)
        kube_access, _ = await ending.reach(self.hook, handle.kubernetes, self.log)
        end = own_rayjob.judge_end(
            self.hook,
            handle,
            max_unreachable_seconds=self.max_unreachable_seconds,
            say=partial(watching.tell, self.log),
        )
        state = await wait_ended(kube_access, end, deadline=self.deadline, since=self.since)
        return {"job_id": state.job_id, "where": end.where}
