"""Task groups: several tasks on one Ray cluster."""

from __future__ import annotations

from ray_provider.task_groups.cluster import RayClusterTaskGroup

__all__ = ["RayClusterTaskGroup"]
