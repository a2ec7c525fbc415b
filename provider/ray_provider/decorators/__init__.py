"""``@task.ray``, and ``@ray.task`` under the name that astro-provider-ray gave it."""

from __future__ import annotations

from ray_provider.decorators.namespace import ray, ray_task
from ray_provider.decorators.storage import read_reference

__all__ = ["ray", "ray_task", "read_reference"]
