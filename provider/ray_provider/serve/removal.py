"""Removes one application and leaves the others: by a write of all but that one, until it is gone and stays so."""

from __future__ import annotations

import asyncio
import random
import time

from ray_provider.exceptions import ConfigurationError, RayApiError, RayConnectionError, ServeTimeoutError
from ray_provider.serve import merge
from ray_provider.serve.client import ServeClient
from ray_provider.serve.waiting import Say, look

#: Seconds after a write until which others may bring the application back who had read before.
_SETTLE_SECONDS = 3.0
_PAUSE = 0.3


async def remove_application(client: ServeClient, name: str, *, timeout: float | None = 120.0, say: Say) -> bool:
    """Remove an application, and wait until it is gone.

    :param client: an open client.
    :param name: of the application.
    :param timeout: seconds for all of it; ``None``: only write.
    :param say: gets lines of progress.
    :return: whether there was one.
    :raises ConfigurationError: a job made it: a write by REST does not remove it.
    :raises ServeTimeoutError: it is still there.
    """
    began = time.monotonic()
    removed, settled, seen = False, 0.0, ""
    while True:
        state = await look(client, 60.0, say)
        own = state.applications.get(name)
        if own is None and (not removed or time.monotonic() >= settled):
            say(
                f"Application {name!r} is gone." if removed else f"There is no application {name!r}: nothing to delete."
            )
            return removed
        if own is not None and own.is_there:
            if own.is_imperative:
                raise ConfigurationError(
                    f"A job made the application {name!r} (serve.run): it is not removed by REST.",
                    hint=f"End it in that job: serve.delete({name!r}).",
                    field="name",
                )
            if removed:
                say(f"Somebody else wrote at the same moment, with {name!r} in it: it is removed again.")
            removed = True
            await _write(client, merge.without_application(state, name), say)
            settled = time.monotonic() + _SETTLE_SECONDS
            if timeout is None:
                return True
            continue
        if own is not None:
            removed = True
            if own.status != seen:
                seen = own.status
                say(f"Application {name!r}: {own.status}")
        if timeout is not None and time.monotonic() - began > timeout:
            raise ServeTimeoutError(
                f"The application {name!r} was not gone after {timeout:.0f} s: {own.status if own else 'it is back'}.",
                hint="Replicas end the requests in flight first (graceful_shutdown_timeout_s). See Ray's dashboard.",
                name=name,
            )
        await asyncio.sleep(_PAUSE * random.uniform(0.7, 1.3))  # noqa: S311 (spreads writers)


async def _write(client: ServeClient, body: dict[str, object], say: Say) -> None:
    try:
        await client.write(body)
    except (RayConnectionError, RayApiError) as error:
        if isinstance(error, RayApiError) and (not error.retryable or 400 <= (error.status or 0) < 500):
            raise
        say(f"WARNING: {error.message} Whether the write arrived is looked at.")
