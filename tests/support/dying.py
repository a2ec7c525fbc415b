"""A worker that dies: a process of its own runs the task, and is killed. What it had told Airflow stays."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.airflow_task import FakeTask, context_of

# Forked from a process that has imported Airflow once: a kill costs a moment, not an import.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [
        __name__,
        "airflow.sdk",
        "ray_provider.operators.job",
        "ray_provider.operators._job.run",
        "ray_provider.jobs.watch.watcher",
    ]
)


class _Telling(FakeTask):
    """Writes down what it is told, as Airflow's API server would, so that it outlives the process."""

    def begin(self, path: Path, *, store: bool) -> dict[str, Any]:
        context = context_of(self)
        self.path = path
        keep = self.store.set

        def put(key: str, value: Any) -> None:
            keep(key, value)
            self._tell()

        self.store.set = put
        if not store:
            del context["task_state_store"]
        return context

    def xcom_push(self, key: str, value: Any) -> None:
        super().xcom_push(key, value)
        self._tell()

    def _tell(self) -> None:
        told = {"store": self.store, "xcoms": [[list(key), value] for key, value in self.xcoms.items()]}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.rename(self.path)


def _work(extra: dict[str, Any], path: Path, arguments: dict[str, Any], store: bool, try_number: int) -> None:
    from ray_provider.hooks import RayHook
    from ray_provider.operators import SubmitRayJob

    own = {"host": None, "port": None, "schema": None, "password": None, "login": None}
    found = SimpleNamespace(extra=json.dumps(extra), extra_dejson=extra, **own)
    RayHook.get_connection = staticmethod(lambda _: found)
    ti = _Telling()
    ti.try_number = try_number
    SubmitRayJob(**arguments).execute(ti.begin(path, store=store))


def die_while_waiting(api: Any, context: dict[str, Any], extra: dict[str, Any], path: Path, **arguments: Any) -> None:
    """Run a try in a process that is killed when it watches its job.

    :param api: the dashboard's double.
    :param context: of the test's own task: gets what the dead one had told Airflow.
    :param extra: the connection's.
    """
    ti = context["ti"]
    process = _processes.Process(
        target=_work, args=(extra, path, arguments, "task_state_store" in context, ti.try_number), daemon=True
    )
    process.start()
    deadline = time.monotonic() + 120
    while not _watched(api):
        assert process.is_alive(), "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    told = json.loads(path.read_text())
    ti.store.update(told["store"])
    ti.xcoms.update({tuple(key): value for key, value in told["xcoms"]})


def _watched(api: Any) -> bool:
    """Whether somebody has asked for the state of a job that was submitted."""
    return any(
        method == "GET" and path.endswith(f"/api/jobs/{job}")
        for method, path in list(api.requests)
        for job in list(api.jobs)
    )
