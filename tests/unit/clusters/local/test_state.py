"""The local backend's memory: names, paths, records, locks; and what it refuses before it starts anything."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from ray_provider.clusters.handle import AuthReference, ClusterHandle
from ray_provider.clusters.local import head
from ray_provider.clusters.local.cluster import delete_local, local_endpoint, start_local
from ray_provider.clusters.local.spec import LocalClusterSpec
from ray_provider.clusters.local.state import LocalPaths, LocalRecord, local_home, locked, this_machine
from ray_provider.exceptions import ClusterError, ClusterTimeoutError, ConfigurationError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("AIRFLOW_RAY_LOCAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", ["1st", "a" * 54])
async def test_a_name_that_kubernetes_would_not_take_is_not_taken_here_either(name, home):
    with pytest.raises(ConfigurationError, match="can't name a RayCluster|KubeRay allows 1 to 53"):
        await start_local(LocalClusterSpec(name))
    assert not home.exists()
    # What an older release made under such a name can be deleted.
    assert await delete_local(name) is False


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "..", "a" * 64, "ä", "a\n"])
async def test_a_name_that_can_not_be_a_folder_is_refused(name, home):
    with pytest.raises(ConfigurationError, match="can't name a RayCluster|KubeRay allows 1 to 53"):
        await start_local(LocalClusterSpec(name))
    with pytest.raises(ConfigurationError, match="can't be the name"):
        await delete_local(name)
    assert not home.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_cpus", -1),
        ("num_cpus", 1.5),
        ("num_cpus", "2"),
        ("num_gpus", True),
        ("object_store_memory", -5),
        ("resources", {"gold": -1}),
        ("resources", {"gold": "much"}),
        ("dashboard_port", 70000),
        ("env", {"A": 1}),
    ],
)
async def test_bad_settings_are_refused_by_name_and_leave_nothing(field, value, home):
    with pytest.raises(ConfigurationError, match=field) as told:
        await start_local(LocalClusterSpec("a", **{field: value}))
    assert told.value.data["field"] == field
    assert not home.exists()


async def test_a_machine_without_ray_says_what_to_install(monkeypatch, home):
    def nothing(_name):
        raise head.PackageNotFoundError

    monkeypatch.setattr(head, "version", nothing)
    with pytest.raises(ConfigurationError, match=r"airflow-ray\[ray\]"):
        await start_local(LocalClusterSpec("a"))
    monkeypatch.setattr(head, "version", lambda _name: "2.51.1")
    with pytest.raises(ConfigurationError, match="2.52 or newer"):
        await start_local(LocalClusterSpec("a"))
    assert not home.exists()


def test_the_home_follows_the_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("AIRFLOW_RAY_LOCAL_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert local_home() == tmp_path / "airflow-ray"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_home() == tmp_path / ".local/state/airflow-ray"


@pytest.mark.parametrize("depth", [0, 10])
def test_rays_sockets_fit_wherever_the_home_lies(depth, tmp_path):
    paths = LocalPaths.of("a" * 63, tmp_path.joinpath(*["deep"] * depth))
    longest = paths.ray_folder / "session_2026-01-01_00-00-00_000000_4194304" / "sockets" / "dash_MetricsHead"
    assert len(str(longest)) <= 103


def test_a_folder_is_for_nobody_else(home):
    paths = LocalPaths.of("a")
    paths.make()
    try:
        for path, mode in [(home, 0o700), (paths.folder, 0o700), (paths.ray_folder, 0o700), (paths.token, 0o600)]:
            assert stat.S_IMODE(path.stat().st_mode) == mode, path
        assert len(paths.token.read_text()) >= 32
    finally:
        paths.remove()
    assert not paths.folder.exists()
    assert not paths.ray_folder.exists()


def test_a_folder_that_is_a_link_is_not_used(tmp_path, home):
    (tmp_path / "elsewhere").mkdir()
    home.mkdir()
    paths = LocalPaths.of("a")
    paths.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClusterError, match="belongs to somebody else"):
        paths.make()
    paths.remove()
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "a"}', '{"phase": "ready"'])
def test_a_record_that_was_not_written_to_its_end_is_none(content):
    paths = LocalPaths.of("a")
    paths.make()
    try:
        paths.record.write_text(content)
        assert LocalRecord.read(paths) is None
    finally:
        paths.remove()


async def test_a_delete_after_a_half_written_record_removes_what_lies_there(home):
    paths = LocalPaths.of("a")
    paths.make()
    paths.record.write_text("{")
    said: list[str] = []
    assert await delete_local("a", say=said.append)
    assert not await delete_local("a", say=said.append)
    assert "folder removed" in said[0]
    assert "nothing to delete" in said[1]
    assert not paths.ray_folder.exists()
    assert list(home.iterdir()) == []


async def test_a_cluster_of_another_machine_is_neither_used_nor_deleted():
    paths = LocalPaths.of("a")
    paths.make()
    try:
        LocalRecord(name="a", phase="ready", machine="elsewhere pid:[1]", pid=1, started=0.0).write(paths)
        with pytest.raises(ClusterError, match="was started on elsewhere"):
            await delete_local("a")
        with pytest.raises(ClusterError, match="was started on elsewhere"):
            await start_local(LocalClusterSpec("a"))
    finally:
        paths.remove()


async def test_a_pid_that_belongs_to_another_process_now_is_left_alone():
    paths = LocalPaths.of("a")
    paths.make()
    record = LocalRecord(name="a", phase="ready", machine=this_machine(), pid=os.getppid(), started=1.0)
    record.write(paths)
    assert head.find_all(paths, record) == []
    assert await delete_local("a")


async def test_another_runs_cluster_of_the_same_name_is_refused():
    paths = LocalPaths.of("a")
    paths.make()
    try:
        theirs = {"dag_id": "theirs", "run_id": "r1", "task_id": "t", "map_index": -1}
        LocalRecord(name="a", phase="ready", machine=this_machine(), owner=theirs).write(paths)
        with pytest.raises(ClusterError, match="belongs to the run r1 of theirs now, not to the run r1 of ours"):
            await delete_local("a", owner={**theirs, "dag_id": "ours"})
        assert paths.folder.exists()
        assert await delete_local("a", owner=theirs)
    finally:
        paths.remove()


async def test_one_at_a_time_holds_a_name_and_leaves_no_lock_behind(home):
    paths = LocalPaths.of("a")
    order: list[str] = []

    async def hold(who: str) -> None:
        async with locked(paths, timeout=10):
            order.append(f"{who} in")
            await asyncio.sleep(0.2)
            order.append(f"{who} out")

    await asyncio.gather(*(hold(who) for who in "abc"))
    assert [entry.split()[1] for entry in order] == ["in", "out"] * 3
    assert list(home.iterdir()) == []


async def test_a_name_that_stays_locked_is_given_up():
    paths = LocalPaths.of("a")
    async with locked(paths, timeout=1):
        with pytest.raises(ClusterTimeoutError, match="Another process"):
            async with locked(paths, timeout=0.2):
                pass


def test_a_token_that_is_not_here_tells_where_tasks_have_to_run(tmp_path):
    handle = ClusterHandle("local", "a", "http://127.0.0.1:1", auth=AuthReference("file", str(tmp_path / "token")))
    with pytest.raises(ClusterError, match="where SetupRayCluster ran"):
        local_endpoint(handle)
    paths = LocalPaths.of("a")
    paths.folder.mkdir(parents=True)
    LocalRecord("a", "ready", this_machine(), address="http://127.0.0.1:2").write(paths)
    with pytest.raises(ClusterError, match="where SetupRayCluster ran"):
        local_endpoint(handle)
    paths.token.write_text("secret-token\n")
    endpoint = local_endpoint(handle)
    assert (endpoint.url, endpoint.token) == ("http://127.0.0.1:2", "secret-token")
    assert "secret-token" not in repr(endpoint) + repr(handle.to_dict())


def test_no_cluster_is_found_where_there_is_none(tmp_path):
    assert LocalPaths.below(tmp_path / "none") == []
