"""A dashboard double beside the test's thread, and as much of a task's context as the glue uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.support.airflow_task import FakeTask, context_of
from tests.support.dashboard import TOKEN, Dashboard


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    found = Dashboard()
    found.start()
    yield found
    found.stop()


@pytest.fixture
def connection(monkeypatch, dashboard):
    """The connection that every hook reads; its extra may be changed."""
    from ray_provider.hooks import RayHook

    extra = {"address": dashboard.api.url, "token": TOKEN}

    def get(conn_id):
        return SimpleNamespace(
            extra=json.dumps(extra), extra_dejson=extra, host=None, port=None, schema=None, password=None, login=None
        )

    monkeypatch.setattr(RayHook, "get_connection", staticmethod(get))
    return extra


@pytest.fixture
def ti() -> FakeTask:
    return FakeTask()


@pytest.fixture
def context(ti):
    return context_of(ti)
