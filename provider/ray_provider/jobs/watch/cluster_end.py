"""Listens for a job's cluster being taken away from under it, beside the watch of the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_provider.jobs.watch.outcome import Interruption
    from ray_provider.jobs.watch.polling import Subscription

#: How long is waited for news of the cluster of a job that is lost.
_SETTLE_SECONDS = 5.0


class ClusterEnd:
    """What became of a job's cluster, as far as it is known.

    :param interrupted: returns when the cluster ends, or with ``None`` if that can't be known; ``None``: nobody knows.
    :param on_error: is given why it can't be known.
    """

    def __init__(
        self, interrupted: Callable[[], Awaitable[Interruption | None]] | None, on_error: Callable[[Exception], None]
    ) -> None:
        self.interruption: Interruption | None = None
        self._interrupted = interrupted
        self._on_error = on_error
        self._listening: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def listening(self, news: Subscription) -> AsyncIterator[None]:
        """Wake the watch when the cluster ends. It ends at its own pace: nothing of it is cancelled.

        :param news: what the watch waits for.
        """
        if self._interrupted is None:
            yield
            return
        self._listening = asyncio.create_task(self._listen(self._interrupted, news), name="end of a job's cluster")
        try:
            yield
        finally:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def settled(self) -> Interruption | None:
        """Wait a moment for what may come late, and give what is known then."""
        if self._listening is not None:
            await asyncio.wait({self._listening}, timeout=_SETTLE_SECONDS)
        return self.interruption

    async def _listen(self, wait: Callable[[], Awaitable[Interruption | None]], news: Subscription) -> None:
        try:
            self.interruption = await wait()
        except Exception as error:  # noqa: BLE001 (Ray itself is still asked; it is told)
            self._on_error(error)
        else:
            if self.interruption is not None:
                news.wake()
