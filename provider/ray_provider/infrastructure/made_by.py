"""With what infrastructure was made, so that it can be had again when the module has changed since."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ray_provider.infrastructure.source import COMMIT

_LOCKED = re.compile(r'provider "([^"]+)" \{[^}]*?version\s*=\s*"([^"]+)"', re.DOTALL)


def made_by(root: Path, terraform: str) -> dict[str, Any]:
    """Give versions: of this package, of Terraform, of the providers, and the module's git commit.

    :param root: the module's copy, after ``init``.
    :param terraform: name and version of the program.
    """
    found: dict[str, Any] = {"airflow-ray": own_version(), "terraform": terraform}
    lock = root / ".terraform.lock.hcl"
    if lock.is_file():
        found["providers"] = dict(_LOCKED.findall(lock.read_text(encoding="utf-8")))
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


def way_back(module: str, made: Mapping[str, Any]) -> str:
    """Say how the module can be had as it was when the infrastructure was made; empty if nobody knows.

    :param module: the module, as the handle says it.
    :param made: as :func:`made_by` gave it.
    """
    if made.get("commit"):
        base = module.partition("?")[0]
        commit = made["commit"]
        return f'The infrastructure was made by commit {commit} of the module: give `module="{base}?ref={commit}"`.'
    own = made.get("airflow-ray")
    if re.fullmatch(r"[a-z][a-z0-9_-]*", module) and own and own not in {own_version(), "unknown"}:
        return (
            f"The infrastructure was made by the module {module} of airflow-ray {own}, and this is {own_version()}:"
            f" delete it with `pip install airflow-ray=={own}` on a worker."
        )
    return ""
