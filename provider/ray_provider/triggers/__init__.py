"""Triggers: Ray jobs and clusters watched on a triggerer's event loop."""

from __future__ import annotations

from ray_provider.triggers.cluster import RayClusterTrigger
from ray_provider.triggers.job import RayJobTrigger

__all__ = ["RayClusterTrigger", "RayJobTrigger"]
