"""The trigger that watches a RayService until it serves what was written, while its task is deferred."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ray_provider._compat import BaseTrigger, TriggerEvent, TriggerTask
from ray_provider.exceptions import RayProviderError
from ray_provider.hooks.allowed import CHECKED
from ray_provider.hooks.ray import RayHook
from ray_provider.triggers import coming_back, ending, failure, watching
from ray_provider.triggers.log_end import LogEnd

if TYPE_CHECKING:
    from ray_provider.clusters.handle import Access


class RayServiceTrigger(BaseTrigger):
    """Watches a RayService until it serves what a task wrote, or can't. Fires once.

    It changes nothing because a triggerer is restarted or moved. Where the deploy fails, or a user ends the task, the
    version before is put back; one that made the RayService deletes it again. What is needed for that lies on the
    RayService itself.

    :param conn_id: connection of type ``ray``.
    :param service: what was written (fields of ``Deployed``).
    :param wait: how it is waited for (fields of ``WaitOptions``).
    :param kubernetes: which Kubernetes, as handles say it; unless given, the connection's.
    :param access: the way to dashboards; unless given, as the connection says.
    :param keep: leave a deploy that fails as it is.
    :param deferred_at: when (seconds since 1970) the task was deferred: it does not come back at once.
    """

    _DEFAULTS: ClassVar[Mapping[str, Any]] = {"kubernetes": None, "access": None, "keep": False, "deferred_at": None}

    def __init__(
        self,
        conn_id: str,
        service: Mapping[str, Any],
        wait: Mapping[str, Any],
        *,
        kubernetes: Mapping[str, Any] | None = None,
        access: str | None = None,
        keep: bool = False,
        deferred_at: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.service = dict(service)
        self.wait = dict(wait)
        self.kubernetes = dict(kubernetes) if kubernetes else None
        self.access = access
        self.keep = keep
        self.deferred_at = deferred_at
        self.hook = RayHook(conn_id, allowed=CHECKED)
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what the trigger is built from again: no secret, and no argument that has its default value."""
        changed = {
            name: getattr(self, name) for name, default in self._DEFAULTS.items() if getattr(self, name) != default
        }
        return "ray_provider.triggers.RayServiceTrigger", {
            "conn_id": self.conn_id,
            "service": self.service,
            "wait": self.wait,
            **changed,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch the RayService.

        :yield: one event: ``status`` (``serving`` or ``failed``), ``service``, ``cluster`` (that serves) and, of a
            failure, ``error``.
        """
        began = time.time()
        try:
            event: dict[str, Any] = {"status": "serving", "cluster": await self._watch()}
        except RayProviderError as error:
            event = {"status": "failed", "error": failure.told(error)}
        event["service"] = self.service
        await coming_back.wait(self.deferred_at, began)
        await LogEnd().taken(TriggerTask.of(self), self.log)
        self._fired = True
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _watch(self) -> str:
        from ray_provider.clusters.rayservice.going_back import go_back
        from ray_provider.clusters.rayservice.waiting import Deployed, WaitOptions, wait_deployed
        from ray_provider.serve.deploy import with_way_back

        kube_access, access = await ending.reach(self.hook, self.kubernetes, self.log)
        access = cast("Access", self.access or access)
        deployed = Deployed(**self.service)
        try:
            return await wait_deployed(kube_access, deployed, WaitOptions(**self.wait), access=access, say=self._say)
        except RayProviderError as error:
            back = partial(go_back, kube_access, deployed, access=access, say=self._say)
            raise await with_way_back(error, back, keep=self.keep) from error

    def _say(self, line: str) -> None:
        watching.tell(self.log, line)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def on_kill(self) -> None:
        """Put back what was there before: a user ended the task. Airflow (3.3) waits for this about a second only."""
        await self._in_background()

    async def cleanup(self) -> None:
        """Change nothing on an ordinary exit. Before Airflow 3.3 this is the only sign of a kill."""
        if not self._fired and ending.shows_a_kill(TriggerTask.of(self)):
            await self._in_background()

    async def _in_background(self) -> None:
        await ending.to_its_end(self._take_back())

    async def _take_back(self) -> None:
        from ray_provider.clusters.rayservice.going_back import go_back
        from ray_provider.clusters.rayservice.waiting import Deployed

        deployed = Deployed(**self.service)
        where = f"{deployed.namespace}/{deployed.name}"
        try:
            if not await ending.was_ended(TriggerTask.of(self), self.log):
                return
            self.log.info("The task was ended: the deploy of RayService %s is taken back.", where)
            kube_access, _ = await ending.reach(self.hook, self.kubernetes, self.log)
            self.log.info("%s", await go_back(kube_access, deployed, wait=False, say=self._say))
        except Exception:
            # Nobody waits for this any more: the log is the one place where it can be told.
            self.log.exception("The deploy of RayService %s could not be taken back.", where)
