"""Credentials that change while they are used, and who shares them: Kubernetes' token, Ray's token, certificates."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.handle import AuthReference, ClusterHandle
from ray_provider.clusters.kuberay import account as accounts
from ray_provider.clusters.kuberay.endpoints import dashboard_url, kubernetes_endpoint
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.exceptions import (
    ConfigurationError,
    KubernetesError,
    RayAuthenticationError,
    RayConnectionError,
)
from ray_provider.hooks.connection import RayConnectionConfig
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint, TlsOptions
from ray_provider.jobs.watch.watcher import JobWatcher, WatchOptions
from tests.support.certificates import make_certificates
from tests.support.jobs_api import JobsApi
from tests.support.kubernetes_front import HANDLE, KubernetesFront, ingress, ray_cluster

QUICK = RetryPolicy(deadline_seconds=3.0, first_delay=0.02, max_delay=0.1)


@pytest.fixture
async def front():
    async with KubernetesFront() as front:
        yield front


async def watch(access, name, lines):
    """What a trigger does: an endpoint of its own, a client, a watch to the job's end."""
    async with RayJobsClient(await kubernetes_endpoint(access, HANDLE), retry=QUICK) as client:
        watcher = JobWatcher(
            client, name, WatchOptions(poll_interval=0.1), on_log=lambda batch: lines.append(batch.text)
        )
        return await watcher.watch()


async def test_many_triggers_of_one_cluster_read_the_token_once_and_share_one_poll(front):
    names = [f"job-{number}" for number in range(30)]
    for name in names:
        front.add(name).run(b"line\n")
    # Each trigger makes its own access, as hooks of their own do.
    watches = [asyncio.create_task(watch(front.access(), name, [])) for name in names]
    await asyncio.sleep(2.5)
    for name in names:
        front.jobs[name].end()
    outcomes = await asyncio.gather(*watches)
    assert {outcome.kind for outcome in outcomes} == {"final"}
    assert front.secret_reads == 1
    # One list a second for all, not one question for each of 30 every 0.1 s.
    assert 2 <= front.count["GET /api/jobs/"] <= 8
    assert sum(front.count[f"GET /api/jobs/{name}"] for name in names) <= len(names)


async def test_other_accounts_and_other_clusters_share_nothing(front):
    one = await accounts.shared_account(front.access(), HANDLE)
    assert await accounts.shared_account(front.access(), HANDLE) is one
    other = KubernetesAccess(kubeconfig=front.kubeconfig("kube-2"))
    assert await accounts.shared_account(other, HANDLE) is not one
    assert await accounts.shared_account(front.access(verify_tls=False), HANDLE) is not one
    assert await accounts.shared_account(front.access(), replace(HANDLE, name="d")) is not one

    async def first(refused):
        return "kube-1"

    async def second(refused):
        return "kube-1"

    def cloud(provider, **identity):
        return KubernetesAccess(server=f"http://127.0.0.1:{front.port}", token_provider=provider, **identity)

    mine = await accounts.shared_account(cloud(first), HANDLE)
    assert await accounts.shared_account(cloud(second), HANDLE) is not mine
    same = await accounts.shared_account(cloud(first, identity=("aws", "eks-1")), HANDLE)
    assert await accounts.shared_account(cloud(second, identity=("aws", "eks-1")), HANDLE) is same
    # Nobody uses it any more: nothing of it is kept.
    known = accounts._accounts[asyncio.get_running_loop()]
    del one, mine, same
    gc.collect()
    assert not known


async def test_rays_token_changes_while_a_job_is_watched(front):
    front.add("job").run(b"before\n")
    lines: list[str] = []
    watching = asyncio.create_task(watch(front.access(), "job", lines))
    await asyncio.sleep(1.2)
    front.ray_token = front.secret = "ray-2"
    front.jobs["job"].write("after\n")
    await asyncio.sleep(1.5)
    front.jobs["job"].end()
    outcome = await asyncio.wait_for(watching, 60)
    assert outcome.status == "SUCCEEDED"
    assert "\n".join(lines).split() == ["before", "after"]
    assert front.count["ray refused"] >= 1


async def test_a_token_that_reaches_ray_later_than_the_secret_fails_nothing(front, monkeypatch):
    monkeypatch.setattr(accounts, "TOKEN_SECONDS", 0.2)
    monkeypatch.setattr(accounts, "_AGAIN_SECONDS", 0.05)
    front.add("job").run(b"line\n")
    watching = asyncio.create_task(watch(front.access(), "job", []))
    await asyncio.sleep(0.5)
    front.secret = "ray-2"  # the head has not been started anew: it still wants the old one
    await asyncio.sleep(1.0)
    assert not watching.done()
    front.ray_token = "ray-2"
    await asyncio.sleep(0.6)
    front.jobs["job"].end()
    outcome = await asyncio.wait_for(watching, 60)
    assert (outcome.kind, outcome.status) == ("final", "SUCCEEDED")


