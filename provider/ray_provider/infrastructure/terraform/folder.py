"""A private folder for one run, removed in all cases."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray_provider._shared.private_files import write_private
from ray_provider.infrastructure.terraform.rescue import remove_folder

_PREFIX = "airflow-ray-tf-"
_LOCK = ".lock"
#: The private folders of this process, and the descriptors of their locks.
_HELD: dict[Path, int] = {}


def write_private_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write JSON that only we can read.

    :param path: where; what is there is replaced.
    :param data: plain data.
    """
    return write_private(path, json.dumps(data), replace=True)


@contextmanager
def private_folder() -> Iterator[Path]:
    """Give a folder that only we can enter, and remove it with all that is in it.

    A process that is killed can't remove its folder: Terraform's keeper does so for it, and what even that left is
    removed by the next run. Whether somebody still works in it tells a lock, which ends with the last of the task,
    Terraform's keeper and Terraform. A state that lies in it is kept (``rescue.py``).
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _HELD[folder] = lock
    try:
        (folder / "tmp").mkdir()
        (folder / "output").mkdir()
        yield folder
    finally:
        del _HELD[folder]
        remove_folder(folder, None)
        os.close(lock)
        if folder.exists():
            # Something wrote into it meanwhile.
            remove_folder(folder, None)


def lock_of(folder: Path) -> int | None:
    """Give the descriptor of a folder's lock, for whoever else works in it: the lock ends with the last of them.

    Terraform's keeper and Terraform inherit it on purpose. filelock can't lend one, and its release would end the lock
    for all who have it (docs/decisions/file-locks.md).

    :param folder: a private folder of this process; ``None`` comes back for another one.
    """
    return _HELD.get(folder)


def _sweep() -> None:
    """Remove folders whose processes are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            # Being made or being removed right now, or not ours.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            with suppress(OSError):
                # Else a state lies in it that can't be kept: it stays.
                remove_folder(folder, None)
        finally:
            os.close(lock)
