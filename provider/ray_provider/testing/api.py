"""Requests to Airflow's REST API, for tests: sent again where that does no harm, and until something is so."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

#: Between two looks, at first and at last.
_POLL_SECONDS = 0.2
_LONGEST_PAUSE = 1.0
_PAGE = 100
_TRIES = 3
HEALTH = "/api/v2/monitor/health"


class AirflowApiError(RuntimeError):
    """Airflow's REST API answered with an error.

    :param method: HTTP's, of the request.
    :param path: of the request.
    :param status: the HTTP status.
    :param body: what it said, as text.
    """

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        super().__init__(f"{method} {path}: HTTP {status}: {body[:2000]}")
        self.status = status
        self.body = body


class AirflowApi:
    """Airflow's REST API. Synchronous, one connection per request, no proxy.

    :param host: where the API server listens.
    :param port: its port.
    :param timeout: of one request, in seconds. Default: 30.
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

        :param method: HTTP's.
        :param path: from the root, e.g. ``/api/v2/dags``.
        :param body: is sent as JSON; ``None``: nothing is sent.
        :param query: added to the path; a list's items are sent one by one.
        :param accept: the content type that is wanted.
        :param creates: this ``POST`` makes something that the body names: it may be sent again, and that it is there
            already then means that it was made. The answer is ``None`` in that case.
        :raises AirflowApiError: the answer is an error.
        :raises OSError: there is no answer.
        """
        if query:
            path = f"{path}?{urlencode(query, doseq=True)}"
        tries = _TRIES if (method != "POST" or creates) and not path.startswith(HEALTH) else 1
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
        if not path.startswith(("/auth/", HEALTH)):
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

    def pages(self, path: str, key: str, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Give all entries of a list that comes page by page.

        :param path: from the root.
        :param key: what the entries are called in the answer.
        :param query: which of them.
        """
        found: list[dict[str, Any]] = []
        while True:
            page = self.request("GET", path, query={**(query or {}), "limit": _PAGE, "offset": len(found)})
            found += page[key]
            if not page[key] or len(found) >= page["total_entries"]:
                return found

    def wait_until(self, what: str, look: Callable[[], Any], *, timeout: float = 60.0) -> Any:
        """Look again and again until ``look`` gives something true, and give that.

        :param what: is looked for, for the message.
        :param look: asks once. What it raises goes on.
        :param timeout: seconds. Default: 60.
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


def _had_no_turn(status: int, text: str) -> bool:
    """Whether an answer says that the database could not do it; the cause is in the API server's log only."""
    return status == http.HTTPStatus.INTERNAL_SERVER_ERROR and "Database error" in text
