"""A double of a Kubernetes API server with one Ray cluster behind its service proxy: a Secret, an Ingress, a dashboard."""

from __future__ import annotations

import base64
from typing import Any

from aiohttp import web

from ray_provider.clusters.handle import AuthReference, ClusterHandle
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from tests.support.jobs_api import JobsApi

NAMESPACE, CLUSTER, SERVICE = "n", "c", "c-head-svc"
PROXY = f"/api/v1/namespaces/{NAMESPACE}/services/{SERVICE}:8265/proxy"
HANDLE = ClusterHandle(
    "kubernetes",
    CLUSTER,
    "http://told/by/xcom",
    NAMESPACE,
    CLUSTER,
    SERVICE,
    AuthReference("secret", secret_name=CLUSTER),
)


def ray_cluster(**auth: Any) -> dict[str, Any]:
    """The RayCluster as KubeRay keeps it."""
    return {
        "metadata": {"name": CLUSTER, "namespace": NAMESPACE},
        "spec": {"authOptions": {"mode": "token", **auth}, "headGroupSpec": {}},
        "status": {"head": {"serviceName": SERVICE}},
    }


class KubernetesFront(JobsApi):
    """The API server wants ``kubernetes_token``, the dashboard behind it ``ray_token``; the Secret holds ``secret``."""

    def __init__(self, *, kubernetes_token: str = "kube-1", ray_token: str = "ray-1", **options: Any) -> None:
        super().__init__(prefix=PROXY, **options)
        self.kubernetes_token = kubernetes_token
        self.ray_token = ray_token
        self.secret: str | None = ray_token
        self.secret_reads = 0
        self.ingresses: list[dict[str, Any]] = []
        self.cluster: dict[str, Any] = ray_cluster()

    def access(self, **further: Any) -> KubernetesAccess:
        """As a kubeconfig's user with a static token."""
        return KubernetesAccess(kubeconfig=self.kubeconfig(), **further)

    def kubeconfig(self, token: str | None = None) -> dict[str, Any]:
        return {
            "current-context": "x",
            "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "users": [{"name": "x", "user": {"token": token or self.kubernetes_token}}],
        }

    @web.middleware
    async def _front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.kubernetes_token}":
            self.count["kubernetes 401"] += 1
            status = {"kind": "Status", "apiVersion": "v1", "message": "Unauthorized", "code": 401}
            return web.json_response(status, status=401)
        if request.path == f"/api/v1/namespaces/{NAMESPACE}/secrets/{CLUSTER}":
            self.secret_reads += 1
            if self.secret is None:
                return web.json_response({"kind": "Status", "message": "not found", "code": 404}, status=404)
            return web.json_response({"data": {"auth_token": base64.b64encode(self.secret.encode()).decode()}})
        if request.path == f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayclusters/{CLUSTER}":
            return web.json_response(self.cluster)
        if request.path.endswith("/ingresses"):
            return web.json_response({"items": self.ingresses})
        if request.path.startswith(PROXY) and not request.path.endswith("/api/authentication_mode"):
            given = request.headers.get("X-Ray-Authorization")
            if given != f"Bearer {self.ray_token}":
                self.count["ray refused"] += 1
                return web.Response(status=403 if given else 401, text="Forbidden: Invalid authentication token")
        return await super()._front(request, handler)


def ingress(host: str | None, path: str = "/", *, service: str = SERVICE, tls: bool = False, **status: Any) -> dict:
    """An Ingress object that leads to a service."""
    rule: dict[str, Any] = {"http": {"paths": [{"path": path, "backend": {"service": {"name": service}}}]}}
    if host:
        rule["host"] = host
    spec: dict[str, Any] = {"rules": [rule]}
    if tls:
        spec["tls"] = [{"hosts": [host]}] if host else [{"secretName": "x"}]
    return {"spec": spec, "status": status}
