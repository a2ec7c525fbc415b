"""With what infrastructure was made, and the way back to it when the module has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure.errors import (
    CapacityError,
    ModuleError,
    PlanRefusedError,
    ProviderChangedError,
    StalePlanError,
    StateLockedError,
    TerraformCredentialsError,
    TerraformInterruptedError,
    UnreachableError,
    UnsavedStateError,
    VariableError,
)
from ray_provider.infrastructure.module.source import COMMIT, ModuleSource
from ray_provider.infrastructure.terraform.lock_file import LOCK_FILE, versions

#: Whatever the module, these would have come.
_NOT_THE_MODULE = (
    CapacityError,
    PlanRefusedError,
    ProviderChangedError,
    StalePlanError,
    StateLockedError,
    TerraformCredentialsError,
    TerraformInterruptedError,
    UnreachableError,
    UnsavedStateError,
)


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


def add_way_back(error: BaseException, module: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Add to an error of Terraform's or the module's how to have again what made the infrastructure.

    :param error: changed in place, if it is one of those.
    :param module: as the task names it.
    :param then: with what it was made.
    :param now: with what this run works.
    """
    if not isinstance(error, InfrastructureError) or isinstance(error, _NOT_THE_MODULE):
        return
    if isinstance(error, ModuleError | VariableError) or "diagnostics" in error.data:
        told = advice(module, then, now)
        if told:
            error.add_note(told)


def advice(module: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say how to get back to what made the infrastructure; empty if nothing differs from it.

    :param module: which module the run has.
    :param then: what the handle recorded.
    :param now: what this run has.
    """
    source = ModuleSource.parse(module)
    steps: list[str] = []
    if source.kind == "git" and then.get("commit") and then["commit"] != now.get("commit"):
        steps.append(f'give the commit: module="{source.public.partition("?")[0]}?ref={then["commit"]}"')
    wheel = then.get("airflow-ray")
    if source.kind == "bundled" and wheel not in (None, "unknown", now.get("airflow-ray")):
        steps.append(f"run this task where airflow-ray=={wheel} is installed")
    wanted = then.get("providers")
    has = now.get("providers") or {}
    for name, number in (wanted if isinstance(wanted, Mapping) else {}).items():
        if has.get(name) != number:
            steps.append(f"pin the provider {name.partition('/')[2] or name} to {number}")
    if then.get("terraform") and now.get("terraform") and then["terraform"] != now["terraform"]:
        steps.append(f"use {then['terraform']}")
    if not steps:
        return ""
    return "The way back to what this was made with, if the module has changed since: " + "; ".join(steps) + "."
