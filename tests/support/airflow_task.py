"""As much of a task's context as the operators use, for tests that run one without Airflow's components."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any


class FakeTask:
    """A task instance: what is the same for all its tries, and one try."""

    def __init__(self, run_id: str = "run") -> None:
        self.dag_id, self.run_id, self.task_id, self.map_index = "dag", run_id, "task", -1
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


class Store(dict):
    def set(self, key, value):
        assert json.dumps(value)
        self[key] = value


def context_of(ti: FakeTask) -> dict[str, Any]:
    ti.store = Store()
    started = datetime(2026, 1, 1, tzinfo=UTC)
    return {"ti": ti, "task_state_store": ti.store, "dag_run": SimpleNamespace(start_date=started)}
