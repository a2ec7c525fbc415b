"""Access to a cluster that a cloud made: plain data, with a token that is renewed. Kept in memory."""

from __future__ import annotations

import asyncio
import base64
import binascii
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_provider.exceptions import ConfigurationError

#: Gives a bearer token. The argument is true when the API server has just refused the last one.
TokenProvider = Callable[[bool], Awaitable[str]]

#: How long before its end a token is renewed: a request may be under way for a while.
RENEW_BEFORE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and the time (seconds since the epoch) at which it ends."""

    value: str = field(repr=False)
    expires: float


@dataclass(frozen=True, slots=True)
class ClusterCredentials:
    """Where a cluster's API server is, and who we are to it.

    :param name: of the cluster.
    :param endpoint: URL of the API server.
    :param ca_data: its certificate authority, PEM.
    :param token_provider: gives bearer tokens, renewed before they end.
    :param exec_arguments: what :mod:`ray_provider.infrastructure.exec_plugin` has to be told to make the same tokens;
        ``None`` where only this process has the credentials for it.
    """

    name: str
    endpoint: str
    ca_data: str | None = field(repr=False)
    token_provider: TokenProvider = field(repr=False)
    exec_arguments: tuple[str, ...] | None = None

    def kubeconfig(self) -> dict[str, Any]:
        """Give a kubeconfig with an exec plugin, for programs like helm. There is no token in it.

        :raises ConfigurationError: only this process has the credentials.
        """
        if self.exec_arguments is None:
            raise ConfigurationError(f"The credentials for {self.name} can't be handed on to another program.")
        cluster: dict[str, Any] = {"server": self.endpoint}
        if self.ca_data:
            cluster["certificate-authority-data"] = base64.b64encode(self.ca_data.encode()).decode()
        plugin = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": ["-m", "ray_provider.infrastructure.exec_plugin", *self.exec_arguments],
            "interactiveMode": "Never",
            "provideClusterInfo": False,
        }
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.name, "cluster": cluster}],
            "users": [{"name": self.name, "user": {"exec": plugin}}],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": self.name}}],
            "current-context": self.name,
        }


class RenewedToken:
    """A :data:`TokenProvider` that keeps a token until shortly before its end.

    :param fetch: gets a new token; blocking, run in a thread.
    :param clock: gives the time, in seconds since the epoch. Default: ``time.time``.
    """

    def __init__(self, fetch: Callable[[], Token], *, clock: Callable[[], float] = time.time) -> None:
        self._fetch = fetch
        self._clock = clock
        self._token: Token | None = None
        self._lock: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    async def __call__(self, refused: bool = False) -> str:
        """Give a token.

        :param refused: the API server has just refused the last one.
        """
        loop = asyncio.get_running_loop()
        if self._lock is None or self._lock[0] is not loop:
            # A provider outlives the loops of an operator's several asyncio.run.
            self._lock = (loop, asyncio.Lock())
        before = self._token
        async with self._lock[1]:
            # Of many that were refused at once, the first one renews for all.
            stale = refused and self._token is before
            if self._token is None or stale or self._clock() >= self._token.expires - RENEW_BEFORE_SECONDS:
                self._token = await asyncio.to_thread(self._fetch)
            return self._token.value

    def __repr__(self) -> str:
        return "<RenewedToken>"


def decode_ca(text: str | None, cluster: str) -> str | None:
    """Give a certificate authority as PEM; clouds give it in base64.

    :param text: as the cloud gave it, which may be PEM already; ``None`` or empty if it gave none.
    :param cluster: whose it is, for the message.
    :raises ConfigurationError: it is neither.
    """
    if not text:
        return None
    if "-----BEGIN" in text:
        return text
    try:
        pem = base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The certificate authority of {cluster} is not a certificate.") from error
    if "-----BEGIN" not in pem:
        raise ConfigurationError(f"The certificate authority of {cluster} is not a certificate.")
    return pem


def required(values: Mapping[str, Any]) -> None:
    """Refuse empty fields.

    :param values: the fields by their names.
    :raises ConfigurationError: with their names.
    """
    if missing := [name for name, value in values.items() if not isinstance(value, str) or not value.strip()]:
        raise ConfigurationError(f"{', '.join(missing)}: needed, as text.", fields=missing)
