"""The node's control groups: one of its own name below the root of each hierarchy of cgroup v1."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class CgroupError(RuntimeError):
    """The machine's cgroups are not as the node needs them."""


def make_cgroups(name: str) -> list[Path]:
    """Make the node's group in every hierarchy.

    :raises CgroupError: if the machine has cgroup v2 alone.
    """
    if not (_ROOT / "memory").is_dir():
        raise CgroupError(
            "the test node needs cgroup v1 hierarchies, and this machine has cgroup v2 alone: "
            "use kind with Docker there, or a kubeconfig in AIRFLOW_RAY_TEST_KUBECONFIG"
        )
    groups = []
    for hierarchy in sorted(path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink()):
        group = hierarchy / name
        group.mkdir()
        groups.append(group)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / file).exists():
                (group / file).write_text((hierarchy / file).read_text())
        if (group / "cgroup.clone_children").exists() and (hierarchy / "cpuset.cpus").exists():
            (group / "cgroup.clone_children").write_text("1")
    return groups


def processes_in(name: str) -> set[int]:
    """Return all processes in a node's groups. Groups may go meanwhile: those of pods that end, or all of them."""
    pids = set()
    for top in _groups_of(name):
        # It passes over a folder that vanished since it was seen; Path.glob raises FileNotFoundError.
        for folder, _, _ in os.walk(top):
            with contextlib.suppress(OSError):
                pids.update(int(pid) for pid in Path(folder, "cgroup.procs").read_text().split())
    return pids


def groups_named(prefix: str) -> set[str]:
    """Return the names of all nodes that have groups."""
    return {path.name for path in _ROOT.glob(f"*/{prefix}*")}


def _groups_of(name: str) -> list[Path]:
    """Return a node's groups, one in each hierarchy."""
    return list(_ROOT.glob(f"*/{name}"))


def remove_cgroups(name: str, *, seconds: float = 10) -> None:
    """Remove a node's groups; its processes are gone or just going.

    :raises CgroupError: if some can't be removed in time.
    """
    deadline = time.monotonic() + seconds
    while left := _groups_of(name):
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # busy until the last process is reaped
                    os.rmdir(folder)
        if time.monotonic() > deadline:
            raise CgroupError(f"can't remove {', '.join(map(str, left))}: processes {processes_in(name)}")
        time.sleep(0.02)
