"""Cut the bytes of a log into lines for people: any length, any encoding, nothing twice, nothing that forges markup."""

from __future__ import annotations

from dataclasses import dataclass

from ray_provider._shared.plain_text import clean

__all__ = ["LineCutter", "LogBatch", "clean"]

#: A line that is longer is passed on in pieces of at most so many bytes, so that no consumer chokes on one.
MAX_LINE_BYTES = 64_000
#: What goes to the logger at once: every record costs a blocking write, every long one holds up the event loop.
MAX_BATCH_BYTES = 64_000
MAX_BATCH_LINES = 100


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Some whole lines of a log.

    :param text: the lines, joined by newlines; no newline at the end.
    :param lines: how many.
    :param end_offset: bytes of the log file passed on so far: where a later reader goes on.
    :param records: as how many records they were logged, where they were.
    """

    text: str
    lines: int
    end_offset: int
    records: int = 1


class LineCutter:
    """Takes bytes as they come, gives batches of lines. The cuts depend on the bytes alone, not on how they came.

    Of a line that was overwritten by carriage returns (a progress bar) the last state is given, as a terminal shows it.

    :param offset: how many bytes of the file come before the first one that is fed.
    """

    def __init__(self, offset: int = 0) -> None:
        self._buffer = bytearray()
        self._start = 0  # of what is not given yet, in the buffer
        self._offset = offset  # the same, in the file

    @property
    def received(self) -> int:
        """Bytes of the file up to the last one that was fed."""
        return self._offset + len(self._buffer) - self._start

    @property
    def pending(self) -> int:
        """Bytes that wait for the end of their line, or for :meth:`take`."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        :param data: of the log.
        """
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def take(self, max_lines: int = MAX_BATCH_LINES, *, ended: bool = False) -> LogBatch | None:
        """Give the next lines, or None if none is whole.

        :param max_lines: at most so many.
        :param ended: no more bytes will come: the rest is a line as well.
        """
        lines: list[bytes] = []
        size = 0
        while len(lines) < max_lines:
            cut = self._next_line(ended=ended)
            if cut is None:
                break
            line, consumed = cut
            if lines and size + len(line) > MAX_BATCH_BYTES:
                break
            self._advance(consumed)
            lines.append(line)
            size += len(line) + 1
        return self._batch(lines) if lines else None

    def snapshot(self) -> LogBatch | None:
        """Give the last state of a progress bar that has no end of line yet."""
        last = self._buffer.rfind(b"\r", self._start)
        if last < 0:
            return None
        shown = bytes(self._buffer[self._start : last]).rstrip(b"\r")
        self._advance(last + 1 - self._start)
        return self._batch([shown.rpartition(b"\r")[2]]) if shown else None

    def _next_line(self, *, ended: bool) -> tuple[bytes, int] | None:
        """Find the next line: what to show of it, and how many bytes it takes."""
        while True:
            start = self._start
            end = self._buffer.find(b"\n", start, start + MAX_LINE_BYTES + 1)
            if end >= 0:
                return self._shown(bytes(self._buffer[start:end])), end + 1 - start
            length = len(self._buffer) - start
            if length <= MAX_LINE_BYTES:
                return (self._shown(bytes(self._buffer[start:])), length) if ended and length else None
            last = self._buffer.rfind(b"\r", start, start + MAX_LINE_BYTES)
            if last < 0:
                piece = bytes(self._buffer[start : start + self._cut(start)])
                return piece, len(piece)
            self._advance(last + 1 - start)  # overwritten already

    def _cut(self, start: int) -> int:
        """Say where to cut a long line: never inside a character."""
        for back in range(4):
            if self._buffer[start + MAX_LINE_BYTES - back] & 0xC0 != 0x80:
                return MAX_LINE_BYTES - back
        return MAX_LINE_BYTES  # four continuation bytes: this is no UTF-8

    @staticmethod
    def _shown(line: bytes) -> bytes:
        return line.rstrip(b"\r").rpartition(b"\r")[2] if b"\r" in line else line

    def _advance(self, count: int) -> None:
        self._start += count
        self._offset += count

    def _batch(self, lines: list[bytes]) -> LogBatch:
        return LogBatch(clean(b"\n".join(lines).decode("utf-8", "replace")), len(lines), self._offset)
