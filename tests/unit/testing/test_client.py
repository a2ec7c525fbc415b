"""The client of Airflow's REST API against a server that does what it is asked and loses its answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from ray_provider.testing.client import AirflowApiError, AirflowClient


class Server(ThreadingHTTPServer):
    """Knows runs and connections; the first answer to each of ``lost`` (method, end of the path) is lost.

    For the first ``busy`` of other requests its database has no turn.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.made: list[str] = []
        self.lost: set[tuple[str, str]] = set()
        self.asked: list[str] = []
        self.busy = 0
        #: What a task has logged; and whether the answer begins anew with each page, as that of Airflow 3.1 does.
        self.logged: list[str] = []
        self.anew = False


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {self.path}")
        status, answer = 200, {"total_entries": 0}
        name = json.loads(body)["dag_run_id"] if self.command == "POST" and b"dag_run_id" in body else ""
        if self.path == "/auth/token":
            answer = {"access_token": "t"}
        elif self.server.busy:
            self.server.busy -= 1
            status, answer = 500, {"detail": {"reason": "Database error", "message": "Check logs for more details"}}
        elif "/logs/" in self.path:
            answer = self.log()
        elif name in self.server.made:
            status = 409
        elif name:
            self.server.made.append(name)
        lost = next((one for one in self.server.lost if (self.command, self.path.rpartition("/")[2]) == one), None)
        if lost:
            self.server.lost.remove(lost)
            self.close_connection = True
            return
        self.send_response(status)
        text = json.dumps(answer).encode()
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log(self) -> dict:
        """Give what is new since the token, which says how many lines are known: the task is not over."""
        known = int(parse_qs(urlsplit(self.path).query).get("token", ["0"])[0])
        content = self.server.logged[0 if self.server.anew else known :]
        return {"content": content, "continuation_token": str(len(self.server.logged))}

    do_GET = do_POST = do_PATCH = do_DELETE = do


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_run_is_started_once_when_the_answer_is_lost(server):
    client = AirflowClient("127.0.0.1", server.server_port)
    server.lost = {("PATCH", "d"), ("POST", "dagRuns")}
    run_id = client.trigger_run("d")
    assert server.made == [run_id]
    assert server.asked.count("PATCH /api/v2/dags/d") == 2
    assert server.asked.count("POST /api/v2/dags/d/dagRuns") == 2
    # Without a loss, a run of the same id is somebody else's.
    with pytest.raises(AirflowApiError, match="409"):
        client.trigger_run("d", run_id=run_id)


def test_what_the_database_had_no_turn_for_is_sent_again(server):
    client = AirflowClient("127.0.0.1", server.server_port)
    server.busy = 4
    client.request("POST", "/api/v2/dags/d/clearTaskInstances", {})
    assert len([one for one in server.asked if "clear" in one]) == 5
    # Made by a request whose answer was lost, and asked for again while the database was busy: it was made by us.
    server.lost, server.busy = {("POST", "dagRuns")}, 0
    handed_in: list[str] = []
    threading.Thread(target=lambda: handed_in.append(client.trigger_run("d"))).start()
    while not server.made:
        time.sleep(0.01)
    server.busy = 1
    while not handed_in:
        time.sleep(0.01)
    assert server.made == handed_in


def test_a_database_that_stays_busy_is_told(server):
    client = AirflowClient("127.0.0.1", server.server_port, timeout=0.5)
    server.busy = 1000
    with pytest.raises(AirflowApiError, match="Database error"):
        client.request("GET", "/api/v2/dags/d")


def test_what_is_not_safe_to_repeat_is_sent_once(server):
    client = AirflowClient("127.0.0.1", server.server_port)
    server.lost = {("POST", "clearTaskInstances")}
    with pytest.raises(OSError):
        client.request("POST", "/api/v2/dags/d/clearTaskInstances", {})
    assert len([one for one in server.asked if "clear" in one]) == 1


@pytest.mark.timeout(20)
@pytest.mark.parametrize("anew", [False, True], ids=["Airflow 3.3", "Airflow 3.1"])
def test_the_log_of_a_task_that_goes_on_is_read_once(server, anew):
    """Before, on Airflow 3.1: read until the task was over, each page with all of it once more."""
    client = AirflowClient("127.0.0.1", server.server_port)
    server.logged, server.anew = ["a", "b", "b"], anew
    assert client.log_text("d", "r", "t").splitlines() == ["a", "b", "b"]
