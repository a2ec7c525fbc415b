"""Operators. Each is imported when it is first asked for: a DAG pays for what it uses."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_provider.operators.addons import DeleteRayAddons, SetupRayAddons
    from ray_provider.operators.cluster import DeleteRayCluster, SetupRayCluster
    from ray_provider.operators.infrastructure import DeleteRayInfrastructure, SetupRayInfrastructure
    from ray_provider.operators.job import SubmitRayJob
    from ray_provider.operators.promotion import PromoteRayService, RollbackRayService
    from ray_provider.operators.rayjob import RunRayJob
    from ray_provider.operators.rayservice import DeleteRayService, DeployRayService
    from ray_provider.operators.serve import DeleteServeApplication, DeployServeApplication

_WHERE = {
    "DeleteRayAddons": "addons",
    "DeleteRayCluster": "cluster",
    "DeleteRayInfrastructure": "infrastructure",
    "DeleteRayService": "rayservice",
    "DeleteServeApplication": "serve",
    "DeployRayService": "rayservice",
    "DeployServeApplication": "serve",
    "PromoteRayService": "promotion",
    "RollbackRayService": "promotion",
    "RunRayJob": "rayjob",
    "SetupRayAddons": "addons",
    "SetupRayCluster": "cluster",
    "SetupRayInfrastructure": "infrastructure",
    "SubmitRayJob": "job",
}

__all__ = [
    "DeleteRayAddons",
    "DeleteRayCluster",
    "DeleteRayInfrastructure",
    "DeleteRayService",
    "DeleteServeApplication",
    "DeployRayService",
    "DeployServeApplication",
    "PromoteRayService",
    "RollbackRayService",
    "RunRayJob",
    "SetupRayAddons",
    "SetupRayCluster",
    "SetupRayInfrastructure",
    "SubmitRayJob",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
