"""What a dashboard answers, whatever it is: read, or refused by an error of ours; never anything else."""

from __future__ import annotations

import asyncio
import json
import zlib
from types import SimpleNamespace

import aiohttp
from hypothesis import strategies as st

from ray_provider.jobs.http.incoming import AnswerTooLongError, Incoming, loads
from ray_provider.jobs.models import ClusterVersion, JobDetails
from ray_provider.jobs.parsing import parse_jobs
from ray_provider.jobs.watch.outcome import JobOutcome
from tests.fuzz.harness import JSON, SCALARS, fuzz

FIELDS = st.sampled_from([
    "submission_id", "status", "job_id", "type", "entrypoint", "message", "error_type", "start_time", "end_time",
    "metadata", "runtime_env", "driver_node_id", "driver_exit_code", "driver_info", "ray_version", "session_name",
])  # fmt: skip
JOBS = st.dictionaries(FIELDS, JSON | SCALARS | st.sampled_from(["FAILED", "SUCCEEDED", "x" * 50_000]), max_size=10)
LIMIT = 1000


def check_job(data):
    job = JobDetails.from_json(data)
    assert isinstance(job.status, str)
    assert job.status
    for text in (job.submission_id, job.job_id, job.message, job.error_type, job.driver_node_id):
        assert text is None or (isinstance(text, str) and len(text) < 45_000)
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in job.metadata.items())
    outcome = JobOutcome(
        submission_id="a",
        kind="final",
        status=job.status,
        message=job.message,
        error_type=job.error_type,
        driver_exit_code=job.driver_exit_code,
    )
    assert json.dumps(outcome.to_dict())
    error = outcome.error()
    assert (error is None) is outcome.is_success
    assert error is None or len(str(error)) < 50_000
    assert isinstance(ClusterVersion.from_json(data).ray_version, str)


def test_any_job_can_be_read():
    assert fuzz(check_job, JOBS) > 20


def check_list(data, cut):
    body = json.dumps(data).encode()
    body = body[: max(0, len(body) - cut)]

    async def read():
        return [job async for job in parse_jobs(body)]

    try:
        found = asyncio.run(read())
    except ValueError:
        return
    assert len(found) == len(data)


def test_any_list_is_read_or_refused():
    assert fuzz(check_list, st.lists(JOBS | JSON, max_size=5) | JSON, st.integers(0, 5)) > 20


class Content:
    """A body that comes in pieces."""

    def __init__(self, body, sizes):
        self.body, self.sizes = body, list(sizes)

    async def readany(self):
        size = self.sizes.pop() if self.sizes else 64
        piece, self.body = self.body[:size], self.body[size:]
        return piece


def check_body(body, encoding, sizes, broken):
    sent = {"gzip": lambda: packed(body, 31), "deflate": lambda: packed(body, 15)}.get(encoding.lower(), lambda: body)()
    if broken:
        sent = sent[: len(sent) // 2] + b"\x00" + sent[len(sent) // 2 :]
    response = SimpleNamespace(status=200, headers={"Content-Encoding": encoding}, content=Content(sent, sizes))

    async def read():
        return await Incoming(response).whole(LIMIT, asyncio.Semaphore(1))

    try:
        found = asyncio.run(read())
    except AnswerTooLongError:
        assert broken or len(body) > LIMIT
        return
    except aiohttp.ClientPayloadError:
        assert broken or encoding == "br"
        return
    assert len(found) <= LIMIT
    assert broken or found == body


def packed(body, wbits):
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(body) + packer.flush()


def test_a_body_in_any_pieces_has_its_bound():
    encodings = st.sampled_from(["", "identity", "gzip", "deflate", "br", "GZIP"])
    bodies = st.binary(max_size=50) | st.integers(0, 3_000_000).map(lambda size: b"a" * size)
    assert fuzz(check_body, bodies, encodings, st.lists(st.integers(1, 9), max_size=5), st.booleans()) > 20


def check_json(body):
    try:
        loads(body)
    except ValueError:
        return


def test_json_is_read_or_refused():
    deep = st.tuples(st.sampled_from([b"[", b'{"a":', b"[[{"]), st.integers(1, 100_000)).map(
        lambda two: two[0] * two[1]
    )
    assert fuzz(check_json, st.binary(max_size=50) | deep) > 20
