"""A place for a state, as Terraform's `http` backend wants it, which fails on purpose."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class StateServer:
    """Keeps one state and its lock. Use as a context manager.

    :ivar gone: answers 503 to everything.
    :ivar refuses: methods that are answered by 503, e.g. ``POST``, which writes the state.
    """

    def __init__(self) -> None:
        self.state: bytes = b""
        self.lock: dict[str, Any] | None = None
        self.gone = False
        self.refuses: set[str] = set()
        self.seen: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, code: int, body: bytes = b"") -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.seen.append(self.command)
                if outer.gone or self.command in outer.refuses:
                    self.answer(503, b"gone")
                else:
                    self.answer(*outer.handle(self.command, body))

            do_GET = do_POST = do_LOCK = do_UNLOCK = handle_any

            def do_PUT(self) -> None:
                """What a resource of a test says while it is made: the server goes away, or takes no state."""
                outer.gone = self.path == "/gone"
                outer.refuses = {"/refuse": {"POST"}, "/lock": {"UNLOCK"}}.get(self.path, set())
                self.answer(200)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def handle(self, method: str, body: bytes) -> tuple[int, bytes]:
        """Do as the backend's documentation says."""
        if method == "GET":
            return (200, self.state) if self.state else (404, b"")
        if method == "POST":
            self.state = body
            return 200, b""
        if method == "LOCK":
            if self.lock is not None:
                return 423, json.dumps(self.lock).encode()
            self.lock = json.loads(body)
            return 200, b""
        # `force-unlock` of Terraform 1.11 sends no body: as the well-known servers do, that is taken.
        if body and self.lock is not None and self.lock["ID"] != json.loads(body)["ID"]:
            return 409, json.dumps(self.lock).encode()
        self.lock = None
        return 200, b""

    @property
    def backend(self) -> dict[str, Any]:
        """The backend's configuration."""
        return {
            "type": "http",
            "address": self.url,
            "lock_address": self.url,
            "unlock_address": self.url,
            "retry_max": 0,
        }

    @property
    def resources(self) -> list[str]:
        """What the state holds."""
        data = json.loads(self.state) if self.state else {"resources": []}
        return [f"{item['type']}.{item['name']}" for item in data["resources"] if item["instances"]]

    def back_after(self, seconds: float) -> None:
        """Be there again after a while."""

        def back() -> None:
            self.gone, self.refuses = False, set()

        timer = threading.Timer(seconds, back)
        timer.daemon = True
        timer.start()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
