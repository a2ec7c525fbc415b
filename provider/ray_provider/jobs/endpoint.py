"""Where a Ray dashboard is, and with which credentials it is reached. Plain configuration, made by the hook."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

#: Gives request headers that expire (a Kubernetes token, say). The argument is true when the server has just refused
#: the last ones: then they have to be fetched anew.
AuthProvider = Callable[[bool], Awaitable[Mapping[str, str]]]

#: Gives Ray's token, where it may change. The argument is the token that the server has just refused, if it did: then
#: another one is wanted. Called before each request: it has to remember.
TokenSource = Callable[[str | None], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How a server's certificate is checked, and ours shown.

    :param verify: check the server's certificate. Off only by an explicit false.
    :param ca_file: path of a PEM file with the CA certificates to trust instead of the system's.
    :param ca_data: the same as text.
    :param cert_file: path of our certificate (PEM), if the server wants one.
    :param key_file: path of its key, if not in the same file.
    """

    verify: bool = True
    ca_file: str | None = None
    ca_data: str | None = field(default=None, repr=False)
    cert_file: str | None = None
    key_file: str | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """Make the context. Blocking (it reads files): call it once, outside an event loop's hot path.

        :raises OSError: a file is missing or unreadable.
        :raises ssl.SSLError: a file is not what it should be.
        """
        context = ssl.create_default_context(cafile=self.ca_file, cadata=self.ca_data)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


@dataclass(frozen=True, slots=True)
class RayEndpoint:
    """A Ray dashboard, as a client needs it.

    :param url: base URL, with a path prefix if there is one (a proxy, an ingress).
    :param token: Ray's token (``RAY_AUTH_TOKEN``). Sent as ``X-Ray-Authorization`` and, unless ``auth`` or ``headers``
        occupy it, as ``Authorization`` too.
    :param headers: sent with every request.
    :param cookies: sent with every request.
    :param tls: for ``https``.
    :param auth: headers that expire, asked for before each request and again after a 401.
    :param token_source: Ray's token where it may change; ``token`` counts where it gives none. Endpoints whose
        providers are the same objects share connections and polls.
    :param ssl_context: for ``https``, instead of ``tls``.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: TlsOptions = field(default_factory=TlsOptions)
    auth: AuthProvider | None = field(default=None, repr=False)
    token_source: TokenSource | None = field(default=None, repr=False)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False, compare=False)

    @property
    def has_token(self) -> bool:
        """Whether requests carry a token of Ray's, as far as is known without asking."""
        return bool(self.token) or self.token_source is not None

    @property
    def display_url(self) -> str:
        """The URL without user name and password: for logs and errors."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
