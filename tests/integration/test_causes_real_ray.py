"""Why jobs fail that did nothing wrong, staged on a real Ray of several nodes: memory, kernel, nodes, packages.

What the user reads is the error of the watched job, as it comes out of a triggerer.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ray_provider.exceptions import JobFailedError
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.submit.once import submit_once
from ray_provider.jobs.watch.outcome import JobOutcome
from ray_provider.jobs.watch.watcher import JobWatcher
from tests.support.memory_group import memory_group
from tests.support.ray_head import RayHead
from tests.support.ray_node import RayNode

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

#: Of each program: what it runs on Ray. ``HERE`` is touched when it runs.
PRELUDE = """\
import os, pathlib, time, ray
HERE, NODE, GROUP = {here!r}, {node!r}, {group!r}

def begin():
    pathlib.Path(HERE).touch()
    time.sleep(300)

def eat():
    pathlib.Path(GROUP, "cgroup.procs").write_text(str(os.getpid()))
    kept = [os.urandom(10 * 2**20) for _ in range(100)]

def grow():
    pathlib.Path(HERE).touch()
    kept = [os.urandom(10 * 2**20) for _ in range(120)]
    time.sleep(300)

class Model:
    def fit(self, work):
        work()

"""
TASK = "ray.init(log_to_driver=False); ray.get(ray.remote(max_retries=0, resources=NODE)({work}).remote())"
ACTOR = "ray.init(log_to_driver=False); ray.get(ray.remote(resources=NODE)(Model).remote().fit.remote({work}))"
ENTRYPOINT = "{work}()"
KINDS = {"task": TASK, "actor": ACTOR, "entrypoint": ENTRYPOINT}
#: Long enough for every other job of this module to start on a busy machine.
START_TIMEOUT = 90
UNKNOWN_HOST = "http://127.0.0.1:9/simple"


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    env = {
        "RAY_JOB_START_TIMEOUT_SECONDS": str(START_TIMEOUT),
        # One try of a runtime_env, and a node that fails is noticed after some seconds.
        "RUNTIME_ENV_RETRY_TIMES": "1",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    with RayHead(env=env) as head:
        yield head


@dataclass
class Job:
    """A job that is watched.

    :param here: exists when its work has begun.
    """

    submission_id: str
    here: Path
    watch: asyncio.Task[JobOutcome]
    progress: list[str] = field(default_factory=list)

    async def begun(self) -> None:
        async with asyncio.timeout(90):
            while not self.here.exists():
                assert not self.watch.done(), self.watch.result()
                await asyncio.sleep(0.1)

    async def told(self) -> str:
        """What the user reads: the error, as it comes out of a triggerer."""
        async with asyncio.timeout(200):
            outcome = await self.watch
        error = JobOutcome.from_dict(outcome.to_dict()).error()
        assert isinstance(error, JobFailedError), outcome
        print(error)
        return str(error)


@pytest.fixture
async def submit(head: RayHead, tmp_path: Path) -> AsyncIterator[Callable]:
    async with RayJobsClient(head.endpoint) as client:
        watches: list[asyncio.Task] = []

        async def submit(entrypoint: str, *, here: Path | None = None, **spec) -> Job:
            submission_id = f"cause-{uuid.uuid4().hex[:8]}"
            await submit_once(client, JobSpec(entrypoint, submission_id=submission_id, **spec))
            progress: list[str] = []
            watch = asyncio.create_task(JobWatcher(client, submission_id, on_progress=progress.append).watch())
            watches.append(watch)
            return Job(submission_id, here or tmp_path / "never", watch, progress)

        yield submit
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


@pytest.fixture
def work(submit, tmp_path):
    """Submits a program that does ``work`` in a task, an actor or the entrypoint, on a node."""

    async def work(kind: str, what: str = "begin", *, node: str | None = None, group: Path | None = None) -> Job:
        here = tmp_path / f"{kind}-{uuid.uuid4().hex[:6]}"
        program = here.with_suffix(".py")
        text = PRELUDE.format(here=str(here), node={node: 1} if node else {}, group=str(group))
        program.write_text(text + KINDS[kind].format(work=what) + "\n")
        placed = {"resources": {node: 1}} if node and kind == "entrypoint" else {}
        return await submit(f"python -u {program}", here=here, **placed)

    return work


# Memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(head: RayHead) -> Iterator[str]:
    """A node on which Ray's memory monitor finds every use of memory too much; it takes no other test's work."""
    with RayNode(head, "small", env={"RAY_memory_usage_threshold": "0.001"}) as node:
        yield node.name


async def test_rays_memory_monitor(work, small):
    for kind, name in (("task", "Ray task 'begin'"), ("entrypoint", "the entrypoint")):
        text = await (await work(kind, node=small)).told()
        cause = text.partition("Ray says:")[0]
        assert f"Ray's memory monitor killed {name}: Memory on the node (IP: 127.0.0.1) was " in cause
        assert "GB limit" in cause
        assert ("the task itself had " in cause) is (kind == "task")
        assert "Most memory: " in cause
        assert "Eviction" not in cause
        advice = text.rpartition("What to do: ")[2]
        assert "memory=…" in advice
        assert "larger node" in advice
        assert "error of its own" not in text


async def test_rays_memory_monitor_and_an_entrypoint_that_runs(work, head):
    """Ray ends the actor beside the entrypoint, with which the entrypoint goes. The node has room for half of it."""
    with (
        memory_group(2000) as group,
        RayNode(head, "narrow", group=group, env={"RAY_memory_usage_threshold": "0.5"}) as node,
    ):
        job = await work("entrypoint", "grow", node=node.name)
        await job.begun()
        text = await job.told()
    assert any("is RUNNING" in line for line in job.progress)
    cause = text.partition("Ray says:")[0]
    assert "Ray's memory monitor killed the entrypoint: Memory on the node (IP: 127.0.0.1) was " in cause
    assert "/ 1.95GB limit" in cause
    assert "Most memory: python " in cause
    assert "Reserve memory for the entrypoint (memory=…)" in text.rpartition("What to do: ")[2]
    assert "does not know why" not in text


async def test_the_kernel_ends_what_grows_over_its_container(work):
    """The kernel's own doing: Ray only sees processes that are gone."""
    with memory_group(200) as group:
        jobs = {kind: await work(kind, "eat", group=group) for kind in KINDS}
        told = {kind: await job.told() for kind, job in jobs.items()}
    for kind, name in (("task", "eat"), ("actor", "Model.fit")):
        assert f"The process of Ray task {name!r} was ended from outside, or crashed" in told[kind]
        assert "a kernel that had no memory left for the container" in told[kind]
        assert "error of its own" not in told[kind]
    assert "exit code 137 (killed, probably out of memory)" in told["entrypoint"]
    assert "most often because the node or container had no memory left" in told["entrypoint"]


