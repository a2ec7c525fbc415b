"""What a refusal of Ray's dashboard, of a proxy or of Kubernetes' API server is told as; and streams of answers."""

from __future__ import annotations

import json

import pytest

from ray_provider.exceptions import RayApiError, RayAuthenticationError
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.http.errors import api_error
from ray_provider.jobs.http.session import MAX_REQUESTS
from tests.support.jobs_api import JobsApi
from tests.unit.jobs.conftest import QUICK

BARE = RayEndpoint("http://h")
WITH_TOKEN = RayEndpoint("http://h", token="planted-token")


def refused(status: int, body: str, endpoint: RayEndpoint = BARE) -> RayApiError:
    error = api_error(endpoint, "GET", "/api/jobs/a", status, body)
    assert error.data["status"] == status
    assert "planted-token" not in str(error)
    return error


def by_kubernetes(message: str) -> str:
    return json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("  plain words \n", "plain words"),
        ('{"msg": "a", "message": "b", "error": "c"}', "a"),
        ('{"msg": "", "message": "b", "error": "c"}', "b"),
        ('{"error": "c"}', "c"),
        ('{"other": "d"}', '{"other": "d"}'),
        ('{"broken', '{"broken'),
        ("Traceback (most recent call last):\n  File x\nValueError: the reason\n", "ValueError: the reason"),
        ("", "(no text)"),
        ("x" * 600, "x" * 500),
    ],
)
def test_the_part_that_says_what_happened(body: str, said: str) -> None:
    error = refused(500, body)
    assert error.message == f"Ray's dashboard answered 500 to GET http://h/api/jobs/a: {said}"


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (404, "", "a Ray dashboard answers at <address>/api/version"),
        (404, by_kubernetes("no service"), "Ask with kubectl whether the Ray cluster"),
        (400, "The plain HTTP request was sent to HTTPS port", "The server speaks HTTPS"),
        (405, "", "is there a proxy that adds Origin or Referer?"),
        (413, "", "Something before Ray limits the size of a request"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, body: str, hint: str) -> None:
    error = refused(status, body)
    assert hint in str(error)
    who = "The Kubernetes API server" if body.startswith("{") else "Ray's dashboard"
    assert error.message.startswith(f"{who} answered {status} to GET")


@pytest.mark.parametrize("status", [400, 500, 503])
def test_without_a_reason_nothing_is_advised(status: int) -> None:
    assert "What to do" not in str(refused(status, "no"))


@pytest.mark.parametrize(
    ("status", "endpoint", "body", "words"),
    [
        (401, BARE, "", ("No token reached Ray at http://h (401)", "The connection has none.", "field 'token'")),
        (
            401,
            WITH_TOKEN,
            "",
            ("One was sent: something on the way took it off", "pass the header X-Ray-Authorization"),
        ),
        (
            403,
            WITH_TOKEN,
            "",
            ("refuses the token (403): it is not this cluster's", "a cluster made anew has a new one"),
        ),
        (403, BARE, "go away", ("is forbidden (403): go away", "Compare the connection's token")),
        (
            401,
            BARE,
            by_kubernetes("late"),
            ("does not accept our credentials (401)", ": late", "Renew the credentials"),
        ),
        (403, BARE, by_kubernetes("no"), ("denies access (403) to Ray at http://h: no", "services/proxy")),
    ],
)
def test_who_refuses_and_why(status: int, endpoint: RayEndpoint, body: str, words: tuple[str, ...]) -> None:
    error = refused(status, body, endpoint)
    assert type(error) is RayAuthenticationError
    for each in words:
        assert each in str(error)


def test_what_is_kept_of_a_body_has_a_limit() -> None:
    assert 500 < len(refused(500, "y" * 1_000_000).data["body"]) < 100_000


async def test_more_streams_than_requests_at_once_one_after_the_other(client: RayJobsClient) -> None:
    """A stream with a limit is a request: it takes a turn, and gives it back. One without takes none."""
    for timeout in (5.0, None):
        for _ in range(MAX_REQUESTS + 2):
            async with client.transport.stream("/api/version", timeout=timeout):
                pass
    assert (await client.version()).ray_version == "2.60.0"


async def test_refused_credentials_are_renewed_once_for_a_stream_too() -> None:
    asked: list[bool] = []

    async def auth(renew: bool) -> dict[str, str]:
        asked.append(renew)
        return {"Authorization": "Bearer new" if len(asked) > 1 else "Bearer old"}

    async with JobsApi(token="new") as api:
        async with RayJobsClient(api.endpoint(token=None, auth=auth), retry=QUICK) as client:
            async with client.transport.stream("/api/version"):
                pass
            assert asked == [False, True]
        asked.clear()
        api.token = "never"
        async with RayJobsClient(api.endpoint(token=None, auth=auth), retry=QUICK) as client:
            with pytest.raises(RayAuthenticationError):
                async with client.transport.stream("/api/version"):
                    pass
        assert asked == [False, True]
        asked.clear()
        async with RayJobsClient(api.endpoint(token="planted-token"), retry=QUICK) as client:
            with pytest.raises(RayAuthenticationError):
                async with client.transport.stream("/api/version"):
                    pass
        assert asked == []


async def test_a_stream_is_not_redirected(api: JobsApi, client: RayJobsClient) -> None:
    api.redirect_to = "http://elsewhere"
    with pytest.raises(RayApiError, match="elsewhere"):
        async with client.transport.stream("/api/version"):
            pass
