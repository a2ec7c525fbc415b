"""With what infrastructure was made, so that it can be had again when the module has changed since."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ray_provider.infrastructure.lock_file import LOCK_FILE, versions
from ray_provider.infrastructure.source import COMMIT


def made_by(root: Path, terraform: str) -> dict[str, Any]:
    """Give versions: of this package, of Terraform, of the providers, and the module's git commit.

    :param root: the module's copy, after ``init``.
    :param terraform: name and version of the program.
    """
    found: dict[str, Any] = {"airflow-ray": own_version(), "terraform": terraform}
    lock = root / LOCK_FILE
    if lock.is_file():
        found["providers"] = versions(lock.read_text(encoding="utf-8"))
    for folder in (root, *root.parents):
        commit = folder / COMMIT
        if commit.is_file():
            found["commit"] = commit.read_text(encoding="utf-8")
            break
    return found


def own_version() -> str:
    """Give the version of this package."""
    try:
        return version("airflow-ray")
    except PackageNotFoundError:
        return "unknown"
