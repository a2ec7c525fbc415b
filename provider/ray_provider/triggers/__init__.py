"""Triggers: Ray jobs, clusters and applications watched on a triggerer's event loop."""

from __future__ import annotations

from ray_provider.triggers.cluster import RayClusterTrigger
from ray_provider.triggers.job import RayJobTrigger
from ray_provider.triggers.rayjob import RayJobEndTrigger, RayJobStartTrigger
from ray_provider.triggers.rayservice import RayServiceTrigger
from ray_provider.triggers.serve import RayServeTrigger

__all__ = [
    "RayClusterTrigger",
    "RayJobEndTrigger",
    "RayJobStartTrigger",
    "RayJobTrigger",
    "RayServeTrigger",
    "RayServiceTrigger",
]
