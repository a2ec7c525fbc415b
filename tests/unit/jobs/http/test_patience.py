"""A Ray that does not answer for a while is waited for, and people are told; what waiting does not change is not."""

from __future__ import annotations

import time

import pytest

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import RayApiError, RayAuthenticationError, RayConnectionError
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.http import patience
from ray_provider.jobs.http.patience import patiently
from tests.support.certificates import make_certificates
from tests.support.jobs_api import JobsApi
from tests.support.tls_front import TlsFront

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(patience, "_BACKOFF", RetryPolicy(first_delay=0.02, max_delay=0.05))
    monkeypatch.setattr(patience, "DOUBTFUL_SECONDS", 0.3)


async def ask(endpoint, lines, *, seconds=2.0, known=True, end=None):
    async with RayJobsClient(endpoint, retry=RetryPolicy.none()) as client:

        async def once():
            if end is not None:
                end()
            return await client.version()

        return await patiently(once, seconds=seconds, known=known, tell=lines.append)


@pytest.mark.usefixtures("quick")
async def test_an_outage_is_waited_for_and_told_once_at_its_begin_and_once_at_its_end():
    async with JobsApi() as api:
        api.unavailable = True
        until, lines = time.monotonic() + 0.6, []

        def end():
            api.unavailable = time.monotonic() < until

        await ask(api.endpoint(), lines, end=end)
    assert len(lines) == 2
    assert "503" in lines[0]
    assert "Going on for 2 s" in lines[0]
    assert "answers again" in lines[1]
    assert api.count["GET /api/version"] <= 0.6 / 0.02 + 2, "it is left in peace between two tries"


@pytest.mark.usefixtures("quick")
async def test_patience_has_an_end():
    async with JobsApi() as api:
        api.unavailable = True
        began = time.monotonic()
        with pytest.raises(RayApiError, match="503"):
            await ask(api.endpoint(), [], seconds=0.5)
        assert 0.3 < time.monotonic() - began < 30


@pytest.mark.usefixtures("quick")
async def test_an_address_that_never_answered_may_be_a_mistake():
    began = time.monotonic()
    lines = []
    with pytest.raises(RayConnectionError):
        await ask(RayEndpoint(url="http://127.0.0.1:9"), lines, seconds=600, known=False)
    assert time.monotonic() - began < 60
    assert "Going on for 0 s" in lines[0]


@pytest.mark.usefixtures("quick")
async def test_a_wrong_token_is_told_at_once():
    async with JobsApi(token="right") as api:  # noqa: S106
        lines = []
        with pytest.raises(RayAuthenticationError):
            await ask(api.endpoint(token="wrong"), lines, seconds=600)  # noqa: S106
        assert not lines
        assert len(api.requests) == 1


@pytest.mark.usefixtures("quick")
async def test_what_follows_an_outage_has_its_own_time():
    """A dashboard that was away for longer than a failure of its own may last says for a moment that it has no agent."""
    async with JobsApi() as api:
        began = time.monotonic()

        def now():
            passed = time.monotonic() - began
            api.unavailable, api.unavailable_status = passed < 0.8, 503 if passed < 0.6 else 500

        await ask(api.endpoint(), [], seconds=5.0, end=now)
        assert time.monotonic() - began > 0.75


async def test_plain_http_to_a_server_that_speaks_tls_is_not_waited_out(tmp_path):
    context = make_certificates(tmp_path).server_context("127.0.0.1")
    lines: list[str] = []
    async with JobsApi() as api:
        with TlsFront(int(api.url.rpartition(":")[2]), context) as front:
            with pytest.raises(RayConnectionError, match="the server speaks TLS, and we plain HTTP"):
                await ask(RayEndpoint(f"http://127.0.0.1:{front.port}"), lines, seconds=30.0)
    assert lines == [], "nobody is told to wait"
