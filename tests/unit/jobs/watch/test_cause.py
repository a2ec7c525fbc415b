"""Why a job failed is asked of Ray while it is there, and is true or not said. Rows as Ray 2.60 gives them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from ray_provider._shared.retry import RetryPolicy
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.watch import watcher
from ray_provider.jobs.watch.outcome import JobOutcome
from ray_provider.jobs.watch.watcher import JobWatcher, WatchOptions
from tests.support.jobs_api import NODE, JobsApi

pytestmark = pytest.mark.timeout(60)

OOM = """\
1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.2, ID: 41750f) was 0.97GB \
used / 1.00GB limit (0.970000)
OOM kill reason: Memory usage 1041529569B exceeded threshold of 1020054733B (95.0% of 1073741824B limit)
Object store memory usage: [- objects spillable: 0
- bytes spillable: 0

Eviction Stats:
(global lru) num evictions: 0
(global lru) bytes evicted: 0]
Ray killed 1 worker(s) based on the killing policy
Considered workers: [
Selected to kill: (Task: job ID=02000000, lease ID=01, task name=train, required resources={CPU: 1}, pid=7, \
actual memory used=0.51GB, worker ID=05b3)
]
To see more information about memory usage on this node, use `ray logs raylet.out -ip 10.0.0.2`
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
7\t0.51\tray::train
5\t0.21\t/opt/venv/bin/python -m server --password=sesame
6\t0.11\tray::IDLE
3\t0.05\t/ray/gcs_server
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io."""
#: Ray up to 2.55.
OLD_OOM = """\
Task was killed due to the node running low on memory.
Memory on the node (IP: 10.0.0.2, ID: e5d9) where the task (task ID: 1, name=train, pid=7, memory used=0.51GB) was running \
was 0.97GB / 1.00GB (0.97), which exceeds the memory usage threshold of 0.95. Ray killed this worker (ID: 3) because it was \
the most recently scheduled task."""
CRASHED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)
UNREACHABLE = "The actor is temporarily unavailable: RpcError: RPC error: Socket closed rpc_code: 14"
DRIVER_ENDED = "Job finishes (02000000) as driver exits. Marking all non-terminal tasks as failed."
PREEMPTED = "Terminated due to preemption: Node received SIGTERM; draining before shutdown."
GENERIC = "Job entrypoint command failed with exit code 1, last available logs:\nRefer to the documentation."


class Cluster(JobsApi):
    """With the State API's tasks and nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[dict[str, Any]] = []
        self.nodes: list[dict[str, Any]] = []
        self.actors: list[dict[str, Any]] = []
        self.environments: list[dict[str, Any]] = []
        self.hangs = False

    @web.middleware
    async def _front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        found = {
            "/api/v0/tasks": self.tasks,
            "/api/v0/nodes": self.nodes,
            "/api/v0/actors": self.actors,
            "/api/v0/runtime_envs": self.environments,
        }.get(request.path)
        if found is None:
            return await super()._front(request, handler)
        if self.hangs:
            return web.Response(status=500)
        rows = list(found)
        if key := request.query.get("filter_keys"):
            rows = [row for row in rows if row.get(key) == request.query["filter_values"]]
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
    assert (
        "Ray's memory monitor killed Ray task 'train': Memory on the node (IP: 10.0.0.2) was 0.97GB used / 1.00GB limit "
        "(0.970000); the task itself had 0.51GB. Most memory: ray::train 0.51 GB, python 0.21 GB, ray::IDLE 0.11 GB. "
    ) in text
    assert "sesame" not in text
    assert "give tasks memory=" in text
    assert "error of its own" not in text


async def test_an_older_rays_memory_monitor(api):
    api.task("OUT_OF_MEMORY", OLD_OOM)
    text = await told(api)
    assert "killed Ray task 'train': Memory on the node (IP: 10.0.0.2) where the task" in text
    assert "was 0.97GB / 1.00GB (0.97), which exceeds the memory usage threshold of 0.95" in text
    assert "the task itself had 0.51GB." in text


@pytest.mark.parametrize(("kind", "said"), [("WORKER_DIED", "RpcError: Socket closed"), ("ACTOR_DIED", CRASHED)])
async def test_a_process_that_ended_is_told_without_a_guess(api, kind, said):
    """Before, of an actor: "The entrypoint ended with an error of its own"."""
    api.task(kind, said)
    text = await told(api)
    assert f"'train' was ended from outside, or crashed: {said.partition(' Some')[0]}" in text
    assert "Some common causes" not in text.partition("Ray says:")[0]
    assert "Ray can't tell which" in text
    assert "error of its own" not in text


async def test_a_node_that_ray_does_not_know_to_be_dead_yet(api, monkeypatch):
    """Its tasks fail at once, and it is given up after missed health checks. Before: "an error of its own"."""
    api.task("NODE_DIED", "Task failed because the node it was running on is dead or unavailable.")
    api.nodes.append({"node_id": NODE, "state": "ALIVE", "state_message": None, "end_time_ms": 0})

    async def later() -> None:
        await asyncio.sleep(0.3)
        api.nodes[0] |= {"state": "DEAD", "state_message": "Unexpected termination", "end_time_ms": 10**15}

    found, _ = await asyncio.gather(told(api), later())
    assert "The node of Ray task 'train' is gone: Unexpected termination." in found
    monkeypatch.setattr("ray_provider.jobs.watch.cause._NODE_SECONDS", 0.1)
    api.jobs.clear()
    api.nodes[0]["state"] = "ALIVE"
    assert "The node of Ray task 'train' is gone." in await told(api)


