"""How long a deferred task has to stay away: the same for every trigger."""

from __future__ import annotations

import asyncio
import time

from ray_provider._compat import conf

#: What a scheduler gets at least to see the end of a worker's process, and what a slow Airflow gets at most.
_SECONDS = 5.0
_SECONDS_AT_MOST = 30.0
#: How much longer it may take than the trigger took to begin: at a load of 20 on two CPUs four times (6.6 s, 1.5 s).
_TIMES_LATE = 5.0
#: Airflow's own default of ``[workers] min_heartbeat_interval``.
_HEARTBEAT_SECONDS = 5.0
#: What an earlier release added to the time of the deferral.
BEFORE = 6.0


async def wait(deferred_at: float | None, began: float) -> None:
    """Wait before a trigger fires, if its task was deferred just now.

    :param deferred_at: when (seconds since 1970) the task was deferred; ``None``: it is not known, or does not matter.
    :param began: when (seconds since 1970) the trigger began to run.
    """
    if deferred_at is not None:
        await asyncio.sleep(seconds(deferred_at, began))


def seconds(deferred_at: float, began: float) -> float:
    """Tell how long a task that was deferred just now has to stay away.

    Airflow fails a task that comes back before the scheduler has seen its first worker process end. Whoever supervises
    that process may see its end a heartbeat's interval late (Airflow 3.3); then the scheduler has to hear of it. How
    long that takes shows in how long the trigger took to begin: on a machine with too much to do, both take their time.

    :param deferred_at: when (seconds since 1970) the task left.
    :param began: when the trigger did.
    :return: from now on.
    """
    heartbeat: float = conf.getfloat("workers", "min_heartbeat_interval", fallback=_HEARTBEAT_SECONDS)
    away = min(heartbeat + max(_SECONDS, _TIMES_LATE * (began - deferred_at)), _SECONDS_AT_MOST)
    return min(max(0.0, deferred_at + away - time.time()), _SECONDS_AT_MOST)
