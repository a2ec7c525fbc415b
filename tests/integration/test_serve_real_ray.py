"""Applications of Ray Serve on a real Ray: deploys, updates, faults, two who write at once. One head for all."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_provider.clusters.local.head import free_ports
from ray_provider.exceptions import ConfigurationError, RayProviderError, ServeFailedError, ServeTimeoutError
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.submit.packaging import package_runtime_env
from ray_provider.serve import merge
from ray_provider.serve.client import ServeClient
from ray_provider.serve.deploy import Deploying, Written, take_back
from ray_provider.serve.removal import remove_application
from ray_provider.serve.smoke import SmokeTest, smoke
from ray_provider.serve.urls import application_url, serve_endpoint
from ray_provider.serve.waiting import WaitOptions, wait_for, wait_running
from tests.support.ray_head import RayHead

pytestmark = pytest.mark.timeout(900)

SERVING = Path(__file__).parent / "serving"
PORT = free_ports(1)[0]
#: After so many seconds Serve says that there is no room: 30 by default.
ENVIRONMENT = {"PYTHONPATH": str(SERVING), "SERVE_SLOW_STARTUP_WARNING_S": "5"}
HTTP = {"host": "127.0.0.1", "port": PORT}


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead(token=secrets.token_hex(16), num_cpus=2, env=ENVIRONMENT) as head:
        yield head


@pytest.fixture
async def client(head) -> AsyncIterator[ServeClient]:
    async with ServeClient(head.endpoint) as client:
        yield client


def config(name: str, version: str, **further: Any) -> dict[str, Any]:
    whole = {"name": name, "route_prefix": f"/{name}", "import_path": "model:build", "args": {"version": version}}
    return {**whole, **further}


def get(name: str) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{PORT}/{name}", timeout=60) as answer:
        return json.load(answer)


async def deploy(client: ServeClient, wanted: dict[str, Any], *, seconds: float = 400.0) -> tuple[Deploying, list[str]]:
    """Deploy as the operator does: a failure is taken back."""
    said: list[str] = []
    made = Deploying(client, wanted, say=said.append, http_options=HTTP)
    await made.write()
    await made.wait(time.time() + seconds)
    return made, said


class Caller:
    """Calls an application all the time, on new connections, and counts what fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call, daemon=True)

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(get(self.name)["version"])
            except (urllib.error.URLError, OSError, ValueError) as error:
                self.failures.append(repr(error))
            time.sleep(0.01)

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


async def test_two_writers_on_a_serve_that_does_not_run_yet_both_end_right(head):
    """Both start Serve, and one writes over the other."""

    async def one(name: str) -> list[str]:
        async with ServeClient(head.endpoint) as client:
            return (await deploy(client, config(name, "v1")))[1]

    lines = await asyncio.gather(one("a"), one("b"))
    assert (get("a")["version"], get("b")["version"]) == ("v1", "v1")
    async with ServeClient(head.endpoint) as client:
        state = await client.state()
    assert {one.status for one in state.applications.values()} == {"RUNNING"}
    assert state.http_options["port"] == PORT
    print(*lines, sep="\n")


@pytest.mark.slow
async def test_many_writers_at_once_all_end_right(client, head):
    """Five deploy, and one deletes, over and over each other."""
    names = [f"m{number}" for number in range(5)]

    async def one(name: str) -> list[str]:
        async with ServeClient(head.endpoint) as own:
            return (await deploy(own, config(name, "v1")))[1]

    async def delete() -> None:
        async with ServeClient(head.endpoint) as own:
            assert await remove_application(own, "b", say=lambda _line: None)

    *lines, _ = await asyncio.gather(*map(one, names), delete())
    state = await client.state()
    assert sorted(state.applications) == ["a", *names]
    assert {one.status for one in state.applications.values()} == {"RUNNING"}
    assert any("written again" in line for each in lines for line in each), "they did write over each other"
    await asyncio.gather(*(remove_application(client, name, say=lambda _line: None) for name in names))
    assert sorted((await client.state()).applications) == ["a"]


