"""Sensors: wait for what another task, or somebody else, started."""

from __future__ import annotations

from ray_provider.sensors.cluster import RayClusterSensor
from ray_provider.sensors.infrastructure import InfrastructureDriftSensor
from ray_provider.sensors.job import RayJobSensor
from ray_provider.sensors.serve import RayServeSensor

__all__ = ["InfrastructureDriftSensor", "RayClusterSensor", "RayJobSensor", "RayServeSensor"]