# Nodes -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def jobs_on(work, head: RayHead, name: str, **options) -> AsyncIterator[tuple[RayNode, dict[str, Job]]]:
    """A node, with a job of each kind that runs on it."""
    with RayNode(head, name, **options) as node:
        jobs = {kind: await work(kind, node=name) for kind in KINDS}
        for job in jobs.values():
            await job.begun()
        yield node, jobs


async def test_a_node_that_fails(work, head):
    """Its tasks fail at once, and Ray finds out later that the node is dead."""
    async with jobs_on(work, head, "fails") as (node, jobs):
        await asyncio.to_thread(node.kill)
        told = {kind: await job.told() for kind, job in jobs.items()}
    for kind, what in (("task", "node of Ray task 'begin'"), ("actor", "node of Ray task 'Model.fit'")):
        assert f"The {what} is gone: Unexpected termination: health check failed" in told[kind]
        assert "max_retries" in told[kind]
    assert "The entrypoint's node is gone: Unexpected termination: health check failed" in told["entrypoint"]
    assert "a retry of the task runs the entrypoint anew" in told["entrypoint"]
    assert "max_retries" not in told["entrypoint"]
    for text in told.values():
        assert "kubectl get events" in text
        assert "error of its own" not in text
        assert "spot" not in text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ("3", "Terminated due to preemption: Node received SIGTERM"),
        pytest.param("0", "Expected termination: received SIGTERM", marks=pytest.mark.slow),
    ],
)
async def test_a_node_that_its_platform_takes_back(work, head, seconds, said):
    """A spot node, a node that is drained or scaled down: its Ray gets a SIGTERM, and drains if it may."""
    env = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": seconds}
    async with jobs_on(work, head, f"taken{seconds}", env=env) as (node, jobs):
        await asyncio.to_thread(node.stop)
        told = {kind: await job.told() for kind, job in jobs.items()}
    for text in told.values():
        assert f"is gone: {said}" in text
        assert "a spot node, a drained or scaled-down one" in text
        assert "Kubernetes may" not in text
    assert "The entrypoint's node" in told["entrypoint"]
    assert "a retry of the task runs the entrypoint anew" in told["entrypoint"]
    assert "keep checkpoints" in told["task"]


