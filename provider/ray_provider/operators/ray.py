"""Where astro-provider-ray had its operators before 0.3.0."""

from __future__ import annotations

from ray_provider._compat import old_path
from ray_provider.operators.cluster import DeleteRayCluster, SetupRayCluster
from ray_provider.operators.job import SubmitRayJob

__all__ = ["DeleteRayCluster", "SetupRayCluster", "SubmitRayJob"]

old_path(__name__, "ray_provider.operators")
