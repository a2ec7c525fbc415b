"""Wait for a Ray that does not answer for a while, and say so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ray_provider._shared.retry import GATEWAY, TOO_MANY_REQUESTS, RetryPolicy, may_pass
from ray_provider.exceptions import RayApiError, RayConnectionError
from ray_provider.jobs.http.errors import is_about_tls

T = TypeVar("T")

#: For the requests in between: the first line for people comes after this time.
REQUESTS = RetryPolicy(deadline_seconds=10.0)
#: How long an address that has never answered is tried, and a dashboard that fails by itself: both may be for good.
DOUBTFUL_SECONDS = 60.0
#: What a proxy says of a dashboard that is not there now.
_AWAY = GATEWAY | {TOO_MANY_REQUESTS}
_BACKOFF = RetryPolicy(first_delay=0.5, max_delay=5.0)


async def patiently(
    ask: Callable[[], Awaitable[T]], *, seconds: float, known: bool, tell: Callable[[str], object]
) -> T:
    """Ask again while nobody answers. What is asked has to be safe to repeat.

    :param ask: raises :class:`RayConnectionError` or :class:`RayApiError` when there is no answer.
    :param seconds: how long to go on; at most a minute where the failure may be for good.
    :param known: the address has answered before, so that what is there is no mistake in the connection.
    :param tell: gets a line for people when waiting begins and when it ends.
    :raises RayConnectionError: nobody answered in time.
    :raises RayApiError: the dashboard was away, or failed, all the time; or an error that waiting does not change.
    """
    loop = asyncio.get_running_loop()
    began = since = loop.time()
    failures = 0
    before: tuple[object, ...] = ()
    while True:
        try:
            answer = await ask()
        except (RayConnectionError, RayApiError) as error:
            limit = _patience(error, seconds, known=known)
            if (kind := (type(error), error.data.get("status"))) != before:
                # What follows an outage has not had its time yet: a dashboard that just came back waits for its agent.
                before, since = kind, loop.time()
            failures += 1
            pause = _BACKOFF.delay(failures)
            if loop.time() - began + pause > seconds or loop.time() - since + pause > limit:
                raise
            if failures == 1:
                tell(f"Ray can't be asked: {error.message} Going on for {limit:.0f} s.")
        else:
            if failures:
                tell(f"Ray answers again, after {loop.time() - began:.0f} s.")
            return answer
        await asyncio.sleep(pause)


def _patience(error: RayConnectionError | RayApiError, seconds: float, *, known: bool) -> float:
    """Tell for how many seconds an error may be waited out; 0: it will be the same the next time."""
    doubtful = min(seconds, DOUBTFUL_SECONDS)
    if isinstance(error, RayConnectionError):
        if is_about_tls(error):
            return 0.0
        return seconds if known else doubtful
    status = error.status or 0
    if status in _AWAY:
        return seconds
    return doubtful if error.retryable and may_pass(status) else 0.0
