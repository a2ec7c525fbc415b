"""The version of the package: apart, so that what Airflow reads at start-up imports nothing else."""

from __future__ import annotations

__version__ = "1.0.0"
