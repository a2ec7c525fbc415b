"""Workspaces whose provider is a stand-in, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.infrastructure.lab import schemas, stand_in
from tests.support.requirements import need
from tests.support.terraform import Workspace, copy_tree, environment, need_terraform


def need_schema(provider: str) -> dict[str, Any]:
    """Give a provider's schema, or skip (fail where CI is set)."""
    try:
        return schemas.schema(provider)
    except RuntimeError as error:
        need(
            f"the schema of the {provider} provider",
            present=False,
            how=f"Run 'python -m tests.support.terraform' with a network. {error}",
        )
        raise


def workspace(
    folder: Path, provider: str, module: str, *, answers: Mapping[str, Mapping[str, Any]] | None = None
) -> Workspace:
    """Copy ``terraform/``, and give one of its folders as a workspace on the stand-in.

    :param module: the folder below ``terraform/``.
    :param answers: what its resources answer, over the stand-in's own.
    """
    program = need_terraform()
    mirror, extra = stand_in.install(folder / "plugin", provider, need_schema(provider), answers=answers)
    env = environment(folder / "cli", program=program, mirrors=[mirror], extra=extra)
    return Workspace(copy_tree(folder) / module, program, env)
