"""What a cluster can still get for a job that waits, asked through the connection."""

from __future__ import annotations

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.hooks import RayHook
from tests.support.kubernetes_api import kubeconfig, running
from tests.unit.clusters.kuberay.test_capacity import GPU, cluster, not_ready
from tests.unit.clusters.kubernetes.test_watching import CLUSTERS


async def test_pods_that_do_not_start_are_told_through_the_connection(connection):
    """On the way that the watch takes: a handle, the connection's Kubernetes, the cluster and its pods."""
    async with running() as (server, _):
        connection.clear()
        connection.update(kube_config=kubeconfig(server))
        made = cluster(GPU)
        await server.put(CLUSTERS, "c", {"metadata": made["metadata"], "spec": made["spec"]})
        for one in (
            not_ready("c-gpu-1", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
            not_ready("c-gpu-2"),
        ):
            labels = {"ray.io/cluster": "c", "ray.io/node-type": "worker"}
            name = one["metadata"]["name"]
            await server.put("/api/v1/namespaces/n/pods", name, {**one, "metadata": {"name": name, "labels": labels}})
        handle = ClusterHandle(backend="kubernetes", name="c", namespace="n", address="", service="c-head-svc")
        ask = RayHook("c").asks(handle.to_dict())
        assert ask is not None
        found = await ask({"GPU": 1.0})
    assert "may still get it from gpu (4 CPU, 1 GPU, 16.0 GiB memory a pod, at most 2 of them)" in found.text
    assert (
        "c-gpu-1: worker pod c-gpu-1 can't be placed on a node: 0/3 nodes are available: 3 Insufficient" in found.text
    )
    assert "c-gpu-2: starting its container" in found.text
    assert RayHook("c").asks(None) is None
    assert RayHook("c").asks({**handle.to_dict(), "backend": "local"}) is None
