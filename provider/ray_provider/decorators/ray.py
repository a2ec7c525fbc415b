"""Where astro-provider-ray had its decorator before 0.3.0.

Python binds this module to the name ``ray`` in its package, where the class of that name is: both have ``task``.
"""

from __future__ import annotations

from ray_provider import decorators
from ray_provider._compat import old_path
from ray_provider.decorators.namespace import ray

__all__ = ["ray", "task"]

task = ray.task

old_path(__name__, decorators.__name__)
