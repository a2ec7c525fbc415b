"""The client against what a dashboard, and what stands before it, may answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time

import pytest

from ray_provider import __version__
from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import (
    ConfigurationError,
    JobError,
    RayApiError,
    RayAuthenticationError,
    RayConnectionError,
)
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint, TlsOptions
from ray_provider.jobs.http.errors import JobAlreadyExistsError
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.pending import PendingJobEnder
from ray_provider.jobs.submit.identity import JobOwner
from tests.support.certificates import make_certificates
from tests.support.jobs_api import NODE, JobsApi
from tests.support.ray_head import free_ports
from tests.support.waiting import until
from tests.unit.jobs.conftest import QUICK


async def test_version_and_headers(api, client):
    version = await client.version()
    assert (version.ray_version, version.session_name) == ("2.60.0", "session_1")
    assert api.headers[0]["User-Agent"] == f"airflow-ray/{__version__}"
    assert "Authorization" not in api.headers[0]


async def test_a_prefix_and_a_trailing_slash():
    async with JobsApi(prefix="/ray/prod") as api:
        api.add("a")
        async with RayJobsClient(api.endpoint(url=api.url + "/"), retry=QUICK) as client:
            assert (await client.get("a")).submission_id == "a"
            await client.submit_request(JobSpec("true", "b"))
        assert ("POST", "/api/jobs/") in api.requests


async def test_cookies_and_headers_go_along(api):
    endpoint = api.endpoint(headers={"X-Team": "ml"}, cookies={"session": "abc", "b": "c"})
    async with RayJobsClient(endpoint) as client:
        await client.version()
    assert api.headers[0]["X-Team"] == "ml"
    assert api.headers[0]["Cookie"] == "session=abc; b=c"


async def test_the_token_goes_into_both_headers_unless_one_is_taken():
    async with JobsApi(token="t0ken") as api:
        async with RayJobsClient(api.endpoint()) as client:
            await client.version()
        assert api.headers[-1]["Authorization"] == api.headers[-1]["X-Ray-Authorization"] == "Bearer t0ken"
        async with RayJobsClient(api.endpoint(headers={"authorization": "Basic abc"}), retry=QUICK) as client:
            with pytest.raises(RayAuthenticationError):
                await client.version()
        assert api.headers[-1]["Authorization"] == "Basic abc"
        assert api.headers[-1]["X-Ray-Authorization"] == "Bearer t0ken"


async def test_a_user_in_the_url_becomes_basic_authentication_and_stays_out_of_errors(api):
    url = api.url.replace("http://", "http://me:s3cret@")
    async with RayJobsClient(RayEndpoint(url), retry=QUICK) as client:
        await client.version()
        assert api.headers[-1]["Authorization"] == "Basic bWU6czNjcmV0"
        api.fail_next = [404]
        with pytest.raises(RayApiError) as raised:
            await client.version()
    assert "s3cret" not in f"{raised.value}{raised.value.data}"


async def test_401_and_403_are_told_apart():
    async with JobsApi(token="right") as api:
        async with RayJobsClient(api.endpoint(token=None), retry=QUICK) as client:
            with pytest.raises(RayAuthenticationError, match="No token reached Ray") as missing:
                await client.version()
        async with RayJobsClient(api.endpoint(token="wr0ng"), retry=QUICK) as client:
            with pytest.raises(RayAuthenticationError, match="refuses the token") as wrong:
                await client.version()
    assert (missing.value.status, wrong.value.status) == (401, 403)
    assert "field 'token'" in str(missing.value)
    assert "wr0ng" not in f"{wrong.value}{wrong.value.data}"
    assert len(api.requests) == 2, "a refused token is not tried again"


async def test_refused_credentials_are_renewed_once():
    asked = []

    async def auth(renew: bool):
        asked.append(renew)
        return {"Authorization": "Bearer new" if len(asked) > 1 else "Bearer old"}

    async with JobsApi(token="new") as api:
        async with RayJobsClient(api.endpoint(token=None, auth=auth), retry=QUICK) as client:
            await client.version()
            assert asked == [False, True]
        asked.clear()
        api.token = "never"
        async with RayJobsClient(api.endpoint(token=None, auth=auth), retry=QUICK) as client:
            with pytest.raises(RayAuthenticationError):
                await client.version()
        assert asked == [False, True]


async def test_the_kubernetes_api_server_is_not_taken_for_ray():
    body = '{"kind":"Status","apiVersion":"v1","status":"Failure","message":"services \\"x\\" is forbidden","code":403}'
    from ray_provider.jobs.http.errors import api_error

    error = api_error(RayEndpoint("https://k8s/proxy", token="t"), "GET", "/api/version", 403, body)
    assert "Kubernetes API server" in str(error)
    assert "services/proxy" in str(error)


@pytest.mark.parametrize("how", ["json", "stream", "websocket"])
async def test_a_redirect_is_not_followed_and_no_credential_goes_along(how):
    async with JobsApi() as other, JobsApi() as api:
        api.redirect_to = other.url.replace("127.0.0.1", "localhost")
        endpoint = api.endpoint(token="secret-token", cookies={"c": "secret-cookie"})
        async with RayJobsClient(endpoint, retry=QUICK) as client:
            with pytest.raises(RayApiError, match=f"localhost:{other.port}") as raised:
                if how == "json":
                    await client.version()
                elif how == "stream":
                    async with client.log_stream(NODE, "x.log"):
                        pass
                else:
                    async with client.log_tail("x"):
                        pass
        assert other.requests == []
        assert "secret" not in f"{raised.value}{raised.value.data}"


@pytest.mark.parametrize("empty", [False, True], ids=["answers 500", "answers nothing"])
async def test_a_missing_log_file_is_told_from_an_empty_one(api, client, empty):
    api.missing_file_is_empty = empty
    api.files = {"here [1].bin": b"content", "empty.bin": b""}
    assert await client.read_log_file(NODE, "here [1].bin") == b"content"
    assert await client.read_log_file(NODE, "empty.bin") == b""
    assert await client.read_log_file(NODE, "gone.bin") is None
    assert await client.read_log_file(NODE, "*.bin") is None
    with pytest.raises(RayApiError, match="doesn't exist"):
        await client.read_log_file("0" * 56, "here [1].bin")


async def test_5xx_is_tried_again_and_4xx_is_not(api, client):
    api.fail_next = [503, 500, 502, 429]
    assert (await client.version()).ray_version == "2.60.0"
    assert len(api.requests) == 5
    for status in (400, 404, 405, 413):
        api.requests.clear()
        api.fail_next = [status]
        with pytest.raises(RayApiError) as raised:
            await client.version()
        assert raised.value.status == status
        assert len(api.requests) == 1
    assert "413" in str(raised.value)
    assert "raise its limit" in str(raised.value.hint)


async def test_tries_end_at_the_deadline(api):
    api.unavailable = True
    policy = RetryPolicy(deadline_seconds=1.5, first_delay=0.05, max_delay=0.1)
    async with RayJobsClient(api.endpoint(), retry=policy) as client:
        started = time.monotonic()
        with pytest.raises(RayApiError, match="503"):
            await client.version()
    assert 1 < time.monotonic() - started < 30
    assert len(api.requests) > 3


async def test_a_silent_dashboard_times_out(api):
    api.delay = 60
    async with RayJobsClient(api.endpoint(), timeout=0.3, retry=RetryPolicy.none()) as client:
        started = time.monotonic()
        with pytest.raises(RayConnectionError, match="no answer in time"):
            await client.version()
    assert time.monotonic() - started < 30


async def test_nobody_listens():
    [port] = free_ports(1)
    policy = RetryPolicy(deadline_seconds=0.3, first_delay=0.05)
    async with RayJobsClient(RayEndpoint(f"http://127.0.0.1:{port}"), retry=policy) as client:
        with pytest.raises(RayConnectionError, match=r"tries\).*refused"):
            await client.version()


async def test_a_dashboard_that_comes_up_later_is_waited_for():
    [port] = free_ports(1)
    api = JobsApi(port=port)

    async def come_up():
        await asyncio.sleep(0.4)
        await api.__aenter__()

    coming = asyncio.create_task(come_up())
    try:
        async with RayJobsClient(RayEndpoint(f"http://127.0.0.1:{port}"), retry=QUICK) as client:
            assert (await client.version()).ray_version == "2.60.0"
    finally:
        await coming
        await api.__aexit__()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ray://head:10001", "Ray Client"),
        ("head:8265", "not the URL"),
        ("", "not the URL"),
        ("http://", "not the URL"),
        ("http://h:port", "not a URL"),
        ("http://h:8265/?a=b", "query"),
    ],
)
def test_a_malformed_address_is_refused_before_anything_is_sent(url, says):
    with pytest.raises(ConfigurationError, match=says) as raised:
        RayJobsClient(RayEndpoint(url))
    assert raised.value.data["field"] == "address"


async def test_a_sign_in_page_is_not_ray(api, client):
    from aiohttp import web

    api._version = None

    async def page(_request):
        return web.Response(text="<html>Sign in</html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/api/version", page)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with RayJobsClient(RayEndpoint(f"http://127.0.0.1:{runner.addresses[0][1]}"), retry=QUICK) as other:
            with pytest.raises(RayApiError, match="not JSON"):
                await other.version()
    finally:
        await runner.cleanup()


async def test_a_404_that_is_not_rays_is_no_missing_job(api, client):
    assert await client.get("nobody") is None
    api.fail_next = [404]
    with pytest.raises(RayApiError):
        await client.get("nobody")


async def test_an_id_that_exists_is_told_at_once(api, client):
    api.add("a")
    with pytest.raises(JobAlreadyExistsError):
        await client.submit_request(JobSpec("true", "a"))
    assert api.count["POST /api/jobs/"] == 1


async def test_an_agent_that_is_not_up_yet_is_waited_for(api, client):
    api.no_agent = 2
    assert await client.submit_request(JobSpec("true", "a")) == "a"
    assert api.count["POST /api/jobs/"] == 3


async def test_stop(api, client):
    api.add("a").run()
    assert (await client.stop_and_wait("a", 5)).status == "STOPPED"
    assert await client.stop("a") is False
    assert await client.stop("nobody") is False
    assert await client.stop_and_wait("nobody", 5) is None


async def test_a_job_that_does_not_stop_in_time(api, client):
    api.add("a", stop_seconds=60).run()
    with pytest.raises(JobError, match="had not ended after"):
        await client.stop_and_wait("a", 0.3)


async def test_a_job_that_waits_for_resources_is_ended_by_other_means_than_a_stop(api, client):
    api.add("a", lacks_resources=True)
    ended = await client.stop_and_wait("a", 20)
    assert (ended.status, ended.error_type) == ("STOPPED", None)
    assert "never ran" in ended.message
    [helper] = [job for job in api.jobs.values() if job.submission_id != "a"]
    assert "_ray_internal_job_actor_a" in helper.entrypoint
    assert JobOwner.from_metadata(helper.request["metadata"]) is None, "nobody takes it for a task's job"
    assert set(helper.request) == {"entrypoint", "submission_id", "metadata"}, "it asks for no resources"


async def test_a_job_that_began_to_run_meanwhile_is_not_said_never_to_have_run(api, client):
    job = api.add("a", lacks_resources=True)
    job.node_id = "its resources came just before the helper did"
    ended = await client.stop_and_wait("a", 20)
    assert ended.status == "STOPPED"
    assert ended.message == "The job was ended just as it began to run."


async def test_a_helper_that_fails_is_followed_by_another_and_then_told(api, client, monkeypatch):
    monkeypatch.setattr("ray_provider.jobs.client._ASK_AGAIN_SECONDS", 0.1)
    api.helpers_that_fail = 1
    api.add("a", lacks_resources=True)
    assert (await client.stop_and_wait("a", 20)).status == "STOPPED"
    api.helpers_that_fail = 99
    api.add("b", lacks_resources=True)
    with pytest.raises(JobError) as raised:
        await client.stop_and_wait("b", 3)
    assert "Ray says that it is PENDING" in raised.value.message
    assert "sh: python: not found" in raised.value.message, "why it could not be ended"
    assert sum("_job_actor_b" in job.entrypoint for job in api.jobs.values()) == 3


async def test_two_who_end_a_waiting_job_at_once_send_one_helper(api, client):
    api.add("a", lacks_resources=True)
    ends = await asyncio.gather(client.stop_and_wait("a", 20), client.stop_and_wait("a", 20))
    assert {each.status for each in ends} == {"STOPPED"}
    assert len(api.jobs) == 2


async def test_a_waiting_job_that_another_process_ends_meanwhile_is_stopped_too(api, client):
    """This one has not sent a helper, and finds the job FAILED, as Ray calls it."""
    api.add("a", lacks_resources=True)
    stopping = asyncio.create_task(client.stop_and_wait("a", 20))
    await until(lambda: api.count["GET /api/jobs/a"], seconds=20)
    await PendingJobEnder(client, "a").step(retry=RetryPolicy.none())
    ended = await stopping
    assert (ended.status, ended.message) == (
        "STOPPED",
        "The job was ended while it waited for resources: it never ran.",
    )
    assert len(api.jobs) == 2


async def test_a_job_whose_supervisor_dies_while_it_is_stopped_has_failed(api, client):
    api.add("a", stop_seconds=60).run()
    stopping = asyncio.create_task(client.stop_and_wait("a", 20))
    await until(lambda: api.count["GET /api/jobs/a"], seconds=20)
    api.jobs["a"].end("FAILED", error_type="JOB_SUPERVISOR_ACTOR_DIED", message="Its node died.")
    assert ((await stopping).status, len(api.jobs)) == ("FAILED", 1)


async def test_who_looked_at_the_job_before_its_helper_had_ended_it_sends_no_second_one(api, client):
    api.add("a", lacks_resources=True)
    ender = PendingJobEnder(client, "a")
    for _ in range(2):
        await ender.step(retry=RetryPolicy.none())
    assert len(api.jobs) == 2


async def test_a_job_that_is_only_just_starting_gets_its_time_to_stop(api, client):
    api.add("a", stop_seconds=0.5)
    assert (await client.stop_and_wait("a", 20)).message == "Job was intentionally stopped."
    assert len(api.jobs) == 1


async def test_delete(api, client):
    api.add("a").run()
    with pytest.raises(RayApiError, match="non-terminal"):
        await client.delete("a")
    assert api.count["DELETE /api/jobs/a"] == 1
    api.jobs["a"].end()
    assert await client.delete("a") is True
    assert await client.delete("a") is False


async def test_list_jobs(api, client):
    for number in range(300):
        api.add(f"job-{number}", request={"metadata": {"n": str(number)}})
    jobs = await client.list_jobs()
    assert [job.submission_id for job in jobs] == [f"job-{number}" for number in range(300)]
    assert jobs[7].metadata == {"n": "7"}


async def test_a_closed_client_says_so(api):
    with pytest.raises(RuntimeError, match="async with"):
        await RayJobsClient(api.endpoint()).version()


async def test_clients_of_one_endpoint_share_connections(api):
    async with RayJobsClient(api.endpoint()) as one, RayJobsClient(api.endpoint()) as two:
        assert one.transport._shared is two.transport._shared
        async with RayJobsClient(api.endpoint(token="other")) as three:
            assert three.transport._shared is not one.transport._shared
        session = one.transport._shared.session
        async with one:
            await one.version()
        await one.version()
    assert session.closed


# TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    from tests.support.certificates import make_certificates

    return make_certificates(tmp_path_factory.mktemp("tls"))


async def test_tls_with_a_ca_file(certificates):
    async with JobsApi(tls=certificates.server_context("127.0.0.1")) as api:
        good = TlsOptions(ca_file=str(certificates.ca_file))
        async with RayJobsClient(api.endpoint(tls=good), retry=QUICK) as client:
            assert (await client.version()).ray_version == "2.60.0"
        off = TlsOptions(verify=False)
        async with RayJobsClient(api.endpoint(tls=off), retry=QUICK) as client:
            assert (await client.version()).ray_version == "2.60.0"


async def test_tls_errors_are_explained(certificates, tmp_path):
    started = time.monotonic()
    async with JobsApi(tls=certificates.server_context("127.0.0.1")) as api:
        async with RayJobsClient(api.endpoint(), retry=QUICK) as client:
            with pytest.raises(RayConnectionError, match="authority that this machine does not know") as unknown:
                await client.version()
        assert "ca_file" in str(unknown.value)
        async with RayJobsClient(api.endpoint(url=api.url.replace("https", "http")), retry=QUICK) as client:
            with pytest.raises((RayConnectionError, RayApiError)) as plain:
                await client.version()
        assert "https://" in str(plain.value)
    async with JobsApi(tls=certificates.server_context("ray.example.com")) as api:
        good = TlsOptions(ca_file=str(certificates.ca_file))
        async with RayJobsClient(api.endpoint(tls=good), retry=QUICK) as client:
            with pytest.raises(RayConnectionError, match="not made for the name 127.0.0.1"):
                await client.version()
    async with JobsApi() as api:
        async with RayJobsClient(api.endpoint(url=api.url.replace("http", "https")), retry=QUICK) as client:
            with pytest.raises(RayConnectionError, match="does not speak TLS"):
                await client.version()
    assert time.monotonic() - started < 40
    for ca_file in (tmp_path / "missing.pem", tmp_path / "broken.pem"):
        (tmp_path / "broken.pem").write_text("not a certificate")
        with pytest.raises(ConfigurationError, match="TLS settings") as raised:
            async with RayJobsClient(RayEndpoint("https://h", tls=TlsOptions(ca_file=str(ca_file)))):
                pass
        assert str(ca_file) in str(raised.value)


def test_of_a_traceback_within_another_the_reason_is_told():
    from ray_provider.jobs.http.errors import api_error

    body = (
        "Traceback (most recent call last):\n  File x\nRuntimeError: Request failed with status code 500: Traceback "
        "(most recent call last):\n  File y\nRuntimeError: Attempted to delete job 'a', but it is not over.\n.\n"
    )
    assert "Attempted to delete job 'a'" in str(api_error(RayEndpoint("http://h"), "DELETE", "/api/jobs/a", 500, body))


class HangsUp:
    """A server that speaks TLS, and ends a connection on which plain HTTP comes.

    :param reset: with what came left unread, which the other side sees as a reset.
    """

    def __init__(self, context: ssl.SSLContext, *, reset: bool) -> None:
        self._context, self._reset = context, reset
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.plain = 0

    def __enter__(self) -> HangsUp:
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    if connection.recv(1, socket.MSG_PEEK) == b"\x16":
                        self._context.wrap_socket(connection, server_side=True).close()
                        continue
                    self.plain += 1
                    if self._reset:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    else:
                        connection.recv(65536)


@pytest.mark.parametrize("reset", [False, True])
async def test_plain_http_to_a_server_that_speaks_tls_is_told_at_once(reset, tmp_path):
    context = make_certificates(tmp_path).server_context("127.0.0.1")
    with HangsUp(context, reset=reset) as server:
        async with RayJobsClient(RayEndpoint(f"http://127.0.0.1:{server.port}")) as client:
            with pytest.raises(RayConnectionError, match="the server speaks TLS, and we plain HTTP"):
                await client.version()
        assert server.plain <= 2, "aiohttp repeats a GET once by itself"
