"""The log follower: every line once and in order, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_provider._shared.retry import RetryPolicy
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.watch.logs import LogFollower
from tests.support.jobs_api import NODE, JobsApi
from tests.unit.jobs.conftest import QUICK
from tests.unit.jobs.watch.test_loglines import oracle


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("ray_provider.jobs.watch.logs._BACKOFF", RetryPolicy(first_delay=0.02, max_delay=0.1))


class Reader:
    """Reads a follower in the background."""

    def __init__(self, follower: LogFollower) -> None:
        self.follower = follower
        self.batches = []
        self.changed = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def _read(self):
        async for batch in self.follower.batches():
            self.batches.append(batch)
            self.changed.set()

    @property
    def lines(self):
        return [line for batch in self.batches for line in batch.text.split("\n")]

    async def until(self, count: int, seconds: float = 30):
        async with asyncio.timeout(seconds):
            while len(self.lines) < count:
                self.changed.clear()
                await self.changed.wait()

    async def end(self, seconds: float = 30):
        self.follower.finish()
        async with asyncio.timeout(seconds):
            await self.task
        return self.lines


async def test_lines_come_as_they_are_written(api, client):
    job = api.add("a")
    job.run()
    reader = Reader(LogFollower(client, "a"))
    reader.follower.locate(NODE)
    job.write("one\n  two\n")
    await reader.until(2)
    job.write("thr")
    job.write("ee ☃\nfour")
    await reader.until(3)
    assert reader.lines == ["one", "  two", "three ☃"]
    assert await reader.end() == ["one", "  two", "three ☃", "four"]
    assert reader.follower.offset == len(job.log)
    assert api.streams_open == 0


async def test_a_log_that_is_not_there_yet_is_waited_for(api, client):
    job = api.add("a")
    reader = Reader(LogFollower(client, "a"))
    await asyncio.sleep(0.1)
    assert api.requests == [], "the node is not known"
    reader.follower.locate(NODE)
    await asyncio.sleep(0.2)
    job.run()
    await asyncio.sleep(0.2)
    job.write("here\n")
    await reader.until(1)
    assert await reader.end() == ["here"]


async def test_the_rest_is_taken_at_the_end_without_delay(api, client):
    job = api.add("a")
    job.run(b"".join(b"line %d\n" % n for n in range(5000)))
    api.stream_pause = 30  # the live stream will not bring what comes now
    reader = Reader(LogFollower(client, "a"))
    reader.follower.locate(NODE)
    await reader.until(5000)
    job.write("the end\n")
    started = time.monotonic()
    lines = await reader.end()
    assert time.monotonic() - started < 20, "the live stream's pause"
    assert lines == [f"line {n}" for n in range(5000)] + ["the end"]


async def test_a_job_that_ended_before_anybody_looked(api, client):
    job = api.add("a")
    job.run(b"all\nof\nit\n")
    follower = LogFollower(client, "a")
    follower.locate(NODE)
    follower.finish()
    assert [batch.text async for batch in follower.batches()] == ["all\nof\nit"]


async def test_a_job_that_never_ran(api, client):
    api.add("a")
    follower = LogFollower(client, "a")
    follower.finish()
    assert [batch async for batch in follower.batches()] == []
    follower = LogFollower(client, "a")
    follower.locate(NODE)
    follower.finish()
    assert [batch async for batch in follower.batches()] == []
    assert follower.incomplete is None


@pytest.mark.parametrize("empty", [False, True], ids=["answers 500", "answers nothing"])
async def test_a_log_that_is_gone_before_its_end_was_read_is_told(api, client, empty):
    api.missing_file_is_empty = empty
    job = api.add("a")
    job.run(b"one\n")
    reader = Reader(LogFollower(client, "a"))
    reader.follower.locate(NODE)
    await reader.until(1)
    job.log = None
    assert await reader.end() == ["one"]
    assert reader.follower.incomplete == "its file is gone"


async def test_a_lost_node_is_told(api, client):
    api.add("a").run(b"x\n")
    follower = LogFollower(client, "a")
    follower.locate("0" * 56)
    follower.finish()
    assert [batch async for batch in follower.batches()] == []
    assert "node" in follower.incomplete


async def test_resume_at_an_offset(api, client):
    job = api.add("a")
    job.run(b"one\ntwo\nthree\n")
    reader = Reader(LogFollower(client, "a", offset=4))
    reader.follower.locate(NODE)
    await reader.until(2)
    job.write("four\n")
    assert await reader.end() == ["two", "three", "four"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(st.binary(max_size=40) | st.text(max_size=20).map(str.encode), max_size=20).map(b"\n".join),
    breaks=st.lists(st.integers(0, 400), max_size=6),
    chunks=st.lists(st.integers(1, 100), max_size=20),
    live=st.floats(0, 1),
)
async def test_whatever_the_bytes_and_wherever_it_breaks(data, breaks, chunks, live):
    async with JobsApi() as api, RayJobsClient(api.endpoint(), retry=QUICK) as client:
        job = api.add("a")
        early = int(len(data) * live)
        job.run(data[:early])
        api.break_streams = list(breaks)
        api.chunk_sizes = chunks
        reader = Reader(LogFollower(client, "a"))
        reader.follower.locate(NODE)
        await asyncio.sleep(0.05)
        job.write(data[early:])
        lines = await reader.end()
        assert lines == oracle(data)
        assert reader.follower.offset == len(data)


async def test_streams_that_break_all_the_time(api, client):
    wanted = [f"line {n} ☃" for n in range(20_000)]
    job = api.add("a")
    job.run("\n".join(wanted).encode() + b"\n")
    api.break_streams = [10, 10, 5000, 5001, 100_000, 200_000]
    reader = Reader(LogFollower(client, "a"))
    reader.follower.locate(NODE)
    await reader.until(len(wanted))
    assert api.count["GET /api/v0/logs/stream"] == 7
    assert await reader.end() == wanted


async def test_503_while_it_runs_and_while_it_drains(api, client):
    job = api.add("a")
    job.run(b"one\n")
    api.break_streams = [4]
    reader = Reader(LogFollower(client, "a"))
    reader.follower.locate(NODE)
    await reader.until(1)
    api.unavailable = True
    await asyncio.sleep(0.3)
    job.write("two\n")
    asyncio.get_running_loop().call_later(0.3, setattr, api, "unavailable", False)
    assert await reader.end() == ["one", "two"]
    assert reader.follower.incomplete is None


async def test_a_drain_has_a_bound_and_says_that_the_end_is_missing(api, client):
    job = api.add("a")
    job.run(b"one\n")
    follower = LogFollower(client, "a", drain_seconds=0.4)
    reader = Reader(follower)
    follower.locate(NODE)
    await reader.until(1)
    api.unavailable = True
    started = time.monotonic()
    assert await reader.end() == ["one"]
    assert time.monotonic() - started < 20
    assert "503" in follower.incomplete


async def test_a_long_log_is_not_read_twice_and_loses_nothing(api, client, monkeypatch):
    monkeypatch.setattr("ray_provider.jobs.watch.logs.SMALL_LOG_BYTES", 100_000)
    wanted = [f"line {n}" for n in range(30_000)]
    job = api.add("a")
    job.run("\n".join(wanted).encode() + b"\n")
    reader = Reader(LogFollower(client, "a", interval=0.1))
    reader.follower.locate(NODE)
    await reader.until(30_000)
    job.write("late\n")
    assert await reader.end() == [*wanted, "late"]
    assert api.count["GET /api/v0/logs/file"] == 1


async def test_a_long_log_whose_stream_hangs_is_read_again(api, client, monkeypatch):
    monkeypatch.setattr("ray_provider.jobs.watch.logs.SMALL_LOG_BYTES", 100_000)
    wanted = [f"line {n}" for n in range(30_000)]
    job = api.add("a")
    job.run("\n".join(wanted).encode() + b"\n")
    reader = Reader(LogFollower(client, "a", interval=0.1))
    reader.follower.locate(NODE)
    api.stream_pause = 60
    await reader.until(30_000)
    job.write("late\n")
    assert await reader.end() == [*wanted, "late"]
    assert api.count["GET /api/v0/logs/file"] == 2


async def test_a_budget_of_lines(api, client):
    job = api.add("a")
    job.run(b"".join(b"%d\n" % n for n in range(1234)))
    reader = Reader(LogFollower(client, "a", max_lines=250))
    reader.follower.locate(NODE)
    await reader.until(250)
    job.write("end\n")
    assert await reader.end() == [str(n) for n in range(250)]
    assert reader.follower.lines_left_out == 1234 - 250 + 1


async def test_a_very_long_line(api, client):
    line = "é" * 3_000_000
    job = api.add("a")
    job.run(f"before\n{line}\nafter\n".encode())
    reader = Reader(LogFollower(client, "a"))
    reader.follower.locate(NODE)
    lines = await reader.end()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "".join(lines[1:-1]) == line
    assert max(len(batch.text.encode()) for batch in reader.batches) <= 64_000


async def test_a_progress_bar_without_an_end_is_shown_now_and_then(api, client, monkeypatch):
    monkeypatch.setattr("ray_provider.jobs.watch.logs.PROGRESS_BAR_SECONDS", 0.2)
    job = api.add("a")
    job.run(b"\r10%\r20%\r30%")
    reader = Reader(LogFollower(client, "a"))
    reader.follower.locate(NODE)
    await reader.until(1)
    assert reader.lines == ["20%"]
    job.write("\r100%\n")
    assert await reader.end() == ["20%", "100%"]


async def test_without_the_state_api_the_websocket_serves(api, client):
    api.state_api = False
    job = api.add("a")
    job.run("eins\nzwei ☃\n".encode())
    api.websocket_close_after = [3, 8]
    reader = Reader(LogFollower(client, "a"))
    reader.follower.locate(NODE)
    await reader.until(2)
    job.write("drei\n")
    job.end()
    assert await reader.end() == ["eins", "zwei ☃", "drei"]


async def test_a_state_api_that_takes_no_more_requests_is_done_without(api, client):
    job = api.add("a")
    job.run(b"one\n")
    reader = Reader(LogFollower(client, "a"))
    reader.follower.locate(NODE)
    await reader.until(1)
    api.state_api_busy = True
    api.break_streams = [1]
    job.write("two\n")
    job.end()
    began = time.monotonic()
    assert await reader.end() == ["one", "two"]
    assert reader.follower.incomplete is None
    assert time.monotonic() - began < 10, "not only when patience is over"


async def test_without_the_state_api_a_job_that_has_ended(api, client):
    api.state_api = False
    job = api.add("a")
    job.run(b"all\n")
    job.end()
    follower = LogFollower(client, "a")
    follower.locate(NODE)
    follower.finish()
    assert [batch.text async for batch in follower.batches()] == ["all"]


async def test_an_unexpected_error_is_not_swallowed(api):
    async def auth(_renew):
        raise LookupError("no kubeconfig")

    async with RayJobsClient(api.endpoint(auth=auth)) as client:
        reader = Reader(LogFollower(client, "a"))
        reader.follower.locate(NODE)
        with pytest.raises(LookupError, match="no kubeconfig"):
            await asyncio.wait_for(reader.task, 30)
