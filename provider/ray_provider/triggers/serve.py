"""The trigger that watches an application of Ray Serve until it runs, while its task is deferred."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ray_provider._compat import BaseTrigger, TriggerEvent, TriggerTask
from ray_provider.exceptions import RayProviderError
from ray_provider.hooks.allowed import CHECKED
from ray_provider.hooks.ray import RayHook
from ray_provider.triggers import coming_back, ending, failure, reaching, watching
from ray_provider.triggers.log_end import LogEnd

if TYPE_CHECKING:
    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.serve.client import ServeClient
    from ray_provider.serve.deploy import Written

#: Seconds for the way back after a kill.
_REQUEST_SECONDS = 30.0


class RayServeTrigger(BaseTrigger):
    """Watches an application of Ray Serve until it runs, or can't. Fires once.

    It changes nothing because a triggerer is restarted or moved. Where the deploy fails, or a user ends the task, it
    puts back what was there before.

    :param conn_id: connection of type ``ray``.
    :param name: of the application.
    :param deadline: when (seconds since 1970) waiting ends.
    :param written: what the task wrote, and what was there before, without secrets; ``None``: somebody else deploys it,
        and nothing is ever put back.
    :param cluster: handle of the cluster, if not the connection's.
    :param keep: leave a deploy that fails as it is.
    :param max_unreachable_seconds: how long a dashboard that does not answer is waited for.
    :param deferred_at: when (seconds since 1970) the task was deferred: it does not come back at once.
    """

    _DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "written": None,
        "cluster": None,
        "keep": False,
        "max_unreachable_seconds": 600.0,
        "deferred_at": None,
    }

    def __init__(
        self,
        conn_id: str,
        name: str,
        deadline: float,
        *,
        written: Mapping[str, Any] | None = None,
        cluster: Mapping[str, Any] | None = None,
        keep: bool = False,
        max_unreachable_seconds: float = 600.0,
        deferred_at: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.name = name
        self.deadline = deadline
        self.written = dict(written) if written else None
        self.cluster = dict(cluster) if cluster else None
        self.keep = keep
        self.max_unreachable_seconds = max_unreachable_seconds
        self.deferred_at = deferred_at
        self.hook = RayHook(conn_id, allowed=CHECKED)
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Give what the trigger is built from again: no secret, and no argument that has its default value."""
        changed = {
            name: getattr(self, name) for name, default in self._DEFAULTS.items() if getattr(self, name) != default
        }
        return "ray_provider.triggers.RayServeTrigger", {
            "conn_id": self.conn_id,
            "name": self.name,
            "deadline": self.deadline,
            **changed,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch the application.

        :yield: one event: ``status`` (``running``, ``overwritten`` or ``failed``), ``name``, ``written`` and, of a
            failure, ``error``.
        """
        began = time.time()
        await watching.load()
        event: dict[str, Any] = {"name": self.name, "written": self.written, "deadline": self.deadline}
        try:
            event["status"] = await self._watch()
        except RayProviderError as error:
            event |= {"status": "failed", "error": failure.told(error)}
        await coming_back.wait(self.deferred_at, began)
        await LogEnd().taken(TriggerTask.of(self), self.log)
        self._fired = True
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _watch(self) -> str:
        from ray_provider.serve.client import ServeClient
        from ray_provider.serve.deploy import Written, with_way_back
        from ray_provider.serve.waiting import OverwrittenError, WaitOptions, wait_for, wait_running

        endpoint = await self._reach()
        written = Written.from_dict(self.written) if self.written else None
        options = WaitOptions(
            self.deadline,
            written.settled_at if written else 0.0,
            float(self.max_unreachable_seconds),
            written.had if written else (),
        )
        async with self.hook.using(self.cluster), ServeClient(endpoint) as client:
            if written is None:
                await wait_for(client, self.name, options, say=self._say)
                return "running"
            try:
                await wait_running(client, self.name, written.is_ours, options, say=self._say)
            except OverwrittenError as error:
                self._say(error.message)
                return "overwritten"
            except RayProviderError as error:
                raise await with_way_back(error, partial(self._back, client, written), keep=self.keep) from error
        return "running"

    async def _back(self, client: ServeClient, written: Written, *, wait: bool = True) -> str:
        from ray_provider.serve.deploy import take_back

        return await take_back(client, written, wait=wait, say=self._say)

    async def _reach(self) -> RayEndpoint:
        return await reaching.dashboard(
            self.hook,
            self.cluster,
            max_unreachable_seconds=self.max_unreachable_seconds,
            what=f"application {self.name!r}",
            log=self.log,
        )

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
        if self.written:
            await ending.to_its_end(self._take_back())

    async def _take_back(self) -> None:
        from ray_provider.serve.client import ServeClient
        from ray_provider.serve.deploy import Written

        try:
            if not await ending.was_ended(TriggerTask.of(self), self.log):
                return
            self.log.info("The task was ended: the deploy of application %r is taken back.", self.name)
            async with ServeClient(await self._reach(), timeout=_REQUEST_SECONDS) as client:
                self.log.info("%s", await self._back(client, Written.from_dict(self.written or {}), wait=False))
        except Exception:
            # Nobody waits for this any more: the log is the one place where it can be told.
            self.log.exception("The deploy of application %r could not be taken back.", self.name)
