"""A client for Ray's Jobs API and for the log files that its State API serves."""

from __future__ import annotations

import asyncio
import glob
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urlsplit

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import ConfigurationError, JobError, RayApiError
from ray_provider.jobs.http.errors import JobAlreadyExistsError, connection_error, not_ray_error
from ray_provider.jobs.http.incoming import ERROR_BYTES, LIST_BYTES, STATUS_BYTES
from ray_provider.jobs.http.transport import Transport
from ray_provider.jobs.models import ClusterVersion, JobDetails, JobSpec
from ray_provider.jobs.pending import PendingJobEnder

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import aiohttp

    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.jobs.http.incoming import Incoming

#: The most that Ray takes as a package.
MAX_PACKAGE_BYTES = 100 * 1024 * 1024
_NOT_FOUND = "does not exist"
#: Ray up to 2.43 puts a byte before each piece of a log file unless it is asked not to.
_AS_IT_IS = {"format": "text"}
#: What it then says in a 200, where newer ones answer 500.
_FETCH_ERROR = b"[get_logs] Fetch log error"
_NO_AGENT = "No available agent"
_SUPERVISOR_DIED = "JOB_SUPERVISOR_ACTOR_DIED"
_AGENT_HINT = (
    "The dashboard answers, but no agent that starts jobs has joined it. On the head: is ray[default] installed (else "
    "there is no agent), does dashboard_agent.log in Ray's log folder say why it ended, is its port free "
    "(--dashboard-agent-listen-port)?"
)
#: While a job is being stopped: seconds until it is asked for again, and until one that is PENDING is ended otherwise.
_ASK_AGAIN_SECONDS = 5.0
_PENDING_SECONDS = 1.0
#: Who gives a stop so long, gives so long to the job that ends a waiting one: on a busy head its Python starts slowly.
_PATIENT_SECONDS, _ENDING_SECONDS = 60.0, 180.0


