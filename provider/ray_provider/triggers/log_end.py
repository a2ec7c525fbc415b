"""Waits until a trigger's last log records have been read: with the trigger's end Airflow closes the task's log.

Records and events of all triggers go to the triggerer's supervisor through two sockets. A turn of the supervisor reads
at most 4 KiB of records and one request (Airflow 3.0 to 3.3); records that come after the trigger's end are lost. So a
request that is answered is a turn that is over, and so many of them are waited for as the records may need.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from ray_provider import _compat
from ray_provider._shared import xcom_keys
from ray_provider.triggers import watching

if TYPE_CHECKING:
    from ray_provider._compat import TriggerTask

#: What a turn reads of the records, and what the socket holds at most (bytes).
_TURN_BYTES = 4096
_SOCKET_BYTES = 212_992
#: What a record has beside its text (bytes): times, names, ids.
_RECORD_BYTES = 512
#: How far to look back (s), and how long the end of a log is waited for at most (s).
_WINDOW = 5.0
_PATIENCE = 30.0

#: How many requests of this process's triggers have been answered: each of them is a turn, whoever asked.
_answered = 0


class LogEnd:
    """Knows what may still be on its way of a trigger's log."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=256)

    def passed_on(self, size: int, records: int = 1) -> None:
        """Count some records.

        :param size: of their text, in bytes.
        :param records: how many they are.
        """
        # Short lines: their ends take two bytes in a record.
        self._recent.append((time.monotonic(), 2 * size + records * _RECORD_BYTES))

    def turns(self) -> int:
        """Tell how many turns of the supervisor may be needed; what others log may fill one."""
        since = time.monotonic() - _WINDOW
        recent = sum(size for at, size in self._recent if at >= since)
        return 2 + min(recent, _SOCKET_BYTES) // _TURN_BYTES

    async def taken(self, task: TriggerTask | None, log: watching.Log) -> None:
        """Wait until all of it has been read.

        :param task: the trigger's; ``None``: there is no supervisor (``dag.test``).
        :param log: told if it can't be known.
        """
        global _answered  # noqa: PLW0603
        if task is None:
            return
        until = _answered + self.turns()
        try:
            async with asyncio.timeout(_PATIENCE):
                while _answered < until:
                    await _compat.get_xcom(task, xcom_keys.OFFSET)
                    _answered += 1
        except (TimeoutError, _compat.AirflowUnansweredError) as error:
            # The job's end is told all the same.
            log.warning("The last lines of the log may be missing here: Airflow does not answer (%r).", error)
