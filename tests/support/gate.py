"""A reverse proxy between Airflow and Ray that a test can close, slow down, or have swallow an answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "host", "content-encoding"}


class Gate:
    """Runs in a thread of its own; its switches may be set from the test at any time.

    :param upstream: Ray's address.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        #: Answer 503 to everything, and cut the streams that are open.
        self.closed = False
        #: Hold back the answer to a submit for as long as this is true; Ray has got the request.
        self.hold_submits = False
        #: How many submits were passed on.
        self.submits = 0
        self.url = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.hold_submits = False
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        asyncio.run(self._main())  # ends what is left of the requests, too

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = web.Application(client_max_size=200 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession(
            auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
        ) as self._client:
            self._ready.set()
            await self._stopping.wait()
            await runner.cleanup()  # first those who ask, then the client that asks for them

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.closed:
            return web.Response(status=503, text="Service Unavailable")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        submit = request.method == "POST" and request.path.rstrip("/") == "/api/jobs"
        try:
            async with self._client.request(
                request.method, self.upstream + request.path_qs, headers=headers, data=await request.read()
            ) as upstream:
                if submit:
                    self.submits += 1
                    while self.hold_submits:
                        await asyncio.sleep(0.05)
                return await self._pass_on(request, upstream)
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=f"Bad Gateway: {error}")

    async def _pass_on(self, request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {name: value for name, value in upstream.headers.items() if name.lower() not in HOP_BY_HOP}
        response = web.StreamResponse(status=upstream.status, headers=headers)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            while True:
                try:
                    chunk = await asyncio.wait_for(upstream.content.readany(), 0.25)
                except TimeoutError:
                    chunk = None
                if self.closed:
                    request.transport.abort()
                    return response
                if chunk == b"":
                    break
                if chunk:
                    await response.write(chunk)
            await response.write_eof()
        return response
