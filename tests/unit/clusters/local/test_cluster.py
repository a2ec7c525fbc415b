"""A local Ray is started, used again, replaced and ended. A small program stands for `ray start`."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_provider.clusters.local import cluster, head
from ray_provider.clusters.local.cluster import delete_local, end_all_local, local_endpoint, start_local
from ray_provider.clusters.local.head import find_head
from ray_provider.clusters.local.spec import LocalClusterSpec
from ray_provider.clusters.local.state import LocalPaths, LocalRecord, local_home
from ray_provider.exceptions import ClusterFailedError, ClusterTimeoutError
from ray_provider.jobs.client import RayJobsClient

pytestmark = pytest.mark.timeout(120)

#: Reads what it is to do from `steps`: one line for each start. It answers as Ray's dashboard does, to the right token.
RAY = """
import http.server, json, os, pathlib, subprocess, sys, threading, time
here = pathlib.Path(os.environ["RAY_DOUBLE"])
with (here / "starts").open("a") as notes:
    notes.write(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}) + "\\n")
number = len((here / "starts").read_text().splitlines())
steps = (here / "steps").read_text().splitlines()
step = steps[min(number, len(steps)) - 1]
print("Ray says:", step, flush=True)
if step.startswith("end "):
    sys.exit(3)
options = dict(one[2:].split("=", 1) for one in sys.argv[1:] if one.startswith("--") and "=" in one)
token = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
subprocess.Popen(["sleep", "600"], start_new_session=True)
waits = [word for word in step.split() if word in ("http", "node", "agent")]

