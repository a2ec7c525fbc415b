"""Sensors: wait for what another task, or somebody else, started."""

from __future__ import annotations

from ray_provider.sensors.cluster import RayClusterSensor
from ray_provider.sensors.infrastructure import InfrastructureDriftSensor
from ray_provider.sensors.job import RayJobSensor

__all__ = ["InfrastructureDriftSensor", "RayClusterSensor", "RayJobSensor"]
