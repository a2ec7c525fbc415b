"""Access to a Kubernetes cluster: from plain data to a client, a TLS context, request headers or a kubeconfig.

Nothing is set for the whole process, and secrets stay in memory. A program that insists on a file gets one that lies in
memory, too; where the system or OpenSSL can't do that, one in a private folder for as long as it is needed.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import os
import shutil
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_provider._shared.private_files import write_private
from ray_provider.clusters.kubernetes.kubeconfig import (
    Server,
    check_kubeconfig,
    decode,
    read_kubeconfigs,
    run_exec_plugin,
    select,
)
from ray_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from ray_provider.jobs.endpoint import RayEndpoint

#: Gives a bearer token. The argument is true when the API server has just refused the last one.
TokenProvider = Callable[[bool], Awaitable[str]]

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: A projected token is renewed by the kubelet when 80 % of its life have passed: reading it each minute is enough.
_TOKEN_FILE_SECONDS = 60.0
_EXPIRY_MARGIN = timedelta(minutes=2)
#: Of an answer, before its sender has to wait: an event of a watch may be this long.
_READ_BYTES = 2**21


@dataclass(frozen=True, slots=True)
class KubernetesAccess:
    """Where Kubernetes is and who we are to it. The first that is given counts, in the order of the parameters.

    :param kubeconfig: the content of a kubeconfig.
    :param kubeconfig_path: its path (several separated as in ``KUBECONFIG``).
    :param context: which context of it; else its current one.
    :param server: URL of an API server, for clusters whose credentials come from a cloud.
    :param ca_data: its certificate authority (PEM).
    :param token_provider: gives its bearer tokens. With a kubeconfig as well, other programs use what that says.
    :param in_cluster: the pod's own service account.
    :param namespace: used where a task names none.
    :param verify_tls: check the API server's certificate. Off only by an explicit false.
    :param name: of the cluster, for messages.
    :param identity: what ``token_provider`` stands for: two that are equal are the same account in the same cluster.
        Without it, each provider counts as an account of its own.
    :param dashboard: how dashboards are reached where that is not by Kubernetes' own ways (``access`` is ``url`` or
        ``ingress``): URL, in which ``{namespace}`` and ``{cluster}`` are replaced, headers, cookies, TLS. Its token
        counts for clusters whose own is in no Secret.

    With nothing given: the pod's service account if there is one, else ``KUBECONFIG``, else ``~/.kube/config``.
    """

    kubeconfig: Mapping[str, Any] | None = field(default=None, repr=False)
    kubeconfig_path: str | None = None
    context: str | None = None
    server: str | None = None
    ca_data: str | None = field(default=None, repr=False)
    token_provider: TokenProvider | None = field(default=None, repr=False)
    in_cluster: bool = False
    namespace: str | None = None
    verify_tls: bool = True
    name: str | None = None
    identity: Hashable | None = None
    dashboard: RayEndpoint | None = field(default=None, repr=False)

    def key(self) -> tuple[Hashable, ...]:
        """Say what has to be equal before two may share connections: the same Kubernetes, the same account."""
        content = json.dumps(self.kubeconfig, sort_keys=True, default=str) if self.kubeconfig is not None else None
        return (
            content,
            self.kubeconfig_path,
            self.context,
            self.server,
            self.ca_data,
            self.identity or self.token_provider,
            self.in_cluster,
            self.verify_tls,
        )

    def resolve(self) -> Server:
        """Find the API server. Blocking: it may read files.

        :raises ConfigurationError: there is none, or what is given can't be used.
        """
        server = self._resolve()
        if not self.verify_tls:
            cluster = {k: v for k, v in server.cluster.items() if not k.startswith("certificate-authority")}
            cluster["insecure-skip-tls-verify"] = True
            server = Server(server.name, cluster, server.user, server.namespace)
        return server

    def _resolve(self) -> Server:
        if self.kubeconfig is not None:
            return select(check_kubeconfig(self.kubeconfig, "`kube_config` of the connection"), self.context)
        if self.kubeconfig_path:
            return select(read_kubeconfigs(self.kubeconfig_path), self.context)
        if self.server:
            cluster: dict[str, Any] = {"server": self.server}
            if self.ca_data:
                cluster["certificate-authority-data"] = base64.b64encode(self.ca_data.encode()).decode()
            return Server(self.name or self.server, cluster, {}, self.namespace)
        mounted = (_SERVICE_ACCOUNT / "token").is_file() and bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
        if self.in_cluster or (mounted and not self.context):
            return _service_account(mounted)
        default = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
        return select(read_kubeconfigs(default, given=False), self.context)

    def namespace_or_default(self, namespace: str | None = None) -> str:
        """Give the namespace that counts: the task's, the connection's, the kubeconfig's, ``default``.

        :param namespace: the task's, if it names one. Blocking without one and without the connection's: it reads a
            kubeconfig.
        :raises ConfigurationError: the kubeconfig has to be read for it, and can't be used.
        """
        return namespace or self.namespace or self.resolve().namespace or "default"


def _service_account(mounted: bool) -> Server:
    if not mounted:
        raise ConfigurationError(
            "The connection says `in_cluster`, but this process does not run in a pod with a service account.",
            hint="Give a kubeconfig, or set `automountServiceAccountToken: true` on the pods of Airflow.",
        )
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    host = f"[{host}]" if ":" in host else host
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    namespace = _SERVICE_ACCOUNT / "namespace"
    return Server(
        name="in-cluster",
        cluster={"server": f"https://{host}:{port}", "certificate-authority": str(_SERVICE_ACCOUNT / "ca.crt")},
        user={"tokenFile": str(_SERVICE_ACCOUNT / "token")},
        namespace=namespace.read_text(encoding="utf-8").strip() if namespace.is_file() else None,
    )


class Credential:
    """Who we are to an API server, renewed when it expires.

    :param server: as found by :meth:`KubernetesAccess.resolve`.
    :param provider: gives the tokens, where the kubeconfig does not.
    :param again: reads the kubeconfig anew: some programs renew a token by writing another one into it. Blocking.
    """

    def __init__(
        self, server: Server, provider: TokenProvider | None = None, again: Callable[[], Server] | None = None
    ) -> None:
        self._server = server
        self._provider = provider
        self._again = again
        self._lock = asyncio.Lock()
        self._exec_status: dict[str, Any] | None = None
        self._file_token: tuple[float, str] | None = None

    async def headers(self, refused: bool = False) -> dict[str, str]:
        """Give the headers of a request.

        :param refused: the server has just answered 401 to the last ones.
        """
        if self._provider is not None:
            return _bearer(await self._provider(refused))
        if refused and self._again is not None:
            fresh = await asyncio.to_thread(self._again)
            if fresh.url == self._server.url:
                self._server = fresh
        user = self._server.user
        if "exec" in user:
            token = (await self._exec(refused)).get("token")
            return _bearer(token) if token else {}
        if user.get("token"):
            return _bearer(str(user["token"]))
        if user.get("tokenFile"):
            return _bearer(await self._from_file(Path(str(user["tokenFile"])), refused))
        if user.get("username"):
            pair = f"{user['username']}:{user.get('password', '')}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        return {}

    async def certificate(self) -> tuple[str, str] | None:
        """Give our certificate and key as PEM text, if that is what we are known by."""
        user = self._server.user
        if self._provider is not None:
            return None
        if "exec" in user:
            status = await self._exec(False)
            pair = status.get("clientCertificateData"), status.get("clientKeyData")
            return (str(pair[0]), str(pair[1])) if all(pair) else None
        parts = []
        for name in ("client-certificate", "client-key"):
            if user.get(f"{name}-data"):
                parts.append(decode(user[f"{name}-data"], f"{name}-data"))
            elif user.get(name):
                parts.append(await asyncio.to_thread(_read_text, str(user[name]), name))
        return (parts[0], parts[1]) if len(parts) == 2 else None

    async def _exec(self, refused: bool) -> dict[str, Any]:
        async with self._lock:
            if self._exec_status is None or refused or _is_over(self._exec_status.get("expirationTimestamp")):
                self._exec_status = await run_exec_plugin(self._server)
            return self._exec_status

    async def _from_file(self, path: Path, refused: bool) -> str:
        now = time.monotonic()
        if self._file_token is None or refused or now - self._file_token[0] > _TOKEN_FILE_SECONDS:
            self._file_token = (now, (await asyncio.to_thread(_read_text, str(path), "tokenFile")).strip())
        return self._file_token[1]


async def ssl_context(server: Server, credential: Credential) -> ssl.SSLContext | None:
    """Make the TLS context for an API server, or ``None`` where it is plain ``http``.

    :param server: its authority, and whether it is checked at all.
    :param credential: gives our certificate, if we are known by one.
    :raises ConfigurationError: a certificate is not one.
    :raises KubernetesAccessError: the exec plugin that gives our certificate failed.
    """
    if not server.url.startswith("https"):
        return None
    pair = await credential.certificate()
    return await asyncio.to_thread(_ssl_context, server.cluster, pair)


def _ssl_context(cluster: Mapping[str, Any], pair: tuple[str, str] | None) -> ssl.SSLContext:
    ca_data = cluster.get("certificate-authority-data")
    ca_file = cluster.get("certificate-authority")
    try:
        context = ssl.create_default_context(
            cafile=None if ca_data else ca_file,
            cadata=decode(ca_data, "certificate-authority-data") if ca_data else None,
        )
        if ca_data or ca_file:
            # Clusters' own authorities are often without the extensions that Python 3.13 asks for.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if pair is not None:
            with private_folder() as folder:
                for name, text in zip(("cert", "key"), pair, strict=True):
                    write_private(folder / name, text)
                context.load_cert_chain(folder / "cert", folder / "key")
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            f"The certificates for the Kubernetes API server can't be used: {error}.",
            hint="Check certificate-authority, client-certificate and client-key of the kubeconfig.",
        ) from error
    return context


@dataclass(frozen=True, slots=True)
class Connected:
    """An API server, ready to be asked.

    :param server: where it is.
    :param credential: who we are.
    :param tls: for ``https``.
    """

    server: Server
    credential: Credential = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False)


async def connect(kube_access: KubernetesAccess) -> Connected:
    """Read and check all that is needed to ask the API server. Sends nothing yet.

    :param kube_access: where the cluster is, and who we are to it. What it names is read and run here.
    :raises ConfigurationError: what is given can't work.
    """
    server = await asyncio.to_thread(kube_access.resolve)
    credential = Credential(
        server, kube_access.token_provider, kube_access.resolve if kube_access.kubeconfig is None else None
    )
    return Connected(server, credential, await ssl_context(server, credential))


@asynccontextmanager
async def open_session(connected: Connected) -> AsyncIterator[ClientSession]:
    """Give a session for an API server, and close it afterwards. Who we are goes with each request.

    :param connected: gives TLS. The session belongs to the event loop that it was opened in.
    """
    # Tenths of a second of reading: not on the loop of a triggerer, which others are on, too.
    aiohttp = await asyncio.to_thread(importlib.import_module, "aiohttp")
    connector = aiohttp.TCPConnector(limit=32, ssl=True if connected.tls is None else connected.tls)
    async with aiohttp.ClientSession(connector=connector, trust_env=True, read_bufsize=_READ_BYTES) as session:
        yield session


@asynccontextmanager
async def kubeconfig_file(kube_access: KubernetesAccess) -> AsyncIterator[Path]:
    """Give a kubeconfig with the one context that is used, as a file for helm; gone afterwards in all cases.

    Exec plugins stay in it: the program then fetches its own credentials. Tokens of a provider are written into it.

    :param kube_access: whose cluster and account it names.
    :raises ConfigurationError: what is given can't be used.
    """
    server = await asyncio.to_thread(kube_access.resolve)
    content = server.to_kubeconfig()
    if kube_access.token_provider is not None and "exec" not in server.user:
        content["users"][0]["user"] = {"token": await kube_access.token_provider(False)}
    import yaml

    with private_file(yaml.safe_dump(content)) as path:
        yield path


@contextmanager
def private_file(text: str) -> Iterator[Path]:
    """Give a text as a file that only we and our children can read: in memory where that can be, else on disk.

    :param text: what it holds; may be secret.
    """
    # Who may not be traced (PR_SET_DUMPABLE) is not seen by its children there: the folder then is root's.
    own = Path(f"/proc/{os.getpid()}/fd")
    if not hasattr(os, "memfd_create") or not own.is_dir() or own.stat().st_uid != os.geteuid():
        with private_folder() as folder:
            write_private(folder / "config", text)
            yield folder / "config"
        return
    with os.fdopen(os.memfd_create("ray-provider"), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        yield own / str(file.fileno())


@contextmanager
def private_folder() -> Iterator[Path]:
    """Give a folder that only we can look into, and remove it in all cases."""
    folder = Path(tempfile.mkdtemp(prefix="ray-provider-"))  # mode 0700
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_text(path: str, what: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"`{what}` of the kubeconfig, {path}, can't be read: {error}.") from error


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _is_over(timestamp: Any) -> bool:
    if not timestamp:
        return False
    expires = datetime.fromisoformat(str(timestamp))
    return datetime.now(tz=expires.tzinfo) >= expires - _EXPIRY_MARGIN
