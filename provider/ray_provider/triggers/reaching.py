"""Asks patiently for what a connection leads to: a restarted triggerer may be up before what it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ray_provider.exceptions import ConfigurationError, RayProviderError

if TYPE_CHECKING:
    from ray_provider.hooks.ray import RayHook
    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.triggers.watching import Log

T = TypeVar("T")

#: How long a trigger tries to read its connection.
SETTLE_SECONDS = 30.0


async def patiently(
    ask: Callable[[], Awaitable[T]], limit: Callable[[Exception], float], tell: Callable[[Exception], None]
) -> T:
    """Ask until there is an answer.

    :param ask: for it.
    :param limit: gives how many seconds, since it was first asked, an error is waited out.
    :param tell: is given each error that is waited out.
    :raises ConfigurationError: the connection can't work.
    :raises Exception: what was met last, when its time is over.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    pause = 0.5
    while True:
        try:
            return await ask()
        except ConfigurationError:
            raise
        except Exception as error:
            # Airflow, the secrets backend and the clouds' clients are asked. Their errors have no common base: where
            # Airflow reads an error of its API server as if it were the answer, it is an AttributeError.
            if loop.time() - began + pause > limit(error):
                raise
            tell(error)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 10.0)


async def dashboard(
    hook: RayHook,
    cluster: Mapping[str, Any] | None,
    url: str | None = None,
    *,
    max_unreachable_seconds: float,
    what: str,
    log: Log,
) -> RayEndpoint:
    """Find the dashboard; for a while also when what has to be asked for that does not answer yet.

    :param hook: of the connection.
    :param cluster: the handle of the cluster, if not the connection's.
    :param url: of the dashboard, if there is no handle.
    :param max_unreachable_seconds: seconds that an error of ours is waited out; others: half a minute.
    :param what: that is looked for there, for the log.
    :param log: the trigger's.
    :raises ConfigurationError: the connection can't work.
    """
    return await patiently(
        lambda: hook.endpoint(cluster, url),
        lambda error: max_unreachable_seconds if isinstance(error, RayProviderError) else SETTLE_SECONDS,
        lambda error: log.warning("Can't tell yet where %s runs, trying again: %s", what, error),
    )