class RayJobsClient:
    """Ray's Jobs API at one endpoint. Use it as an asynchronous context manager.

    All clients of one endpoint in one event loop share connections. Network errors, 5xx and 429 are tried again with
    backoff until the policy's deadline; other errors are final.

    :param endpoint: where, and with which credentials.
    :param timeout: seconds for one request.
    :param retry: how long to go on; every method takes another policy for itself.
    """

    def __init__(
        self, endpoint: RayEndpoint, *, timeout: float = 30.0, retry: RetryPolicy = RetryPolicy()  # noqa: B008 (frozen)
    ) -> None:  # fmt: skip
        self.endpoint = endpoint
        self.transport = Transport(endpoint, timeout=timeout, retry=retry)

    async def __aenter__(self) -> Self:
        await self.transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.transport.close()

    def job_url(self, submission_id: str) -> str:
        """Where a person sees the job in Ray's dashboard.

        :param submission_id: the job's.
        """
        return f"{self.endpoint.display_url.rstrip('/')}/#/jobs/{quote(submission_id, safe='')}"

    async def version(self, *, retry: RetryPolicy | None = None) -> ClusterVersion:
        """Ask what answers. The session's name changes when the head restarts.

        :param retry: unless given, the client's own.
        :raises RayApiError: what answers is not Ray's dashboard.
        """
        data = await self.transport.json("GET", "/api/version", retry=retry)
        if not isinstance(data, dict) or "ray_version" not in data:
            raise not_ray_error(self.endpoint, "GET", "/api/version", 200, str(data))
        return ClusterVersion.from_json(data)

    async def get(self, submission_id: str, *, retry: RetryPolicy | None = None) -> JobDetails | None:
        """Ask for a job. None: Ray does not know it. A 404 that is not Ray's own is an error.

        :param submission_id: the job's.
        :param retry: unless given, the client's own.
        :raises RayApiError: it is refused, or what answers is not Ray's dashboard.
        """
        path = f"/api/jobs/{quote(submission_id, safe='')}"
        data = await self.transport.json("GET", path, retry=retry, accept=_found_or_missing, limit=STATUS_BYTES)
        if data is None or isinstance(data, dict):
            return None if data is None else JobDetails.from_json(data)
        raise not_ray_error(self.endpoint, "GET", path, 200, str(data))

    async def list_jobs(self, *, retry: RetryPolicy | None = None) -> list[JobDetails]:
        """Ask for all jobs that the cluster knows, submitted or not.

        :param retry: unless given, the client's own.
        :raises RayApiError: it is refused, or what answers is not Ray's dashboard.
        """
        from ray_provider.jobs.parsing import parse_jobs

        answer = await self.transport.request("GET", "/api/jobs/", retry=retry, limit=LIST_BYTES)
        try:
            return [job async for job in parse_jobs(answer.body)]
        except ValueError:
            beginning = answer.body[:ERROR_BYTES].decode("utf-8", "replace")
            raise not_ray_error(self.endpoint, "GET", "/api/jobs/", answer.status, beginning) from None

    async def submit_request(self, spec: JobSpec, *, retry: RetryPolicy | None = None) -> str:
        """Submit a job and give its id. Not safe to repeat: see :func:`ray_provider.jobs.submit.once.submit_once`.

        :param spec: what to run.
        :param retry: unless given, the client's own.
        :raises JobAlreadyExistsError: the id is taken.
        :raises ConfigurationError: Ray refuses the specification.
        :raises RayApiError: it is refused otherwise, or what answers is not Ray's dashboard.
        """
        spec.validate()
        try:
            data = await self.transport.json(
                "POST",
                "/api/jobs/",
                json_body=spec.to_request(),
                retry=retry,
                # An agent that does not come up is waited for by the dashboard, 10 s or more.
                timeout=max(self.transport.timeout, 30.0),
                final=_is_taken,
            )
        except RayApiError as error:
            if _is_taken(error.status or 0, error.data.get("body", "")):
                raise JobAlreadyExistsError(
                    f"A job with the submission id {spec.submission_id} exists already.", **error.data
                ) from error
            if error.status == 400:
                raise ConfigurationError(
                    f"Ray refuses the job: {error.message}", hint="Check runtime_env and the other arguments.",
                    **error.data,
                ) from error  # fmt: skip
            if _NO_AGENT in error.data.get("body", ""):
                raise RayApiError(error.message, hint=_AGENT_HINT, **error.data) from error
            raise
        if not isinstance(data, dict):
            raise not_ray_error(self.endpoint, "POST", "/api/jobs/", 200, str(data))
        return str(data.get("submission_id") or data.get("job_id"))

    async def stop(self, submission_id: str, *, retry: RetryPolicy | None = None) -> bool:
        """Ask Ray to stop a job. True: it will be STOPPED soon; false: there was nothing to stop.

        :param submission_id: the job's.
        :param retry: unless given, the client's own.
        """
        path = f"/api/jobs/{quote(submission_id, safe='')}/stop"
        data = await self.transport.json("POST", path, retry=retry, accept=_found_or_missing)
        return isinstance(data, dict) and bool(data.get("stopped"))

    async def stop_and_wait(
        self, submission_id: str, timeout_seconds: float = 60.0, *, poll_interval: float = 0.25
    ) -> JobDetails | None:
        """Stop a job and wait until Ray says that it has ended. None: Ray does not know the job.

        A job that still waits for resources is ended by :mod:`ray_provider.jobs.pending`: Ray's own stop does not. It
        is STOPPED for us, though Ray calls it FAILED: it never ran.

        :param submission_id: the job's.
        :param timeout_seconds: for all of it, failing requests included. From 60 s on, a job that waits for resources
            gets up to 180 s.
        :param poll_interval: seconds between two looks.
        :raises JobError: the job had not ended in time.
        """
        ender = PendingJobEnder(self, submission_id)
        loop = asyncio.get_running_loop()
        since = loop.time()
        details: JobDetails | None = None
        try:
            async with asyncio.timeout(timeout_seconds) as limit:
                policy = RetryPolicy(deadline_seconds=timeout_seconds, max_delay=2.0)
                asked = helped = 0.0
                while True:
                    # Asked again now and then: a job that was still being prepared may have missed the first time.
                    if not asked or loop.time() - asked > _ASK_AGAIN_SECONDS:
                        await self.stop(submission_id, retry=policy)
                        asked = loop.time()
                    details = await self.get(submission_id, retry=policy)
                    if details is None or details.is_final:
                        if details and details.error_type == _SUPERVISOR_DIED and await ender.was_sent(retry=policy):
                            return _stopped_by_us(details)
                        return details
                    # A job that was just submitted is PENDING for a moment, and stops by itself when it starts.
                    waits = details.status == "PENDING" and loop.time() - since > _PENDING_SECONDS
                    if waits and (not helped or loop.time() - helped > _ASK_AGAIN_SECONDS):
                        await ender.step(retry=policy)
                        if not helped and timeout_seconds >= _PATIENT_SECONDS:
                            limit.reschedule(loop.time() + _ENDING_SECONDS)
                        helped = loop.time()
                    await asyncio.sleep(poll_interval)
        except TimeoutError:
            status = f" Ray says that it is {details.status}." if details else ""
            raise JobError(
                f"Job {submission_id} was told to stop, but had not ended after {loop.time() - since:.0f} s.{status} "
                f"{ender.failure()}".rstrip(),
                hint=f"See {self.job_url(submission_id)}, and stop it there: it may still run.",
                submission_id=submission_id,
            ) from None

    async def delete(self, submission_id: str, *, retry: RetryPolicy | None = None) -> bool:
        """Delete what Ray knows of an ended job. False: it did not know the job. Its id stays taken.

        :param submission_id: the job's.
        :param retry: unless given, the client's own.
        :raises RayApiError: the job still runs.
        """
        path = f"/api/jobs/{quote(submission_id, safe='')}"
        answer = await self.transport.request(
            "DELETE", path, retry=retry, accept=_found_or_missing, final=lambda _s, text: "non-terminal" in text
        )
        return answer.status == 200

    # Packages ---------------------------------------------------------------------------------------------------

    async def package_exists(self, uri: str, *, retry: RetryPolicy | None = None) -> bool:
        """Ask whether the cluster has a package. Asking also keeps it for a while (Ray: 10 minutes by default).

        :param uri: such as ``gcs://_ray_pkg_0123.zip``.
        :param retry: unless given, the client's own.
        """
        answer = await self.transport.request("GET", _package_path(uri), retry=retry, accept=_found_or_missing)
        return answer.status == 200

    async def upload_package(self, uri: str, path: Path, *, retry: RetryPolicy | None = None) -> None:
        """Upload a file as a package.

        :param uri: the name it gets.
        :param path: of the file.
        :param retry: unless given, the client's own.
        :raises ConfigurationError: it is larger than Ray takes.
        """
        size = path.stat().st_size
        if size > MAX_PACKAGE_BYTES:
            raise ConfigurationError(
                f"{path.name} has {size / 1024**2:.1f} MiB; Ray takes packages of at most 100 MiB.",
                hint="Put it into object storage and give its URI, such as s3://bucket/package.zip.",
                field="runtime_env",
            )
        await self.transport.request(
            "PUT",
            _package_path(uri),
            body=lambda: path.open("rb"),
            retry=retry,
            timeout=max(self.transport.timeout, 300.0),
        )

    # Log files --------------------------------------------------------------------------------------------------

    def log_stream(
        self, node_id: str, filename: str, *, interval: float = 0.5
    ) -> AbstractAsyncContextManager[Incoming]:
        """Follow a log file from its first byte. It does not end by itself.

        The answer's headers come with the first byte: nothing is known of an empty file, not even an error.

        :param node_id: where the file lies.
        :param filename: below the log folder of the Ray session.
        :param interval: seconds after which Ray looks for more.
        """
        params = {"node_id": node_id, "filename": filename, "lines": "-1", "interval": str(interval), **_AS_IT_IS}
        return self.transport.stream("/api/v0/logs/stream", params=params)

    async def log_file(
        self, node_id: str, filename: str, lines: int = -1, *, timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """Read a log file, or any other below the log folder of the Ray session, piece by piece.

        :param node_id: of the node that has it.
        :param filename: below the log folder.
        :param lines: the last so many; -1: all.
        :param timeout: seconds that no byte may come.
        :raises RayApiError: there is no such node or file.
        :raises RayConnectionError: the connection broke; what came before it was given.
        """
        import aiohttp

        timeout = timeout or self.transport.timeout
        params = {"node_id": node_id, "filename": filename, "lines": str(lines), **_AS_IT_IS}
        params["timeout"] = str(max(300, int(timeout)))
        async with self.transport.stream("/api/v0/logs/file", params=params, timeout=timeout) as response:
            try:
                while piece := await response.readany():
                    yield piece
            except (aiohttp.ClientError, OSError) as error:
                raise connection_error(self.endpoint, error) from error

    async def read_log_file(self, node_id: str, filename: str, *, max_bytes: int | None = None) -> bytes | None:
        """Read such a file at once, in one try.

        Of a file that is not there Ray answers 500 or nothing with a 200, whichever of two messages between its own
        processes comes first (Ray 2.60): the list of the files tells.

        :param node_id: of the node that has it.
        :param filename: below the log folder.
        :param max_bytes: refuse a larger one.
        :returns: its bytes; None: there is no such file.
        :raises RayApiError: Ray can't give it, or it is larger.
        """
        pieces = bytearray()
        try:
            async for piece in self.log_file(node_id, filename):
                pieces += piece
                if pieces.startswith(_FETCH_ERROR):
                    raise RayApiError(pieces.decode("utf-8", "replace"), status=HTTPStatus.INTERNAL_SERVER_ERROR)
                if max_bytes is not None and len(pieces) > max_bytes:
                    raise RayApiError(f"{filename} on node {node_id} has more than {max_bytes} bytes.", status=200)
        except RayApiError as error:
            if error.status != HTTPStatus.INTERNAL_SERVER_ERROR or await self._has_log_file(node_id, filename):
                raise
            return None
        return bytes(pieces) if pieces or await self._has_log_file(node_id, filename) else None

    async def _has_log_file(self, node_id: str, filename: str) -> bool:
        return filename in await self.list_log_files(node_id, glob.escape(filename), retry=RetryPolicy.none())

    async def list_log_files(
        self, node_id: str, pattern: str = "*", *, retry: RetryPolicy | None = None
    ) -> list[str]:  # fmt: skip
        """List files below the log folder of the Ray session.

        :param node_id: of the node.
        :param pattern: of their names, with the wildcards of a shell.
        :param retry: unless given, the client's own.
        """
        params = {"node_id": node_id, "glob": pattern}
        data = await self.transport.json("GET", "/api/v0/logs", params=params, retry=retry)
        inner = data.get("data") if isinstance(data, dict) else None
        groups = inner.get("result") if isinstance(inner, dict) else None
        lists = [names for names in groups.values() if isinstance(names, list)] if isinstance(groups, dict) else []
        return sorted({str(name) for names in lists for name in names})

    @asynccontextmanager
    async def log_tail(self, submission_id: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Follow a job's log by WebSocket, from its first line: for clusters without the State API.

        :param submission_id: the job's.
        """
        async with self.transport.websocket(f"/api/jobs/{quote(submission_id, safe='')}/logs/tail") as websocket:
            yield websocket


def _stopped_by_us(details: JobDetails) -> JobDetails:
    """Tell a job whose supervisor we ended from one that failed."""
    # Its resources may have come while the helper was on its way.
    ran = details.driver_node_id is not None
    when = "just as it began to run" if ran else "while it waited for resources: it never ran"
    return replace(details, status="STOPPED", error_type=None, message=f"The job was ended {when}.")


def _found_or_missing(status: int, text: str) -> bool:
    """Accept 200, and the 404 that Ray itself gives for what it does not know (not a proxy's)."""
    return status == 200 or (status == 404 and _NOT_FOUND in text)


def _is_taken(status: int, text: str) -> bool:
    """Recognize the 500 that Ray gives for a submission id that exists."""
    return status >= 400 and "submission_id" in text and "already exists" in text


def _package_path(uri: str) -> str:
    parts = urlsplit(uri)
    return f"/api/packages/{parts.scheme}/{quote(parts.netloc + parts.path, safe='')}"
