"""A small client of Airflow's REST API, for tests: trigger, wait, look, mark, clear, read logs."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

#: The states in which a run or a task instance stays.
FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

#: Between two looks, at first and at last.
_POLL_SECONDS = 0.2
_LONGEST_PAUSE = 1.0
_PAGE = 100
_TRIES = 3
_HEALTH = "/api/v2/monitor/health"


class AirflowApiError(RuntimeError):
    """Airflow's REST API answered with an error.

    :param status: the HTTP status.
    :param body: what it said, as text.
    """

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        super().__init__(f"{method} {path}: HTTP {status}: {body[:2000]}")
        self.status = status
        self.body = body


class AirflowClient:
    """Airflow's REST API on a stack whose visitors are all administrators.

    Synchronous, one connection per request, no proxy: for tests. Every ``wait_…`` has a time-out and says in its error
    what it saw last.

    :param host: where the API server listens.
    :param port: its port.
    :param timeout: of one request, in seconds.
    :param check: called again and again while something is waited for; it raises if that is in vain.
    """

    def __init__(
        self, host: str, port: int, *, timeout: float = 30.0, check: Callable[[], None] = lambda: None
    ) -> None:
        self._host = host
        self._port = port
        self._timeout = timeout
        self._check = check
        self._token: str | None = None

    # -- plumbing ------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        creates: bool = False,
    ) -> Any:
        """Ask, and give the answer's JSON (or its text, if it is none).

        What gets no answer is sent again, twice, if that does no harm: on a small machine an API server can stall for
        a while. What the database had no turn for (Airflow rolls it back) is sent again for as long as a request may
        take.

        :param path: from the root, e.g. ``/api/v2/dags``.
        :param creates: this ``POST`` makes something that the body names: it may be sent again, and that it is there
            already then means that it was made. The answer is ``None`` in that case.
        :raises AirflowApiError: the answer is an error.
        :raises OSError: there is no answer.
        """
        if query:
            path = f"{path}?{urlencode(query, doseq=True)}"
        tries = _TRIES if (method != "POST" or creates) and not path.startswith(_HEALTH) else 1
        lost, status, text = self._send_repeatedly(tries, method, path, body, accept)
        if status == http.HTTPStatus.UNAUTHORIZED and not path.startswith("/auth/"):
            self._token = None
            lost, status, text = self._send_repeatedly(tries, method, path, body, accept)
        if lost and creates and status == http.HTTPStatus.CONFLICT:
            return None
        if lost and method == "DELETE" and status == http.HTTPStatus.NOT_FOUND:
            return None
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise AirflowApiError(method, path, status, text)
        try:
            return json.loads(text) if text else None
        except ValueError:
            return text

    def _send_repeatedly(self, tries: int, method: str, path: str, body: Any, accept: str) -> tuple[int, int, str]:
        """Give how many answers were lost, and the status and text of the one that came."""
        lost, deadline = 0, time.monotonic() + self._timeout
        while True:
            try:
                status, text = self._send(method, path, body, accept)
            except OSError:
                lost += 1
                if lost >= tries:
                    raise
            else:
                if not _had_no_turn(status, text) or time.monotonic() > deadline:
                    return lost, status, text
            time.sleep(_POLL_SECONDS)

    def _send(self, method: str, path: str, body: Any, accept: str) -> tuple[int, str]:
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if not path.startswith(("/auth/", _HEALTH)):
            if self._token is None:
                self._token = self.request("GET", "/auth/token")["access_token"]
            headers["Authorization"] = f"Bearer {self._token}"
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", errors="replace")
        finally:
            connection.close()

    def _pages(self, path: str, key: str, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self.request("GET", path, query={**(query or {}), "limit": _PAGE, "offset": len(found)})
            found += page[key]
            if not page[key] or len(found) >= page["total_entries"]:
                return found

    def wait_until(self, what: str, look: Callable[[], Any], *, timeout: float = 60.0) -> Any:
        """Look again and again until ``look`` gives something true, and give that.

        :raises TimeoutError: it did not, in time.
        :raises Exception: what ``check`` raises.
        """
        began = time.monotonic()
        while True:
            found = look()
            if found:
                return found
            self._check()
            waited = time.monotonic() - began
            if waited > timeout:
                raise TimeoutError(f"not within {timeout:.0f} s: {what}")
            # A look costs the API server what it could do for the tasks: what takes long is looked for less often.
            time.sleep(min(max(_POLL_SECONDS, waited / 10), _LONGEST_PAUSE))

    # -- the stack -----------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Give the state of the database, scheduler, DAG processor and triggerer, with their last heartbeats."""
        health: dict[str, Any] = self.request("GET", _HEALTH)
        return health

    def jobs(self, **query: Any) -> list[dict[str, Any]]:
        """Give Airflow's own processes (``job_type``: SchedulerJob, TriggererJob, DagProcessorJob)."""
        return self._pages("/api/v2/jobs", "jobs", query)

    def hook_metadata(self, connection_type: str) -> dict[str, Any] | None:
        """Give what the connection form shows for a type: ``standard_fields``, ``extra_fields``; or ``None``."""
        for entry in self.request("GET", "/ui/connections/hook_meta"):
            if entry["connection_type"] == connection_type:
                found: dict[str, Any] = entry
                return found
        return None

    # -- connections ---------------------------------------------------------------------------------------------

    def add_connection(self, connection_id: str, connection_type: str, **fields: Any) -> None:
        """Write a connection into the metadata database; one of the same id is replaced.

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
        """Remove a connection from the metadata database."""
        self.request("DELETE", f"/api/v2/connections/{quote(connection_id, safe='')}")

    def set_variable(self, key: str, value: str) -> None:
        """Write an Airflow variable into the metadata database; one of the same key is replaced."""
        with suppress(AirflowApiError):
            self.request("DELETE", f"/api/v2/variables/{quote(key, safe='')}")
        self.request("POST", "/api/v2/variables", {"key": key, "value": value}, creates=True)

    # -- DAGs and runs -------------------------------------------------------------------------------------------

    def import_errors(self) -> list[dict[str, Any]]:
        """Give the DAG files that could not be read, with ``filename`` and ``stack_trace``."""
        return self._pages("/api/v2/importErrors", "import_errors")

    def wait_for_dag(self, dag_id: str, *, timeout: float = 60.0) -> dict[str, Any]:
        """Wait until the DAG processor has read a DAG.

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

    def unpause(self, dag_id: str, *, timeout: float = 60.0) -> None:
        """Let a DAG's runs start; waits until the DAG is known."""
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

        :param conf: the run's parameters.
        :param run_id: its id; unless given, one is made of the time.
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
        """Give a run."""
        found: dict[str, Any] = self.request("GET", self._run_path(dag_id, run_id))
        return found

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a run ``success`` or ``failed``, as a person does in the web interface."""
        self.request("PATCH", self._run_path(dag_id, run_id), {"state": state})

    def wait_run(
        self, dag_id: str, run_id: str, *, state: str | Collection[str] = FINISHED, timeout: float = 180.0
    ) -> dict[str, Any]:
        """Wait until a run is in a state (or one of several; unless given: until it has finished), and give the run.

        :raises TimeoutError: it is not, in time, or has finished in another one.
        """
        wanted = {state} if isinstance(state, str) else set(state)

        def look() -> dict[str, Any] | None:
            run = self.run(dag_id, run_id)
            if run["state"] in wanted:
                return run
            if run["state"] in FINISHED:
                raise TimeoutError(
                    f"the run {run_id} of {dag_id} ended as {run['state']}: {self._states(dag_id, run_id)}"
                )
            return None

        try:
            run: dict[str, Any] = self.wait_until(f"the run {run_id} of {dag_id} is {wanted}", look, timeout=timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its tasks: {self._states(dag_id, run_id)}") from None
        return run

    # -- task instances ------------------------------------------------------------------------------------------

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Give all task instances of a run."""
        return self._pages(f"{self._run_path(dag_id, run_id)}/taskInstances", "task_instances")

    def task_instance(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> dict[str, Any]:
        """Give one task instance."""
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

        :param try_number: only this try counts.
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
        """Mark a task instance ``success``, ``failed`` or ``skipped``, as a person does in the web interface."""
        self.request("PATCH", self._task_path(dag_id, run_id, task_id, map_index), {"new_state": state})

    def clear(
        self, dag_id: str, run_id: str, task_ids: Sequence[str | tuple[str, int]], *, downstream: bool = False
    ) -> None:
        """Clear task instances, so that they run again.

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
        """Give the records of a task's log, as the web interface gets them (``event``, ``timestamp``, ``level`` …)."""
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
        """Give a task's log as text: every record's message, and the text of an exception where one is attached."""
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
        """Give an XCom's value; ``None`` if there is none of that key."""
        path = f"{self._task_path(dag_id, run_id, task_id)}/xcomEntries/{quote(key, safe='')}"
        try:
            answer = self.request("GET", path, query={"map_index": map_index, "stringify": "false"})
        except AirflowApiError as error:
            if error.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise
        return answer["value"]

    def extra_links(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> dict[str, str | None]:
        """Give the links that an operator shows, by name."""
        path = f"{self._task_path(dag_id, run_id, task_id)}/links"
        links: dict[str, str | None] = self.request("GET", path, query={"map_index": map_index})["extra_links"]
        return links

    # -- paths ---------------------------------------------------------------------------------------------------

    def _run_path(self, dag_id: str, run_id: str) -> str:
        return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"

    def _task_path(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
        path = f"{self._run_path(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}"
        return path if map_index < 0 else f"{path}/{map_index}"

    def _states(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return {
            entry["task_id"] if entry["map_index"] < 0 else f"{entry['task_id']}[{entry['map_index']}]": entry["state"]
            for entry in self.task_instances(dag_id, run_id)
        }


def _had_no_turn(status: int, text: str) -> bool:
    """Whether an answer says that the database could not do it; the cause is in the API server's log only."""
    return status == http.HTTPStatus.INTERNAL_SERVER_ERROR and "Database error" in text
