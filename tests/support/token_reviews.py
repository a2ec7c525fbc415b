"""A door to a Kubernetes as a cloud has one: a webhook that tells its API server whom a bearer token belongs to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class User:
    """Whom a token belongs to, in Kubernetes' words."""

    name: str
    groups: tuple[str, ...] = ()


class TokenReviews:
    """What a cloud's API server asks about a bearer token: a webhook, on loopback.

    :param ask: gives the user of a token, ``None`` where it is no token of this cloud.
        A ``PermissionError`` says that it is one, and not good.
    """

    def __init__(self, *ask: Callable[[str], User | None]) -> None:
        self._ask = ask
        self.admitted: list[str] = []
        self.refused: list[str] = []

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = {
                    "apiVersion": review["apiVersion"],
                    "kind": "TokenReview",
                    "status": outer._status(review["spec"]["token"]),
                }
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/review"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _status(self, token: str) -> dict[str, Any]:
        for ask in self._ask:
            try:
                user = ask(token)
            except (PermissionError, OSError, ValueError, KeyError) as error:
                self.refused.append(f"{type(error).__name__}: {error}")
                return {"authenticated": False, "error": str(error)[:300]}
            if user is not None:
                self.admitted.append(user.name)
                return {"authenticated": True, "user": {"username": user.name, "groups": list(user.groups)}}
        return {"authenticated": False}
