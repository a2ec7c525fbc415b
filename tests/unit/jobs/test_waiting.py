"""A job that is PENDING is explained: what it asks for, and what there is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from ray_provider.jobs import watcher
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.retry import RetryPolicy
from ray_provider.jobs.waiting import explain
from ray_provider.jobs.watcher import JobWatcher, WatchOptions
from tests.support.jobs_api import JobsApi

pytestmark = pytest.mark.timeout(60)

GIB = 1024**3


class Cluster(JobsApi):
    """With the State API's actors and nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: Any = []
        self.wants: Any = {"CPU": 4.0, "memory": 8.0 * GIB}

    @web.middleware
    async def _front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path == "/api/v0/nodes":
            return self._rows(self.nodes)
        if request.path == "/api/v0/actors":
            names = ("_ray_internal_job_actor_other", "_ray_internal_job_actor_a")
            return self._rows([{"name": name, "required_resources": self.wants} for name in names])
        return await super()._front(request, handler)

    @staticmethod
    def _rows(rows: Any) -> web.Response:
        return web.json_response({"result": True, "data": {"result": {"total": 1, "result": rows}}})

    def node(self, **resources: float) -> None:
        self.nodes.append({"state": "ALIVE", "resources_total": {"node:10.0.0.1": 1.0, **resources}})


@pytest.fixture
async def api():
    async with Cluster() as found:
        yield found


async def why(api: Cluster) -> str:
    async with RayJobsClient(api.endpoint(), retry=RetryPolicy.none()) as client:
        return await explain(client, "a", "Job has not started yet.")


async def test_what_no_node_can_hold_is_told_by_name(api):
    api.node(CPU=2, memory=16 * GIB)
    api.node(CPU=1, memory=16 * GIB)
    api.nodes.append({"state": "DEAD", "resources_total": {"CPU": 64}})
    told = await why(api)
    assert "asks for 4 CPU, 8.0 GiB memory" in told
    assert "2 nodes with 3 CPU, 32.0 GiB memory in all" in told
    assert "no node has so much CPU" in told
    assert "num_cpus" in told
    assert told.endswith("Ray says: Job has not started yet.")


async def test_what_fits_but_is_taken_is_told_apart(api):
    api.node(CPU=8, memory=16 * GIB)
    assert "other jobs and tasks hold what it has" in await why(api)
    api.nodes.clear()
    api.node(CPU=8)
    api.node(memory=16 * GIB)
    assert "No node that is there can hold that: " in await why(api), "each has a part of it"


@pytest.mark.parametrize("rows", [None, "x", [1], [{"state": "ALIVE", "resources_total": "x"}]])
async def test_less_is_known_where_ray_does_not_say(api, rows):
    api.nodes = api.wants = rows
    assert "Ray says: Job has not started yet." in await why(api)


async def test_the_log_tells_while_it_waits_and_no_longer(api, monkeypatch):
    """Before: nothing came for 15 minutes."""
    monkeypatch.setattr(watcher, "_PENDING_SECONDS", 0.3)
    monkeypatch.setattr(watcher, "_PENDING_AGAIN_SECONDS", 0.3)
    api.node(CPU=1)
    job = api.add("a")
    lines: list[str] = []
    async with RayJobsClient(api.endpoint(), retry=RetryPolicy.none()) as client:
        watch = JobWatcher(client, "a", WatchOptions(poll_interval=0.05), on_progress=lines.append)
        task = asyncio.create_task(watch.watch())
        while sum("is PENDING for" in line for line in lines) < 2:
            await asyncio.sleep(0.05)
        job.run()
        while not any("is RUNNING" in line for line in lines):
            await asyncio.sleep(0.05)
        count = len(lines)
        await asyncio.sleep(0.8)
        assert len(lines) == count
        job.end()
        assert (await task).is_success