class Dashboard(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") != f"Bearer {token}":
            return self.say(403, {})
        wait = waits[0] if waits else ""
        if self.path.startswith("/api/version"):
            return self.say(200, {"version": "4", "ray_version": "2.60.0", "session_name": "s"})
        if self.path.startswith("/api/v0/nodes"):
            if wait == "http":
                waits.pop(0)
                return self.say(500, {})
            found = [] if wait == "node" else [{"node_id": "n1"}]
            if wait == "node":
                waits.pop(0)
            return self.say(200, {"data": {"result": {"result": found}}})
        if self.path == "/api/v0/logs?node_id=n1":
            if wait == "agent":
                waits.pop(0)
                return self.say(500, {})
            return self.say(200, {"data": {"result": {}}})
        self.say(404, {})

    def say(self, status, data):
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

if "silent" in step:
    time.sleep(600)
server = http.server.ThreadingHTTPServer((options["dashboard-host"], int(options["dashboard-port"])), Dashboard)
if "gives up" in step:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    time.sleep(2)
    sys.exit("Exception: The current node timed out during startup.")
print("Ray runtime started.", flush=True)
server.serve_forever()
"""
OWNER = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}


class Ray:
    """The program, and what was started."""

    def __init__(self, folder: Path) -> None:
        package = folder / "ray" / "scripts"
        package.mkdir(parents=True)
        (folder / "ray" / "__init__.py").touch()
        (package / "__init__.py").touch()
        (package / "scripts.py").write_text(RAY)
        (folder / "starts").touch()
        self.folder = folder
        self.does("")

    def does(self, *steps: str) -> None:
        (self.folder / "steps").write_text("".join(f"{step}\n" for step in steps))

    def spec(self, name: str = "a", **further: Any) -> LocalClusterSpec:
        env = {"PYTHONPATH": str(self.folder), "RAY_DOUBLE": str(self.folder), **further.pop("env", {})}
        return LocalClusterSpec(name, **{"env": env, "owner": OWNER, "start_timeout": 40.0, **further})

    @property
    def starts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "starts").read_text().splitlines()]


@pytest.fixture
def ray(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_RAY_LOCAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cluster, "_POLL_SECONDS", 0.05)
    # What it started does not end by itself.
    monkeypatch.setattr(cluster, "_END_GRACE_SECONDS", 0.3)
    made = Ray(tmp_path / "double")
    yield made
    end_all_local(tmp_path / "home")


def processes(name: str = "a") -> list[psutil.Process]:
    paths = LocalPaths.of(name)
    return head.find_all(paths, LocalRecord.read(paths))


async def test_a_ray_is_started_and_takes_jobs(ray, monkeypatch):
    for variable in ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_JOB_ID", "RAY_PROVIDER_X", "AIRFLOW__CORE__FERNET_KEY"):
        monkeypatch.setenv(variable, "planted")
    monkeypatch.setenv("KEPT", "yes")
    ray.does("http node agent")
    said: list[str] = []
    handle = await start_local(ray.spec(num_cpus=2, resources={"gold": 1}, env={"MINE": "1"}), say=said.append)
    [start] = ray.starts
    assert (handle.backend, handle.name, handle.created, handle.owner) == ("local", "a", True, OWNER)
    assert handle.address.startswith("http://127.0.0.1:")
    endpoint = local_endpoint(handle)
    async with RayJobsClient(endpoint) as client:
        assert (await client.version()).ray_version == "2.60.0"
    waits = [line for line in said if line.startswith("Waiting: ")]
    assert waits[-3:] == [
        "Waiting: the dashboard answers with HTTP 500.",
        "Waiting: the head's node is not registered yet.",
        "Waiting: the node's agent does not answer yet.",
    ]
    assert f"its dashboard will be {handle.address}" in said[0]
    assert said[-1].endswith(f"s: {handle.address}")
    # What Ray is told.
    port = handle.address.rpartition(":")[2]
    assert start["argv"][:5] == ["start", "--head", "--block", "--disable-usage-stats", "--no-monitor"]
    for wanted in ("--include-dashboard=true", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"):
        assert wanted in start["argv"]
    assert f"--dashboard-port={port}" in start["argv"]
    assert "--num-cpus=2" in start["argv"]
    assert '{"gold": 1}' in " ".join(start["argv"])
    ports = [word.partition("=")[2] for word in start["argv"] if "port=" in word]
    assert len(set(ports)) == len(ports) == 9
    env = start["env"]
    assert "planted" not in env.values()
    assert (env["KEPT"], env["MINE"], env["RAY_AUTH_MODE"], env["PYTHONUNBUFFERED"]) == ("yes", "1", "token", "1")
    assert env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert env["DASHBOARD_METRIC_PORT"] not in ports
    paths = LocalPaths.of("a")
    assert (start["cwd"], env["RAY_AUTH_TOKEN_PATH"], env["AIRFLOW_RAY_LOCAL_CLUSTER"]) == (
        str(paths.folder),
        str(paths.token),
        str(paths.folder),
    )
    assert stat.S_IMODE(paths.folder.stat().st_mode) == 0o700
    assert [each.name for each in LocalPaths.below(local_home())] == ["a"]


async def test_a_ray_that_runs_is_used_again(ray):
    first = await start_local(ray.spec())
    said: list[str] = []
    again = await start_local(ray.spec(), say=said.append)
    assert (again.address, again.created) == (first.address, True)
    assert said == [f"The local Ray 'a' runs already: {first.address}"]
    other = await start_local(ray.spec(owner={**OWNER, "task_id": "another"}))
    assert (other.address, other.created) == (first.address, False)
    changed = await start_local(ray.spec(num_cpus=3), say=said.append)
    assert changed.address == first.address
    assert "The local Ray 'a' runs with other settings: left so (update_if_exists=False)." in said
    assert len(ray.starts) == 1


async def test_other_settings_replace_it_if_that_is_wanted(ray):
    await start_local(ray.spec())
    before = {process.pid for process in processes()}
    said: list[str] = []
    await start_local(ray.spec(), update_if_exists=True)
    assert len(ray.starts) == 1, "the same settings"
    handle = await start_local(ray.spec(num_cpus=3), update_if_exists=True, say=said.append)
    assert said[0] == "The local Ray 'a' runs with other settings: it is replaced."
    assert not before & {process.pid for process in processes()}
    assert "--num-cpus=3" in ray.starts[1]["argv"]
    assert local_endpoint(handle).url == handle.address


async def test_a_delete_ends_all_that_it_started_and_leaves_nothing(ray, tmp_path):
    handle = await start_local(ray.spec())
    running = processes()
    assert len(running) >= 2, "the head, and what it started"
    paths = LocalPaths.of("a")
    said: list[str] = []
    assert await delete_local("a", say=said.append) is True
    assert said == [f"The local Ray 'a' is deleted: {len(running)} processes ended, its folder removed."]
    assert [one for one in running if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert (paths.folder.exists(), paths.ray_folder.exists()) == (False, False)
    assert await delete_local("a", say=said.append) is False
    assert said[-1] == "There is no local Ray 'a': nothing to delete."
    assert handle.auth.path == str(paths.token)


async def test_what_a_killed_head_left_is_removed_before_the_next(ray):
    await start_local(ray.spec())
    paths = LocalPaths.of("a")
    record = LocalRecord.read(paths)
    assert record is not None
    left = [one for one in processes() if one.pid != record.pid]
    os.kill(int(record.pid or 0), signal.SIGKILL)
    said: list[str] = []
    assert await _soon(lambda: find_head(record) is None)
    await start_local(ray.spec(), say=said.append)
    assert said[0].startswith("What an earlier local Ray 'a' left is removed (")
    assert f"({len(left)} processes were still running)" in said[0]
    assert len(ray.starts) == 2


async def _soon(look) -> bool:
    until = time.monotonic() + 10
    while not look() and time.monotonic() < until:
        time.sleep(0.05)
    return bool(look())


async def test_a_start_that_fails_shows_rays_last_words_and_leaves_nothing(ray, tmp_path):
    ray.does("end no such option")
    with pytest.raises(ClusterFailedError) as caught:
        await start_local(ray.spec())
    assert "`ray start` ended with 3. Its last lines:\n--- ray start:\nRay says: end no such option" in str(
        caught.value
    )
    assert "needs ray[default]" in str(caught.value)
    assert caught.value.data["name"] == "a"
    assert len(ray.starts) == 1
    assert not LocalPaths.of("a").folder.exists()
    assert processes() == []


@pytest.mark.parametrize("words", ["Address already in use", "port is already occupied", "timed out during startup"])
async def test_what_another_start_can_do_without_is_tried_again_on_other_ports(ray, words):
    ray.does(f"end {words}", "")
    said: list[str] = []
    await start_local(ray.spec(), say=said.append)
    first, second = ({word for word in start["argv"] if "port=" in word} for start in ray.starts)
    assert not first & second
    assert "Ray did not start: a port was taken meanwhile, or the machine is busy. Once more, on other ports." in said


async def test_a_head_that_answers_and_gives_up_then_is_started_anew(ray):
    ray.does("gives up", "")
    said: list[str] = []
    handle = await start_local(ray.spec(), say=said.append)
    assert len(ray.starts) == 2
    assert "Waiting: `ray start` has not come to its end yet." in said
    async with RayJobsClient(local_endpoint(handle)) as client:
        assert (await client.version()).ray_version == "2.60.0"


async def test_it_is_tried_three_times_and_a_port_that_was_asked_for_once(ray):
    ray.does("end Address already in use")
    with pytest.raises(ClusterFailedError):
        await start_local(ray.spec())
    assert len(ray.starts) == 3
    with pytest.raises(ClusterFailedError):
        await start_local(ray.spec(dashboard_port=head.free_ports(1)[0]))
    assert len(ray.starts) == 4


async def test_a_ray_that_does_not_answer_is_given_up_in_time(ray):
    ray.does("silent")
    said: list[str] = []
    with pytest.raises(ClusterTimeoutError) as caught:
        await start_local(ray.spec(start_timeout=1.5), say=said.append)
    assert "does not take jobs in time: the dashboard does not answer yet" in str(caught.value)
    assert "Ray says: silent" in str(caught.value)
    assert said[1:] == ["Waiting: the dashboard does not answer yet."], "once"
    assert caught.value.data["name"] == "a"
    assert processes() == []
    assert not LocalPaths.of("a").folder.exists()


async def test_all_are_ended_whatever_their_state(ray, tmp_path):
    await start_local(ray.spec("a"))
    await start_local(ray.spec("b"))
    running = [*processes("a"), *processes("b")]
    assert sorted(end_all_local(tmp_path / "home")) == ["a", "b"]
    assert [one for one in running if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert list((tmp_path / "home").iterdir()) == []


def test_ports_are_free_and_not_those_of_the_kernel():
    found = head.free_ports(20)
    assert len(set(found)) == 20
    given = head._given_by_the_kernel()
    assert all(20000 <= port < 65536 and port not in given for port in found)


def test_the_last_words_are_those_of_all_parts_without_their_stacks(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_RAY_LOCAL_HOME", str(tmp_path))
    paths = LocalPaths.of("x")
    assert head.why_it_failed(paths) == "It has written nothing."
    paths.make()
    logs = paths.ray_folder / "session_latest" / "logs"
    logs.mkdir(parents=True)
    paths.log.write_text("".join(f"start {number}\n" for number in range(30)))
    (logs / "raylet.err").write_text("one\ntwo\nthree\nfour\nfive\nsix\n\n  @ [0x7f]\n    raylet [0x1] main\n")
    (logs / "dashboard.log").write_text("no module\n")
    told = head.why_it_failed(paths)
    assert told.startswith("--- ray start:\nstart 10\n")
    assert "--- raylet.err:\ntwo\nthree\nfour\nfive\nsix\n---" in told
    assert told.endswith("--- dashboard.log:\nno module")
    assert "gcs_server" not in told
    paths.remove()
