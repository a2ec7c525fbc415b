"""Who we are to a Ray cluster on Kubernetes: one account for all in an event loop, renewed as tokens change."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from ray_provider._shared.retry import Attempts, RetryPolicy, may_pass
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.kuberay.raycluster import auth_of, head_service
from ray_provider.clusters.kubernetes.access import Connected, KubernetesAccess, connect
from ray_provider.clusters.kubernetes.client import kube_of
from ray_provider.exceptions import ClusterError, ConfigurationError, KubernetesError

log = logging.getLogger(__name__)

#: Ray's token is read from its Secret again when it is refused, and after so many seconds.
TOKEN_SECONDS = 600.0
#: ... but not more often than this, however many requests are refused at once.
_AGAIN_SECONDS = 1.0
_REQUESTS = RetryPolicy(deadline_seconds=15.0, first_delay=0.3)


class ClusterAccount:
    """Kubernetes' credentials and Ray's token for one cluster.

    A handle only points: it has been in XCom, which others may write. Where the head's service and the token are says
    the RayCluster itself.

    A new token in the Secret counts for Ray only when its head has been started anew. So the one before stays known:
    it is offered again while the new one is refused.

    :param connected: the API server.
    :param handle: of the cluster.
    """

    def __init__(self, connected: Connected, handle: ClusterHandle) -> None:
        self.connected = connected
        self._handle = handle
        self._lock = asyncio.Lock()
        self._read_at: float | None = None
        self._offered: str | None = None
        self._other: str | None = None

    @property
    def handle(self) -> ClusterHandle:
        """The cluster as it says of itself; as the handle says until :meth:`read_once`."""
        return self._handle

    @property
    def has_secret(self) -> bool:
        """Whether the cluster's token lies in a Secret."""
        return self._handle.auth.kind == "secret" and bool(self._handle.auth.secret_name)

    async def kubernetes(self, refused: bool) -> Mapping[str, str]:
        """Give the headers by which the API server knows us.

        :param refused: the last ones were.
        """
        return await self.connected.credential.headers(refused)

    async def kubernetes_token(self, refused: str | None) -> str | None:
        """Give our token for Kubernetes, where Ray has Kubernetes check tokens (TokenReview).

        :param refused: the one that was refused just now.
        :raises ConfigurationError: we are known to Kubernetes by a certificate.
        """
        headers = await self.connected.credential.headers(refused is not None)
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ConfigurationError(
                "The connection's kubeconfig has no token, but a certificate or a password. The Ray cluster "
                f"{self._handle.namespace}/{self._handle.name} takes tokens of Kubernetes (enableK8sTokenAuth).",
                hint="Use a service account's token, or an exec plugin that gives one, in the connection.",
                field="kubeconfig",
            )
        return token

    async def read_once(self) -> None:
        """Read the RayCluster and its token, unless it was done before.

        :raises KubernetesError: it can't be read.
        """
        if self._read_at is None:
            async with self._lock:
                if self._read_at is None:
                    await self._read()

    async def token(self, refused: str | None) -> str | None:
        """Give Ray's token.

        :param refused: the one that was refused just now.
        """
        await self.read_once()
        age = time.monotonic() - (self._read_at or 0.0)
        if refused is None and age < TOKEN_SECONDS:
            return self._offered
        async with self._lock:
            if refused is not None and refused != self._offered:
                return self._offered  # somebody else has changed it meanwhile
            before = self._offered
            if time.monotonic() - (self._read_at or 0.0) >= _AGAIN_SECONDS:
                try:
                    await self._read()
                except (KubernetesError, ClusterError) as error:
                    # Ray's own answer says more to whoever is refused; whoever is not has what he needs.
                    self._read_at = time.monotonic()
                    log.warning("Ray's token could not be read again: %s", error.message)
            if refused is not None and self._offered == before and self._other:
                self._offered, self._other = self._other, self._offered
        return self._offered

    async def _read(self) -> None:
        self._handle = await find_cluster(self.connected, self._handle)
        found = await read_token(self.connected, self._handle)
        self._read_at = time.monotonic()
        if found != self._offered:
            self._offered, self._other = found, self._offered


_accounts: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[tuple[Hashable, ...], ClusterAccount]] = (
    WeakKeyDictionary()
)
_connecting: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[tuple[Hashable, ...], asyncio.Lock]] = (
    WeakKeyDictionary()
)


