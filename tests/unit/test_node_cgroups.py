"""The test node's control groups, looked at while others remove some of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kubernetes.node import cgroups, control
from tests.support.vanishing import scandir_that_is_late

NAME = "airflow-ray-node-here"


@pytest.fixture
def hierarchies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two hierarchies with a group of the node's, and groups of pods in it; each has a process of its own."""
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    pids = iter(range(1, 100))
    for hierarchy in ("cpu", "memory"):
        for group in (NAME, f"{NAME}/kubepods", f"{NAME}/kubepods/ending", f"{NAME}/system"):
            place = tmp_path / hierarchy / group
            place.mkdir(parents=True)
            (place / "cgroup.procs").write_text(f"{next(pids)}\n")
    return tmp_path


@pytest.fixture
def vanishing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Name folders here: each is gone as soon as it was seen in the one above it."""
    names: list[str] = []
    monkeypatch.setattr(os, "scandir", scandir_that_is_late(names))
    return names


def test_all_processes_are_found(hierarchies: Path) -> None:
    assert cgroups.processes_in(NAME) == {1, 2, 3, 4, 5, 6, 7, 8}
    assert cgroups.processes_in("another") == set()


def test_groups_of_pods_that_end_meanwhile_are_passed_over(hierarchies: Path, vanishing: list[str]) -> None:
    vanishing.append("ending")
    assert cgroups.processes_in(NAME) == {1, 2, 4, 5, 6, 8}


def test_a_whole_node_that_ends_meanwhile_has_no_processes(hierarchies: Path, vanishing: list[str]) -> None:
    vanishing += ["kubepods", "system"]
    assert cgroups.processes_in(NAME) == {1, 5}


def test_a_nodes_folder_that_another_removes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks at it: who ends its node beside us removes the lock first, and then the folder."""
    monkeypatch.setattr(control, "nodes_folder", lambda: tmp_path)
    monkeypatch.setattr(control, "groups_named", lambda _: set())
    (tmp_path / f"{control.PREFIX}ending").mkdir()
    exists = Path.exists

    def vanishes(path: Path) -> bool:
        found = exists(path)
        if path.name == "lock":
            path.parent.rmdir()
        return found

    monkeypatch.setattr(Path, "exists", vanishes)
    assert control.reap_stale() == []
