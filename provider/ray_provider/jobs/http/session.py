"""The aiohttp sessions of dashboards: one for an endpoint and event loop, shared by all who ask there."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit, urlunsplit
from weakref import WeakKeyDictionary

from ray_provider._version import __version__
from ray_provider.exceptions import ConfigurationError
from ray_provider.jobs.http.errors import redirect_error

if TYPE_CHECKING:
    import aiohttp

    from ray_provider.jobs.endpoint import RayEndpoint

USER_AGENT = f"airflow-ray/{__version__}"
#: Requests at a time that one endpoint gets from one event loop (log streams are not counted: they last).
MAX_REQUESTS = 16
#: New log streams a second for one endpoint and event loop.
STREAM_STARTS_PER_SECOND = 200.0

URL_HINT = "Give the dashboard's URL, such as http://127.0.0.1:8265 or https://ray.example.com/prefix."


class Shared:
    """What all clients of one endpoint in one event loop share.

    :param session: aiohttp's.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.users = 0
        self.requests = asyncio.Semaphore(MAX_REQUESTS)
        #: Long answers take their turn: each is held in memory more than once while it is read.
        self.long_answers = asyncio.Semaphore(1)
        self._next_stream = 0.0

    async def stream_turn(self) -> None:
        """Wait for our turn to open a stream: a thousand at once would be a burst that no dashboard likes."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._next_stream)
        self._next_stream = start + 1 / STREAM_STARTS_PER_SECOND
        if start > now:
            await asyncio.sleep(start - now)


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Shared]] = WeakKeyDictionary()


def endpoint_key(endpoint: RayEndpoint) -> tuple[Any, ...]:
    """Say what has to agree before two endpoints may share a session or a poll: address and credentials.

    Providers of credentials count by their own equality: those that are to be shared compare equal to their like.

    :param endpoint: one of the two.
    """
    return (
        endpoint.url,
        endpoint.token,
        tuple(sorted(endpoint.headers.items())),
        tuple(sorted(endpoint.cookies.items())),
        endpoint.tls,
        endpoint.auth,
        endpoint.token_source,
        endpoint.ssl_context,  # it may hold a client's certificate, which is a credential as well
    )


def base_url(endpoint: RayEndpoint) -> tuple[str, str | None]:
    """Check the endpoint's URL and take it apart: the base for paths, and what Basic authentication it holds.

    :param endpoint: where Ray is.
    :raises ConfigurationError: it is not the URL of a dashboard.
    """
    try:
        parts = urlsplit(endpoint.url)
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(f"The address is not a URL: {error}.", hint=URL_HINT, field="address") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        hint = URL_HINT
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


async def join(endpoint: RayEndpoint, *, secure: bool) -> Shared:
    """Join the endpoint's session, or make it. Whoever joins has to :func:`leave`.

    :param endpoint: where Ray is.
    :param secure: it speaks TLS.
    :raises ConfigurationError: the TLS settings can't be used.
    """
    if "aiohttp" not in sys.modules:
        # Takes a third of a second the first time: not in an event loop that others share.
        await asyncio.to_thread(importlib.import_module, "aiohttp")
    sessions = _shared.setdefault(asyncio.get_running_loop(), {})
    key = endpoint_key(endpoint)
    if key not in sessions:
        # Made outside the event loop's thread: it reads certificates. Two who come at once both make one.
        context = await asyncio.to_thread(_ssl_context, endpoint) if secure else None
        if key not in sessions:
            sessions[key] = Shared(_make_session(endpoint, context))
    sessions[key].users += 1
    return sessions[key]


async def leave(endpoint: RayEndpoint, shared: Shared) -> None:
    """Leave a session; the last one closes it.

    :param endpoint: as it was joined.
    :param shared: as :func:`join` gave it.
    """
    shared.users -= 1
    if shared.users == 0:
        sessions = _shared.get(asyncio.get_running_loop(), {})
        key = endpoint_key(endpoint)
        if sessions.get(key) is shared:
            del sessions[key]
        await shared.session.close()


def _ssl_context(endpoint: RayEndpoint) -> ssl.SSLContext:
    if endpoint.ssl_context is not None:
        return endpoint.ssl_context
    tls = endpoint.tls
    try:
        return tls.ssl_context()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = ", ".join(filter(None, (tls.ca_file, tls.cert_file, tls.key_file))) or "the given certificate"
        raise ConfigurationError(
            f"The TLS settings can't be used: {files}: {error}.",
            hint="ca_file has to be a PEM file with the CA certificates to trust; cert_file one with"
            " our certificate, key_file the key that belongs to it, without a pass phrase.",
            field="ca_file" if not tls.cert_file else "cert_file",
        ) from error


def _make_session(endpoint: RayEndpoint, context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    import aiohttp

    options: dict[str, Any] = {"limit": 0, "ttl_dns_cache": 30}
    if context is not None:
        options["ssl"] = context
    if "socket_factory" in inspect.signature(aiohttp.TCPConnector.__init__).parameters:
        # A log stream may be silent for hours: the system finds out whether the other side still lives.
        options["socket_factory"] = _keepalive_socket

    async def on_redirect(_session: Any, _context: Any, params: Any) -> NoReturn:
        # Reached by WebSockets only, where aiohttp follows on its own: this stops it before anything is sent.
        location = params.response.headers.get("Location", "")
        raise redirect_error(endpoint, params.method, str(params.url), params.response.status, location)

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(on_redirect)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(**options),
        cookie_jar=aiohttp.DummyCookieJar(),
        # Not by aiohttp, which would make of some bytes as many as their sender likes: see `incoming`.
        auto_decompress=False,
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        trace_configs=[trace],
    )


def _keepalive_socket(address: Any) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
