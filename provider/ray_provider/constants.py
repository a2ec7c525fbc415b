"""Names that DAGs written for astro-provider-ray import from here."""

from __future__ import annotations

from ray_provider.jobs.models import FINAL_STATUSES

#: The statuses that a Ray job does not leave again. Strings: members of Ray's own ``JobStatus`` are equal to them.
TERMINAL_JOB_STATUSES = FINAL_STATUSES

__all__ = ["TERMINAL_JOB_STATUSES"]
