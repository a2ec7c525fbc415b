"""Sensors: wait for what another task, or somebody else, started."""

from __future__ import annotations

from ray_provider.sensors.job import RayJobSensor

__all__ = ["RayJobSensor"]
