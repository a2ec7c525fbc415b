"""A dashboard double beside the test's thread, and as much of a task's context as the glue uses."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from ray_provider.hooks import RayHook
from tests.support.jobs_api import JobsApi

TOKEN = "the-token-of-the-test"  # noqa: S105


class Dashboard:
    """The double on a loop of its own: operators are synchronous."""

    def __init__(self) -> None:
        self.api = JobsApi(token=TOKEN)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def start(self) -> None:
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.api.__aenter__(), self.loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.api.__aexit__(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    @property
    def job(self):
        [job] = self.api.jobs.values()
        return job

    def when_submitted(self, act, *, count: int = 1) -> threading.Thread:
        """Do something as soon as there are so many jobs, while the operator waits."""

        def wait() -> None:
            while len(self.api.jobs) < count:
                threading.Event().wait(0.01)
            act(list(self.api.jobs.values())[-1])

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    found = Dashboard()
    found.start()
    yield found
    found.stop()


@pytest.fixture
def connection(monkeypatch, dashboard):
    """The connection that every hook reads; its extra may be changed."""
    extra = {"address": dashboard.api.url, "token": TOKEN}

    def get(conn_id):
        return SimpleNamespace(
            extra=json.dumps(extra), extra_dejson=extra, host=None, port=None, schema=None, password=None, login=None
        )

    monkeypatch.setattr(RayHook, "get_connection", staticmethod(get))
    return extra


class FakeTask:
    """A task instance: what is the same for all its tries, and one try."""

    def __init__(self) -> None:
        self.dag_id, self.run_id, self.task_id, self.map_index = "dag", "run", "task", -1
        self.try_number, self.max_tries = 1, 3
        self.start_date = datetime.now(UTC)
        self.store: dict = {}
        self.xcoms: dict = {}

    def xcom_push(self, key, value):
        self.xcoms[self.task_id, key] = value

    def xcom_pull(self, task_ids=None, key="return_value", map_indexes=None):
        return self.xcoms.get((task_ids or self.task_id, key))

    def retry(self) -> None:
        """What Airflow does between two tries."""
        self.try_number += 1
        self.xcoms = {key: value for key, value in self.xcoms.items() if key[0] != self.task_id}

    def clear(self) -> None:
        self.max_tries = self.try_number + 3
        self.retry()


@pytest.fixture
def ti() -> FakeTask:
    return FakeTask()


class Store(dict):
    def set(self, key, value):
        assert json.dumps(value)
        self[key] = value


@pytest.fixture
def context(ti):
    store = Store()
    ti.store = store
    started = datetime(2026, 1, 1, tzinfo=UTC)
    return {"ti": ti, "task_state_store": store, "dag_run": SimpleNamespace(start_date=started)}
