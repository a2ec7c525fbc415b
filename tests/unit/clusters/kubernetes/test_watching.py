"""Watches and waits against a small API server that behaves as Kubernetes': history that is lost, restarts, refusals."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest

from ray_provider.clusters.handle import AuthReference, ClusterHandle
from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint
from ray_provider.clusters.kuberay.readiness import ReadinessOptions, ReadinessWatch
from ray_provider.clusters.kubernetes.client import open_kube, path_of
from ray_provider.exceptions import (
    ClusterFailedError,
    ClusterTimeoutError,
    ConfigurationError,
    KubernetesAccessError,
    KubernetesError,
)
from tests.support.kubernetes_api import running
from tests.support.waiting import until

CLUSTERS = "/apis/ray.io/v1/namespaces/n/rayclusters"


async def collect(kube, path, into):
    async for event in kube.watch(path, patience=5):
        into.append((event.type, [item["metadata"]["name"] for item in event.items] or event.object.get("v")))


async def test_a_watch_goes_on_after_a_restart_and_after_lost_history():
    async with running() as (server, access), open_kube(access) as kube:
        path = path_of("pods", "n")
        await server.put(path, "a", {"v": 1})
        seen = []
        task = asyncio.create_task(collect(kube, path, seen))
        await until(lambda: seen == [("SYNC", ["a"])])
        await server.put(path, "a", {"v": 2})
        await until(lambda: seen[-1] == ("MODIFIED", 2))
        await server.stop()
        await server.put(path, "a", {"v": 3})
        await asyncio.sleep(0.3)
        await server.start()
        # What changed meanwhile is told; nothing is told twice.
        await until(lambda: seen[-1] == ("MODIFIED", 3))
        assert len(seen) == 3
        await server.stop()
        await server.put(path, "b", {"v": 4})
        server.oldest = server.version + 1
        await server.start()
        await until(lambda: seen[-1] == ("SYNC", ["a", "b"]))
        task.cancel()


async def test_a_watch_gives_up_on_a_server_that_stays_away_and_on_a_refusal():
    async with running() as (server, access), open_kube(access) as kube:
        server.forbidden.add(path_of("secrets", "n"))
        with pytest.raises(KubernetesAccessError, match="u may not list secrets"):
            await collect(kube, path_of("secrets", "n"), [])
        server.token = "other"
        with pytest.raises(KubernetesAccessError, match="401"):
            await collect(kube, path_of("pods", "n"), [])
        await server.stop()
        with pytest.raises(KubernetesError, match="can't be reached"):
            async for _ in kube.watch(path_of("pods", "n"), patience=0.3):
                pass
        await server.start()


def cluster(*, generation=1, observed=1, head=True, provisioned=True, ready=1, desired=1):
    def condition(kind, yes):
        return {"type": kind, "status": "True" if yes else "False"}

    return {
        "kind": "RayCluster",
        "metadata": {"generation": generation},
        "spec": {},
        "status": {
            "observedGeneration": observed,
            "readyWorkerReplicas": ready,
            "desiredWorkerReplicas": desired,
            "conditions": [condition("HeadPodReady", head), condition("RayClusterProvisioned", provisioned)],
        },
    }


def watch_of(kube, lines=None, stale=(), **options):
    said = lines if lines is not None else []
    return ReadinessWatch(
        kube, "n", "c", ReadinessOptions(**{"timeout_seconds": 5, **options}), say=said.append, stale_pods=stale
    )


async def test_ready_is_known_at_once_and_without_polling():
    async with running() as (server, access), open_kube(access) as kube:
        await server.put(CLUSTERS, "c", {"metadata": {"generation": 1}, "spec": {}})
        lines = []
        task = asyncio.create_task(watch_of(kube, lines).wait())
        await until(lambda: len(server.requests) >= 8)
        await server.put(CLUSTERS, "c", cluster(head=False, provisioned=False, ready=0))
        await server.put(CLUSTERS, "c", cluster(provisioned=False, ready=0))
        # The condition stays true once it was: what counts is how many are ready.
        await server.put(CLUSTERS, "c", cluster(ready=1, desired=2))
        await asyncio.sleep(0.5)
        assert not task.done()
        await server.put(CLUSTERS, "c", cluster(ready=2, desired=2))
        assert (await task)["status"]["readyWorkerReplicas"] == 2
        assert len(server.requests) == 8, server.requests
        assert lines[0].endswith("waiting for the KubeRay operator to take notice.")
        assert len(lines) == len(set(lines))


@pytest.mark.parametrize("queue_apart", [False, True])
async def test_a_cluster_that_was_ready_in_time_is_found_past_the_deadline(queue_apart):
    """No triggerer ran meanwhile: the one that comes takes nothing back."""
    async with running() as (server, access), open_kube(access) as kube:
        await server.put(CLUSTERS, "c", cluster())
        options = ReadinessOptions(timeout_seconds=30, queue_apart=queue_apart)
        found = await ReadinessWatch(kube, "n", "c", options, deadline=time.time() - 100).wait()
        assert found["status"]["readyWorkerReplicas"] == 1
        await server.put(CLUSTERS, "c", cluster(head=False, provisioned=False, ready=0))
        with pytest.raises(ClusterTimeoutError, match="waiting for|not ready after"):
            await ReadinessWatch(kube, "n", "c", options, deadline=time.time() - 100).wait()


@pytest.mark.parametrize(
    ("state", "options"),
    [
        (cluster(ready=0, provisioned=False), {"wait_for_workers": False}),
        (cluster(ready=1, desired=3, provisioned=False), {"wait_for_workers": 1}),
        ({**cluster(), "status": {"observedGeneration": 1, "state": "ready"}}, {}),
    ],
)
async def test_how_much_has_to_be_ready(state, options):
    async with running() as (server, access), open_kube(access) as kube:
        await server.put(CLUSTERS, "c", state)
        await watch_of(kube, **options).wait()


async def test_an_update_waits_for_the_notice_and_for_the_end_of_old_pods():
    async with running() as (server, access), open_kube(access) as kube:
        pods = path_of("pods", "n")
        await server.put(pods, "old", {"metadata": {"labels": {}}, "status": {}})
        await server.put(CLUSTERS, "c", cluster(generation=2, observed=1))
        task = asyncio.create_task(watch_of(kube, stale=["old"]).wait())
        await server.put(CLUSTERS, "c", cluster(generation=2, observed=2))
        await asyncio.sleep(0.3)
        assert not task.done()
        await server.remove(pods, "old")
        await task


async def test_a_change_that_the_operator_never_acknowledges_is_waited_for_briefly():
    # KubeRay writes observedGeneration only together with something else in the status.
    async with running() as (server, access), open_kube(access) as kube:
        deployments = "/apis/apps/v1/deployments"
        operator = {
            "metadata": {"namespace": "kuberay"},
            "spec": {"replicas": 0, "template": {"spec": {}}},
            "status": {},
        }
        await server.put(deployments, "operator", operator)
        changed = cluster(generation=2, observed=1, ready=1, desired=1)
        changed["spec"] = {"workerGroupSpecs": [{"replicas": 1, "minReplicas": 0, "maxReplicas": 4}]}
        await server.put(CLUSTERS, "c", changed)
        # An operator that does not run has not looked.
        with pytest.raises(ClusterFailedError, match="no KubeRay operator has taken notice"):
            await watch_of(kube, settle_seconds=0.2, short_seconds=0.6).wait()
        operator["spec"]["replicas"] = operator["status"]["availableReplicas"] = 1
        await server.put(deployments, "operator", operator)
        began = time.monotonic()
        await watch_of(kube, settle_seconds=0.5).wait()
        assert 0.4 < time.monotonic() - began < 30
        # More workers than before: that shows in the status once it has looked.
        changed["spec"]["workerGroupSpecs"][0]["replicas"] = 2
        await server.put(CLUSTERS, "c", changed)
        with pytest.raises(ClusterFailedError, match="no KubeRay operator has taken notice"):
            await watch_of(kube, settle_seconds=0.2, operator_seconds=0.8).wait()


async def test_a_cluster_that_is_deleted_meanwhile_is_told():
    async with running() as (server, access), open_kube(access) as kube:
        await server.put(CLUSTERS, "c", cluster(head=False))
        task = asyncio.create_task(watch_of(kube).wait())
        await until(lambda: len(server.requests) >= 8)
        await server.remove(CLUSTERS, "c")
        with pytest.raises(ClusterFailedError, match="was deleted while we waited"):
            await task


async def test_a_fault_that_passes_by_itself_is_waited_for_and_one_that_stays_is_not():
    def pod(reason):
        state = {"waiting": {"reason": reason, "message": "no such host"}} if reason else {"running": {}}
        return {
            "metadata": {"labels": {"ray.io/node-type": "head"}},
            "spec": {"containers": [{"name": "ray", "image": "i"}]},
            "status": {"phase": "Pending", "containerStatuses": [{"name": "ray", "image": "i", "state": state}]},
        }

    async with running() as (server, access), open_kube(access) as kube:
        pods = path_of("pods", "n")
        await server.put(CLUSTERS, "c", cluster(head=False))
        await server.put(pods, "p", pod("ErrImagePull"))
        task = asyncio.create_task(watch_of(kube, image_seconds=2.0).wait())
        await asyncio.sleep(0.5)
        await server.put(pods, "p", pod(None))
        await asyncio.sleep(1.8)
        assert not task.done()
        await server.put(pods, "p", pod("ImagePullBackOff"))
        began = time.monotonic()
        with pytest.raises(ClusterFailedError, match="the image 'i' of head pod p can't be pulled"):
            await task
        assert 1.8 < time.monotonic() - began < 30


async def test_a_time_out_tells_how_far_the_pod_is_that_is_waited_for():
    starting = {
        "metadata": {"namespace": "n", "labels": {"ray.io/node-type": "head"}},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "ray-head", "state": {"running": {"startedAt": "2026-01-01T12:00:00Z"}}}],
        },
    }
    unhealthy = {"type": "Warning", "reason": "Unhealthy", "message": "Readiness probe failed: no answer"}
    async with running() as (server, access), open_kube(access) as kube:
        await server.put(CLUSTERS, "c", cluster(head=False))
        await server.put(path_of("pods", "n"), "p", starting)
        await server.put(path_of("events", "n"), "e", unhealthy)
        with pytest.raises(ClusterTimeoutError) as caught:
            await watch_of(kube, timeout_seconds=0.4).wait()
    text = str(caught.value)
    assert "What is missing: the head. So far, the container 'ray-head' of head pod p has run for" in text
    assert "and is not ready; its last event is Unhealthy: Readiness probe failed: no answer." in text
    assert "kubectl describe pod p -n n" in text


async def test_what_may_not_be_watched_is_done_without():
    async with running() as (server, access), open_kube(access) as kube:
        server.forbidden |= {path_of("events", "n"), "/apis/apps/v1/deployments"}
        await server.put(CLUSTERS, "c", {"metadata": {"generation": 1}, "spec": {}})
        with pytest.raises(ClusterFailedError, match="no KubeRay operator has taken notice"):
            await watch_of(kube, operator_seconds=0.4).wait()
        with pytest.raises(ClusterTimeoutError, match="What is missing: the operator's notice"):
            await watch_of(kube, timeout_seconds=0.4).wait()


HANDLE = ClusterHandle(
    "kubernetes", "c", "http://own/address", "n", "c", "c-head-svc", AuthReference("secret", secret_name="c")
)


async def put_cluster(server):
    spec = {"authOptions": {"mode": "token"}, "headGroupSpec": {}}
    status = {"head": {"serviceName": "c-head-svc"}}
    await server.put(CLUSTERS, "c", {"metadata": {"name": "c"}, "spec": spec, "status": status})


async def test_the_endpoint_has_rays_token_and_our_credentials_apart():
    async with running() as (server, access):
        await put_cluster(server)
        await server.put(path_of("secrets", "n"), "c", {"data": {"auth_token": base64.b64encode(b"rays\n").decode()}})
        endpoint = await kubernetes_endpoint(access, HANDLE)
        assert endpoint.url == f"http://127.0.0.1:{server.port}/api/v1/namespaces/n/services/c-head-svc:8265/proxy"
        assert await endpoint.token_source(None) == "rays"
        assert await endpoint.auth(False) == {"Authorization": "Bearer good"}
        assert "rays" not in repr(endpoint)
        assert (await kubernetes_endpoint(access, HANDLE, access="service")).url == "http://c-head-svc.n.svc:8265"
        with pytest.raises(ConfigurationError, match="has no `address`"):
            await kubernetes_endpoint(access, HANDLE, access="url")


async def test_a_token_that_can_not_be_read_is_told():
    async with running() as (server, access):
        with pytest.raises(KubernetesError, match="There is no RayCluster n/c"):
            await kubernetes_endpoint(access, HANDLE)
        await put_cluster(server)
        with pytest.raises(KubernetesError, match="is no Secret in its namespace"):
            await kubernetes_endpoint(access, HANDLE)
        server.token = "renewed"
        with pytest.raises(KubernetesAccessError, match="401"):
            await kubernetes_endpoint(access, HANDLE)