async def test_an_actor_that_could_not_be_reached(api, monkeypatch):
    monkeypatch.setattr("ray_provider.jobs.watch.cause._NODE_SECONDS", 0.1)
    api.task("ACTOR_UNAVAILABLE", UNREACHABLE)
    api.nodes.append({"node_id": NODE, "state": "ALIVE", "end_time_ms": 0})
    text = await told(api)
    assert "The actor of Ray task 'train' could not be reached any more: The actor is temporarily unavailable" in text
    assert "Ray did not know which" in text
    api.jobs.clear()
    api.nodes.clear()
    api.dead(PREEMPTED)
    assert f"The node of Ray task 'train' is gone: {PREEMPTED}" in await told(api)


async def test_a_runtime_env_that_could_not_be_made(api):
    failed = "Failed to install runtime_env within the timeout of 600 seconds. Consider increasing the timeout"
    text = await told(
        api,
        message=f"runtime_env setup failed: Failed.\n[Node 10.0.0.2] {failed} in\nTimeoutError",
        error_type="RUNTIME_ENV_SETUP_FAILURE",
        exit_code=None,
    )
    assert "Making the runtime_env took longer than 600 s." in text
    assert "setup_timeout_seconds" in text
    api.jobs.clear()
    api.task("RUNTIME_ENV_SETUP_FAILED", f"[Node 10.0.0.2] {failed}")
    assert "Making the runtime_env of Ray task 'train' took longer than 600 s." in await told(api)
    api.jobs.clear()
    api.tasks.clear()
    stack = "[Node 10.0.0.2] Traceback (most recent call last):\n  File x\nOSError: Connection refused\n\n"
    api.task("RUNTIME_ENV_SETUP_FAILED", f"{stack}lease_id=0b, name=train")
    text = await told(api)
    # Before: "could not be made: lease_id=0b, name=train".
    assert "The runtime_env of Ray task 'train' could not be made: OSError: Connection refused" in text
    assert "check runtime_env" in text


async def test_what_pip_refuses_is_told_before_rays_stack(api):
    failed = (
        "runtime_env setup failed: Failed to set up runtime environment.\nTraceback (most recent call last):\n"
        "  File x\nray._private.runtime_env.utils.SubprocessCalledProcessError: Run cmd[4] failed with the following "
        "details.\nCommand '['python', '-m', 'pip']' returned non-zero exit status 1.\nLast 50 lines of stdout:\n"
        "    ERROR: Could not find a version that satisfies the requirement no-such-thing (from versions: none)\n"
        "    ERROR: No matching distribution found for no-such-thing"
    )
    said = "could not be made, pip says: No matching distribution found for no-such-thing Ray says:"
    text = await told(api, message=failed, error_type="RUNTIME_ENV_SETUP_FAILURE", exit_code=None)
    assert f"The runtime_env of the entrypoint {said}" in text
    assert "Check names and versions in runtime_env['pip']" in text
    api.jobs.clear()
    api.task("RUNTIME_ENV_SETUP_FAILED", f"{failed}\n\nlease_id=0b, name=train")
    assert f"The runtime_env of Ray task 'train' {said}" in await told(api)
    api.jobs.clear()
    text = await told(api, message="runtime_env setup failed.", error_type="RUNTIME_ENV_SETUP_FAILURE", exit_code=None)
    assert "could not be made: check runtime_env" in text, "no more than Ray says"


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
        message=f"Unexpected error occurred: {OOM}",
    )
    assert "Ray's memory monitor killed the entrypoint: Memory on the node (IP: 10.0.0.2) was 0.97GB used" in text
    assert "itself had" not in text, "of an entrypoint Ray counts the process beside it"
    assert "the head, unless the entrypoint asks for resources of its own" in text
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
    lacking = f"{failed} This may be because (entrypoint_num_cpus, …)aren't available"
    text = await told(api, message=lacking, **slow)
    assert "ask for fewer num_cpus" in text
    # It asked for resources and had them: its node was at work on the packages.
    api.jobs.clear()
    env = {"pip": {"packages": ["torch"]}, "env_vars": {"RAY_worker_niceness": "0"}}
    name = "_ray_internal_job_actor_a"
    api.actors = [{"name": name, "class_name": "JobSupervisor", "serialized_runtime_env": json.dumps(env)}]
    api.environments = [{"runtime_env": {"pip": {}}, "success": None}, {"runtime_env": env, "success": None}]
    slow["runtime_env"] = {"pip": ["torch"]}
    text = await told(api, message=lacking, **slow)
    assert "The entrypoint had its place on a node; what took all of the time is making its runtime_env['pip']" in text
    assert "ask for fewer" not in text
    # Made long ago, for another job.
    api.jobs.clear()
    api.environments[1]["success"] = True
    slow["runtime_env"] = {"pip": ["torch"]}
    assert "ask for fewer num_cpus" in await told(api, message=lacking, **slow)


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
        # Its node is there, and somebody's code ended it, or it never came up.
        [("ACTOR_DIED", "The actor is dead because it was killed by `ray.kill`.", {})],
        [("ACTOR_DIED", "Traceback (most recent call last):\nValueError: bad weights", {})],
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

    monkeypatch.setattr("ray_provider.jobs.watch.cause.find", stuck)
    assert (await outcome_of(api)).status == "FAILED"
    assert watcher._CAUSE_SECONDS < 30
