"""Reads answers: decompressed here, piece by piece, and no further than what such an answer may be.

A triggerer watches the jobs of many teams. Whoever can answer in a dashboard's place (code on a cluster can) must not
be able to end it by an answer that is endless, or that is small on the wire and has no end after decompression.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import TYPE_CHECKING, Any

from ray_provider.exceptions import RayApiError

if TYPE_CHECKING:
    import aiohttp

#: What an answer may have at most (bytes). A status holds Ray's message, which is the job's last lines, of any length.
USUAL_BYTES = 4 * 1024 * 1024
STATUS_BYTES = 64 * 1024 * 1024
LIST_BYTES = 128 * 1024 * 1024
#: Of the answer to a refused request so much is read.
ERROR_BYTES = 64 * 1024
#: A message of the WebSocket that follows a log: Ray sends lines of up to 4 MiB.
MESSAGE_BYTES = 8 * 1024 * 1024
#: Longer answers of an endpoint are read one after the other, and parsed beside the event loop.
SMALL_BYTES = 1024 * 1024

#: What a decompressed piece has at most.
_PIECE_BYTES = 256 * 1024


class AnswerTooLongError(RayApiError):
    """An answer has more bytes than one of its kind may have."""


class Incoming:
    """An answer that comes in pieces.

    :param response: aiohttp's, which must not decompress by itself.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._content = response.content
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        self._encoding = "" if encoding == "identity" else encoding
        # Both the format of gzip and that of zlib, by their first bytes.
        self._decoder = zlib.decompressobj(47) if self._encoding in {"gzip", "x-gzip", "deflate"} else None
        self._more = False

    async def readany(self) -> bytes:
        """Give the next piece; no bytes: it has ended.

        :raises aiohttp.ClientPayloadError: it can't be decompressed.
        """
        import aiohttp

        if self._decoder is None:
            if self._encoding:
                raise aiohttp.ClientPayloadError(f"it is compressed by {self._encoding[:40]!r}, which nobody asked for")
            return await self._content.readany()
        while True:
            raw = self._decoder.unconsumed_tail
            if not raw and not self._more:
                raw = await self._content.readany()
                if not raw:
                    return b""
            try:
                data = self._decoder.decompress(raw, _PIECE_BYTES)
            except zlib.error as error:
                raise aiohttp.ClientPayloadError(f"it can't be decompressed: {error}") from error
            self._more = len(data) == _PIECE_BYTES
            if data:
                return data

    async def whole(self, limit: int, turn: asyncio.Semaphore) -> bytes:
        """Read all of it.

        :param limit: bytes that it may have.
        :param turn: taken while a long answer is read: a few at a time.
        :raises AnswerTooLongError: it has more.
        """
        pieces = bytearray()
        waits = False
        try:
            while data := await self.readany():
                pieces += data
                if len(pieces) > limit:
                    raise AnswerTooLongError(
                        f"It has more than {limit // 1024**2} MiB.", status=self.status, limit=limit
                    )
                if len(pieces) > SMALL_BYTES and not waits:
                    await turn.acquire()
                    waits = True
            return bytes(pieces)
        finally:
            if waits:
                turn.release()

    async def beginning(self, size: int = ERROR_BYTES) -> bytes:
        """Read the first bytes, and leave the rest.

        :param size: so many bytes at most.
        """
        pieces = bytearray()
        while len(pieces) < size and (data := await self.readany()):
            pieces += data
        return bytes(pieces[:size])


async def parsed(body: bytes) -> Any:
    """Read JSON.

    :param body: the whole of it.
    :raises ValueError: it is none, or is nested too deeply.
    """
    return loads(body) if len(body) <= SMALL_BYTES else await asyncio.to_thread(loads, body)


def loads(body: bytes) -> Any:
    """Read JSON, as :func:`parsed` does.

    :param body: the whole of it.
    :raises ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
