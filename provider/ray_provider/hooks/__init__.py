"""From an Airflow connection to plain configuration objects."""

from __future__ import annotations

from ray_provider.hooks.connection import RayConnectionConfig
from ray_provider.hooks.ray import RayHook

__all__ = ["RayConnectionConfig", "RayHook"]