async def test_a_secret_that_is_late_or_away_is_waited_for(front):
    front.add("job").run(b"line\n")
    watching = asyncio.create_task(watch(front.access(), "job", []))
    await asyncio.sleep(0.5)
    front.ray_token, front.secret = "ray-2", None
    await asyncio.sleep(1.5)
    assert not watching.done()
    front.secret = "ray-2"
    await asyncio.sleep(0.2)
    front.jobs["job"].end()
    assert (await asyncio.wait_for(watching, 20)).status == "SUCCEEDED"


async def test_many_requests_refused_at_once_read_the_secret_once(front):
    endpoint = await kubernetes_endpoint(front.access(), HANDLE)
    async with RayJobsClient(endpoint, retry=QUICK) as client:
        await client.version()
        await asyncio.sleep(1.1)
        front.ray_token = front.secret = "ray-2"
        await asyncio.gather(*(client.version() for _ in range(40)))
    assert front.secret_reads == 2


async def test_a_token_that_stays_wrong_is_an_error_that_says_so(front):
    endpoint = await kubernetes_endpoint(front.access(), HANDLE)
    front.ray_token = "nobody-knows"
    async with RayJobsClient(endpoint, retry=QUICK) as client:
        with pytest.raises(RayAuthenticationError, match="refuses the token") as raised:
            await client.version()
    assert "ray-1" not in f"{raised.value}{raised.value.data}"
    assert "kube-1" not in f"{raised.value}{raised.value.data}"


async def test_a_kubeconfig_that_is_rewritten_with_a_new_token_is_read_again(front, tmp_path):
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(front.kubeconfig()))
    front.add("job").run(b"line\n")
    watching = asyncio.create_task(watch(KubernetesAccess(kubeconfig_path=str(path)), "job", []))
    await asyncio.sleep(0.5)
    front.kubernetes_token = "kube-2"
    path.write_text(yaml.safe_dump(front.kubeconfig()))
    await asyncio.sleep(1.0)
    front.jobs["job"].end()
    assert (await asyncio.wait_for(watching, 60)).status == "SUCCEEDED"
    # Another server in the file is not one that these credentials were for.
    stolen = {**front.kubeconfig(), "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}]}
    account = await accounts.shared_account(KubernetesAccess(kubeconfig_path=str(path)), HANDLE)
    path.write_text(yaml.safe_dump(stolen))
    await account.kubernetes(True)
    assert account.connected.server.url.endswith(str(front.port))


async def test_a_websocket_is_opened_with_renewed_credentials_too(front):
    endpoint = await kubernetes_endpoint(front.access(), HANDLE)
    front.add("job").run(b"line\n")
    await asyncio.sleep(1.1)
    front.ray_token = front.secret = "ray-2"
    async with RayJobsClient(endpoint, retry=QUICK) as client, client.log_tail("job") as websocket:
        assert (await websocket.receive(timeout=5)).data == "line\n"
        front.jobs["job"].end()


# Ways ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "url"),
    [
        ([ingress("ray.example.com")], "http://ray.example.com"),
        ([ingress("ray.example.com", "/team", tls=True)], "https://ray.example.com/team"),
        # KubeRay's own: a pattern as path, no host.
        (
            [ingress(None, "/c/(.*)", loadBalancer={"ingress": [{"hostname": "lb.example.com"}]})],
            "http://lb.example.com/c",
        ),
        ([ingress("other", service="d-head-svc"), ingress(None), ingress("mine", "/x(/|$)(.*)")], "http://mine/x"),
    ],
)
async def test_access_by_ingress_finds_the_url(front, objects, url):
    front.ingresses = objects
    own = RayEndpoint("", headers={"X-Gate": "pass"}, cookies={"a": "b"}, tls=TlsOptions(verify=True))
    access = front.access(dashboard=own)
    endpoint = await kubernetes_endpoint(access, HANDLE, access="ingress")
    assert endpoint.url == url == await dashboard_url(access, "n", HANDLE.service, "ingress")
    assert (endpoint.headers, endpoint.cookies, endpoint.auth) == (own.headers, own.cookies, None)
    assert await endpoint.token_source(None) == "ray-1"


async def test_without_an_ingress_the_way_out_is_named(front):
    front.ingresses = [ingress("other", service="d-head-svc"), ingress(None)]
    with pytest.raises(KubernetesError, match=r"No Ingress in namespace 'n' leads to the service 'c-head-svc'") as told:
        await kubernetes_endpoint(front.access(), HANDLE, access="ingress")
    assert "ingress.enabled" in str(told.value)


