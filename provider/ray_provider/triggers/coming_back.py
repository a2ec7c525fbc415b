"""How long a deferred task has to stay away: the same for every trigger."""

from __future__ import annotations

import asyncio
import time

#: How long after its deferral a task may come back at the earliest, and what a slow Airflow gets at most.
SECONDS = 6.0
_SECONDS_AT_MOST = 30.0


async def wait(deferred_at: float | None, began: float) -> None:
    """Wait before a trigger fires, if its task was deferred just now.

    :param deferred_at: when (seconds since 1970) the task was deferred; ``None``: it is not known, or does not matter.
    :param began: when (seconds since 1970) the trigger began to run.
    """
    if deferred_at is not None:
        await asyncio.sleep(seconds(deferred_at, began))


def seconds(deferred_at: float, began: float) -> float:
    """Tell how long a task that was deferred just now has to stay away.

    Airflow fails a task that comes back before the scheduler has seen its first worker process end. How long that takes
    shows in how long the trigger took to begin: on a machine with too much to do, both take their time.
    """
    away = min(max(SECONDS, 3 * (began - deferred_at)), _SECONDS_AT_MOST)
    return min(max(0.0, deferred_at + away - time.time()), _SECONDS_AT_MOST)
