"""A control group whose processes get less of the CPUs than others, where others want them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "airflow-ray-cpu-"
_SECONDS = 20
#: What a session or a group has by itself, as cgroup v1 and v2 count it.
_USUAL_V1, _USUAL_V2 = 1024, 100


@dataclass
class CpuGroup:
    """A control group, with cgroup v1 or v2. What its processes start is in it, too.

    :param folder: its ``cgroup.procs`` takes the ids of processes.
    """

    folder: Path
    _share: float = 0.0

    def give(self, share: float) -> None:
        """Set what all of its processes together get.

        :param share: of what a session outside gets while both want a CPU; alone the group gets all.
        """
        if share != self._share:
            v1, v2 = self.folder / "cpu.shares", self.folder / "cpu.weight"
            if v1.exists():
                v1.write_text(str(round(_USUAL_V1 * share)))
            else:
                v2.write_text(str(round(_USUAL_V2 * share)))
            self._share = share


@contextmanager
def cpu_group() -> Iterator[CpuGroup | None]:
    """Make one.

    :return: ``None`` where control groups can't be made: not as root, or not on Linux.
    """
    is_v1 = (_ROOT / "cpu").is_dir()
    top = _ROOT / "cpu" if is_v1 else _ROOT
    _remove_stale(top)
    group = CpuGroup(top / f"{_PREFIX}{os.getpid()}")
    made = able = False
    with contextlib.suppress(OSError):
        if not is_v1:
            (top / "cgroup.subtree_control").write_text("+cpu")
        group.folder.mkdir()
        made = True
        group.give(1)
        able = True
    try:
        yield group if able else None
    finally:
        if made:
            _remove(group.folder)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            group.rmdir()
        except OSError:  # busy until the last process is reaped
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _remove_stale(top: Path) -> None:
    """Remove what those left who were killed."""
    for group in top.glob(f"{_PREFIX}*"):
        if not Path(f"/proc/{group.name.removeprefix(_PREFIX)}").exists():
            with contextlib.suppress(OSError):  # somebody is still in it
                group.rmdir()