async def shared_account(kube_access: KubernetesAccess, handle: ClusterHandle) -> ClusterAccount:
    """Give the account for a cluster, the same object to all who ask in this event loop while one of them keeps it.

    :param kube_access: where the cluster is, and who we are to it: only who has the same shares.
    :param handle: of the cluster.
    :raises ConfigurationError: what is given can't work.
    """
    loop = asyncio.get_running_loop()
    accounts = _accounts.setdefault(loop, WeakValueDictionary())
    key = (*kube_access.key(), handle.namespace, handle.name)
    # Whoever is first connects; a cluster whose credential program is slow holds up nobody else's.
    locks = _connecting.setdefault(loop, WeakValueDictionary())
    lock = locks.setdefault(key, asyncio.Lock())
    async with lock:
        account = accounts.get(key)
        if account is None:
            account = accounts[key] = ClusterAccount(await connect(kube_access), handle)
        return account


async def find_cluster(connected: Connected, handle: ClusterHandle) -> ClusterHandle:
    """Give the handle with the head's service and the token's place as the RayCluster says them.

    :param connected: asks Kubernetes.
    :param handle: says which cluster; its service and its token's place are not believed.
    :raises KubernetesError: there is no such RayCluster, or it can't be read.
    :raises ClusterError: the RayCluster has another form than KubeRay gives it.
    """
    cluster = await get(connected, f"/apis/ray.io/v1/namespaces/{handle.namespace}/rayclusters/{handle.name}")
    try:
        return replace(handle, service=head_service(cluster), auth=auth_of(cluster))
    except (KeyError, TypeError, AttributeError):
        raise ClusterError(
            f"The RayCluster {handle.namespace}/{handle.name} can't be read: its spec or its status has another form "
            "than KubeRay gives it.",
            namespace=handle.namespace,
            name=handle.name,
        ) from None


async def read_token(connected: Connected, handle: ClusterHandle) -> str | None:
    """Read Ray's token from the cluster's Secret; ``None`` where the cluster asks for none.

    :param connected: asks Kubernetes.
    :param handle: as :func:`find_cluster` gave it: it names the Secret.
    :raises KubernetesError: there is no such Secret, or it can't be read.
    :raises ClusterError: the Secret has no usable token.
    """
    if handle.auth.kind != "secret" or not handle.auth.secret_name:
        return None
    secret = await get(connected, f"/api/v1/namespaces/{handle.namespace}/secrets/{handle.auth.secret_name}")
    encoded = (secret.get("data") or {}).get(handle.auth.secret_key)
    try:
        if not encoded:
            raise ValueError
        return base64.b64decode(encoded, validate=True).decode().strip()
    except (ValueError, binascii.Error):
        raise ClusterError(
            f"The Secret {handle.namespace}/{handle.auth.secret_name} has no usable key {handle.auth.secret_key!r}.",
            hint="It has to hold Ray's token under this key.",
            namespace=handle.namespace,
            name=handle.name,
        ) from None


async def get(connected: Connected, path: str, *, change: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read an object of Kubernetes', or change it first.

    :param connected: asks Kubernetes; what may pass is tried again.
    :param path: of the object.
    :param change: a merge patch.
    :raises KubernetesError: it is not there, or can't be read.
    """
    attempts = Attempts(_REQUESTS)
    async with kube_of(connected) as kube:
        while True:
            try:
                return await (kube.get(path) if change is None else kube.merge(path, dict(change)))
            except KubernetesError as error:
                passing = error.data.get("cause") == "unreachable" or (
                    error.status is not None and may_pass(error.status)
                )
                if not passing:
                    raise _explain(error, path) from None
                if not await attempts.wait():
                    raise


def _explain(error: KubernetesError, path: str) -> KubernetesError:
    if error.status == 404 and "/rayclusters/" in path:
        return KubernetesError(
            f"There is no RayCluster {'/'.join(path.split('/')[5::2])}.",
            hint="It was deleted, or was never made there; or the connection leads to another Kubernetes.",
            status=404,
            cause="gone",
        )
    if error.status != 404 or "/secrets/" not in path:
        return error
    return KubernetesError(
        f"The cluster's token can't be read: {path.rpartition('/')[2]!r} is no Secret in its namespace.",
        hint="Is the cluster still there? KubeRay makes the Secret together with it and deletes it with it.",
        status=404,
        cause="token",
    )
