"""Where astro-provider-ray had its trigger before 0.3.0."""

from __future__ import annotations

from ray_provider._compat import old_path
from ray_provider.triggers.job import RayJobTrigger

__all__ = ["RayJobTrigger"]

old_path(__name__, "ray_provider.triggers")
