"""Where a RayService is reached: the dashboard of one of its clusters, and the service where applications answer."""

from __future__ import annotations

from dataclasses import replace

from ray_provider.clusters.handle import Access, ClusterHandle
from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint, proxy_path, service_url, way
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import Json, Kube, path_of
from ray_provider.clusters.rayservice.resource import PORT
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.serve.urls import serve_endpoint


async def dashboard_of(kube_access: KubernetesAccess, namespace: str, cluster: str, access: Access) -> RayEndpoint:
    """Give the endpoint of the dashboard of one of its clusters.

    :param kube_access: to the Kubernetes cluster.
    :param namespace: of the RayService.
    :param cluster: name of the RayCluster.
    :param access: the way to it.
    """
    return await kubernetes_endpoint(kube_access, ClusterHandle("kubernetes", cluster, "", namespace), access=access)


def serve_service_of(service: Json) -> str:
    """Give the name of the Kubernetes service at which a RayService's applications answer.

    :param service: the RayService.
    """
    given = ((service["spec"].get("serveService") or {}).get("metadata") or {}).get("name")
    return str(given or f"{service['metadata']['name']}-serve-svc")


async def serving_endpoint(
    kube_access: KubernetesAccess,
    kube: Kube,
    service: Json,
    dashboard: RayEndpoint,
    access: Access,
    given: str | None = None,
) -> RayEndpoint | None:
    """Give where the applications of a RayService answer; ``None``: that is not known from here.

    :param kube_access: to the Kubernetes cluster.
    :param kube: the same, connected.
    :param service: the RayService.
    :param dashboard: of its cluster.
    :param access: the way to it.
    :param given: the address, if the user says it.
    """
    name, namespace = serve_service_of(service), service["metadata"]["namespace"]
    return await endpoint_of(kube_access, kube, namespace, name, dashboard, access, given)


async def endpoint_of(
    kube_access: KubernetesAccess,
    kube: Kube,
    namespace: str,
    name: str,
    dashboard: RayEndpoint,
    access: Access,
    given: str | None = None,
) -> RayEndpoint | None:
    """Give where a Kubernetes service of applications answers; ``None``: that is not known from here.

    Ray's token is not for applications: it is left out.

    :param kube_access: to the Kubernetes cluster.
    :param kube: the same, connected.
    :param namespace: of the service.
    :param name: of the service.
    :param dashboard: of a cluster behind it.
    :param access: the way to it.
    :param given: the address, if the user says it.
    """
    if given:
        return serve_endpoint(dashboard, {}, given)
    chosen = way(kube_access, access)
    if chosen not in ("proxy", "service"):
        return None
    found = await kube.find(path_of("services", namespace, name))
    ports = ((found or {}).get("spec") or {}).get("ports") or []
    port = next((int(one["port"]) for one in ports if one.get("name") == PORT), None)
    if port is None:
        port = int(ports[0]["port"]) if ports else 8000
    bare = replace(dashboard, token=None, token_source=None)
    if chosen == "service":
        return replace(bare, url=service_url(namespace, name, port))
    return replace(bare, url=kube.url + proxy_path(namespace, name, port))
