"""The way to a dashboard on Kubernetes: through the API server's proxy, by its service, an Ingress, or a URL."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ray_provider.clusters.handle import Access, ClusterHandle
from ray_provider.clusters.kuberay.account import get, shared_account
from ray_provider.clusters.kubernetes.access import Connected, KubernetesAccess, connect
from ray_provider.exceptions import ConfigurationError, KubernetesError
from ray_provider.jobs.endpoint import RayEndpoint, TlsOptions

Way = Literal["proxy", "service", "ingress", "url"]
DASHBOARD_PORT = 8265
_RESOLVER = Path("/etc/resolv.conf")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def proxy_path(namespace: str, service: str, port: int = DASHBOARD_PORT) -> str:
    """Give the path of a service behind the API server's proxy.

    :param namespace: of the service.
    :param service: its name.
    :param port: of the service. Default: the dashboard's, 8265.
    """
    return f"/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy"


def service_url(namespace: str, service: str, port: int = DASHBOARD_PORT) -> str:
    """Give the URL of a service, for those inside the cluster.

    The name is absolute where the resolver's settings tell the cluster's domain: a relative one is tried below the
    search domains first, and whoever may make a namespace called ``svc`` could answer there.

    :param namespace: of the service.
    :param service: its name.
    :param port: of the service. Default: the dashboard's, 8265.
    """
    domain = _cluster_domain()
    return f"http://{service}.{namespace}.svc{f'.{domain}.' if domain else ''}:{port}"


def _cluster_domain() -> str | None:
    """Give the cluster's DNS domain, as the kubelet wrote it into a pod's search list."""
    try:
        lines = _RESOLVER.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    names = next((line.split()[1:] for line in reversed(lines) if line.startswith("search")), [])
    found = (re.fullmatch(r"svc\.([a-z0-9.-]+?)\.?", name) for name in names)
    return next((one[1] for one in found if one), None)


def way(kube_access: KubernetesAccess, access: Access) -> Way:
    """Decide how a cluster is reached: from a pod with its own service account by the service, else by the proxy.

    :param kube_access: tells whether we are in the cluster: as the connection says, or as a pod's environment does.
    :param access: ``auto`` decides; anything else is what somebody chose.
    """
    if access != "auto":
        return access
    explicit = kube_access.kubeconfig is not None or kube_access.kubeconfig_path or kube_access.server
    inside = kube_access.in_cluster or (not explicit and bool(os.environ.get("KUBERNETES_SERVICE_HOST")))
    return "service" if inside else "proxy"


async def dashboard_url(
    kube_access: KubernetesAccess, namespace: str, service: str, access: Access = "auto", *, name: str = ""
) -> str:
    """Give the URL by which tasks reach a dashboard.

    :param kube_access: to the Kubernetes cluster.
    :param namespace: of the Ray cluster.
    :param service: of the head.
    :param access: the way that was chosen. Default: from a pod of the cluster by the service, else by the API server's
        proxy.
    :param name: of the cluster.
    :raises ConfigurationError: ``url``, and the connection has no address.
    :raises KubernetesError: ``ingress``, and no Ingress leads to the service.
    """
    _check_names(namespace=namespace, service=service)
    chosen = way(kube_access, access)
    if chosen == "service":
        return service_url(namespace, service)
    if chosen == "url":
        return _own_url(kube_access, namespace, name)
    if chosen == "ingress":
        return await find_ingress(await connect(kube_access), namespace, service)
    server = await asyncio.to_thread(kube_access.resolve)
    return server.url + proxy_path(namespace, service)


async def kubernetes_endpoint(
    kube_access: KubernetesAccess, handle: ClusterHandle, *, access: Access = "auto"
) -> RayEndpoint:
    """Make the endpoint of a cluster, with its token, read from its Secret, and our Kubernetes credentials.

    Endpoints of the same cluster, reached the same way by the same account, share their credentials in an event loop,
    and with them connections and polls. Both tokens, Kubernetes' and Ray's, are renewed as they change.

    :param kube_access: the Kubernetes that it runs on.
    :param handle: of the cluster. Its name and namespace count; service and token are the RayCluster's own.
    :param access: through the API server's ``proxy``, at its ``service`` (from inside the cluster), through its
        ``ingress``, at the connection's own address (``url``); ``auto`` takes the service from a pod, and else the
        proxy.
    :raises ConfigurationError: the handle is not of a cluster on Kubernetes.
    :raises KubernetesError: the token could not be read.
    """
    if handle.backend != "kubernetes" or not handle.namespace or not handle.name:
        raise ConfigurationError(f"The Ray cluster {handle.name!r} has no namespace: it is not one on Kubernetes.")
    _check_names(namespace=handle.namespace, RayCluster=handle.name)
    chosen = way(kube_access, access)
    if chosen == "url" and handle.auth.kind == "none" and kube_access.dashboard is not None:
        # Address and token are the connection's: nothing of the cluster is needed.
        return replace(kube_access.dashboard, url=_own_url(kube_access, handle.namespace, handle.name))
    account = await shared_account(kube_access, handle)
    await account.read_once()
    handle = account.handle
    namespace, service = str(handle.namespace), str(handle.service)
    _check_names(service=service, Secret=handle.auth.secret_name)
    source = account.token if account.has_secret else None
    if handle.auth.kind == "kubernetes":
        source = account.kubernetes_token
    own = kube_access.dashboard
    token = own.token if own is not None and source is None else None
    if chosen in {"url", "ingress"}:
        if chosen == "url":
            url = _own_url(kube_access, namespace, handle.name)
        else:
            url = await find_ingress(account.connected, namespace, service)
        base = own or RayEndpoint(url=url)
        return replace(base, url=url, token=token, token_source=source)
    if chosen == "service":
        return RayEndpoint(url=service_url(namespace, service), token=token, token_source=source)
    cluster = account.connected.server.cluster
    if cluster.get("proxy-url") or cluster.get("tls-server-name"):
        raise ConfigurationError(
            "The kubeconfig has a proxy-url or tls-server-name: Ray can't be reached through such an API server.",
            hint="Give an address of your own: `access: url` in the connection, or run Airflow inside the cluster.",
        )
    return RayEndpoint(
        url=account.connected.server.url + proxy_path(namespace, service),
        token=token,
        tls=TlsOptions(verify=not cluster.get("insecure-skip-tls-verify")),
        auth=account.kubernetes,
        token_source=source,
        ssl_context=account.connected.tls,
    )


def _own_url(kube_access: KubernetesAccess, namespace: str, name: str) -> str:
    if kube_access.dashboard is None or not kube_access.dashboard.url:
        raise ConfigurationError(
            "The connection says `access: url`, and has no `address` at which the dashboard is.",
            hint="Give one, such as https://ray.example.com/{namespace}/{cluster}; or set access to proxy or ingress.",
            field="address",
        )
    return kube_access.dashboard.url.replace("{namespace}", namespace).replace("{cluster}", name)


def _check_names(**names: str | None) -> None:
    """Refuse what is no name of Kubernetes': these go into paths, and may come from an XCom."""
    for what, name in names.items():
        if name and not _NAME.fullmatch(name):
            raise ConfigurationError(f"{name[:80]!r} is no {what} of Kubernetes.", field=what)


