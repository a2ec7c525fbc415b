"""Waits until an application runs as it was written, and no one has written over it meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import ServeError, ServeFailedError, ServeTimeoutError
from ray_provider.jobs.http import patience
from ray_provider.serve.client import ServeClient
from ray_provider.serve.reasons import Reason, health_in_log, reason_of
from ray_provider.serve.state import DEPLOY_FAILED, DEPLOYING, RUNNING, UNHEALTHY, ApplicationState, ServeState

#: The first pause between two looks, and the longest.
_FIRST_PAUSE, _PAUSE = 0.25, 2.0
Say = Callable[[str], object]


class OverwrittenError(ServeError):
    """What was written is not there any more: somebody else wrote at the same time."""


@dataclass(frozen=True, slots=True)
class WaitOptions:
    """How an application is waited for.

    :param deadline: when (seconds since 1970) waiting ends.
    :param settled_at: when (seconds since 1970) at the earliest it is believed: whoever read before our write has
        written by then.
    :param max_unreachable_seconds: how long a dashboard that does not answer is waited for.
    :param had: names of the deployments that the version before has.
    """

    deadline: float
    settled_at: float = 0.0
    max_unreachable_seconds: float = 600.0
    had: tuple[str, ...] = ()


async def wait_running(
    client: ServeClient, name: str, is_ours: Callable[[Mapping[str, Any]], bool], options: WaitOptions, *, say: Say
) -> ApplicationState:
    """Wait until an application runs with this configuration.

    :param client: an open client.
    :param name: of the application.
    :param is_ours: whether a configuration that Serve shows is the one that was written.
    :param options: how long.
    :param say: gets a line when something changes.
    :raises OverwrittenError: the configuration is another one, or gone.
    :raises ServeFailedError: it can't run: the reason is in the message.
    :raises ServeTimeoutError: it does not run in time: the reason is in the message, if there is one.
    """
    began, pause, said, had = time.time(), _FIRST_PAUSE, "", set(options.had)
    while True:
        application = (await look(client, options.max_unreachable_seconds, say)).applications.get(name)
        if application is None or application.config is None or not is_ours(application.config):
            raise OverwrittenError(f"The application {name!r} is not there as it was written.", name=name)
        if application.deployments and (gone := had - application.deployments.keys()):
            had -= gone
            say(
                f"WARNING: The new version of {name!r} has no deployment {', '.join(sorted(gone))}. Serve ends that of "
                "the version before at once: requests fail until the new ones run. Deployments that keep their names "
                "are replaced without that."
            )
        if application.status == DEPLOY_FAILED:
            raise await failure(client, application)
        if application.status == RUNNING and time.time() >= options.settled_at:
            say(f"Application {name!r} runs, after {time.time() - began:.1f} s of waiting.")
            return application
        if (line := progress(application)) != said:
            said = line
            say(line)
        if time.time() > options.deadline:
            raise await late(client, application, time.time() - began)
        await asyncio.sleep(max(0.05, min(pause, options.deadline - time.time() + 0.05)))
        pause = min(_PAUSE, pause * 1.3)


async def wait_for(client: ServeClient, name: str, options: WaitOptions, *, say: Say) -> ApplicationState:
    """Wait until an application runs that somebody else deploys, whenever that is.

    :param client: an open client.
    :param name: of the application.
    :param options: how long.
    :param say: gets a line when something changes.
    :raises ServeFailedError: it can't run: the reason is in the message.
    :raises ServeTimeoutError: it does not run in time: the reason is in the message, if there is one.
    """
    began, said = time.time(), ""
    while True:
        found = (await look(client, options.max_unreachable_seconds, say)).applications.get(name)
        if found is not None and found.status == RUNNING:
            return found
        if found is not None and found.status == DEPLOY_FAILED:
            raise await failure(client, found)
        line = progress(found) if found is not None else f"There is no application {name!r} yet."
        if line != said:
            said = line
            say(line)
        if time.time() > options.deadline:
            raise await late(client, found or ApplicationState(name, "absent"), time.time() - began)
        await asyncio.sleep(max(0.05, min(_PAUSE, options.deadline - time.time() + 0.05)))


async def look(client: ServeClient, max_unreachable_seconds: float, say: Say) -> ServeState:
    """Read what there is, patiently.

    :param client: an open client.
    :param max_unreachable_seconds: how long a dashboard that does not answer is waited for.
    :param say: gets a line when it does not answer, and when it does again.
    """
    return await patience.patiently(
        lambda: client.state(retry=RetryPolicy(deadline_seconds=5.0)),
        seconds=max_unreachable_seconds,
        known=True,
        tell=say,
    )


async def failure(client: ServeClient, application: ApplicationState) -> ServeFailedError:
    """Make the error for an application that can't run.

    :param client: an open client.
    :param application: as Serve shows it.
    """
    reason = await _reason(client, application)
    return ServeFailedError(
        f"Serve can't run the application {application.name!r}: {reason.text}",
        hint=reason.advice,
        name=application.name,
        status=application.status,
    )


async def late(client: ServeClient, application: ApplicationState, seconds: float) -> ServeTimeoutError:
    """Make the error for an application that does not run in time.

    :param client: an open client.
    :param application: as Serve shows it.
    :param seconds: that it was waited for.
    """
    reason = await _reason(client, application)
    return ServeTimeoutError(
        f"The application {application.name!r} did not run within {seconds:.0f} s ({application.status}): "
        f"{reason.text}",
        hint=reason.advice,
        name=application.name,
        status=application.status,
    )


async def _reason(client: ServeClient, application: ApplicationState) -> Reason:
    found = reason_of(application) or Reason(
        application.message or "Serve gives no reason.", "See the application in Ray's dashboard, page Serve."
    )
    if any(one.status == UNHEALTHY for one in application.deployments.values()):
        controller = (await client.state()).controller
        if why := await health_in_log(client.endpoint, application.name, controller):
            return Reason(f"{found.text} The last check said: {why}", found.advice)
    return found


def progress(application: ApplicationState) -> str:
    """Say how far an application is, in a line.

    :param application: as Serve shows it.
    """
    parts = [f"{one.name} {one.status}" for one in application.deployments.values()]
    line = f"Application {application.name!r}: {application.status}"
    if parts:
        line = f"{line} ({', '.join(parts)})"
    if application.status in (DEPLOYING, UNHEALTHY) and (found := reason_of(application)):
        return f"WARNING: {line}: {found.text}"
    return line
