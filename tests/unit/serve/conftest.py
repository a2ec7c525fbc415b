"""A double of a dashboard with Serve, and an open client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ray_provider.serve import deploy, removal
from ray_provider.serve.client import ServeClient
from tests.support.jobs_api import JobsApi


@pytest.fixture
async def dashboard() -> AsyncIterator[JobsApi]:
    async with JobsApi(token="t") as api:
        yield api


@pytest.fixture
async def client(dashboard) -> AsyncIterator[ServeClient]:
    async with ServeClient(dashboard.endpoint()) as client:
        yield client


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def settle(monkeypatch):
    """Shorter than for a real Ray, whose writes take longer."""
    monkeypatch.setattr(deploy, "_SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(removal, "_SETTLE_SECONDS", 0.3)
