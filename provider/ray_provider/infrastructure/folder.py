"""A private folder for one run, removed in all cases."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_PREFIX = "airflow-ray-tf-"
_LOCK = ".lock"


def write_private(path: Path, text: str) -> Path:
    """Write a file that only we can read, from its first moment on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path


def write_private_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write JSON that only we can read."""
    return write_private(path, json.dumps(data))


@contextmanager
def private_folder() -> Iterator[Path]:
    """Give a folder that only we can enter, and remove it with all that is in it.

    A process that is killed can't remove its folder: Terraform's keeper does so for it, and what even that left is
    removed by the next run. Whose folder it is tells a lock, which ends with its process.
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        (folder / "tmp").mkdir()
        (folder / "output").mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        if folder.exists():
            # Something wrote into it meanwhile.
            shutil.rmtree(folder)


def inherit_lock(folder: Path) -> int | None:
    """Open the folder's lock anew for a child, which then holds the folder as long as it lives."""
    with suppress(OSError):
        return os.open(folder / _LOCK, os.O_RDWR)
    return None


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
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
