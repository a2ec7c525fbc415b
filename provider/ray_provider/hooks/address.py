"""The address of a Ray dashboard, as people write it: checked, and what is wrong told."""

from __future__ import annotations

import base64
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from ray_provider.exceptions import ConfigurationError


def address_of_parts(host: str, port: int | None, schema: str | None) -> str:
    """Make a URL of a connection's host, port and schema. A host that is a URL already is taken as it is.

    :param host: the connection's.
    :param port: unless given, that of the scheme: 443, or Ray's 8265.
    :param schema: ``https``, or else ``http``.
    """
    if "://" in host:
        return host
    scheme = schema if schema in {"http", "https"} else "http"
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{scheme}://{name}:{port or (443 if scheme == 'https' else 8265)}"


def check_address(address: str, source: str) -> tuple[str, dict[str, str]]:
    """Check a dashboard's URL.

    :param address: what was given.
    :param source: where, for the message.
    :return: the URL without a user and without a final slash, and the header that stands for the user.
    :raises ConfigurationError: it is no such URL; the message says what it looks like instead.
    """
    hint = "Give the URL of Ray's dashboard, such as http://127.0.0.1:8265 (`ray start` prints it)."
    if not isinstance(address, str) or not address.strip():
        raise ConfigurationError(f"The Ray address in {source} is empty.", hint=hint, field="address")
    address = address.strip()
    scheme, separator, rest = address.partition("://")
    if separator and scheme.lower() == "ray":
        host = rest.partition("/")[0].rpartition("@")[2].partition(":")[0] or "host"
        raise ConfigurationError(
            f"The Ray address in {source} is {address!r}: that is a Ray Client address. Jobs are submitted over HTTP.",
            hint=f"Give the dashboard's URL: http://{host}:8265 unless the cluster says otherwise.",
            field="address",
        )
    if address in {"auto", "local"}:
        raise ConfigurationError(
            f"The Ray address in {source} is {address!r}, which only a program on the Ray machine understands.",
            hint=hint,
            field="address",
        )
    if not separator:
        host, _, port = address.partition(":")
        known = f"{host}:{port}" if port and port != "6379" else f"{host}:8265"
        raise ConfigurationError(
            f"The Ray address in {source} is {address!r}: it has no scheme.",
            hint=f"Write http://{known} (or https://).",
            field="address",
        )
    try:
        parts = urlsplit(address)
        port_number = parts.port
    except ValueError as error:
        raise ConfigurationError(
            f"The Ray address in {source} is no URL: {error}.", hint=hint, field="address"
        ) from None
    if parts.scheme.lower() not in {"http", "https"}:
        raise ConfigurationError(
            f"The Ray address in {source} has the scheme {parts.scheme!r}: only http and https work.",
            hint=hint,
            field="address",
        )
    if not parts.hostname or any(character.isspace() for character in address):
        raise ConfigurationError(f"The Ray address in {source} names no host.", hint=hint, field="address")
    if parts.query or parts.fragment:
        raise ConfigurationError(
            f"The Ray address in {source} has a query or a fragment.",
            hint="Give the dashboard's base URL, without what follows `?` or `#`.",
            field="address",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if port_number is None else f"{host}:{port_number}"
    return urlunsplit((parts.scheme.lower(), netloc, parts.path.rstrip("/"), "", "")), _basic(parts)


def _basic(parts: SplitResult) -> dict[str, str]:
    """Give the header that stands for a URL's user and password, if it has them."""
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