async def test_an_update_and_one_that_fails_lose_no_request(client):
    key = {
        "runtime_env": {"env_vars": {"MODEL_KEY": "hunter2"}},
        "deployments": [{"name": "Model", "max_surge_percent": 100}],
    }
    with Caller("a") as caller:
        made, _ = await deploy(client, config("a", "v2", **key))
        assert get("a") == {"version": "v2", "key": "hunter2"}
        before = len(caller.answers)
        bad = Deploying(client, config("a", "bad", **key), say=print)
        written = await bad.write()
        with pytest.raises(ServeFailedError) as raised:
            await bad.wait(time.time() + 400)
        assert (
            "a replica of deployment Model failed to start 3 times: ValueError: no weights at /models"
            in raised.value.message
        )
        assert "(/" in raised.value.message or "model.py, line" in raised.value.message
        assert len(caller.answers) > before, "the old one serves on"
        packed = written.packed(bad.config)
        assert "hunter2" not in json.dumps(packed)
        told = await take_back(client, Written.from_dict(json.loads(json.dumps(packed))), say=print)
        assert told == "The former version was put back, and runs."
        assert get("a") == {"version": "v2", "key": "hunter2"}
        _, said = await deploy(client, config("a", "v3", **key))
    assert not any("stops before" in line for line in said)
    assert caller.failures == []
    assert set(caller.answers) == {"v1", "v2", "v3"}
    assert len(caller.answers) > 200, len(caller.answers)


@pytest.mark.slow
async def test_what_fails_says_why_and_goes_again(client, head):
    """At once: an import, a package that is not there, no room."""
    missing = "gcs://_ray_pkg_0123456789abcdef.zip"
    cases = [
        (config("f1", "v1", import_path="no_such_module:app"), "No module named 'no_such_module'"),
        (config("f2", "v1", runtime_env={"working_dir": missing}), "its runtime environment could not be made"),
        (config("f3", "v1", import_path="model:big", args={}), 'each asks for {"CPU": 1000'),
    ]

    async def fails(wanted: dict[str, Any], says: str) -> None:
        said: list[str] = []
        async with ServeClient(head.endpoint) as own:
            made = Deploying(own, wanted, say=said.append)
            await made.write()
            # Nothing is final about a lack of room.
            deadline = time.time() + 100
            waiting = asyncio.create_task(made.wait(deadline))
            while not waiting.done() and not any("no room" in line for line in said):
                await asyncio.sleep(0.2)
            if not waiting.done():
                waiting.cancel()
                waiting = asyncio.create_task(made.wait(time.time()))
            with pytest.raises((ServeFailedError, ServeTimeoutError)) as raised:
                await waiting
            assert says in raised.value.message, raised.value.message
            assert "removed again" in await made.take_back()

    await asyncio.gather(*(fails(*case) for case in cases))
    assert not {"f1", "f2", "f3"} & set((await client.state()).applications)


@pytest.mark.slow
async def test_why_it_is_unhealthy_is_told(client):
    await deploy(client, config("s", "", import_path="model:sick", args={}))
    until = time.time() + 40
    while (await client.state()).applications["s"].status != "UNHEALTHY" and time.time() < until:
        await asyncio.sleep(0.2)
    from ray_provider.serve.waiting import late

    error = await late(client, (await client.state()).applications["s"], 1)
    print(error)
    assert "RuntimeError: the GPU fell off" in error.message
    assert await remove_application(client, "s", say=print)


