"""Triggers: Ray jobs watched on a triggerer's event loop."""

from __future__ import annotations

from ray_provider.triggers.job import RayJobTrigger

__all__ = ["RayJobTrigger"]
