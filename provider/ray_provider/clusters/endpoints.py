"""The way to the dashboard of a Ray cluster on Kubernetes: through the API server, by its service, or by a URL."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from collections.abc import Mapping
from typing import Any, Literal

from ray_provider.clusters.access import Connected, KubernetesAccess, connect
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.kube import refusal
from ray_provider.exceptions import ClusterError, ConfigurationError, KubernetesError
from ray_provider.jobs.endpoint import RayEndpoint, TlsOptions

How = Literal["auto", "proxy", "service", "url"]
DASHBOARD_PORT = 8265
_TIMEOUT = 30.0


def proxy_path(namespace: str, service: str, port: int = DASHBOARD_PORT) -> str:
    """Give the path of a service behind the API server's proxy."""
    return f"/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy"


def service_url(namespace: str, service: str, port: int = DASHBOARD_PORT) -> str:
    """Give the URL of a service, for those inside the cluster."""
    return f"http://{service}.{namespace}.svc:{port}"


def way(access: KubernetesAccess, how: How) -> Literal["proxy", "service", "url"]:
    """Decide how a cluster is reached: from a pod with its own service account by the service, else by the proxy."""
    if how != "auto":
        return how
    explicit = access.kubeconfig is not None or access.kubeconfig_path or access.server
    inside = access.in_cluster or (not explicit and bool(os.environ.get("KUBERNETES_SERVICE_HOST")))
    return "service" if inside else "proxy"


async def dashboard_url(access: KubernetesAccess, namespace: str, service: str, how: How = "auto") -> str:
    """Give the URL by which tasks reach a dashboard."""
    if way(access, how) == "service":
        return service_url(namespace, service)
    server = await asyncio.to_thread(access.resolve)
    return server.url + proxy_path(namespace, service)


async def kubernetes_endpoint(access: KubernetesAccess, handle: ClusterHandle, *, how: How = "auto") -> RayEndpoint:
    """Make the endpoint of a cluster, with its token, read from its Secret, and our Kubernetes credentials.

    :param access: the Kubernetes that it runs on.
    :param handle: of the cluster.
    :param how: through the API server's ``proxy``, at its ``service`` (from inside the cluster), at the handle's own
        address (``url``); ``auto`` takes the service from a pod, and else the proxy.
    :raises ConfigurationError: the handle is not of a cluster on Kubernetes.
    :raises KubernetesError: the token could not be read.
    """
    if handle.backend != "kubernetes" or not handle.namespace or not handle.service:
        raise ConfigurationError(
            f"The Ray cluster {handle.name!r} has no namespace and service: it is not one on Kubernetes."
        )
    chosen = way(access, how)
    connected = await connect(access)
    token = await read_token(connected, handle)
    if chosen == "url":
        return RayEndpoint(url=handle.address, token=token)
    if chosen == "service":
        return RayEndpoint(url=service_url(handle.namespace, handle.service), token=token)
    cluster = connected.server.cluster
    if cluster.get("proxy-url") or cluster.get("tls-server-name"):
        raise ConfigurationError(
            "The kubeconfig has a proxy-url or tls-server-name: Ray can't be reached through such an API server.",
            hint="Give an address of your own: `access: url` in the connection, or run Airflow inside the cluster.",
        )

    async def authenticate(refused: bool) -> Mapping[str, str]:
        return await connected.credential.headers(refused)

    return RayEndpoint(
        url=connected.server.url + proxy_path(handle.namespace, handle.service),
        token=token,
        tls=TlsOptions(verify=not cluster.get("insecure-skip-tls-verify")),
        auth=authenticate,
        ssl_context=connected.tls,
    )


async def read_token(connected: Connected, handle: ClusterHandle) -> str | None:
    """Read Ray's token from the cluster's Secret; ``None`` where the cluster asks for none.

    Does without ``kubernetes_asyncio``, whose import takes seconds: each task that uses a cluster comes by here.
    """
    if handle.auth.kind != "secret" or not handle.auth.secret_name:
        return None
    secret = await _get(connected, f"/api/v1/namespaces/{handle.namespace}/secrets/{handle.auth.secret_name}")
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


async def _get(connected: Connected, path: str) -> dict[str, Any]:
    import aiohttp

    url = connected.server.url + path
    options: dict[str, Any] = {"ssl": connected.tls} if connected.tls is not None else {}
    if connected.server.cluster.get("proxy-url"):
        options["proxy"] = connected.server.cluster["proxy-url"]
    if connected.server.cluster.get("tls-server-name"):
        options["server_hostname"] = connected.server.cluster["tls-server-name"]
    failure: Exception | None = None
    async with aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as session:
        refused = False
        for attempt in range(5):
            try:
                headers = await connected.credential.headers(refused)
                async with session.get(url, headers=headers, **options) as response:
                    if response.status == 401 and not refused:
                        refused = True
                        continue
                    text = await response.text()
                    if response.status < 400:
                        found: dict[str, Any] = await response.json()
                        return found
                    if response.status < 500:
                        raise _explain(response.status, text, path)
                    failure = refusal(response.status, text, "GET", path)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                failure = error
            await asyncio.sleep(0.3 * 2**attempt)
    if isinstance(failure, KubernetesError):
        raise failure
    raise KubernetesError(
        f"The Kubernetes API server at {connected.server.url} can't be reached: {failure}.",
        hint="Does the cluster run, and can this machine reach it?",
        cause="unreachable",
    ) from failure


def _explain(status: int, text: str, path: str) -> KubernetesError:
    if status != 404:
        return refusal(status, text, "GET", path)
    return KubernetesError(
        f"The cluster's token can't be read: {path.rpartition('/')[2]!r} is no Secret in its namespace.",
        hint="Is the cluster still there? KubeRay makes the Secret together with it and deletes it with it.",
        status=404,
        cause="token",
    )
