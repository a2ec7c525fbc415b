"""A job that is PENDING is explained: what it asks for, and what there is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import ConfigurationError, KubernetesError
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.submit.one_node import refuse_too_large
from ray_provider.jobs.watch import watcher
from ray_provider.jobs.watch.waiting import Ask, Prospects, explain
from ray_provider.jobs.watch.watcher import JobWatcher, WatchOptions
from tests.support.jobs_api import JobsApi

pytestmark = pytest.mark.timeout(60)

GIB = 1024**3


class Cluster(JobsApi):
    """With the State API's actors and nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: Any = []
        self.wants: Any = {"CPU": 4.0, "memory": 8.0 * GIB}
        self.events: list[dict[str, Any]] = []
        self.status = ""
        self.env: Any = {}
        self.environments: Any = []

    @web.middleware
    async def _front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path == "/api/v0/nodes":
            return self._rows(self.nodes)
        if request.path == "/api/v0/actors":
            names = ("_ray_internal_job_actor_other", "_ray_internal_job_actor_a")
            own = {"required_resources": self.wants, "serialized_runtime_env": json.dumps(self.env)}
            return self._rows([{"name": name, **own} for name in names])
        if request.path == "/api/v0/runtime_envs":
            return self._rows(self.environments)
        if request.path == "/api/v0/cluster_events":
            return self._rows(self.events)
        if request.path == "/api/cluster_status":
            return web.json_response({"result": True, "data": {"clusterStatus": self.status}})
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
    return (await prospects(api)).text


async def prospects(api: Cluster, ask: Ask | None = None) -> Prospects:
    async with RayJobsClient(api.endpoint(), retry=RetryPolicy.none()) as client:
        return await explain(client, "a", "Job has not started yet.", ask)


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


async def test_a_node_that_makes_the_runtime_env_is_told(api):
    """Before, of a job that asks for resources: "other jobs and tasks hold what it has"."""
    api.env = {"pip": {"packages": ["torch"]}, "env_vars": {"RAY_worker_niceness": "0"}}
    api.node(CPU=8, memory=16 * GIB)
    api.environments = [{"runtime_env": {**api.env, "pip": {"packages": ["x"]}}, "success": None}]
    assert "hold what it has" in await why(api), "that is of another job"
    api.environments.append({"runtime_env": api.env, "success": None})
    told = await why(api)
    assert "It has its place. Ray is making its runtime_env['pip'] there" in told
    assert "hold what it has" not in told
    api.wants = {}
    assert "Ray is making its runtime_env['pip']" in await why(api)
    api.wants = {"CPU": 99.0}
    assert "Ray is making" not in await why(api), "another job with the same packages"
    api.wants = {"CPU": 4.0}
    api.environments[1]["success"] = True
    assert "hold what it has" in await why(api), "they were made long ago"
    api.env = "no object"
    api.environments = None
    assert "hold what it has" in await why(api)


@pytest.mark.parametrize("rows", [None, "x", [1], [{"state": "ALIVE", "resources_total": "x"}]])
async def test_less_is_known_where_ray_does_not_say(api, rows):
    api.nodes = api.wants = rows
    assert "Ray says: Job has not started yet." in await why(api)


async def test_the_log_tells_while_it_waits_and_no_longer(api, monkeypatch):
    """Before: nothing came for 15 minutes."""
    monkeypatch.setattr(watcher, "_VAIN_SECONDS", 0.1)
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


def event(time: str, message: str, **about: Any) -> dict[str, Any]:
    """As Ray 2.60 tells it."""
    source = "JOBS" if about else "AUTOSCALER"
    return {"severity": "INFO", "time": time, "source_type": source, "message": message, "custom_fields": about}


REFUSED = "No available node types can fulfill resource request"


