"""One request to an application that runs, and what is expected of the answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import ConfigurationError, RayConnectionError, RayProviderError, ServeFailedError
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.http.transport import Answer, Transport
from ray_provider.serve.applications import unknown_keys
from ray_provider.serve.urls import application_url

_PAUSE = 0.5
_SHOWN = 300
_METHODS = ("GET", "POST", "PUT")
#: The proxy hears of a new route a moment later.
_NO_ROUTE = 404


@dataclass(frozen=True, slots=True)
class SmokeTest:
    """A request, and what is expected.

    :param path: below the application's route.
    :param method: of the request.
    :param send: its body, sent as JSON.
    :param status: of the answer.
    :param json: what the answer holds as JSON: of a dictionary, these keys with these values.
    :param text: what stands in the answer.
    :param timeout_seconds: until an answer is as expected.
    """

    path: str = ""
    method: str = "GET"
    send: Any = None
    status: int = 200
    json: Any = None
    text: str | None = None
    timeout_seconds: float = 30.0

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> SmokeTest:
        """Read what a user gave.

        :param given: the argument ``smoke_test``.
        :raises ConfigurationError: it can't be understood.
        """
        known = list(cls.__dataclass_fields__)
        for key, near in unknown_keys(given, known):
            raise ConfigurationError(
                f"smoke_test has the key {key!r}, which nobody knows.",
                hint=f"Is {near!r} meant?" if near else f"It takes {', '.join(known)}.",
                field="smoke_test",
            )
        test = cls(**given)
        try:
            test = cls(**{**given, "status": int(test.status), "timeout_seconds": float(test.timeout_seconds)})
        except (TypeError, ValueError):
            raise ConfigurationError(
                "smoke_test: status and timeout_seconds are numbers.", hint="Such as 200 and 30.", field="smoke_test"
            ) from None
        if test.method not in _METHODS or not isinstance(test.path, str):
            raise ConfigurationError(
                f"smoke_test: method {test.method!r} is not one of {', '.join(_METHODS)}, or path is no text.",
                hint='Such as {"path": "/predict", "method": "POST", "send": {"x": 1}, "json": {"y": 2}}.',
                field="smoke_test",
            )
        return test

    def complaint(self, answer: Answer) -> str | None:
        """Say what is wrong with an answer; ``None``: nothing.

        :param answer: the answer.
        """
        told = " ".join(answer.text.split())[:_SHOWN]
        if answer.status != self.status:
            return f"status {answer.status} instead of {self.status}: {told}"
        if self.text is not None and self.text not in answer.text:
            return f"{self.text!r} is not in the answer: {told}"
        if self.json is not None:
            try:
                found = json.loads(answer.body)
            except ValueError:
                return f"the answer is no JSON: {told}"
            if not _holds(found, self.json):
                return f"the answer is not {json.dumps(self.json)[:_SHOWN]}: {told}"
        return None


async def smoke(serve: RayEndpoint, name: str, route_prefix: str | None, test: SmokeTest) -> float:
    """Ask an application until its answer is as expected.

    :param serve: where Serve's proxies are reached.
    :param name: of the application.
    :param route_prefix: of the application.
    :param test: the request.
    :return: seconds that the good answer took.
    :raises ServeFailedError: it was not, in time.
    """
    base = application_url(serve, route_prefix) or ""
    path = base.removeprefix(serve.display_url.rstrip("/")).rstrip("/") + "/" + test.path.lstrip("/")
    path = path if test.path else path.rstrip("/") or "/"
    transport = Transport(serve, timeout=test.timeout_seconds, retry=RetryPolicy.none())
    until = time.monotonic() + test.timeout_seconds
    await transport.open()
    try:
        while True:
            began = time.monotonic()
            try:
                answer = await transport.request(
                    test.method, path, json_body=test.send, accept=lambda _status, _text: True
                )
                wrong, passing = test.complaint(answer), answer.status == _NO_ROUTE or answer.status >= 500
            except RayConnectionError as error:
                wrong, passing = f"no answer: {error.message}", True
            except RayProviderError as error:
                wrong, passing = error.message, False
            if wrong is None:
                return time.monotonic() - began
            if not passing or time.monotonic() > until:
                raise ServeFailedError(
                    f"The application {name!r} runs, but its smoke test fails: {test.method} {base.rstrip('/')}"
                    f"/{test.path.lstrip('/')}: {wrong}",
                    hint="See the replica's log in Ray's dashboard, or what smoke_test expects.",
                    name=name,
                )
            await asyncio.sleep(_PAUSE)
    finally:
        await transport.close()


def _holds(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return all(key in found and _holds(found[key], value) for key, value in wanted.items())
    return bool(found == wanted)
