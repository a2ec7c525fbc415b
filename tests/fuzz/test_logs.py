"""The log follower on streams that come in any pieces and break anywhere: each line once, in order, and harmless."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager

import pytest
from hypothesis import strategies as st

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import RayApiError, RayConnectionError
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.models import ClusterVersion
from ray_provider.jobs.watch import logs
from ray_provider.jobs.watch.loglines import LineCutter, clean
from ray_provider.jobs.watch.logs import LogFollower
from tests.fuzz.harness import fuzz

PIECES = [b"\n", b"\r", b"\r\n", b"::group::x", b"::endgroup::", b"\x1b[31m", b"\x1b[2J", b"\x1b]0;t\x07", b"\x1b", b"[", b"\x9b", b"\xc2\x9b", "é☃🚀".encode(), b"\xff", b"\x00", b"a", b"    indented", b'{"event": "x"}', b"::", b":", b"group::"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=40).map(b"".join)
COLOUR = re.compile(r"\x1b\[[0-9;:]*m")


def harmless(text: str) -> None:
    """Nothing is left that a terminal or Airflow's web interface would obey, but colours."""
    rest = COLOUR.sub("", text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", rest), repr(rest)
    assert "::group::" not in text
    assert "::endgroup::" not in text


def check_clean(data):
    text = clean(data.decode("utf-8", "replace"))
    harmless(text)
    assert clean(text) == text
    # What is neither control nor marker stays.
    letters = re.findall(r"[a-z]", data.decode("utf-8", "replace"))
    assert len(re.findall(r"[a-z]", text)) <= len(letters)


def test_no_line_does_anything():
    assert fuzz(check_clean, TEXTS) > 20


def check_cutter(data, cuts):
    cutter = LineCutter()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    texts = []
    for start, end in zip(edges, edges[1:], strict=False):
        cutter.feed(data[start:end])
        while batch := cutter.take():
            texts.append(batch.text)
    while batch := cutter.take(ended=True):
        texts.append(batch.text)
    assert cutter.received == len(data)
    for text in texts:
        harmless(text)


def test_lines_in_any_pieces():
    assert fuzz(check_cutter, TEXTS, st.lists(st.integers(0, 500), max_size=8)) > 20


class Content:
    def __init__(self, pieces):
        self.pieces = iter(pieces)

    async def readany(self):
        await asyncio.sleep(0)
        piece = next(self.pieces, b"")
        if isinstance(piece, Exception):
            raise piece
        return piece


class Client:
    """A dashboard whose log grows, and whose streams break as the example says."""

    endpoint = RayEndpoint("http://dashboard.invalid")

    async def version(self):
        return ClusterVersion("2.60.0", "4", "session_1")

    def __init__(self, data, faults, sizes):
        self.data = data
        self.faults = faults
        self.sizes = sizes or [7]

    def pieces(self, limit=None):
        end = len(self.data) if limit is None else min(limit, len(self.data))
        position = 0
        number = 0
        while position < end:
            size = max(1, self.sizes[number % len(self.sizes)])
            yield self.data[position : min(position + size, end)]
            position += size
            number += 1

    @asynccontextmanager
    async def log_stream(self, node_id, filename, *, interval=0.5):
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None and fault < 0:
            raise RayConnectionError("refused")
        yield Content([*self.pieces(fault), OSError("reset")] if fault is not None else self.pieces())

    async def log_file(self, node_id, filename, lines=-1, *, timeout=None):
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None and fault < 0:
            raise RayApiError("busy", status=503, body="busy")
        for piece in self.pieces(fault):
            await asyncio.sleep(0)
            yield piece
        if fault is not None:
            raise OSError("reset")


def check_follower(data, faults, sizes, late):
    async def follow():
        client = Client(data, list(faults), sizes)
        follower = LogFollower(client, "a", interval=0.001, drain_seconds=5.0)
        texts = []

        async def read():
            async for batch in follower.batches():
                texts.append(batch.text)

        task = asyncio.create_task(read())
        follower.locate("node")
        await asyncio.sleep(0.001 * late)
        follower.finish()
        await asyncio.wait_for(task, 5)
        return follower, texts

    follower, texts = asyncio.run(follow())
    assert follower.incomplete is None
    assert follower.offset == len(data)
    cutter = LineCutter()
    cutter.feed(data)
    wanted = []
    while batch := cutter.take(ended=True):
        wanted += batch.text.split("\n")
    lines = [line for text in texts for line in text.split("\n")]
    assert lines == wanted
    for text in texts:
        harmless(text)


def test_the_follower():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_BACKOFF", RetryPolicy(first_delay=0.0, max_delay=0.0))
        faults = st.lists(st.integers(-1, 200), max_size=5)
        assert fuzz(check_follower, TEXTS, faults, st.lists(st.integers(1, 60), max_size=4), st.integers(0, 5)) > 20
