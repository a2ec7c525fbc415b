"""The double of Ray's dashboard, fresh for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ray_provider._shared.retry import RetryPolicy
from ray_provider.jobs.client import RayJobsClient
from tests.support.jobs_api import JobsApi

QUICK = RetryPolicy(deadline_seconds=3.0, first_delay=0.02, max_delay=0.1)


@pytest.fixture
async def api() -> AsyncIterator[JobsApi]:
    async with JobsApi() as api:
        yield api


@pytest.fixture
async def client(api: JobsApi) -> AsyncIterator[RayJobsClient]:
    async with RayJobsClient(api.endpoint(), timeout=5, retry=QUICK) as client:
        yield client
