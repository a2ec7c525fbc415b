"""Other minor versions of Python, where this machine has them: nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.requirements import need


def _places(name: str) -> Iterator[Path]:
    if found := shutil.which(name):
        yield Path(found)
    yield Path("/usr/bin") / name
    version = name.removeprefix("python")
    yield from Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{version}.*/bin/python")
    yield from Path("/opt/hostedtoolcache/Python").glob(f"{version}.*/*/bin/python")  # CI's machines


@cache
def find_python(minor: int) -> Path | None:
    """Give an interpreter of that minor version of Python 3, if there is one: a file of that name may be none."""
    for path in _places(f"python3.{minor}"):
        command = [path, "-c", "import ssl, sqlite3, sys; print(sys.version_info[1])"]
        if path.exists():
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            if told.stdout.strip() == str(minor):
                return path
    return None


def other_python() -> Path:
    """Give an interpreter of another minor version than this one: the newest that runs Ray."""
    others = [minor for minor in (13, 12, 11, 10) if minor != sys.version_info.minor]
    found = next((path for path in map(find_python, others) if path), None)
    need("a Python of another minor version", present=found is not None, how="pyenv install 3.12, for example.")
    assert found
    return found
