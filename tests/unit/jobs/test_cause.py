"""Why a job failed is asked of Ray while it is there, and is true or not said. Rows as Ray 2.60 gives them."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from ray_provider.jobs import watcher
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.outcome import JobOutcome
from ray_provider.jobs.retry import RetryPolicy
from ray_provider.jobs.watcher import JobWatcher, WatchOptions
from tests.support.jobs_api import NODE, JobsApi

pytestmark = pytest.mark.timeout(60)

OOM = "Memory on the node (IP: 10.0.0.2) was 0.97GB / 1.00GB (0.970000), which exceeds the memory usage threshold"
DRIVER_ENDED = "Job finishes (02000000) as driver exits. Marking all non-terminal tasks as failed."
PREEMPTED = "Terminated due to preemption: Node received SIGTERM; draining before shutdown."
GENERIC = "Job entrypoint command failed with exit code 1, last available logs:\nRefer to the documentation."


class Cluster(JobsApi):
    """With the State API's tasks and nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[dict[str, Any]] = []
        self.nodes: list[dict[str, Any]] = []
        self.hangs = False

    @web.middleware
    async def _front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        found = {"/api/v0/tasks": self.tasks, "/api/v0/nodes": self.nodes}.get(request.path)
        if found is None:
            return await super()._front(request, handler)
        if self.hangs:
            return web.Response(status=500)
        job = request.query.get("filter_values")
        rows = [row for row in found if row.get("job_id") == job]
        return web.json_response({"result": True, "data": {"result": {"total": len(rows), "result": rows}}})

    def task(self, error: str | None, message: str = "", *, end: int = 100, attempt: int = 0, **fields: Any) -> None:
        state = "FAILED" if error else "FINISHED"
        self.tasks.append(
            {
                "task_id": "t1", "attempt_number": attempt, "name": "train", "state": state, "job_id": "02000000",
                "error_type": error, "error_message": message, "end_time_ms": end, "node_id": NODE, **fields,
            }
        )  # fmt: skip

    def dead(self, message: str | None) -> None:
        self.nodes.append({"node_id": NODE, "state": "DEAD", "state_message": message, "end_time_ms": 10**15})


@pytest.fixture
async def api():
    async with Cluster() as found:
        yield found


async def outcome_of(api: Cluster, *, exit_code: int | None = 1, **fields: Any) -> JobOutcome:
    job = api.add("a")
    job.run()
    job.job_id = "02000000"
    error_type = fields.pop("error_type", "JOB_ENTRYPOINT_COMMAND_ERROR")
    job.request.update(runtime_env=fields.pop("runtime_env", {}))
    job.end("FAILED", message=fields.pop("message", GENERIC), error_type=error_type, exit_code=exit_code)
    async with RayJobsClient(api.endpoint(), retry=RetryPolicy.none()) as client:
        return await JobWatcher(client, "a", WatchOptions(poll_interval=0.05)).watch()


async def told(api: Cluster, **fields: Any) -> str:
    outcome = await outcome_of(api, **fields)
    # As it comes out of a triggerer.
    return str(JobOutcome.from_dict(outcome.to_dict()).error())


async def test_rays_memory_monitor_is_named(api):
    """Before: "The entrypoint ended with an error of its own: its last lines say which", and they did not."""
    api.task("OUT_OF_MEMORY", OOM)
    api.task("WORKER_DIED", DRIVER_ENDED, task_id="t2", end=90)
    text = await told(api)
    assert "Ray's memory monitor killed Ray task 'train': Memory on the node" in text
    assert "give tasks memory=" in text
    assert "error of its own" not in text


async def test_a_process_that_ended_is_told_without_a_guess(api):
    api.task("WORKER_DIED", "RpcError: Socket closed")
    text = await told(api)
    assert "'train' was ended from outside, or crashed: RpcError: Socket closed" in text
    assert "Ray can't tell which" in text


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (PREEMPTED, "a spot node"),
        ("received SIGTERM", "a spot node"),
        (None, "Kubernetes may"),
        ("health check failed", "Kubernetes may"),
    ],
)
@pytest.mark.parametrize("kind", ["NODE_DIED", "ACTOR_DIED"])
async def test_a_node_that_went_is_told_with_what_ray_says_of_it(api, kind, said, advice):
    api.task(kind)
    api.dead(said)
    text = await told(api)
    assert "The node of Ray task 'train' is gone" in text
    assert (said or "") in text
    assert advice in text


async def test_the_node_of_the_entrypoint(api):
    text = await told(api, error_type="JOB_SUPERVISOR_ACTOR_DIED", exit_code=None)
    assert "is gone" not in text
    api.jobs.clear()
    api.dead(PREEMPTED)
    assert f"The entrypoint's node is gone: {PREEMPTED}" in await told(
        api, error_type="JOB_SUPERVISOR_ACTOR_DIED", exit_code=None
    )


async def test_the_memory_monitor_and_the_entrypoint(api):
    text = await told(
        api,
        error_type="JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE",
        exit_code=None,
        message="Job supervisor actor died: the worker was killed due to the node running low on memory.",
    )
    assert "Ray's memory monitor killed the entrypoint" in text
    assert "does not know why" not in text


async def test_packages_that_take_too_long(api):
    """Before: it was told to ask for fewer CPUs, of which it had asked for none."""
    slow = {"error_type": "JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "exit_code": None, "runtime_env": {"pip": ["torch"]}}
    failed = "Job supervisor actor failed to start within 900 seconds. This timeout can be configured by setting X."
    text = await told(api, message=failed, **slow)
    assert "runtime_env['pip']" in text
    assert "reach the package index" in text
    assert "num_cpus" not in text
    api.jobs.clear()
    slow["runtime_env"] = {"pip": ["torch"]}
    text = await told(api, message=f"{failed} This may be because (entrypoint_num_cpus, …)aren't available", **slow)
    assert "ask for fewer num_cpus" in text


@pytest.mark.parametrize(
    "tasks",
    [
        [],
        [("TASK_EXECUTION_EXCEPTION", "ValueError: x", {})],
        # It was tried again, and came through.
        [("OUT_OF_MEMORY", OOM, {}), (None, "", {"attempt": 1})],
        # The driver's end ended it.
        [("WORKER_DIED", DRIVER_ENDED, {})],
        # The code failed first.
        [
            ("WORKER_DIED", "Socket closed", {"task_id": "t2", "end": 200}),
            ("TASK_EXECUTION_EXCEPTION", "ValueError", {}),
        ],
        [("OUT_OF_MEMORY", OOM, {"job_id": "another"})],
        # Its node is there.
        [("NODE_DIED", "", {})],
    ],
)
async def test_nothing_is_said_that_is_not_known(api, tasks):
    for error, message, fields in tasks:
        api.task(error, message, **fields)
    assert (await outcome_of(api)).cause is None
    assert "error of its own" in str((await outcome_of(api)).error())


async def test_a_ray_that_does_not_answer_changes_nothing(api, monkeypatch):
    api.hangs = True
    assert (await outcome_of(api)).status == "FAILED"

    async def stuck(*_: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("ray_provider.jobs.cause.find", stuck)
    assert (await outcome_of(api)).status == "FAILED"
    assert watcher._CAUSE_SECONDS < 30