# Packages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def silent_index() -> Iterator[str]:
    """A package index that takes every connection, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/simple"


def pip(index: str, **more) -> dict:
    options = ["--index-url", index, "--retries", "0"]
    package = f"no-such-thing=={uuid.uuid4().int % 10**6}"  # another environment each time
    return {"pip": {"packages": [package], "pip_install_options": options}, **more}


@pytest.mark.slow
async def test_packages_that_can_not_be_had(submit, work, silent_index):
    refused = await submit("true", runtime_env=pip(UNKNOWN_HOST))
    no_name = await submit("true", runtime_env={"pip": ["no such thing"]})
    late = await submit("true", runtime_env=pip(silent_index, config={"setup_timeout_seconds": 12}))
    for job, said in (
        (refused, "No matching distribution found for no-such-thing=="),
        (no_name, "Invalid requirement: "),
    ):
        text = await job.told()
        assert "(RUNTIME_ENV_SETUP_FAILURE)" in text
        assert (
            f"The runtime_env of the entrypoint could not be made, pip says: {said}" in text.partition("Ray says:")[0]
        )
        advice = text.rpartition("What to do: ")[2]
        assert "Check names and versions in runtime_env['pip']" in advice
        assert "access of the cluster to the package index" in advice
    assert "no such thing" in text.partition("Ray says:")[0]
    text = await late.told()
    assert "Making the runtime_env took longer than 12 s." in text
    assert "setup_timeout_seconds" in text.rpartition("What to do: ")[2]


@pytest.mark.slow
async def test_packages_of_a_task_that_can_not_be_had(submit, tmp_path):
    program = tmp_path / "task.py"
    env = {"working_dir": "https://127.0.0.1:9/code.zip"}
    program.write_text(f"import ray\nray.init()\nray.get(ray.remote(runtime_env={env})(lambda: 1).remote())\n")
    text = await (await submit(f"python {program}")).told()
    [cause] = [
        line for line in text.splitlines() if "The runtime_env of Ray task '<lambda>' could not be made: " in line
    ]
    assert "Connection" in cause, "what refused, not Ray's number of the task"
    assert "lease_id" not in cause
    assert "What to do: The runtime environment could not be made: check runtime_env" in text


@pytest.mark.slow
async def test_packages_that_take_all_of_the_time(submit, silent_index):
    """Ray's own advice is to ask for fewer resources, as soon as some were asked for. That is not what it waits for."""
    plain = await submit("true", runtime_env=pip(silent_index))
    placed = await submit("true", runtime_env=pip(silent_index), num_cpus=0.5)
    lacking = await submit("true", runtime_env=pip(silent_index), num_cpus=99)
    for job in (plain, placed):
        text = await job.told()
        assert "what took all of the time is making its runtime_env['pip']" in text
        advice = text.rpartition("What to do: ")[2]
        assert "reach the package index" in advice
        assert "fewer" not in advice
        waited = "\n".join(job.progress)
        assert "It has its place. Ray is making its runtime_env['pip'] there" in waited
        assert "hold what it has" not in waited
    text = await lacking.told()
    assert "package index" not in text
    assert "ask for fewer num_cpus" in text
    assert "runtime_env['pip']" not in "\n".join(lacking.progress)
