"""Follow a job's log: every line once and in order, over broken connections, from any byte on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import RayApiError, RayProviderError
from ray_provider.jobs.http.errors import kubernetes_status
from ray_provider.jobs.http.incoming import MESSAGE_BYTES
from ray_provider.jobs.ray_versions import log_files_are_plain
from ray_provider.jobs.watch.loglines import MAX_BATCH_LINES, LineCutter, LogBatch

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient

__all__ = ["LogBatch", "LogFollower"]

#: Up to here the whole file is read once more after the job's end: the quickest way to know that nothing is missing.
SMALL_LOG_BYTES = 4 * 1024 * 1024
#: A progress bar without an end of line is shown this often.
PROGRESS_BAR_SECONDS = 10.0
_log = logging.getLogger(__name__)

#: No byte of a file for so long: it is asked for again. A head that starts many jobs answers late, or not at all.
_FILE_SECONDS = 20.0
_TAIL_BYTES = 32 * 1024
_TAIL_LINES = 50
_BACKOFF = RetryPolicy(first_delay=0.5, max_delay=10.0)


@dataclass(slots=True)
class _Live:
    """Where the live stream is: bytes of the file that were handed over, and bytes still to leave out."""

    position: int
    skip: int = 0


class LogFollower:
    """Follows the log of one job.

    Whoever watches the status says where the driver runs (:meth:`locate`) and that the job has ended (:meth:`finish`).

    :param client: an open client.
    :param submission_id: of the job.
    :param offset: bytes of the log that were passed on before.
    :param lines_passed: lines of the log that were passed on before.
    :param max_lines: pass on so many in all; the others are counted.
    :param interval: seconds after which Ray looks for new lines.
    :param drain_seconds: how long to go on after the job's end when nothing comes.
    """

    def __init__(
        self,
        client: RayJobsClient,
        submission_id: str,
        *,
        offset: int = 0,
        lines_passed: int = 0,
        max_lines: int | None = None,
        interval: float = 0.5,
        drain_seconds: float = 60.0,
    ) -> None:
        self.client = client
        self.submission_id = submission_id
        self.interval = interval
        self.drain_seconds = drain_seconds
        self.max_lines = max_lines
        #: Bytes of the file passed on so far.
        self.offset = offset
        self.lines_passed = lines_passed
        self.lines_left_out = 0
        #: Why the end of the log is missing, if it is.
        self.incomplete: str | None = None
        self._cutter = LineCutter(offset)
        self._tail = bytearray()
        self._node_id: str | None = None
        self._located = asyncio.Event()
        self._finished = False
        self._chunk: bytes | None = None
        #: There is a chunk, or the job has ended, or the pump broke.
        self._wake = asyncio.Event()
        #: The last chunk was taken.
        self._room = asyncio.Event()
        self._drain = True
        self._websocket = False
        #: The State API of an old Ray spoils log files: only the WebSocket gives them as they are.
        self._only_websocket = False
        self._too_long: str | None = None
        self._finished_at = 0.0
        self._last_data = time.monotonic()
        self._last_given = time.monotonic()

    @property
    def filename(self) -> str:
        """The log's name in Ray's log folder."""
        return f"job-driver-{self.submission_id}.log"

    def locate(self, node_id: str | None) -> None:
        """Say on which node the driver runs.

        :param node_id: None: not known yet.
        """
        if node_id:
            self._node_id = node_id
            self._located.set()

    def finish(self, *, drain: bool = True) -> None:
        """Say that the job has ended: take the rest and end.

        :param drain: false: there is nothing left to take, or nobody to take it from.
        """
        self._drain = drain
        self._finished_at = time.monotonic()
        self._finished = True
        self._wake.set()

    async def batches(self) -> AsyncIterator[LogBatch]:
        """Give the log's lines until the job has ended and all is read."""
        pump = asyncio.create_task(self._pump(), name=f"log of {self.submission_id}")
        pump.add_done_callback(lambda _pump: self._wake.set())
        try:
            while not self._is_caught_up():
                data = await self._next_chunk(pump)
                if data:
                    self._feed(data)
                for batch in self._ready():
                    if batch is not None:
                        yield batch
                    await asyncio.sleep(0)
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        if self._drain and self._located.is_set():
            async for data in self._rest():
                self._feed(data)
                for batch in self._ready():
                    if batch is not None:
                        yield batch
                    await asyncio.sleep(0)
        for batch in self._ready(ended=True):
            if batch is not None:
                yield batch

    # What comes while the job runs ------------------------------------------------------------------------------

    # By hand, and not by a queue and tasks that wait for it: a thousand logs are followed by one event loop, and each
    # object that waits for years is one that the garbage collector looks at.

    async def _next_chunk(self, pump: asyncio.Task[None]) -> bytes | None:
        """Wait for bytes, for the job's end, or until a progress bar wants to be shown."""
        if self._chunk is None and not pump.done():
            self._wake.clear()
            if self._finished:
                timeout: float | None = self.interval / 4
            else:
                timeout = PROGRESS_BAR_SECONDS if self._cutter.pending else None
            if timeout is None:
                await self._wake.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await self._wake.wait()
        if pump.done():
            pump.result()  # it never ends by itself: this raises
        chunk, self._chunk = self._chunk, None
        self._room.set()
        return chunk

    async def _hand_over(self, chunk: bytes) -> None:
        """Give bytes to whoever waits for the next chunk, once the last ones are taken."""
        while self._chunk is not None:
            self._room.clear()
            await self._room.wait()
        self._chunk = chunk
        self._wake.set()

    def _is_caught_up(self) -> bool:
        """Tell whether to leave the live stream: the job has ended, and what is missing is quickly read."""
        if not self._finished:
            return False
        if not self._drain or not self._located.is_set():
            return True
        if self._websocket or self._cutter.received <= SMALL_LOG_BYTES:
            return True
        # A long log is not read twice: the stream goes on until it is silent for longer than Ray's own pause.
        return time.monotonic() - max(self._last_data, self._finished_at) > 1.5 * self.interval

    async def _pump(self) -> None:
        """Read the live stream and hand it over, and open it again whenever it breaks."""
        import aiohttp

        await self._located.wait()
        self._only_websocket = self._websocket = not await log_files_are_plain(self.client)
        live = _Live(self._cutter.received)
        failures = 0
        while True:
            began = live.position
            live.skip = began
            try:
                if self._websocket:
                    async for data in self._tail_chunks():
                        await self._pass(live, data)
                else:
                    opened = self.client.log_stream(str(self._node_id), self.filename, interval=self.interval)
                    async with opened as response:
                        while data := await response.readany():
                            await self._pass(live, data)
            except RayApiError as error:
                self._choose(error)
            except (RayProviderError, aiohttp.ClientError, OSError) as error:
                # Whether Ray can be reached, the status' own requests tell.
                _log.debug("The log stream of %s broke: %s", self.submission_id, error)
            failures = 1 if live.position > began else failures + 1
            await asyncio.sleep(_BACKOFF.delay(failures))

    def _choose(self, error: RayApiError) -> None:
        """Go over to the WebSocket, or back, where that promises more.

        404: there is no State API (a Ray without it), or something between answers for a while. 429: the State API
        takes so many requests at a time, log streams included; one that was left counts until its job prints a line.
        """
        if self._only_websocket:
            return
        absent = error.status == 404 and not kubernetes_status(str(error.data.get("body", "")))
        if absent or error.status == 429 or self._websocket:
            self._websocket = not self._websocket

    async def _pass(self, live: _Live, data: bytes) -> None:
        """Hand over what is new: a stream begins at the file's first byte each time."""
        if live.skip >= len(data):
            live.skip -= len(data)
            return
        fresh = data[live.skip :] if live.skip else data
        live.skip = 0
        live.position += len(fresh)
        await self._hand_over(fresh)

    async def _tail_chunks(self) -> AsyncIterator[bytes]:
        import aiohttp

        async with self.client.log_tail(self.submission_id) as websocket:
            while True:
                message = await websocket.receive(timeout=_FILE_SECONDS if self._finished else None)
                if message.type is not aiohttp.WSMsgType.TEXT:
                    if websocket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
                        self._too_long = f"A message of the log has more than {MESSAGE_BYTES // 1024**2} MiB."
                        raise RayApiError(self._too_long)
                    return
                yield message.data.encode("utf-8", "replace")

    # What is left when it has ended -----------------------------------------------------------------------------

    async def _rest(self) -> AsyncIterator[bytes]:
        """Read what the live stream had not brought when the job ended."""
        patience = time.monotonic() + self.drain_seconds
        failures = 0
        while True:
            skip = self._cutter.received
            empty = True
            try:
                if skip > SMALL_LOG_BYTES and not self._websocket and await self._has_end():
                    return
                async for data in self._tail_chunks() if self._websocket else self._file_chunks():
                    patience = time.monotonic() + self.drain_seconds
                    empty = False
                    if skip >= len(data):
                        skip -= len(data)
                        continue
                    yield data[skip:]
                    skip = 0
                if empty and skip:  # what Ray also answers for a file that is not there
                    self.incomplete = "its file is gone"
                return
            except RayApiError as error:
                body = str(error.data.get("body", ""))
                if "file is not found" in body:
                    if self._cutter.received:
                        self.incomplete = "its file is gone"
                    return
                if "Agent for node id" in body:
                    self.incomplete = "the node that holds it is gone"
                    return
                self._choose(error)
                reason = error.message
            except (RayProviderError, OSError) as error:
                reason = str(error)
            failures += 1
            if time.monotonic() + _BACKOFF.delay(failures) > patience:
                # Of two ways that both fail, the one that found a log tells more than the one that found nothing.
                self.incomplete = self._too_long or reason
                return
            await asyncio.sleep(_BACKOFF.delay(failures))

    async def _file_chunks(self) -> AsyncIterator[bytes]:
        timeout = max(1.0, min(self.drain_seconds, _FILE_SECONDS))
        async for data in self.client.log_file(str(self._node_id), self.filename, timeout=timeout):
            yield data

    async def _has_end(self) -> bool:
        """Ask for the file's last lines, and tell whether what was read ends with them."""
        end = bytearray()
        async for data in self.client.log_file(str(self._node_id), self.filename, _TAIL_LINES, timeout=10.0):
            end += data
            if len(end) > 4 * _TAIL_BYTES:
                del end[:-_TAIL_BYTES]
        count = min(len(end), len(self._tail), _TAIL_BYTES)
        return count > 0 and end[-count:] == self._tail[-count:]

    # Lines --------------------------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        self._last_data = time.monotonic()
        self._cutter.feed(data)
        self._tail += data[-_TAIL_BYTES:]
        if len(self._tail) > 2 * _TAIL_BYTES:
            del self._tail[:-_TAIL_BYTES]

    def _ready(self, *, ended: bool = False) -> Iterator[LogBatch | None]:
        """Give what can be passed on, inside the budget of lines; None for lines that are left out."""
        given = False
        while True:
            room = MAX_BATCH_LINES
            if self.max_lines is not None:
                room = min(room, max(0, self.max_lines - self.lines_passed)) or MAX_BATCH_LINES
            batch = self._cutter.take(room, ended=ended)
            if batch is None:
                break
            given = True
            yield self._counted(batch)
        if not given and not ended and self._cutter.pending and self._is_bar_due():
            bar = self._cutter.snapshot()
            if bar is not None:
                given = True
                yield self._counted(bar)
        if given:
            self._last_given = time.monotonic()

    def _is_bar_due(self) -> bool:
        return time.monotonic() - self._last_given >= PROGRESS_BAR_SECONDS

    def _counted(self, batch: LogBatch) -> LogBatch | None:
        self.offset = batch.end_offset
        if self.max_lines is not None and self.lines_passed >= self.max_lines:
            self.lines_left_out += batch.lines
            return None
        self.lines_passed += batch.lines
        return batch
