"""The trigger that watches a Ray cluster become ready while its task is deferred."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ray_provider._compat import BaseTrigger, TriggerEvent, TriggerTask
from ray_provider.exceptions import RayProviderError
from ray_provider.hooks.allowed import CHECKED
from ray_provider.hooks.ray import RayHook
from ray_provider.triggers import coming_back, ending, failure
from ray_provider.triggers.log_end import LogEnd

if TYPE_CHECKING:
    from ray_provider.clusters.handle import Access, ClusterHandle
    from ray_provider.clusters.kubernetes.access import KubernetesAccess


class RayClusterTrigger(BaseTrigger):
    """Watches a Ray cluster on Kubernetes until it is ready, or can't become so. Fires once.

    It never deletes the cluster because a triggerer is restarted or moved; it does when a user ends the task, if the
    task made the cluster.

    :param conn_id: connection of type ``ray``.
    :param cluster: the handle of the cluster.
    :param readiness: what is waited for, and how long (fields of ``ReadinessOptions``).
    :param stale_pods: uids of pods that have to be gone first, after an update.
    :param deadline: when (seconds since 1970) waiting ends.
    :param access: how the dashboard is reached; unless given, as the connection says.
    :param helm_path: Helm's executable, for the deletion.
    :param keep: leave the cluster when the task is ended.
    :param deferred_at: when (seconds since 1970) the task was deferred: it does not come back at once.
    :param not_before: what a trigger of an earlier release has instead: don't fire before this time.
    """

    _DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "stale_pods": [],
        "access": None,
        "helm_path": None,
        "keep": False,
        "deferred_at": None,
    }

    def __init__(
        self,
        conn_id: str,
        cluster: Mapping[str, Any],
        readiness: Mapping[str, Any],
        deadline: float,
        *,
        stale_pods: Sequence[str] = (),
        access: str | None = None,
        helm_path: str | None = None,
        keep: bool = False,
        deferred_at: float | None = None,
        not_before: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.cluster = dict(cluster)
        self.readiness = dict(readiness)
        self.deadline = deadline
        self.stale_pods = list(stale_pods)
        self.access = access
        self.helm_path = helm_path
        self.keep = keep
        if deferred_at is None and not_before is not None:
            deferred_at = not_before - coming_back.BEFORE
        self.deferred_at = deferred_at
        self.hook = RayHook(conn_id, allowed=CHECKED)
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what the trigger is built from again: no secret, and no argument that has its default value."""
        changed = {
            name: getattr(self, name) for name, default in self._DEFAULTS.items() if getattr(self, name) != default
        }
        return "ray_provider.triggers.RayClusterTrigger", {
            "conn_id": self.conn_id,
            "cluster": self.cluster,
            "readiness": self.readiness,
            "deadline": self.deadline,
            **changed,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch the cluster.

        :yield: one event: ``status`` (``ready`` or ``failed``), ``cluster`` and, of a failure, ``error``.
        """
        began = time.time()
        try:
            ready = await self._watch()
            event: dict[str, Any] = {"status": "ready", "cluster": ready.to_dict()}
        except RayProviderError as error:
            event = {"status": "failed", "cluster": self.cluster, "error": failure.told(error)}
        await coming_back.wait(self.deferred_at, began)
        await LogEnd().taken(TriggerTask.of(self), self.log)
        self._fired = True
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _watch(self) -> ClusterHandle:
        from ray_provider.clusters.handle import ClusterHandle
        from ray_provider.clusters.kuberay.readiness import ReadinessOptions
        from ray_provider.clusters.lifecycle.waiting import wait_ready

        kube_access, access = await self._reach()
        return await wait_ready(
            kube_access,
            ClusterHandle.from_dict(self.cluster),
            ReadinessOptions(**self.readiness),
            stale_pods=tuple(self.stale_pods),
            access=cast("Access", self.access or access),
            deadline=self.deadline,
            say=lambda line: self.log.info("%s", line),
        )

    async def _reach(self) -> tuple[KubernetesAccess, Access]:
        return await ending.reach(self.hook, self.cluster.get("kubernetes"), self.log)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def on_kill(self) -> None:
        """Delete what the task made: a user ended it. Airflow (3.3) calls this, and waits for about a second only."""
        await self._in_background()

    async def cleanup(self) -> None:
        """Delete nothing on an ordinary exit. Before Airflow 3.3 this is the only sign of a kill."""
        if not self._fired and ending.shows_a_kill(TriggerTask.of(self)):
            await self._in_background()

    async def _in_background(self) -> None:
        if self.keep:
            return
        await ending.to_its_end(self._delete())

    async def _delete(self) -> None:
        from ray_provider.clusters.handle import ClusterHandle
        from ray_provider.clusters.helm.releases import HelmOptions
        from ray_provider.clusters.lifecycle.removal import Leaving, delete_cluster

        handle = ClusterHandle.from_dict(self.cluster)
        try:
            if not await ending.was_ended(TriggerTask.of(self), self.log):
                return
            self.log.info("The task was ended: it gives Ray cluster %s/%s up.", handle.namespace, handle.name)
            kube_access, _ = await self._reach()
            await delete_cluster(
                kube_access,
                name=handle.name,
                namespace=str(handle.namespace),
                release=handle.release,
                who=Leaving(owner=handle.owner, found=not handle.created),
                helm=HelmOptions(path=self.helm_path),
                say=lambda line: self.log.info("%s", line),
            )
        except Exception:
            # Nobody waits for this any more: the log is the one place where it can be told.
            self.log.exception(
                "Ray cluster %s/%s could not be deleted. It is still there.", handle.namespace, handle.name
            )
