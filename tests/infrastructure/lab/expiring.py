"""An AWS whose temporary keys end, which moto's never do."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from tests.infrastructure.lab.presigned import Application

_KEY = re.compile(r"Credential=([A-Z0-9]+)/")


class Expiring:
    """Refuses the keys of an assumed role once they are over, as AWS does.

    :param inner: moto's application.
    :param seconds: how long such keys are good for, whatever was asked; as asked if not given.
    """

    def __init__(self, inner: Application, seconds: float | None) -> None:
        self._inner = inner
        self._ends: dict[str, float] = {}
        if seconds is None:
            return
        from moto.sts import models

        make, ends = models.AssumedRole.__init__, self._ends

        def shorter(role: Any, *given: Any, **more: Any) -> None:
            make(role, *given, **more)
            # Whole seconds: STS tells no smaller ones.
            ends[role.access_key_id] = float(int(time.time() + seconds))
            role.expiration = datetime.datetime.fromtimestamp(ends[role.access_key_id], datetime.UTC).replace(
                tzinfo=None
            )

        models.AssumedRole.__init__ = shorter

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        found = _KEY.search(environ.get("HTTP_AUTHORIZATION", ""))
        if found and time.time() > self._ends.get(found[1], float("inf")):
            print(f"expired: {environ['REQUEST_METHOD']} {environ['PATH_INFO']}", file=environ["wsgi.errors"])
            start_response("400 Bad Request", [("Content-Type", "application/xml")])
            return [b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"]
        return self._inner(environ, start_response)
