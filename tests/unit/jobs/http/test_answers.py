"""Answers of somebody who means harm: each has a bound, is told, and the job is watched on."""

from __future__ import annotations

import asyncio
import json
import resource
import zlib
from typing import Any

import pytest
from aiohttp import web

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import RayApiError, RayConnectionError
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.http.incoming import AnswerTooLongError
from ray_provider.jobs.models import JobDetails
from ray_provider.jobs.watch import polling
from ray_provider.jobs.watch.watcher import JobWatcher, WatchOptions
from tests.support.jobs_api import NODE, JobsApi

pytestmark = pytest.mark.timeout(60)

MIB = 1024 * 1024


def bomb(size: int) -> bytes:
    """So many spaces, as gzip: a thousandth of it on the wire."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(b" " * MIB) for _ in range(size // MIB)), packer.flush()])


class Hostile(JobsApi):
    """Answers as it is told to; else as a dashboard."""

    def __init__(self) -> None:
        super().__init__()
        #: Path -> what is answered.
        self.answers: dict[str, web.Response] = {}
        self.times = 0

    @web.middleware
    async def _front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path in self.answers:
            self.times += 1
            planned = self.answers[request.path]
            return web.Response(body=planned.body, status=planned.status, headers=planned.headers)
        return await super()._front(request, handler)


@pytest.fixture
async def hostile():
    async with Hostile() as api:
        yield api


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def test_what_is_small_on_the_wire_has_a_bound_when_it_is_decompressed(hostile):
    """Before: 398 KiB took the process from 40 to 1,253 MiB."""
    packed = bomb(256 * MIB)
    assert len(packed) < MIB
    hostile.answers["/api/version"] = web.Response(body=packed, headers={"Content-Encoding": "gzip"})
    hostile.answers["/api/jobs/a"] = web.Response(body=packed, status=500, headers={"Content-Encoding": "gzip"})
    before = peak_mib()
    async with RayJobsClient(hostile.endpoint(), retry=RetryPolicy.none()) as client:
        with pytest.raises(AnswerTooLongError, match="more than 4 MiB"):
            await client.version()
        with pytest.raises(RayApiError, match="500"):
            await client.get("a")
    assert peak_mib() - before < 100


async def test_compressed_by_a_proxy_it_is_read_as_ever(hostile):
    told = json.dumps({"submission_id": "a", "status": "RUNNING"}).encode()
    plain = zlib.compressobj(wbits=31)
    hostile.answers["/api/jobs/a"] = web.Response(
        body=plain.compress(told) + plain.flush(), headers={"Content-Encoding": "gzip"}
    )
    hostile.answers["/api/jobs/b"] = web.Response(body=zlib.compress(told), headers={"Content-Encoding": "deflate"})
    hostile.answers["/api/jobs/c"] = web.Response(body=b"not gzip", headers={"Content-Encoding": "gzip"})
    hostile.answers["/api/jobs/d"] = web.Response(body=told, headers={"Content-Encoding": "br"})
    async with RayJobsClient(hostile.endpoint(), retry=RetryPolicy.none()) as client:
        for name in "ab":
            assert (await client.get(name)).status == "RUNNING"
        for name in "cd":
            with pytest.raises(RayConnectionError, match="compressed"):
                await client.get(name)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[1, 2",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"status": ["x"], "message": {}, "metadata": 3, "start_time": "soon", "submission_id": []}',
    ],
)
async def test_what_is_no_answer_of_ray_is_a_clear_error_or_an_unknown_job(hostile, body):
    """Before: deep JSON raised a bare RecursionError."""
    for path in ("/api/jobs/a", "/api/jobs/", "/api/version", "/api/v0/logs"):
        hostile.answers[path] = web.Response(body=body)
    async with RayJobsClient(hostile.endpoint(), retry=RetryPolicy.none()) as client:
        for ask in (client.get("a"), client.list_jobs(), client.version(), client.list_log_files(NODE)):
            try:
                found = await ask
            except RayApiError as error:
                assert len(str(error)) < 5000
            else:
                assert found in (None, []) or found.status == "UNKNOWN"


async def test_a_job_is_watched_on_after_such_answers(hostile):
    job = hostile.add("a")
    job.run(b"up\n")
    hostile.answers["/api/jobs/a"] = web.Response(body=b"[" * 100_000)
    watch = asyncio.create_task(watcher(hostile, "a").watch())
    while hostile.times < 3:
        await asyncio.sleep(0.02)
    assert not watch.done()
    hostile.answers.clear()
    job.end()
    assert (await watch).is_success


async def test_a_list_that_is_too_long_to_be_read_is_not_needed(hostile, monkeypatch):
    monkeypatch.setattr(polling, "LIST_BYTES", 2000)
    jobs = [hostile.add(f"job-{number}") for number in range(polling.FEW + 4)]
    for job in jobs:
        job.run()
    watches = [asyncio.create_task(watcher(hostile, job.submission_id).watch()) for job in jobs]
    await asyncio.sleep(1.0)
    for job in jobs:
        job.end()
    assert all(outcome.is_success for outcome in await asyncio.gather(*watches))
    assert 1 <= hostile.count["GET /api/jobs/"] <= 2, "it is not asked for again and again"


async def test_a_message_of_the_log_without_an_end(hostile):
    """Before: a message of 143 MiB was taken."""
    job = hostile.add("a")
    hostile.state_api = False
    job.run(b"x" * 20 * MIB)
    watch = asyncio.create_task(watcher(hostile, "a", log_drain_seconds=1.0).watch())
    await asyncio.sleep(1.0)
    job.end()
    outcome = await watch
    assert outcome.is_success
    assert "8 MiB" in outcome.log_incomplete


def watcher(api: JobsApi, name: str, **options: Any) -> JobWatcher:
    client = RayJobsClient(api.endpoint(), retry=RetryPolicy.none())
    found = JobWatcher(client, name, WatchOptions(poll_interval=0.05, **options), on_log=lambda _batch: None)
    watch = found.watch

    async def opened() -> Any:
        async with client:
            return await watch()

    found.watch = opened
    return found


def test_a_long_text_is_kept_with_its_first_and_its_last_part():
    message = "first " + "x" * 50_000_000 + " the reason"
    told = JobDetails.from_json({"status": "FAILED", "message": message, "metadata": {"a": message, "b": 1}})
    assert len(told.message) < 50_000
    assert told.message.startswith("first ")
    assert told.message.endswith(" the reason")
    assert "characters left out" in told.message
    assert len(told.metadata["a"]) < 50_000
    assert told.metadata["b"] == "1"
