"""Text behind a URL: a manifest that a task names so.

What comes from there is data of a stranger: it is read over TLS or checked by its hash, it has an end, and a redirect
leads to no address that only we can reach.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import logging
import re
import socket
import ssl
import time
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urldefrag, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from ray_provider.exceptions import ConfigurationError, RayConnectionError

log = logging.getLogger(__name__)

_MOST_BYTES = 4 * 1024 * 1024
_MOST_REDIRECTS = 5
#: For one step of the network, and for all of it: a server may send a byte a minute.
_SECONDS = 30.0
_SECONDS_IN_ALL = 120.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HASH = re.compile(r"sha256=([0-9a-fA-F]{64})")
_PORTS = {"http": 80, "https": 443}


def display_url(url: str) -> str:
    """Give a URL as it may be shown: without user, password and query, any of which may be a secret.

    :param url: any address.
    """
    scheme, separator, rest = url.split("?", 1)[0].split("#", 1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def fetch_text(url: str) -> str:
    """Get the text behind an ``http`` or ``https`` URL. Blocking.

    ``http`` is taken from this machine only, or where the URL ends in ``#sha256=`` and the hash of what it leads to:
    what comes must have that hash then, also by ``https``. Redirects are followed by ``https``, to public addresses or
    to the server that the URL itself names, and are told in the log.

    :param url: what to get.
    :raises ConfigurationError: there is none, it may not be used, or it is no text of a usable size.
    :raises RayConnectionError: nothing answers.
    """
    address, wanted = _checked(url)
    content = _read(address)
    if wanted is not None:
        found = hashlib.sha256(content).hexdigest()
        if not hmac.compare_digest(found, wanted):
            raise ConfigurationError(
                f"{display_url(url)} has the sha256 {found}, and its URL says {wanted}: it is not used.",
                hint="Look at what changed before you change the hash.",
            )
    try:
        text: str = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{display_url(url)} is no text.") from error
    return text


def _split(url: str) -> SplitResult | None:
    """Give the parts of a URL; ``None`` if it is not one of http or https that can be asked."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def _checked(url: str) -> tuple[str, str | None]:
    """Give the URL without its hash, and the hash, if the URL may be asked at all."""
    shown = display_url(url)
    address, fragment = urldefrag(url)
    parts = _split(address)
    if parts is None:
        raise ConfigurationError(f"{shown} is no http or https URL.")
    found = _HASH.fullmatch(fragment)
    if fragment.startswith("sha256=") and not found:
        raise ConfigurationError(f"{shown}: after #sha256= come 64 hexadecimal digits.")
    if parts.scheme == "http" and not found and not is_this_machine(parts.hostname or ""):
        raise ConfigurationError(
            f"{shown} is plain http: anybody on the network path can put another text in its place.",
            hint="Use https, put the file beside the DAG, or add #sha256=... with the hash of what it has to be.",
        )
    return address, found[1].lower() if found else None


def _read(url: str) -> bytes:
    """Read what a URL leads to, redirects included."""
    first, shown = urlsplit(url), display_url(url)
    until = time.monotonic() + _SECONDS_IN_ALL
    for _ in range(_MOST_REDIRECTS + 1):
        elsewhere = _origin(urlsplit(url)) != _origin(first)
        try:
            with _opener(guarded=elsewhere).open(_request(url), timeout=_SECONDS) as answer:
                return _content(answer, shown, until)
        except HTTPError as error:
            with error:
                if error.code not in _REDIRECTS or not error.headers.get("Location"):
                    raise _refused(shown, error.code) from error
                url = _next(url, str(error.headers["Location"]), first)
                log.info("%s redirects to %s.", shown, display_url(url))
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise RayConnectionError(
                f"{shown} can't be read: {reason}.", hint="Put the file beside the DAG."
            ) from error
    raise ConfigurationError(f"{shown} redirects more than {_MOST_REDIRECTS} times.", hint="Check the URL.")


def _request(url: str) -> Request:
    return Request(url, headers={"User-Agent": "airflow-ray"})  # noqa: S310 - checked before  # nosec B310


def _content(answer: Any, shown: str, until: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := answer.read1(65536):
        parts.append(part)
        size += len(part)
        if size > _MOST_BYTES:
            raise ConfigurationError(f"{shown} is larger than {_MOST_BYTES // 2**20} MiB: that is no manifest.")
        if time.monotonic() > until:
            raise RayConnectionError(
                f"{shown} is not read to its end within {_SECONDS_IN_ALL:.0f} s.", hint="Put the file beside the DAG."
            )
    return b"".join(parts)


def _refused(shown: str, status: int) -> Exception:
    if status < 500:
        return ConfigurationError(f"{shown} can't be read: HTTP {status}.", hint="Check the URL.")
    return RayConnectionError(f"{shown} can't be read: HTTP {status}.", hint="Put the file beside the DAG.")


# Redirects ----------------------------------------------------------------------------------------------------------


def _next(url: str, location: str, first: SplitResult) -> str:
    """Give where a redirect leads, if it may be followed."""
    target = urldefrag(urljoin(url, location))[0]
    shown, whither = display_url(url), display_url(target)
    parts = _split(target)
    if parts is None:
        raise ConfigurationError(f"{shown} redirects to {whither}, which is no http or https URL.")
    if _origin(parts) == _origin(first):
        return target
    if parts.scheme != "https":
        raise ConfigurationError(
            f"{shown} redirects to plain http ({whither}): it is not followed.", hint="Name the file's own https URL."
        )
    _refuse_private(parts.hostname or "", f"{shown} redirects", resolve=False)
    return target


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine, by its name or by its address.

    :param host: a name or an address, without a port.
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_private(address: str) -> bool:
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        found = found.ipv4_mapped or found.sixtofour or found
    return not found.is_global or found.is_multicast


def _refuse_private(host: str, lead: str = "A redirect leads", *, resolve: bool = True) -> None:
    """Refuse a host that is, or by DNS stands for, an address of the worker's own network."""
    try:
        addresses = [str(ip_address(host))]
    except ValueError:
        addresses = [str(one[4][0]) for one in socket.getaddrinfo(host, None)] if resolve else []
    if host == "localhost" or any(_is_private(address) for address in addresses):
        raise ConfigurationError(
            f"{lead} to {host}, which is an address of a private network: it is not followed.",
            hint="Name that URL itself if it is meant.",
        )


class _StayHere(HTTPRedirectHandler):
    """Leaves redirects to us."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _PublicHTTPS(http.client.HTTPSConnection):
    """Speaks to public addresses only: looked at before, and again once connected, as DNS may change its mind."""

    by_proxy = False

    def set_tunnel(self, *arguments: Any, **options: Any) -> None:
        self.by_proxy = True  # the proxy is the worker's own, and decides whom it reaches
        super().set_tunnel(*arguments, **options)

    def connect(self) -> None:
        if not self.by_proxy:
            _refuse_private(self.host)
        super().connect()
        if not self.by_proxy:
            _refuse_private(str(self.sock.getpeername()[0]))


class _PublicHTTPSHandler(HTTPSHandler):
    def https_open(self, request: Request) -> Any:
        return self.do_open(_PublicHTTPS, request, context=ssl.create_default_context())


def _opener(*, guarded: bool) -> Any:
    return build_opener(_StayHere, *([_PublicHTTPSHandler] if guarded else []))