@pytest.mark.parametrize(
    "said", [f"Error: {REFUSED} {{'GPU': 2.0}}. Add", f"{REFUSED}s {{'CPU': 1.0}}*3, {{'GPU': 2.0}}*1. Add"]
)
async def test_what_the_autoscaler_can_never_get_is_told(api, said):
    api.wants = {"GPU": 2.0}
    api.node(CPU=8)
    started = event("2026-11-28 21:31:11", "Started a ray job a.", submission_id="a")
    api.events = [event("2026-11-28 21:31:10", said), started]
    assert not (await prospects(api)).never, "that was about an earlier job"
    api.events.append(event("2026-11-28 21:31:13", said.replace("2.0", "4.0")))
    assert not (await prospects(api)).never, "that is about another one"
    api.events.append(event("2026-11-28 21:31:13", said))
    found = await prospects(api)
    assert found.never
    assert f"The autoscaler says: {said}" in found.text

    async def knows_better(_: Any) -> Prospects:
        return Prospects("A pod is on its way.", overrules=True)

    # Before: a warning that it waits in vain, while the pods of a group that can hold it were still starting.
    found = await prospects(api, knows_better)
    assert not found.never
    assert "The autoscaler says" not in found.text
    api.node(GPU=2)
    assert not (await prospects(api)).never, "a node that is there can hold it"


async def test_what_the_autoscaler_is_about_to_do_is_told(api):
    api.status = (
        "======== Autoscaler status: 2026-11-28 21:31:15.595611 ========\nNode status\n-----\nActive:\n (no active nodes)\n"
        "Pending:\n 10.0.0.7: gpu, setting-up\nRecent failures:\n (no failures)\n\nResources\n-----\n"
        "From request_resources:\n (none)\nPending Demands:\n {'GPU': 2.0}: 1+ pending tasks/actors"
    )
    told = await why(api)
    assert "Nodes that are on their way: 10.0.0.7: gpu, setting-up." in told
    assert "All that waits in the cluster: {'GPU': 2.0}: 1+ pending tasks/actors." in told
    assert "could not be had" not in told


async def test_that_a_job_waits_in_vain_is_told_at_once_and_as_a_warning(api, monkeypatch):
    monkeypatch.setattr(watcher, "_VAIN_SECONDS", 0.1)
    api.node(CPU=1)
    api.add("a")
    asked: list[Any] = []
    lines: list[str] = []
    warnings: list[str] = []

    async def ask(wants: Any) -> Prospects:
        asked.append(wants)
        return Prospects("No group can ever give that.", never=True)

    async with RayJobsClient(api.endpoint(), retry=RetryPolicy.none()) as client:
        options = WatchOptions(poll_interval=0.05)
        watch = JobWatcher(client, "a", options, on_progress=lines.append, on_warning=warnings.append, ask=ask)
        task = asyncio.create_task(watch.watch())
        async with asyncio.timeout(8):  # the next explanation would come after 10 s
            while not warnings:
                await asyncio.sleep(0.05)
        task.cancel()
    assert "No group can ever give that." in warnings[0]
    assert asked == [api.wants]
    assert not [line for line in lines if "PENDING for" in line]


async def test_a_kubernetes_that_can_not_be_asked_hides_nothing_else(api):
    async def ask(_: Any) -> Prospects:
        raise KubernetesError("pods is forbidden")

    api.node(CPU=1)
    told = (await prospects(api, ask)).text
    assert "no node has so much CPU" in told
    assert "What the cluster may still get can't be told: pods is forbidden" in told


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"num_gpus": 1}, "asks for 1 GPU, and this local Ray has 2 CPU, 4.0 GiB memory"),
        ({"num_cpus": 4}, "asks for 4 CPU, "),
        ({"memory": 8 * GIB}, "asks for 8.0 GiB memory, "),
        ({"resources": {"fpga": 1}}, "asks for 1 fpga, "),
        ({"num_cpus": 2, "memory": GIB}, None),
        ({}, None),
    ],
)
async def test_what_a_ray_of_one_node_can_never_hold_is_refused_before_the_submit(api, spec, told):
    api.node(CPU=2.0, memory=4.0 * GIB)
    async with RayJobsClient(api.endpoint(), retry=RetryPolicy.none()) as client:
        asked = refuse_too_large(client, JobSpec(entrypoint="true", **spec))
        if told is None:
            await asked
        else:
            with pytest.raises(ConfigurationError, match=told):
                await asked


@pytest.mark.parametrize("nodes", [[], None, [{"state": "ALIVE"}]])
async def test_nothing_is_refused_where_ray_does_not_say_what_it_has(api, nodes):
    api.nodes = nodes
    async with RayJobsClient(api.endpoint(), retry=RetryPolicy.none()) as client:
        await refuse_too_large(client, JobSpec(entrypoint="true", num_gpus=1))
