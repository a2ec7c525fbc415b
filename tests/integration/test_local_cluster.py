"""The local backend with a real Ray: it lives on, is found, is replaced, and goes without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.local.cluster import (
    delete_local,
    end_all_local,
    local_endpoint,
    start_local,
)
from ray_provider.clusters.local.head import MARK, find_all, find_head
from ray_provider.clusters.local.processes import family, wait_gone
from ray_provider.clusters.local.spec import LocalClusterSpec
from ray_provider.clusters.local.state import LocalPaths, LocalRecord, local_home
from ray_provider.exceptions import ClusterFailedError, RayApiError
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.models import JobSpec
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(1200)

OWNER = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture
async def home(tmp_path, monkeypatch) -> AsyncIterator[Path]:
    """A place for clusters that nobody else uses; empty, and without processes, at the end."""
    place = tmp_path / "home"
    monkeypatch.setenv("AIRFLOW_RAY_LOCAL_HOME", str(place))
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "airflows-own-secret")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    try:
        yield place
        assert not place.exists() or list(place.iterdir()) == []
    finally:
        end_all_local(place)


def processes_of(name: str) -> list[psutil.Process]:
    paths = LocalPaths.of(name)
    return find_all(paths, LocalRecord.read(paths))


def names_of(name: str) -> set[str]:
    """What its processes are called; of those that a start only runs for a moment some have ended meanwhile."""
    found: set[str] = set()
    for process in processes_of(name):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(process.name())
    return found


def assert_gone(name: str, ray_folder: Path) -> None:
    paths = LocalPaths.of(name)
    assert family(MARK, str(paths.folder)) == []
    assert not paths.folder.exists()
    assert not ray_folder.exists()
    assert not paths.lock.exists()


def start_elsewhere(name: str, home: Path) -> subprocess.Popen[str]:
    """Set a cluster up in a process of its own, as a task does; it prints the handle."""
    code = (
        "import asyncio, json, sys\n"
        "from ray_provider.clusters.local.cluster import start_local\n"
        "from ray_provider.clusters.local.spec import LocalClusterSpec\n"
        f"spec = LocalClusterSpec({name!r}, num_cpus=1, owner={OWNER!r})\n"
        "print(json.dumps(asyncio.run(start_local(spec)).to_dict()), flush=True)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "AIRFLOW_RAY_LOCAL_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


async def test_a_cluster_from_its_set_up_to_its_end(home):
    said: list[str] = []
    handle = await start_local(LocalClusterSpec("a", num_cpus=2, owner=OWNER), say=said.append)
    ray_folder = LocalPaths.of("a").ray_folder
    assert handle.created
    assert handle.backend == "local"
    assert handle.owner == OWNER
    assert any("takes jobs after" in line for line in said)

    token = local_endpoint(handle).token
    processes = processes_of("a")
    assert {"gcs_server", "raylet"} <= names_of("a")
    for process in processes:
        try:
            listening = {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
            arguments, environment = process.cmdline(), process.environ()
        except psutil.NoSuchProcess:
            continue  # it has ended meanwhile
        assert listening <= LOOPBACK, process
        assert token not in " ".join(arguments)
        assert token not in environment.values()
        assert "airflows-own-secret" not in environment.values()
    assert token not in json.dumps(handle.to_dict())
    assert token not in "\n".join(said)

    async with RayJobsClient(RayEndpoint(handle.address), retry=RetryPolicy.none()) as nobody:
        with pytest.raises(RayApiError) as refused:
            await nobody.version()
        assert refused.value.status == 401

    async with RayJobsClient(local_endpoint(handle)) as client:
        code = "import ray; ray.init(); print('CPUs', ray.cluster_resources()['CPU'])"
        submitted = await client.submit_request(JobSpec(entrypoint=f'python -c "{code}"'))
        async with asyncio.timeout(400):
            while not (job := await client.get(submitted)).is_final:
                await asyncio.sleep(0.2)
        assert job.status == "SUCCEEDED", job.message
        # A job's process that has put itself in a session of its own ends with the cluster.
        flag = home.parent / "in-a-session-of-its-own"
        code = f"import os, time; os.fork() or (os.setsid(), open('{flag}', 'w').close()); time.sleep(600)"
        await client.submit_request(JobSpec(entrypoint=f'python -c "{code}"', submission_id="endless"))
        async with asyncio.timeout(400):
            while not flag.exists():
                await asyncio.sleep(0.2)
                job = await client.get("endless")
                assert not job.is_final, job.message
        processes += [process for process in processes_of("a") if process not in processes]

    # Found by name. Whose it is does not change with who finds it.
    other = await start_local(LocalClusterSpec("a", num_cpus=2, owner={**OWNER, "run_id": "r2"}))
    assert (other.address, other.created, other.owner) == (handle.address, False, OWNER)
    assert (await start_local(LocalClusterSpec("a", num_cpus=2, owner=OWNER))).created
    assert [entry.name for entry in LocalPaths.below(local_home())] == ["a"]
    said.clear()
    kept = await start_local(LocalClusterSpec("a", num_cpus=1), say=said.append)
    assert kept.address == handle.address
    assert "other settings" in said[0]

    said.clear()
    assert await delete_local("a", owner=OWNER, say=said.append)
    assert "folder removed" in said[0]
    assert_gone("a", ray_folder)
    assert not [process for process in processes if process.is_running()]
    assert not await delete_local("a", say=said.append)
    assert "nothing to delete" in said[1]


async def test_it_outlives_whoever_made_it_and_a_dead_head_is_replaced(home):
    setter = start_elsewhere("a", home)
    text, _ = await asyncio.to_thread(setter.communicate, timeout=500)
    handle = ClusterHandle.from_dict(json.loads(text))
    ray_folder = LocalPaths.of("a").ray_folder
    async with RayJobsClient(local_endpoint(handle)) as client:
        assert (await client.version()).ray_version

    # A crash of the head alone leaves its children behind, some of which have lost the mark.
    head = find_head(LocalRecord.read(LocalPaths.of("a")))
    head.kill()
    assert wait_gone([head], 120) == []
    assert find_head(LocalRecord.read(LocalPaths.of("a"))) is None
    old = processes_of("a")
    said: list[str] = []
    fresh = await start_local(LocalClusterSpec("a", num_cpus=1, owner=OWNER), say=said.append)
    assert fresh.created
    assert fresh.address != handle.address
    assert "What an earlier local Ray 'a' left is removed" in said[0]
    assert not [process for process in old if process.is_running()]
    async with RayJobsClient(local_endpoint(fresh)) as client:
        assert (await client.version()).ray_version
    assert await delete_local("a")
    assert_gone("a", ray_folder)


# What can be read of the record is of no account where the processes are found without it.
@pytest.mark.parametrize(
    "record",
    ["missing", pytest.param("half-written", marks=pytest.mark.slow), pytest.param("whole", marks=pytest.mark.slow)],
)
async def test_a_set_up_that_was_killed_half_way_is_cleaned_up_by_the_next_delete(home, record):
    setter = start_elsewhere("a", home)
    paths = LocalPaths.of("a")
    await until(lambda: "gcs_server" in names_of("a"), "Ray is starting")
    os.killpg(setter.pid, signal.SIGKILL)
    setter.communicate(timeout=120)
    assert find_head(LocalRecord.read(paths)) is not None, "the head lives on"
    if record == "half-written":
        paths.record.write_text(paths.record.read_text()[:40])
    elif record == "missing":
        paths.record.unlink()
    assert await delete_local("a")
    assert_gone("a", paths.ray_folder)


async def test_a_cancelled_set_up_takes_back_what_it_made(home):
    setting = asyncio.ensure_future(start_local(LocalClusterSpec("a", num_cpus=1)))
    paths = LocalPaths.of("a")
    await until(lambda: "gcs_server" in names_of("a"), "Ray is starting")
    setting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await setting
    assert_gone("a", paths.ray_folder)


@pytest.mark.slow  # tests/unit/clusters/local/test_state.py: one at a time holds a name
async def test_two_set_ups_at_once_make_one_cluster(home):
    setters = [start_elsewhere("a", home) for _ in range(2)]
    texts = [await asyncio.to_thread(setter.communicate, timeout=500) for setter in setters]
    addresses = {json.loads(text)["address"] for text, _ in texts}
    assert len(addresses) == 1
    assert await delete_local("a")


async def test_a_start_that_fails_tells_rays_last_lines_and_leaves_nothing(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterFailedError) as told:
            await start_local(LocalClusterSpec("a", num_cpus=1, dashboard_port=port))
    assert "Its last lines" in told.value.message
    assert str(port) in told.value.message
    assert "dashboard_port" in told.value.hint
    assert_gone("a", LocalPaths.of("a").ray_folder)
