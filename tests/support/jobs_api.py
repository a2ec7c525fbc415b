"""A double of Ray's dashboard: the Jobs API and the log stream, with the faults that the real one and its proxies have.

It answers as Ray 2.60 was seen to answer, text included.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Self

from aiohttp import web

from ray_provider.jobs.endpoint import RayEndpoint, TlsOptions
from ray_provider.jobs.pending import ENDS_KEY
from tests.support.serve_api import ServeApi

NODE = "47e1e5523374263f9b44b1c4e190b313c9d03e317778f4de6a3cc9f2"


@dataclass
class FakeJob:
    """A job of the double. The test moves it along."""

    submission_id: str
    entrypoint: str
    request: dict[str, Any] = field(default_factory=dict)
    status: str = "PENDING"
    message: str = "Job has not started yet."
    error_type: str | None = None
    exit_code: int | None = None
    node_id: str | None = None
    log: bytearray | None = None
    start_time: int = field(default_factory=lambda: int(time.time() * 1000))
    end_time: int | None = None
    #: How long a stop takes.
    stop_seconds: float = 0.05
    #: PENDING until resources come: Ray says that it stops such a job, and does not.
    lacks_resources: bool = False
    #: Ray's own id, once the driver has called ``ray.init``.
    job_id: str | None = None

    def run(self, log: bytes = b"") -> None:
        self.status, self.message, self.node_id = "RUNNING", "Job is currently running.", NODE
        self.log = bytearray(log) if self.log is None else self.log

    def write(self, data: bytes | str) -> None:
        assert self.log is not None
        self.log += data.encode() if isinstance(data, str) else data

    def end(self, status: str = "SUCCEEDED", **values: Any) -> None:
        self.status, self.end_time = status, int(time.time() * 1000)
        self.message = values.pop("message", "Job finished successfully.")
        for name, value in values.items():
            setattr(self, name, value)

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "SUBMISSION",
            "job_id": self.job_id,
            "submission_id": self.submission_id,
            "driver_info": None,
            "status": self.status,
            "entrypoint": self.entrypoint,
            "message": self.message,
            "error_type": self.error_type,
            "start_time": self.start_time,
            "end_time": self.end_time,
            "metadata": self.request.get("metadata", {}),
            "runtime_env": self.request.get("runtime_env", {}),
            "driver_agent_http_address": "http://127.0.0.1:52365" if self.node_id else None,
            "driver_node_id": self.node_id,
            "driver_exit_code": self.exit_code,
        }


class JobsApi:
    """The double, as an asynchronous context manager.

    :param token: wanted from every request but the open ones.
    :param prefix: path before everything.
    :param tls: serve HTTPS with this context.
    """

    def __init__(
        self, *, token: str | None = None, prefix: str = "", tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.token = token
        self.prefix = prefix
        self.tls = tls
        self.port = port
        self.jobs: dict[str, FakeJob] = {}
        self.serve = ServeApi()
        self.used_ids: set[str] = set()
        self.packages: dict[str, bytes] = {}
        #: Further files in the session's log folder, by name.
        self.files: dict[str, bytes] = {}
        #: None: a Ray that does not tell.
        self.python_version: str | None = None
        self.ray_version = "2.60.0"
        self.session_name = "session_1"
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.count: Counter[str] = Counter()
        # Faults.
        self.unavailable = False
        self.unavailable_status = 503
        self.fail_next: list[int] = []
        self.no_agent = 0
        self.lose_answers = 0
        #: Helpers that are to end a waiting job, and can't.
        self.helpers_that_fail = 0
        self.redirect_to: str | None = None
        self.delay = 0.0
        self.state_api = True
        #: The State API has as many requests in progress as it takes.
        self.state_api_busy = False
        #: Break log streams after so many bytes, one after the other.
        self.break_streams: list[int] = []
        #: Of a file that is not there Ray answers 500, or nothing with a 200: it is a race between its processes.
        self.missing_file_is_empty = False
        self.chunk_sizes: list[int] = []
        self.stream_pause = 0.02
        self.streams_open = 0
        self.websocket_close_after: list[int] = []

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._front], client_max_size=200 * 1024**2)
        add = app.router.add_route
        p = self.prefix
        add("GET", f"{p}/api/version", self._version)
        add("GET", f"{p}/api/authentication_mode", self._mode)
        add("GET", f"{p}/api/jobs/", self._list)
        add("POST", f"{p}/api/jobs/", self._submit)
        add("GET", f"{p}/api/jobs/{{id}}", self._get)
        add("DELETE", f"{p}/api/jobs/{{id}}", self._delete)
        add("POST", f"{p}/api/jobs/{{id}}/stop", self._stop)
        add("GET", f"{p}/api/jobs/{{id}}/logs/tail", self._tail)
        add("GET", f"{p}/api/packages/gcs/{{name}}", self._package)
        add("PUT", f"{p}/api/packages/gcs/{{name}}", self._upload)
        add("GET", f"{p}/api/serve/applications/", self.serve.get)
        add("PUT", f"{p}/api/serve/applications/", self.serve.put)
        add("GET", f"{p}/-/healthz", self.serve.health)
        add("GET", f"{p}/api/v0/logs", self._list_logs)
        add("GET", f"{p}/api/v0/logs/{{kind}}", self._logs)
        add("GET", f"{p}/api/v0/cluster_metadata", self._metadata)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await self.listen()
        return self

    async def listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls, backlog=4096)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{self.prefix}"

    def endpoint(self, **values: Any) -> RayEndpoint:
        return RayEndpoint(**{"url": self.url, "token": self.token, "tls": TlsOptions(), **values})

    def add(self, submission_id: str, entrypoint: str = "true", **values: Any) -> FakeJob:
        self.used_ids.add(submission_id)
        job = self.jobs[submission_id] = FakeJob(submission_id, entrypoint, **values)
        return job

    def restart(self) -> None:
        """What a head without fault tolerance does: a new session, and no jobs."""
        self.jobs.clear()
        self.used_ids.clear()
        self.session_name += "_restarted"

    # ---------------------------------------------------------------------------------------------------------------

    @web.middleware
    async def _front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        path = request.path.removeprefix(self.prefix)
        self.requests.append((request.method, path))
        self.headers.append(dict(request.headers))
        self.count[f"{request.method} {path}"] += 1
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.redirect_to:
            return web.Response(status=307, headers={"Location": self.redirect_to + path})
        if self.unavailable:
            return web.Response(status=self.unavailable_status, text="no healthy upstream")
        if self.fail_next:
            return web.Response(status=self.fail_next.pop(0), text="upstream connect error")
        open_paths = ("/api/authentication_mode", "/api/gcs_healthz", "/-/healthz", "/")
        if self.token and path not in open_paths:
            given = request.headers.get("Authorization") or request.headers.get("X-Ray-Authorization")
            if not given:
                return web.Response(status=401, text="Unauthorized: Missing authentication token")
            if given != f"Bearer {self.token}":
                return web.Response(status=403, text="Forbidden: Invalid authentication token")
        if request.method != "GET" and request.headers.get("User-Agent", "").startswith("Mozilla"):
            return web.Response(status=405)
        return await handler(request)

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"version": "4", "ray_version": self.ray_version, "ray_commit": "abc", "session_name": self.session_name}
        )

    async def _mode(self, _request: web.Request) -> web.Response:
        return web.json_response({"authentication_mode": "token" if self.token else "disabled"})

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response([job.to_json() for job in self.jobs.values()])

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not all(isinstance(each, str) for each in body.get("metadata", {}).values()):
            return web.Response(status=400, text="Traceback (most recent call last):\nTypeError: metadata values")
        if self.no_agent:
            self.no_agent -= 1
            return web.Response(status=500, text="No available agent to submit job, please try again later.")
        name = body.get("submission_id") or f"raysubmit_{len(self.jobs)}"
        if name in self.used_ids:
            text = (
                "Traceback (most recent call last):\n  File x\n"
                f"ValueError: Job with submission_id {name} already exists. Please use a different submission_id."
            )
            return web.Response(status=500, text=text)
        self.add(name, body["entrypoint"], request=body)
        if ended := body.get("metadata", {}).get(ENDS_KEY):
            self._end_supervisor(self.jobs[name], self.jobs.get(ended))
        if self.lose_answers:
            self.lose_answers -= 1
            request.transport.close()
        return web.json_response({"job_id": name, "submission_id": name})

    def _end_supervisor(self, helper: FakeJob, job: FakeJob | None) -> None:
        """Do what the entrypoint of such a helper does on a cluster."""
        if self.helpers_that_fail:
            self.helpers_that_fail -= 1
            helper.end("FAILED", message="Job entrypoint command failed\nsh: python: not found")
            return
        helper.end()
        if job is not None and job.status == "PENDING":
            job.end("FAILED", message="Job supervisor actor died", error_type="JOB_SUPERVISOR_ACTOR_DIED")

    def _job(self, request: web.Request) -> FakeJob:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            raise web.HTTPNotFound(text=f"Job {request.match_info['id']} does not exist")
        return job

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(request).to_json())

    async def _delete(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job.status in {"PENDING", "RUNNING"}:
            text = f"RuntimeError: Attempted to delete job '{job.submission_id}', but it is in a non-terminal state"
            return web.Response(status=500, text=text)
        del self.jobs[job.submission_id]
        return web.json_response({"deleted": True})

    async def _stop(self, request: web.Request) -> web.Response:
        job = self._job(request)
        running = job.status in {"PENDING", "RUNNING"}
        if running and not (job.status == "PENDING" and job.lacks_resources):
            asyncio.get_running_loop().call_later(
                job.stop_seconds, lambda: job.end("STOPPED", message="Job was intentionally stopped.")
            )
        return web.json_response({"stopped": running})

    async def _package(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.packages:
            return web.Response(status=404, text=f"Package gcs://{name} does not exist")
        return web.Response()

    async def _upload(self, request: web.Request) -> web.Response:
        self.packages[request.match_info["name"]] = await request.read()
        return web.Response()

    async def _metadata(self, _request: web.Request) -> web.Response:
        if self.python_version is None:
            return web.Response(status=404, text="404: Not Found")
        return web.json_response({"result": True, "msg": "", "data": {"pythonVersion": self.python_version}})

    def _file(self, request: web.Request) -> FakeJob | None:
        name = request.query["filename"].removeprefix("job-driver-").removesuffix(".log")
        return self.jobs.get(name)

    async def _list_logs(self, request: web.Request) -> web.Response:
        if request.query.get("node_id") != NODE:
            return web.Response(status=500, text=f"Agent for node id: {request.query.get('node_id')} doesn't exist.")
        names = [name for name in self.files if fnmatchcase(name, request.query["glob"])]
        return web.json_response({"result": True, "msg": "", "data": {"result": {"internal": names}}})

    def _missing_file(self, request: web.Request) -> web.Response:
        if self.missing_file_is_empty:
            return web.Response()
        return web.Response(status=500, text=f"A file is not found at: /tmp/ray/{request.query['filename']}")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        if not self.state_api:
            return web.Response(status=404, text="404: Not Found")
        if self.state_api_busy:
            return web.Response(status=429, text="Max number of in-progress requests=100 reached.")
        if request.query.get("node_id") != NODE:
            return web.Response(status=500, text=f"Agent for node id: {request.query.get('node_id')} doesn't exist.")
        name = request.query["filename"]
        if request.match_info["kind"] == "file" and not name.startswith("job-driver-"):
            return web.Response(body=self.files[name]) if name in self.files else self._missing_file(request)
        job = self._file(request)
        if job is None or job.log is None:
            return self._missing_file(request)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        log = job.log
        if request.match_info["kind"] == "file":
            lines = int(request.query["lines"])
            data = bytes(log) if lines == -1 else b"".join(bytes(log).splitlines(keepends=True)[-lines:])
            await response.prepare(request)
            for start in range(0, len(data), 65536):
                await response.write(data[start : start + 65536])
            return response
        # Headers come with the first byte, as Ray does it.
        self.streams_open += 1
        limit = self.break_streams.pop(0) if self.break_streams else None
        sizes = list(self.chunk_sizes)
        position = 0
        try:
            while not log:
                await asyncio.sleep(self.stream_pause)
            await response.prepare(request)
            while True:
                size = sizes.pop(0) if sizes else 65536
                data = bytes(log[position : position + size])
                if limit is not None and position + len(data) >= limit:
                    await response.write(data[: limit - position])
                    request.transport.close()
                    return response
                if data:
                    await response.write(data)
                    position += len(data)
                else:
                    await asyncio.sleep(self.stream_pause)
        finally:
            self.streams_open -= 1

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        limit = self.websocket_close_after.pop(0) if self.websocket_close_after else None
        position = 0
        while True:
            text = bytes(job.log or b"")[position:].decode("utf-8", "replace")
            if limit is not None and position + len(text) >= limit:
                await websocket.send_str(text[: limit - position])
                await websocket.close(code=1000)
                return websocket
            if text:
                await websocket.send_str(text)
                position += len(text.encode())
            elif job.status in {"SUCCEEDED", "FAILED", "STOPPED"}:
                await websocket.close(code=1000)
                return websocket
            await asyncio.sleep(self.stream_pause)


def dump(value: Any) -> str:
    """What an error or outcome shows, to look for secrets in it."""
    return json.dumps(value, default=repr)


__all__ = ["NODE", "FakeJob", "JobsApi", "dump"]
