"""A small client of Airflow's REST API, for tests: trigger, wait, look, mark, clear, read logs."""

from __future__ import annotations

import http
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from ray_provider.testing.api import HEALTH, AirflowApi, AirflowApiError

__all__ = ["FINISHED", "AirflowApiError", "AirflowClient"]

#: The states in which a run or a task instance stays.
FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


class AirflowClient(AirflowApi):
    """Airflow's REST API on a stack whose visitors are all administrators, by what a test wants of it.

    Every ``wait_…`` has a time-out and says in its error what it saw last.
    """

    def health(self) -> dict[str, Any]:
        """Give the state of the database, scheduler, DAG processor and triggerer, with their last heartbeats."""
        health: dict[str, Any] = self.request("GET", HEALTH)
        return health

    def jobs(self, **query: Any) -> list[dict[str, Any]]:
        """Give Airflow's own processes (``job_type``: SchedulerJob, TriggererJob, DagProcessorJob).

        :param query: of the request: ``job_type``, ``is_alive`` …
        """
        return self.pages("/api/v2/jobs", "jobs", query)

    def hook_metadata(self, connection_type: str) -> dict[str, Any] | None:
        """Give what the connection form shows for a type: ``standard_fields``, ``extra_fields``; or ``None``.

        :param connection_type: such as ``ray``.
        """
        for entry in self.request("GET", "/ui/connections/hook_meta"):
            if entry["connection_type"] == connection_type:
                found: dict[str, Any] = entry
                return found
        return None

    def add_connection(self, connection_id: str, connection_type: str, **fields: Any) -> None:
        """Write a connection into the metadata database; one of the same id is replaced.

        :param connection_id: by which tasks name it.
        :param connection_type: such as ``ray``.
        :param fields: ``host``, ``port``, ``login``, ``password``, ``schema``, ``description`` and ``extra`` (text or
            a dictionary).
        """
        body = {"connection_id": connection_id, "conn_type": connection_type, **fields}
        if isinstance(body.get("extra"), Mapping):
            body["extra"] = json.dumps(body["extra"])
        with suppress(AirflowApiError):
            self.delete_connection(connection_id)
        self.request("POST", "/api/v2/connections", body, creates=True)

    def delete_connection(self, connection_id: str) -> None:
        """Remove a connection from the metadata database.

        :param connection_id: of one that is there; else there is an ``AirflowApiError`` (``status`` 404).
        """
        self.request("DELETE", f"/api/v2/connections/{quote(connection_id, safe='')}")

    def set_variable(self, key: str, value: str) -> None:
        """Write an Airflow variable into the metadata database; one of the same key is replaced.

        :param key: of the variable.
        :param value: its text.
        """
        with suppress(AirflowApiError):
            self.request("DELETE", f"/api/v2/variables/{quote(key, safe='')}")
        self.request("POST", "/api/v2/variables", {"key": key, "value": value}, creates=True)

    # -- DAGs and runs -------------------------------------------------------------------------------------------

    def import_errors(self) -> list[dict[str, Any]]:
        """Give the DAG files that could not be read, with ``filename`` and ``stack_trace``."""
        return self.pages("/api/v2/importErrors", "import_errors")

    def wait_for_dag(self, dag_id: str, *, timeout: float = 180.0) -> dict[str, Any]:
        """Wait until the DAG processor has read a DAG.

        :param dag_id: of the DAG.
        :param timeout: seconds. Default: 180.
        :return: the DAG, as the API gives it.
        :raises TimeoutError: it has not; the message holds the import errors.
        """

        def look() -> dict[str, Any] | None:
            try:
                found: dict[str, Any] = self.request("GET", f"/api/v2/dags/{quote(dag_id, safe='')}")
            except AirflowApiError as error:
                if error.status != http.HTTPStatus.NOT_FOUND:
                    raise
                return None
            return found

        try:
            dag: dict[str, Any] = self.wait_until(f"the DAG {dag_id} is known", look, timeout=timeout)
        except TimeoutError as error:
            traces = "\n".join(f"{entry['filename']}:\n{entry['stack_trace']}" for entry in self.import_errors())
            raise TimeoutError(f"{error}. Import errors: {traces or 'none'}") from None
        return dag

    def unpause(self, dag_id: str, *, timeout: float = 180.0) -> None:
        """Let a DAG's runs start; waits until the DAG is known.

        :param dag_id: of the DAG.
        :param timeout: seconds until it is known. Default: 180.
        :raises TimeoutError: it is not; the message holds the import errors.
        """
        self.wait_for_dag(dag_id, timeout=timeout)
        self.request("PATCH", f"/api/v2/dags/{quote(dag_id, safe='')}", {"is_paused": False})

    def trigger_run(
        self,
        dag_id: str,
        *,
        conf: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        logical_date: str | None = None,
        unpause: bool = True,
    ) -> str:
        """Start a run, and give its id.

        :param dag_id: of the DAG.
        :param conf: the run's parameters.
        :param run_id: its id; unless given, one is made of the time.
        :param logical_date: ISO 8601; ``None``: the run has none.
        :param unpause: wait for the DAG and unpause it first.
        """
        if unpause:
            self.unpause(dag_id)
        # Named here, so that it can be asked for again without making a second one.
        run_id = run_id or f"manual__{datetime.now(UTC).isoformat()}"
        body = {"dag_run_id": run_id, "logical_date": logical_date, "conf": dict(conf or {})}
        self.request("POST", f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns", body, creates=True)
        return run_id

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Give a run.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :raises AirflowApiError: there is none (``status`` 404).
        """
        found: dict[str, Any] = self.request("GET", self._run_path(dag_id, run_id))
        return found

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a run ``success`` or ``failed``, as a person does in the web interface.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :param state: ``success`` or ``failed``.
        """
        self.request("PATCH", self._run_path(dag_id, run_id), {"state": state})

    def events(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Give what Airflow's audit log has of a run: who changed what, and ``state mismatch`` of lost tasks.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        """
        return self.pages("/api/v2/eventLogs", "event_logs", {"dag_id": dag_id, "run_id": run_id})

    def wait_run(
        self, dag_id: str, run_id: str, *, state: str | Collection[str] = FINISHED, timeout: float = 180.0
    ) -> dict[str, Any]:
        """Wait until a run is in a state (or one of several; unless given: until it has finished), and give the run.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :param state: one, or several.
        :param timeout: seconds. Default: 180.
        :raises TimeoutError: it is not, in time, or has finished in another one.
        """
        wanted = {state} if isinstance(state, str) else set(state)

        def look() -> dict[str, Any] | None:
            run = self.run(dag_id, run_id)
            if run["state"] in wanted:
                return run
            if run["state"] in FINISHED:
                raise TimeoutError(f"the run {run_id} of {dag_id} ended as {run['state']}")
            return None

        try:
            run: dict[str, Any] = self.wait_until(f"the run {run_id} of {dag_id} is {wanted}", look, timeout=timeout)
        except TimeoutError as error:
            told = self._failures(dag_id, run_id)
            raise TimeoutError(f"{error}; its tasks: {self._states(dag_id, run_id)}{told}") from None
        return run

    # -- task instances ------------------------------------------------------------------------------------------

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Give all task instances of a run.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        """
        return self.pages(f"{self._run_path(dag_id, run_id)}/taskInstances", "task_instances")

    def task_instance(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> dict[str, Any]:
        """Give one task instance.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :param task_id: of the task.
        :param map_index: of a mapped task; -1 for one that is not.
        :raises AirflowApiError: there is none (``status`` 404).
        """
        found: dict[str, Any] = self.request("GET", self._task_path(dag_id, run_id, task_id, map_index))
        return found

    def wait_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        *,
        state: str | Collection[str] = FINISHED,
        map_index: int = -1,
        try_number: int | None = None,
        timeout: float = 120.0,
    ) -> dict[str, Any]:
        """Wait until a task instance is in a state (unless given: until it has finished), and give it.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :param task_id: of the task.
        :param state: one, or several.
        :param map_index: of a mapped task; -1 for one that is not.
        :param try_number: only this try counts.
        :param timeout: seconds. Default: 120.
        :raises TimeoutError: it is not, in time.
        """
        wanted = {state} if isinstance(state, str) else set(state)
        seen: list[Any] = []

        def look() -> dict[str, Any] | None:
            try:
                found = self.task_instance(dag_id, run_id, task_id, map_index=map_index)
            except AirflowApiError as error:
                if error.status != http.HTTPStatus.NOT_FOUND:  # a mapped one comes into being late
                    raise
                return None
            if not seen or seen[-1] != (found["try_number"], found["state"]):
                seen.append((found["try_number"], found["state"]))
            ours = try_number is None or found["try_number"] == try_number
            return found if ours and found["state"] in wanted else None

        try:
            instance: dict[str, Any] = self.wait_until(f"{dag_id}.{task_id} is {wanted}", look, timeout=timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; (try, state) seen: {seen}") from None
        return instance

    def set_state(self, dag_id: str, run_id: str, task_id: str, state: str, *, map_index: int = -1) -> None:
        """Mark a task instance ``success``, ``failed`` or ``skipped``, as a person does in the web interface.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :param task_id: of the task.
        :param state: ``success``, ``failed`` or ``skipped``.
        :param map_index: of a mapped task; -1 for one that is not.
        """
        self.request("PATCH", self._task_path(dag_id, run_id, task_id, map_index), {"new_state": state})

    def clear(
        self, dag_id: str, run_id: str, task_ids: Sequence[str | tuple[str, int]], *, downstream: bool = False
    ) -> None:
        """Clear task instances, so that they run again.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :param task_ids: task ids, or pairs of a task id and a map index.
        :param downstream: clear what comes after them too.
        """
        body = {
            "dry_run": False,
            "only_failed": False,
            "dag_run_id": run_id,
            "task_ids": [task if isinstance(task, str) else list(task) for task in task_ids],
            "include_downstream": downstream,
        }
        self.request("POST", f"/api/v2/dags/{quote(dag_id, safe='')}/clearTaskInstances", body)

    def log_entries(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> list[dict[str, Any]]:
        """Give the records of a task's log, as the web interface gets them (``event``, ``timestamp``, ``level`` …).

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :param task_id: of the task.
        :param try_number: of which try, from 1.
        :param map_index: of a mapped task; -1 for one that is not.
        """
        path = f"{self._task_path(dag_id, run_id, task_id)}/logs/{try_number}"
        entries: list[dict[str, Any]] = []
        query: dict[str, Any] = {"map_index": map_index, "full_content": "true"}
        while True:
            answer = self.request("GET", path, query=query)
            page = [entry if isinstance(entry, dict) else {"event": entry} for entry in answer["content"]]
            # While a task runs, Airflow 3.0 and 3.1 give all of the log again with every page, from its heading on.
            anew = entries and page and page[0].get("event") == entries[0].get("event")
            entries = page if anew else entries + page
            token = answer.get("continuation_token")
            if not token or not page or token == query.get("token"):
                return entries
            query["token"] = token

    def log_text(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """Give a task's log as text: every record's message, and the text of an exception where one is attached.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :param task_id: of the task.
        :param try_number: of which try, from 1.
        :param map_index: of a mapped task; -1 for one that is not.
        """
        lines = []
        for entry in self.log_entries(dag_id, run_id, task_id, try_number=try_number, map_index=map_index):
            lines.append(str(entry.get("event", "")))
            details = entry.get("error_detail")
            if isinstance(details, list):
                lines += [
                    f"{part.get('exc_type')}: {part.get('exc_value')}" for part in details if isinstance(part, dict)
                ]
        return "\n".join(lines)

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1) -> Any:
        """Give an XCom's value; ``None`` if there is none of that key.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :param task_id: of the task.
        :param key: of the XCom. Default: that of the task's return value.
        :param map_index: of a mapped task; -1 for one that is not.
        :raises AirflowApiError: Airflow refuses to give it.
        """
        path = f"{self._task_path(dag_id, run_id, task_id)}/xcomEntries/{quote(key, safe='')}"
        try:
            answer = self.request("GET", path, query={"map_index": map_index, "stringify": "false"})
        except AirflowApiError as error:
            if error.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise
        return answer["value"]

    def extra_links(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> dict[str, str | None]:
        """Give the links that an operator shows, by name.

        :param dag_id: of the DAG.
        :param run_id: of the run.
        :param task_id: of the task.
        :param map_index: of a mapped task; -1 for one that is not.
        :return: URLs; ``None``: the link leads nowhere yet.
        """
        path = f"{self._task_path(dag_id, run_id, task_id)}/links"
        links: dict[str, str | None] = self.request("GET", path, query={"map_index": map_index})["extra_links"]
        return links

    def _run_path(self, dag_id: str, run_id: str) -> str:
        return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"

    def _task_path(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
        path = f"{self._run_path(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}"
        return path if map_index < 0 else f"{path}/{map_index}"

    def _failures(self, dag_id: str, run_id: str) -> str:
        """Tell why tasks of a run failed: the ends of their logs, and what the scheduler says of them."""
        told = []
        for task in self.task_instances(dag_id, run_id):
            if task["state"] in ("failed", "up_for_retry"):
                name = (task["task_id"], task["map_index"], task["try_number"])
                try:
                    text = self.log_text(dag_id, run_id, name[0], map_index=name[1], try_number=max(name[2], 1))
                except AirflowApiError as error:  # a worker that never began has no log
                    text = str(error)
                told.append(f"\n-- {name[0]}[{name[1]}], try {name[2]}: the end of its log\n{text[-3000:]}")
        lost = [event["extra"] for event in self.events(dag_id, run_id) if event["event"] == "state mismatch"]
        return "".join(told) + "".join(f"\n-- the scheduler: {text}" for text in lost)

    def _states(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return {
            entry["task_id"] if entry["map_index"] < 0 else f"{entry['task_id']}[{entry['map_index']}]": entry["state"]
            for entry in self.task_instances(dag_id, run_id)
        }
