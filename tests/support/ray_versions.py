"""Environments with other Ray versions, for heads that are older than their clients. Built once, kept in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.kubernetes.node.cache import locked

#: What these older ones import and do not ask for: pkg_resources.
_BESIDE = ["virtualenv", "setuptools<70"]


def python_with_ray(version: str, python: Path = Path(sys.executable)) -> Path:
    """Give the Python of an environment with that Ray; build it if there is none.

    :param version: of Ray.
    :param python: the interpreter: unless given, that of the tests.
    """
    base = Path(
        os.environ.get("AIRFLOW_RAY_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "airflow-ray"
    )
    asked = [python, "-c", "import sys; print('%d%d' % sys.version_info[:2])"]
    short = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    home = base.expanduser().resolve() / "ray-heads" / f"{version}-py{short}"
    with locked(home.with_name(home.name + ".lock"), f"the environment with Ray {version}"):
        if not home.exists():
            aside = home.with_name(home.name + ".tmp")
            shutil.rmtree(aside, ignore_errors=True)
            uv = Path(sys.executable).with_name("uv")
            packages = [f"ray[default]=={version}", *_BESIDE]
            subprocess.run([uv, "venv", "-q", "--relocatable", "--python", python, aside], check=True)
            subprocess.run([uv, "pip", "install", "-q", "--python", aside / "bin" / "python", *packages], check=True)
            aside.rename(home)
    return home / "bin" / "python"
