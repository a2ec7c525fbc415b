"""The client of Airflow's REST API against a server that does what it is asked and loses its answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ray_provider.testing.client import AirflowApiError, AirflowClient


class Server(ThreadingHTTPServer):
    """Knows runs and connections; the first answer to each of ``lost`` (method, end of the path) is lost."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.made: list[str] = []
        self.lost: set[tuple[str, str]] = set()
        self.asked: list[str] = []


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


def test_what_is_not_safe_to_repeat_is_sent_once(server):
    client = AirflowClient("127.0.0.1", server.server_port)
    server.lost = {("POST", "clearTaskInstances")}
    with pytest.raises(OSError):
        client.request("POST", "/api/v2/dags/d/clearTaskInstances", {})
    assert len([one for one in server.asked if "clear" in one]) == 1
