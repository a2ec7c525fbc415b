"""A server that sends us elsewhere gets no request to go there, whatever the credential and whatever was asked."""

from __future__ import annotations

import pytest
from aiohttp import web

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.exceptions import KubernetesError, RayApiError
from ray_provider.hooks.connection import RayConnectionConfig
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.models import JobSpec
from tests.support.jobs_api import NODE, JobsApi
from tests.support.kubernetes_front import HANDLE

SECRET = "planted-77aa"
ENDPOINTS = {
    "token": {"token": SECRET},
    "header": {"headers": {"X-Key": SECRET}},
    "x-ray-authorization": {"headers": {"X-Ray-Authorization": f"Bearer {SECRET}"}},
    "cookie": {"cookies": {"session": SECRET}},
    "basic": {"user": f"me:{SECRET}@"},
    "kubernetes": {"auth": True, "token": SECRET},
}
CALLS = {
    "version": lambda client, _path: client.version(),
    "list": lambda client, _path: client.list_jobs(),
    "get": lambda client, _path: client.get("a"),
    "submit": lambda client, _path: client.submit_request(JobSpec(f"echo {SECRET}", "a")),
    "stop": lambda client, _path: client.stop("a"),
    "delete": lambda client, _path: client.delete("a"),
    "package exists": lambda client, _path: client.package_exists("gcs://_ray_pkg_1.zip"),
    "package upload": lambda client, path: client.upload_package("gcs://_ray_pkg_1.zip", path),
    "log file": lambda client, _path: client.read_log_file(NODE, "x.log"),
    "log stream": lambda client, _path: enter(client.log_stream(NODE, "x.log")),
    "websocket": lambda client, _path: enter(client.log_tail("a")),
}


async def enter(manager):
    async with manager:
        pass


class Redirecting(JobsApi):
    status = 307

    @web.middleware
    async def _front(self, request, handler):
        self.requests.append((request.method, request.path))
        return web.Response(status=self.status, headers={"Location": f"{self.redirect_to}{request.path}"})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", ENDPOINTS)
async def test_no_call_follows(kind, status, tmp_path):
    package = tmp_path / "package.zip"
    package.write_bytes(SECRET.encode())
    options = dict(ENDPOINTS[kind])
    if options.pop("auth", None):

        async def auth(_refused):
            return {"Authorization": f"Bearer {SECRET}"}

        options["auth"] = auth
    user = options.pop("user", "")
    async with JobsApi() as other, Redirecting() as api:
        api.redirect_to, api.status = other.url.replace("127.0.0.1", "localhost"), status
        endpoint = RayEndpoint(api.url.replace("http://", f"http://{user}"), **options)
        async with RayJobsClient(endpoint, timeout=5, retry=RetryPolicy.none()) as client:
            for name, call in CALLS.items():
                with pytest.raises(RayApiError, match="redirects to") as raised:
                    await call(client, package)
                assert SECRET not in f"{raised.value!r}{raised.value}{raised.value.data}", name
        assert len(api.requests) == len(CALLS)
        assert other.requests == []
        assert other.headers == []


@pytest.mark.parametrize("status", [302, 307])
async def test_kubernetes_credentials_stay_with_the_api_server(status):
    async with JobsApi() as other, Redirecting() as api:
        api.redirect_to, api.status = other.url.replace("127.0.0.1", "localhost"), status
        config = {
            "current-context": "x",
            "clusters": [{"name": "x", "cluster": {"server": api.url}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "users": [{"name": "x", "user": {"token": SECRET}}],
        }
        access = KubernetesAccess(kubeconfig=config)
        with pytest.raises(KubernetesError):
            await kubernetes_endpoint(access, HANDLE)
        async with open_kube(access) as kube:
            with pytest.raises(KubernetesError):
                await kube.get("/api/v1/namespaces/n/pods")
        assert SECRET not in repr(other.headers)


async def test_the_connections_basic_credentials_become_a_header_of_this_address_only():
    config = RayConnectionConfig.from_connection("ray", extra={"address": f"http://me:{SECRET}@h:1"}, environ={})
    assert config.address == "http://h:1"
    assert SECRET not in repr(config)