async def test_what_a_job_made_survives_and_is_not_ours(client, head):
    serving = "from model import *; serve.run(Model.bind('job'), name='job', route_prefix='/job')"
    async with RayJobsClient(head.endpoint) as jobs:
        environment = await package_runtime_env(jobs, {"working_dir": str(SERVING)})
        job = await jobs.submit_request(JobSpec(f'python -c "{serving}"', runtime_env=environment))
        await wait_for(client, "job", WaitOptions(time.time() + 400), say=print)
        assert (await client.state()).applications["job"].is_imperative
        # Local code, uploaded as a job's is.
        await deploy(client, config("u", "uploaded", runtime_env=environment))
        assert get("u")["version"] == "uploaded"
        await remove_application(client, "u", say=print)
        assert get("job")["version"] == "job"
        with pytest.raises(ConfigurationError, match="it is not replaced"):
            await Deploying(client, config("job", "ours"), say=print).write()
        with pytest.raises(ConfigurationError, match="taken by the application 'job'"):
            await Deploying(client, config("x", "ours", route_prefix="/job"), say=print).write()
        with pytest.raises(ConfigurationError, match="not removed by REST"):
            await remove_application(client, "job", say=print)
        assert get("job")["version"] == "job"
        await jobs.stop_and_wait(job)


@pytest.mark.slow
async def test_one_that_failed_and_was_kept_is_tried_again_with_the_same_configuration(client, tmp_path):
    """Serve does not by itself: it would be DEPLOY_FAILED at once, with the old reason."""
    weights = tmp_path / "weights"
    wanted = config("again", "v1", args={"version": "v1", "wants": str(weights)})
    with pytest.raises(ServeFailedError, match="FileNotFoundError"):
        await deploy(client, wanted)
    weights.touch()
    await deploy(client, wanted)
    assert get("again")["version"] == "v1"
    await remove_application(client, "again", say=print)


async def test_a_kill_takes_back_what_was_written(client):
    with Caller("a") as caller:
        for name, taken_back in (("a", "The former configuration was put back."), ("k", "was removed again.")):
            made = Deploying(client, config(name, "slow", args={"version": "slow", "seconds": 60}), say=print)
            await made.write()
            began = time.monotonic()
            assert (await made.take_back(wait=False)).endswith(taken_back)
            assert time.monotonic() - began < 20.0, "a start takes 60, and is not waited for"
        written = made.former
        assert written is None
        await wait_running(
            client, "a", lambda one: one["args"]["version"] == "v3", WaitOptions(time.time() + 400), say=print
        )
    assert caller.failures == []
    assert set(caller.answers) == {"v3"}


async def test_a_smoke_test_asks_the_application_and_deleting_one_leaves_the_other(client, head):
    await deploy(client, config("b", "v1"))
    state = await client.state()
    serve = serve_endpoint(head.endpoint, state.http_options)
    assert application_url(serve, "/b") == f"http://127.0.0.1:{PORT}/b"
    await smoke(serve, "b", "/b", SmokeTest(json={"version": "v1"}))
    with pytest.raises(ServeFailedError, match="the answer is not"):
        await smoke(serve, "b", "/b", SmokeTest(json={"version": "v9"}, timeout_seconds=2))
    with pytest.raises(ConfigurationError, match="Serve runs already, with port"):
        merge.check_http(state, {"port": PORT + 1})
    with Caller("a") as caller:
        assert await remove_application(client, "b", say=print)
        assert not await remove_application(client, "b", say=print)
    assert caller.failures == []
    with pytest.raises(urllib.error.HTTPError):
        get("b")


async def test_serve_refuses_what_we_did_not(client):
    """What pydantic says comes through in one sentence; nothing is changed."""
    with pytest.raises(ConfigurationError, match="Serve refuses the configuration"):
        await Deploying(
            client, config("w", "v1", deployments=[{"name": "Model", "num_replicas": -1}]), say=print
        ).write()
    with pytest.raises(RayProviderError, match=r"does not know deployments\.Model\.teleport"):
        made = Deploying(client, config("w", "v1", deployments=[{"name": "Model", "teleport": 1}]), say=print)
        try:
            await made.write()
        finally:
            await made.take_back()
    assert "w" not in (await client.state()).applications
