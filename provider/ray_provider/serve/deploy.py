"""Deploys one application beside the others: read, merge, write, look again, wait; and takes it back.

Serve has no lock and no version of its configuration: of two who write at once, one may write over the other. Each
looks after its own application. Whoever read before our write has written a moment later, so an application counts as
deployed only when it is still as written after that moment; until then it is merged and written again when it is not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ray_provider.exceptions import ConfigurationError, RayApiError, RayConnectionError, RayProviderError, ServeError
from ray_provider.serve import merge, travel
from ray_provider.serve.client import ServeClient
from ray_provider.serve.removal import remove_application
from ray_provider.serve.state import DEPLOYING, NOT_STARTED, RUNNING, UNHEALTHY, ApplicationState
from ray_provider.serve.waiting import OverwrittenError, Say, WaitOptions, look, wait_running

Found = Literal["absent", "same", "other"]

#: How often it is written before somebody who writes against us is named.
_WRITES = 8
_FIRST_PAUSE = 0.3
#: Seconds after a write until which others may write over it who had read before; at least, and by how many times the
#: write itself took longer.
_SETTLE_SECONDS, _SETTLE_FACTOR = 3.0, 2.0
#: How long a write that was cut short may need to arrive.
_ARRIVE_SECONDS = 2.5
#: How long the former version is waited for when it was put back.
_BACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, and what was there before: all that is needed to wait for it and to take it back.

    :param name: of the application.
    :param digest: of the configuration, as Serve shows it.
    :param found: what was there: nothing, this very configuration, or another one.
    :param former: the other one.
    :param settled_at: when (seconds since 1970) it may be believed at the earliest.
    :param had: names of the deployments that the former version has.
    """

    name: str
    digest: str
    found: Found
    former: Mapping[str, Any] | None = field(default=None, repr=False)
    settled_at: float = 0.0
    had: tuple[str, ...] = ()

    def packed(self, written: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give it as data that may lie in a database; ``None``: it holds secrets.

        :param written: the configuration that was written.
        """
        data = {**asdict(self), "had": list(self.had)}
        if self.former is not None:
            data["former"] = travel.packed(self.former, written)
            if data["former"] is None:
                return None
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Written:
        """Read it back.

        :param data: as :meth:`packed` gave it.
        """
        known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        return cls(**{**known, "had": tuple(known.get("had", ()))})

    def is_ours(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration that Serve shows is this one.

        :param config: as Serve shows it.
        """
        return merge.digest(config) == self.digest


class Deploying:
    """One deploy. What it knows survives a cancellation at any point, so that it can be taken back.

    :param client: an open client.
    :param config: of the application; what is local has been uploaded.
    :param say: gets lines of progress.
    :param http_options: where Serve listens, if this is what starts it.
    :param insists: refuse a Serve that runs and listens elsewhere.
    :param before: what an earlier part of this deploy found; its write was written over.
    """

    def __init__(
        self,
        client: ServeClient,
        config: Mapping[str, Any],
        *,
        say: Say,
        http_options: Mapping[str, Any] | None = None,
        insists: bool = False,
        before: Written | None = None,
    ) -> None:
        self.client = client
        self.config = config
        self.name = str(config["name"])
        self.say = say
        self.http_options = http_options
        self.insists = insists
        #: Known from the first look on.
        self.found: Found | None = before.found if before else None
        self.former = before.former if before else None
        self.had = before.had if before else ()
        self.written: Written | None = None
        self._sent = False

    async def write(self) -> Written:
        """Write the application, until it is there as wanted.

        :raises ConfigurationError: it can't be; nothing of it stays.
        :raises ServeError: somebody else writes against it.
        """
        if self.former is not None:
            self.former = travel.unpacked(self.former, self.config)
        for number in range(1, _WRITES + 1):
            state = await look(self.client, 60.0, self.say)
            if self.insists and self.http_options:
                merge.check_http(state, self.http_options)
            own = state.applications.get(self.name)
            if number == 1 and self.found is None:
                self.found = self._compare(own)
                if self.found == "same" and own and own.status in (RUNNING, DEPLOYING, NOT_STARTED, UNHEALTHY):
                    self.say(f"Application {self.name!r} is there with this very configuration: {own.status}.")
                    return self._wrote(own, 0.0)
                if own is not None and self.found == "other":
                    self.former, self.had = merge.former_of(own), tuple(own.deployments)
                self.say(self._intent(own, state.runs))
                self._warn(own)
                if self.found == "same" and own and own.deployments and not own.has_replicas:
                    # Serve does not start again what failed with this very configuration.
                    await remove_application(self.client, self.name, say=self.say)
                    state = await look(self.client, 60.0, self.say)
            began = time.monotonic()
            await self._send(merge.with_application(state, self.config, self.http_options))
            took = time.monotonic() - began
            own = (await look(self.client, 60.0, self.say)).applications.get(self.name)
            if own is not None and own.config is not None:
                differs = merge.difference(self.config, own.config)
                if not differs:
                    return self._wrote(own, took)
                if not differs.other:
                    self._wrote(own, took)
                    raise ConfigurationError(
                        f"This Ray's Serve does not know {', '.join(differs.dropped)}, and leaves it out.",
                        hint="Leave it out, or use a cluster with a newer Ray.",
                        field=differs.dropped[0],
                    )
            self.say(f"Somebody else wrote at the same moment: application {self.name!r} is merged and written again.")
            await asyncio.sleep(_FIRST_PAUSE * number * random.uniform(0.3, 1.0))  # noqa: S311 (spreads writers)
        raise ServeError(
            f"Somebody else keeps writing over the application {self.name!r}: written {_WRITES} times, not there.",
            hint="Who else writes to this Serve? `serve deploy`, or a program that sends all applications it knows: it "
            "has to leave in what others deployed.",
            name=self.name,
        )

    @property
    def has_written(self) -> bool:
        """Whether there may be something to take back."""
        return self._sent

    async def _send(self, body: Mapping[str, Any]) -> None:
        self._sent = True
        try:
            await self.client.write(body)
        except (RayConnectionError, RayApiError) as error:
            # It may have arrived all the same: a look tells.
            if isinstance(error, RayApiError) and (not error.retryable or 400 <= (error.status or 0) < 500):
                raise
            self.say(f"WARNING: {error.message} Whether the write arrived is looked at.")

    def _wrote(self, own: ApplicationState, took: float) -> Written:
        settle = max(_SETTLE_SECONDS, _SETTLE_FACTOR * took) if self._sent else 0.0
        self.written = Written(
            name=self.name,
            digest=merge.digest(own.config or {}),
            found=self.found or "absent",
            former=self.former,
            settled_at=time.time() + settle,
            had=self.had,
        )
        return self.written

    def _warn(self, own: ApplicationState | None) -> None:
        if self.found != "other" or own is None or not (names := merge.interrupted(own, self.config)):
            return
        self.say(
            f"WARNING: Deployment {', '.join(names)} has one replica, which Serve stops before a new one starts: "
            "requests wait until then, and fail if it can't start. With max_surge_percent=100 (Ray 2.60, in "
            "`deployments` or in the code) the old one serves until then."
        )

    def _compare(self, own: ApplicationState | None) -> Found:
        if own is None or own.config is None or not own.is_there:
            return "absent"
        return "other" if merge.difference(self.config, own.config) else "same"

    def _intent(self, own: ApplicationState | None, runs: bool) -> str:
        if self.found == "other":
            return f"Application {self.name!r} is updated."
        what = "deployed again: its last deploy failed" if self.found == "same" and own else "deployed"
        return f"Application {self.name!r} is {what}{'' if runs else '; Serve is started for it'}."

    async def wait(self, deadline: float, *, max_unreachable_seconds: float = 600.0) -> ApplicationState:
        """Wait until it runs. Where somebody else writes over it, it is written again.

        :param deadline: when (seconds since 1970) waiting ends.
        :param max_unreachable_seconds: how long a dashboard that does not answer is waited for.
        :raises ServeError: it does not run in time, or somebody else keeps writing over it.
        """
        for _ in range(_WRITES):
            written = self.written or await self.write()
            options = WaitOptions(deadline, written.settled_at, max_unreachable_seconds, written.had)
            try:
                return await wait_running(self.client, self.name, self.is_ours, options, say=self.say)
            except OverwrittenError as error:
                self.say(f"WARNING: {error.message} It is merged and written again.")
                self.written = None
        raise ServeError(
            f"Somebody else keeps writing over the application {self.name!r}.",
            hint="Who else writes to this Serve, and leaves out what others deployed?",
            name=self.name,
        )

    def is_ours(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration that Serve shows is the wanted one.

        :param config: as Serve shows it.
        """
        if self.written is not None and self.written.is_ours(config):
            return True
        return not merge.difference(self.config, config)

    async def take_back(self, *, wait: bool = True) -> str:
        """Put back what was there before, if this deploy has written.

        :param wait: until the former version says that it runs.
        :return: what was done, as a sentence.
        """
        if not self._sent or self.found is None:
            return "Nothing was changed."
        written = self.written or Written(self.name, "", self.found, self.former)
        arrives = time.monotonic() + (_ARRIVE_SECONDS if self.written is None else 0.0)
        return await _take_back(self.client, written, self.is_ours, arrives=arrives, wait=wait, say=self.say)


async def with_way_back(error: RayProviderError, back: Callable[[], Awaitable[str]], *, keep: bool) -> RayProviderError:
    """Take a deploy that failed back, and give the error that says so.

    :param error: why it failed.
    :param back: takes it back, and says what was done.
    :param keep: leave it as it is.
    """
    if keep:
        done = "It is left as it is (keep_on_failure)."
    else:
        try:
            done = await back()
        except RayProviderError as second:
            done = f"What was there before could not be put back: {second.message}"
    message = error.message.rstrip()
    ended = message if message.endswith((".", "!", "…", ")")) else f"{message}."
    return type(error)(f"{ended} {done}", hint=error.hint, **error.data)


async def take_back(client: ServeClient, written: Written, *, wait: bool = True, say: Say) -> str:
    """Put back what was there before a deploy: for whoever knows of it only what travelled.

    :param client: an open client.
    :param written: what was written.
    :param wait: until the former version says that it runs.
    :param say: gets lines of progress.
    :return: what was done, as a sentence.
    """
    return await _take_back(client, written, written.is_ours, arrives=0.0, wait=wait, say=say)


async def _take_back(
    client: ServeClient, written: Written, is_ours: Any, *, arrives: float, wait: bool, say: Say
) -> str:
    name = written.name
    if written.found == "same":
        return "The application was there with this very configuration before: it is left as it is."
    while True:
        own = (await look(client, 30.0, say)).applications.get(name)
        if own is not None and own.config is not None and is_ours(own.config):
            break
        if time.monotonic() > arrives:
            if own is None or own.config is None:
                return f"There is no application {name!r} any more."
            return f"Somebody else has deployed {name!r} since: that is left as it is."
        await asyncio.sleep(0.2)
    if written.former is None:
        await remove_application(client, name, timeout=_BACK_SECONDS if wait else None, say=say)
        return "The application, which was not there before, was removed again."
    former = travel.unpacked(written.former, own.config)
    back = Deploying(client, former, say=say, before=Written(name, "", "other"))
    await back.write()
    if not wait:
        return "The former configuration was put back."
    try:
        await back.wait(time.time() + _BACK_SECONDS)
    except RayProviderError as error:
        return f"The former configuration was put back, but does not run yet: {error.message}"
    return "The former version was put back, and runs."
