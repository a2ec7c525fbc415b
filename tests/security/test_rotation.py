"""Ray's and Kubernetes' tokens changed while a job runs on a real Ray: the watch goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.submit.once import submit_once
from ray_provider.jobs.watch.watcher import JobWatcher, WatchOptions
from tests.support.kubernetes_front import HANDLE, PROXY, KubernetesFront
from tests.support.ray_head import RayHead
from tests.support.waiting import until

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "content-encoding"}


class Guard(KubernetesFront):
    """The API server and a guard before a real Ray: tokens of its own, which change, and open streams end with them."""

    def __init__(self, ray: RayHead) -> None:
        super().__init__()
        self.ray = ray
        self.streams: list[asyncio.Transport] = []

    def rotate(self) -> None:
        """A new token for Ray and a new one for Kubernetes, and whoever came with the old ones is thrown out."""
        number = int(self.ray_token.rpartition("-")[2]) + 1
        self.ray_token = self.secret = f"ray-{number}"
        for transport in self.streams:
            transport.abort()

    @web.middleware
    async def _front(self, request: web.Request, handler) -> web.StreamResponse:
        refused = await super()._front(request, self._pass_on)
        self.requests.clear()
        return refused

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        headers |= {"Authorization": f"Bearer {self.ray.token}", "X-Ray-Authorization": f"Bearer {self.ray.token}"}
        url = self.ray.url + request.path_qs.removeprefix(PROXY)
        transport = request.transport
        self.streams.append(transport)
        try:
            async with self.session.request(request.method, url, headers=headers, data=await request.read()) as answer:
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
                response = web.StreamResponse(status=answer.status, headers=kept)
                await response.prepare(request)
                with contextlib.suppress(ConnectionError):
                    async for piece in answer.content.iter_any():
                        await response.write(piece)
                    await response.write_eof()
                return response
        finally:
            self.streams.remove(transport)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Guard]:
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as self.session, self:
            yield self


@pytest.mark.timeout(900)
async def test_a_job_outlives_three_rotations(ray, tmp_path):
    flag = tmp_path / "flag"
    code = (
        "import itertools, os, time; any(print('line', n, flush=True) or time.sleep(0.3) or os.path.exists("
        f"'{flag}') for n in itertools.count())"
    )
    async with Guard(ray).serving() as guard:
        guard.ray_token = guard.secret = "ray-1"
        endpoint = await kubernetes_endpoint(guard.access(), HANDLE)
        lines: list[str] = []
        async with RayJobsClient(endpoint) as client:
            await submit_once(client, JobSpec(entrypoint=f'python -c "{code}"', submission_id="rotated"))
            options = WatchOptions(max_unreachable_seconds=300)
            watcher = JobWatcher(client, "rotated", options, on_log=lambda b: lines.extend(b.text.splitlines()))
            watching = asyncio.create_task(watcher.watch())
            await until(lambda: bool(lines) or watching.done())
            for number in (1, 2, 3):
                before = len(lines)
                guard.rotate()
                await until(
                    lambda number=number, before=before: (
                        watching.done() or (guard.count["ray refused"] >= number and len(lines) > before + 1)
                    )
                )
            assert not watching.done()
            flag.touch()
            outcome = await asyncio.wait_for(watching, 300)
        assert outcome.status == "SUCCEEDED", outcome
        found = [line for line in lines if line.startswith("line ")]
        assert found == [f"line {n}" for n in range(len(found))], "each once, in order"
        assert guard.ray_token == "ray-4"
        # Who comes with the first one is refused: the rotation was one.
        old = replace(endpoint, token="ray-1", token_source=None)
        async with RayJobsClient(old) as client:
            with pytest.raises(Exception, match="refuses the token"):
                await client.version()
