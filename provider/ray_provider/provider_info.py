"""What Airflow reads at start-up. Imports nothing."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Describe the provider to Airflow."""
    return {
        "package-name": "airflow-ray",
        "name": "Ray",
        "description": "Ray clusters and jobs, driven by infrastructure as code.",
        "connection-types": [{"connection-type": "ray", "hook-class-name": "ray_provider.hooks.RayHook"}],
        "task-decorators": [{"name": "ray", "class-name": "ray_provider.decorators.ray_task"}],
    }