async def test_access_by_url_takes_the_connections_address_never_the_xcoms(front):
    own = RayEndpoint("https://ray.example.com/{namespace}/{cluster}", token="of-the-connection")
    endpoint = await kubernetes_endpoint(front.access(dashboard=own), HANDLE, access="url")
    assert endpoint.url == "https://ray.example.com/n/c"
    assert endpoint.token is None
    assert await endpoint.token_source(None) == "ray-1"
    plain = replace(HANDLE, auth=AuthReference())
    assert (await kubernetes_endpoint(front.access(dashboard=own), plain, access="url")).token == "of-the-connection"


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": "n/secrets/x?"},
        {"name": "c/../d"},
        {"name": "c?x"},
        {"namespace": "N"},
    ],
)
@pytest.mark.parametrize("how", ["proxy", "service"])
async def test_a_handle_can_not_lead_elsewhere(front, change, how):
    data = replace(HANDLE, **change).to_dict()
    with pytest.raises(ConfigurationError, match="of Kubernetes"):
        await kubernetes_endpoint(front.access(), ClusterHandle.from_dict(data), access=how)
    assert not front.secret_reads


# Certificates -------------------------------------------------------------------------------------------------------


async def test_a_dashboard_that_asks_for_a_certificate_gets_the_connections(tmp_path):
    certificates = make_certificates(tmp_path)
    cert, key = certificates.client_files("airflow")

    def tls(**extra):
        return RayConnectionConfig.from_connection("ray", extra=extra, environ={}).tls

    ca_data = certificates.ca_file.read_text()
    async with JobsApi(tls=certificates.server_context("127.0.0.1", clients=True)) as api:
        for options in ({"ca_file": str(certificates.ca_file)}, {"ca_data": ca_data}):
            shown = tls(cert_file=str(cert), key_file=str(key), **options)
            async with RayJobsClient(api.endpoint(tls=shown), retry=QUICK) as client:
                assert (await client.version()).ray_version == "2.60.0"
        async with RayJobsClient(api.endpoint(tls=tls(ca_data=ca_data)), retry=RetryPolicy.none()) as client:
            with pytest.raises(RayConnectionError):
                await client.version()
        with pytest.raises(ConfigurationError, match="TLS settings can't be used"):
            async with RayJobsClient(api.endpoint(tls=tls(cert_file=str(certificates.ca_file), ca_data=ca_data))):
                pass


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"key_file": "/etc/hostname"}, "without `cert_file`"),
        ({"cert_file": "/no/such/file"}, "is no file on this machine"),
        ({"ca_data": "nonsense"}, "is no certificate"),
        ({"ca_data": "-----BEGIN CERTIFICATE-----", "ca_file": "/etc/hostname"}, "Keep one of the two"),
    ],
)
def test_tls_fields_that_can_not_work_are_refused(extra, says):
    with pytest.raises(ConfigurationError, match=says):
        RayConnectionConfig.from_connection("ray", extra=extra, environ={})


async def test_the_proxys_path_is_the_documented_one(front):
    """Whoever writes RBAC or an audit rule for it goes by docs/security.md: it says services/proxy, and the port."""
    endpoint = await kubernetes_endpoint(front.access(), HANDLE, access="proxy")
    assert endpoint.url == f"http://127.0.0.1:{front.port}/api/v1/namespaces/n/services/c-head-svc:8265/proxy"
    async with RayJobsClient(endpoint, retry=RetryPolicy.none()) as client:
        await client.version()
    assert front.count["GET /api/version"] == 1, "it was asked behind that path, and nowhere else"


@pytest.mark.parametrize("by", ["authOptions", "environment"])
async def test_a_ray_that_asks_kubernetes_is_sent_our_token_for_kubernetes(by):
    """As Ray's token: without one it refuses everybody, and the Secret's is none that Kubernetes knows."""
    async with KubernetesFront(kubernetes_token="kube-1", ray_token="kube-1") as front:
        if by == "authOptions":
            front.cluster = ray_cluster(enableK8sTokenAuth=True)
        else:
            env = [{"name": "RAY_ENABLE_K8S_TOKEN_AUTH", "value": "true"}]
            front.cluster = ray_cluster(mode="disabled")
            head = {"template": {"spec": {"containers": [{"name": "ray-head", "env": env}]}}}
            front.cluster["spec"]["headGroupSpec"] = head
        front.secret = "ray-1"
        async with RayJobsClient(await kubernetes_endpoint(front.access(), HANDLE), retry=RetryPolicy.none()) as client:
            await client.version()
        assert front.secret_reads == 0
        assert front.count["ray refused"] == 0


async def test_a_certificate_can_not_be_sent_to_a_ray_that_asks_kubernetes():
    class Certificate:
        async def headers(self, refused: bool = False) -> dict[str, str]:
            return {}

    account = accounts.ClusterAccount(SimpleNamespace(credential=Certificate()), HANDLE)
    with pytest.raises(ConfigurationError, match="has no token, but a certificate.*enableK8sTokenAuth"):
        await account.kubernetes_token(None)
