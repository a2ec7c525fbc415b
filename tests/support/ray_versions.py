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


def python_with_ray(version: str) -> Path:
    """Give the Python of an environment with that Ray, and of our own minor version; build it if there is none."""
    base = Path(
        os.environ.get("AIRFLOW_RAY_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "airflow-ray"
    )
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = base.expanduser().resolve() / "ray-heads" / f"{version}-py{ours.replace('.', '')}"
    with locked(home.with_suffix(".lock"), f"the environment with Ray {version}"):
        if not home.exists():
            aside = home.with_name(home.name + ".tmp")
            shutil.rmtree(aside, ignore_errors=True)
            uv = Path(sys.executable).with_name("uv")
            packages = [f"ray[default]=={version}", *_BESIDE]
            subprocess.run([uv, "venv", "-q", "--relocatable", "--python", sys.executable, aside], check=True)
            subprocess.run([uv, "pip", "install", "-q", "--python", aside / "bin" / "python", *packages], check=True)
            aside.rename(home)
    return home / "bin" / "python"
