"""HTTP with a Ray dashboard: credentials, time-outs, retries. One aiohttp session for an endpoint and event loop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit, urlunsplit
from weakref import WeakKeyDictionary

from ray_provider import __version__
from ray_provider.exceptions import ConfigurationError
from ray_provider.jobs.http_errors import (
    api_error,
    connection_error,
    is_tls_error,
    not_ray_error,
    redirect_error,
)
from ray_provider.jobs.retry import Attempts, RetryPolicy

if TYPE_CHECKING:
    import aiohttp

    from ray_provider.jobs.endpoint import RayEndpoint

USER_AGENT = f"airflow-ray/{__version__}"
#: Requests at a time that one endpoint gets from one event loop (log streams are not counted: they last).
MAX_REQUESTS = 16
#: New log streams a second for one endpoint and event loop.
STREAM_STARTS_PER_SECOND = 200.0

_URL_HINT = "Give the dashboard's URL, such as http://127.0.0.1:8265 or https://ray.example.com/prefix."


@dataclass(frozen=True, slots=True)
class Answer:
    """The status and body of an answer, and how many tries it took."""

    status: int
    body: bytes
    attempts: int = 1

    @property
    def text(self) -> str:
        """The body as text; broken characters are replaced."""
        return self.body.decode("utf-8", "replace")


class _Shared:
    """What all clients of one endpoint in one event loop share."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.users = 0
        self.requests = asyncio.Semaphore(MAX_REQUESTS)
        self._next_stream = 0.0

    async def stream_turn(self) -> None:
        """Wait for our turn to open a stream: a thousand at once would be a burst that no dashboard likes."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._next_stream)
        self._next_stream = start + 1 / STREAM_STARTS_PER_SECOND
        if start > now:
            await asyncio.sleep(start - now)


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, _Shared]] = WeakKeyDictionary()


def endpoint_key(endpoint: RayEndpoint) -> tuple[Any, ...]:
    """Say what has to agree before two endpoints may share a session or a poll: address and credentials.

    An ``auth`` provider counts by its own equality: one that is to be shared compares equal to its like.
    """
    return (
        endpoint.url,
        endpoint.token,
        tuple(sorted(endpoint.headers.items())),
        tuple(sorted(endpoint.cookies.items())),
        endpoint.tls,
        endpoint.auth,
        endpoint.ssl_context,  # it may hold a client's certificate, which is a credential as well
    )


def base_url(endpoint: RayEndpoint) -> tuple[str, str | None]:
    """Check the endpoint's URL and take it apart: the base for paths, and what Basic authentication it holds.

    :raises ConfigurationError: it is not the URL of a dashboard.
    """
    try:
        parts = urlsplit(endpoint.url)
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(f"The address is not a URL: {error}.", hint=_URL_HINT, field="address") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        hint = _URL_HINT
        if parts.scheme == "ray":
            hint = f"ray:// is Ray Client's protocol: give the dashboard's URL, such as http://{parts.hostname}:8265."
        raise ConfigurationError(
            f"The address {endpoint.display_url!r} is not the URL of a Ray dashboard.", hint=hint, field="address"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(
            f"The address {endpoint.display_url!r} has a query or a fragment.",
            hint="Leave out what follows '?' or '#'.",
            field="address",
        )
    basic = None
    if "@" in parts.netloc:
        import base64
        from urllib.parse import unquote

        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        basic = "Basic " + base64.b64encode(pair.encode()).decode()
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")), basic


class Transport:
    """Sends requests to one endpoint.

    :param endpoint: where, and with which credentials.
    :param timeout: seconds for one request, answer included.
    :param retry: what is tried again, unless a call says otherwise.
    """

    def __init__(self, endpoint: RayEndpoint, *, timeout: float, retry: RetryPolicy) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self.retry = retry
        self._base, self._basic = base_url(endpoint)
        self._shared: _Shared | None = None
        self._opened = 0

    async def open(self) -> None:
        """Join the endpoint's session, or make it. As often as it is opened it has to be closed."""
        self._opened += 1
        if self._shared is not None:
            return
        try:
            await self._join()
        except BaseException:
            self._opened -= 1
            raise

    async def _join(self) -> None:
        if "aiohttp" not in sys.modules:
            # Takes a third of a second the first time: not in an event loop that others share.
            await asyncio.to_thread(importlib.import_module, "aiohttp")
        sessions = _shared.setdefault(asyncio.get_running_loop(), {})
        key = endpoint_key(self.endpoint)
        if key not in sessions:
            # Made outside the event loop's thread: it reads certificates. Two who come at once both make one.
            context = await asyncio.to_thread(self._ssl_context) if self._base.startswith("https") else None
            if key not in sessions:
                sessions[key] = _Shared(self._make_session(context))
        if self._shared is None:
            self._shared = sessions[key]
            self._shared.users += 1

    async def close(self) -> None:
        """Leave the session; the last one closes it."""
        self._opened -= 1
        if self._opened > 0 or self._shared is None:
            return
        shared, self._shared = self._shared, None
        shared.users -= 1
        if shared.users == 0:
            sessions = _shared.get(asyncio.get_running_loop(), {})
            key = endpoint_key(self.endpoint)
            if sessions.get(key) is shared:
                del sessions[key]
            await shared.session.close()

    def _ssl_context(self) -> ssl.SSLContext:
        if self.endpoint.ssl_context is not None:
            return self.endpoint.ssl_context
        try:
            return self.endpoint.tls.ssl_context()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            tls = self.endpoint.tls
            files = ", ".join(filter(None, (tls.ca_file, tls.cert_file, tls.key_file))) or "the given certificate"
            raise ConfigurationError(
                f"The TLS settings can't be used: {files}: {error}.",
                hint="ca_file has to be a PEM file with the certificates of the authorities to trust.",
                field="ca_file",
            ) from error

    def _make_session(self, context: ssl.SSLContext | None) -> aiohttp.ClientSession:
        import inspect

        import aiohttp

        options: dict[str, Any] = {"limit": 0, "ttl_dns_cache": 30}
        if context is not None:
            options["ssl"] = context
        if "socket_factory" in inspect.signature(aiohttp.TCPConnector.__init__).parameters:
            # A log stream may be silent for hours: the system finds out whether the other side still lives.
            options["socket_factory"] = _keepalive_socket
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(self._on_redirect)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(**options),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT},
            trace_configs=[trace],
        )

    async def _on_redirect(self, _session: Any, _context: Any, params: Any) -> NoReturn:
        # Reached by WebSockets only, where aiohttp follows on its own: this stops it before anything is sent.
        location = params.response.headers.get("Location", "")
        raise redirect_error(self.endpoint, params.method, str(params.url), params.response.status, location)

    async def headers(self, *, renew: bool = False) -> dict[str, str]:
        """Make the request headers. Ray's token goes into both of its headers, unless one is taken.

        :param renew: the last ones were refused: ask for new ones.
        """
        headers = dict(self.endpoint.headers)
        if self.endpoint.auth is not None:
            headers.update(await self.endpoint.auth(renew))
        if self.endpoint.cookies:
            cookies = "; ".join(f"{name}={value}" for name, value in self.endpoint.cookies.items())
            given = next((name for name in headers if name.lower() == "cookie"), None)
            headers["Cookie"] = f"{headers.pop(given)}; {cookies}" if given else cookies
        taken = {name.lower() for name in headers}
        if self._basic and "authorization" not in taken:
            headers["Authorization"] = self._basic
            taken.add("authorization")
        if self.endpoint.token:
            bearer = f"Bearer {self.endpoint.token}"
            for name in ("X-Ray-Authorization", "Authorization"):
                if name.lower() not in taken:
                    headers[name] = bearer
        return headers

    def _joined(self) -> _Shared:
        if self._shared is None:
            raise RuntimeError("The client is not open: use it as 'async with RayJobsClient(endpoint) as client'.")
        return self._shared

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json_body: Any = None,
        body: Callable[[], Any] | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        accept: Callable[[int, str], bool] = lambda status, _text: status == 200,
        final: Callable[[int, str], bool] = lambda _status, _text: False,
    ) -> Answer:
        """Send a request and give the answer.

        :param body: makes the body, anew for each try.
        :param timeout: seconds for one try.
        :param accept: which answers (status, text of an error) are given back.
        :param final: which errors (status, text) are not tried again although they look passing.
        :raises RayConnectionError: no answer inside the deadline.
        :raises RayAuthenticationError: 401 or 403, also after the credentials were renewed.
        :raises RayApiError: another answer than the accepted ones.
        """
        import aiohttp

        attempts = Attempts(retry or self.retry)
        renewed = False
        renew = False
        seconds = timeout or self.timeout
        while True:
            failure: Exception
            wait_for = 0.0
            try:
                headers = await self.headers(renew=renew)
                renew = False
                answer, retry_after, location = await self._once(
                    method, path, headers, params=params, json_body=json_body, body=body, seconds=seconds
                )
            except aiohttp.InvalidURL as error:
                raise ConfigurationError(
                    f"The address is not a URL: {error}.", hint=_URL_HINT, field="address"
                ) from error
            except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
                tried = f" ({attempts.number} tries)" if attempts.number > 1 else ""
                failure = connection_error(self.endpoint, error, tried)
                if is_tls_error(error):
                    raise failure from error
                failure.__cause__ = error
            else:
                text = answer.text if answer.status != 200 else ""
                if accept(answer.status, text):
                    return Answer(answer.status, answer.body, attempts.number)
                if 300 <= answer.status < 400 and location:
                    raise redirect_error(self.endpoint, method, self._base + path, answer.status, location)
                failure = api_error(self.endpoint, method, path, answer.status, text)
                failure.data["attempts"] = attempts.number
                if answer.status in {401, 403} and self.endpoint.auth is not None and not renewed:
                    renew = renewed = True
                    continue
                if not _is_passing(answer.status) or final(answer.status, text):
                    raise failure
                wait_for = retry_after
            if not await attempts.wait(wait_for):
                raise failure

    async def _once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        params: Mapping[str, str] | None,
        json_body: Any,
        body: Callable[[], Any] | None,
        seconds: float,
    ) -> tuple[Answer, float, str]:
        import aiohttp

        shared = self._joined()
        data = body() if body else None
        try:
            async with (
                shared.requests,
                shared.session.request(
                    method,
                    self._base + path,
                    params=params,
                    json=json_body,
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=min(10.0, seconds)),
                ) as response,
            ):
                answer = Answer(response.status, await response.read())
                return answer, _retry_after(response.headers), response.headers.get("Location", "")
        finally:
            if data is not None and hasattr(data, "close"):
                data.close()

    async def json(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and give the answer's JSON; None for an accepted 404. See :meth:`request`."""
        answer = await self.request(method, path, **options)
        if answer.status == 404:
            return None
        try:
            return json.loads(answer.body)
        except ValueError:
            raise not_ray_error(self.endpoint, method, path, answer.status, answer.text) from None

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, *, params: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open an answer that comes in pieces. One try, without a time limit unless one is given.

        :param timeout: seconds that no byte may come; None: a stream may be silent as long as it likes.
        :raises RayConnectionError: it could not be opened. What breaks later is aiohttp's own error.
        :raises RayApiError: the answer was not 200.
        """
        import aiohttp

        shared = self._joined()
        await shared.stream_turn()
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=timeout)
        for renew in (False, True):
            headers = await self.headers(renew=renew)
            try:
                response = await shared.session.get(
                    self._base + path, params=params, headers=headers, allow_redirects=False, timeout=limits
                )
            except (aiohttp.ClientError, OSError) as error:
                raise connection_error(self.endpoint, error) from error
            async with response:
                if response.status == 200:
                    yield response
                    return
                if location := response.headers.get("Location", ""):
                    raise redirect_error(self.endpoint, "GET", self._base + path, response.status, location)
                text = (await response.content.read(65536)).decode("utf-8", "replace")
            if response.status in {401, 403} and self.endpoint.auth is not None and not renew:
                continue
            raise api_error(self.endpoint, "GET", path, response.status, text)

    @contextlib.asynccontextmanager
    async def websocket(self, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket.

        :raises RayConnectionError: it could not be opened.
        :raises RayApiError: the server refused.
        """
        import aiohttp

        shared = self._joined()
        await shared.stream_turn()
        try:
            websocket = await shared.session.ws_connect(
                self._base + path, headers=await self.headers(), max_msg_size=0, heartbeat=30.0
            )
        except aiohttp.WSServerHandshakeError as error:
            raise api_error(self.endpoint, "GET", path, error.status, error.message) from error
        except (aiohttp.ClientError, OSError) as error:
            raise connection_error(self.endpoint, error) from error
        async with websocket:
            yield websocket


def _is_passing(status: int) -> bool:
    """Tell whether the same request may be answered otherwise later."""
    return status == 429 or (status >= 500 and status != 501)


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:  # a date: our own backoff is as good
        return 0.0


def _keepalive_socket(address: Any) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