async def find_ingress(connected: Connected, namespace: str, service: str) -> str:
    """Find the URL under which an Ingress leads to a head's service.

    :param connected: asks Kubernetes.
    :param namespace: of the service.
    :param service: of the head.
    :raises KubernetesError: none does, or we may not ask.
    """
    found = await get(connected, f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses")
    for ingress in found.get("items") or []:
        spec = ingress.get("spec") or {}
        secure = {host for entry in spec.get("tls") or [] for host in entry.get("hosts") or [None]}
        balancers = ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        at = next((str(entry.get("hostname") or entry.get("ip")) for entry in balancers), None)
        for rule in spec.get("rules") or []:
            host = rule.get("host") or at
            for path in (rule.get("http") or {}).get("paths") or []:
                if host and ((path.get("backend") or {}).get("service") or {}).get("name") == service:
                    scheme = "https" if host in secure or None in secure else "http"
                    # Controllers that rewrite paths are told by patterns such as /name/(.*).
                    prefix = re.split(r"[(*\[]", str(path.get("path") or "/"))[0].rstrip("/")
                    return f"{scheme}://{host}{prefix}"
    raise KubernetesError(
        f"No Ingress in namespace {namespace!r} leads to the service {service!r}, or it has no host yet.",
        hint="Set `ingress.enabled` and `ingress.hosts` in the cluster's values, or `access: proxy` in the connection.",
        cause="ingress",
    )
