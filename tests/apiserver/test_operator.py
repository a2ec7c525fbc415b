"""Clusters that the operator takes up, or does not, and that have no pod that runs: what the user is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

from ray_provider.clusters.lifecycle.removal import Leaving, delete_cluster
from ray_provider.exceptions import (
    ClusterFailedError,
    ClusterTimeoutError,
)
from tests.kubernetes.clusters import HEAD_ONLY, Scene, left_over, show, values
from tests.support.helm import ROOT
from tests.support.kubernetes import OPERATOR_NAMESPACE, OPERATOR_RELEASE, Kubernetes, until

ROLE = ROOT / "helm" / "roles" / "provider-role.yaml"


async def test_a_spec_that_the_operator_refuses(kubernetes, namespace, operator):
    scene = Scene(kubernetes, namespace)
    # The API server takes it, and so does the chart: a cluster of a RayJob may not have an upgrade strategy.
    invalid = values(HEAD_ONLY, labels={"ray.io/originated-from-crd": "RayJob"}, upgradeStrategy={"type": "Recreate"})
    with pytest.raises(ClusterFailedError) as caught:  # and not by a time-out
        await scene.set_up(scene.spec(invalid))
    text = show(caught.value)
    assert "the KubeRay operator refuses the spec" in text
    assert caught.value.data["cause"] == "invalid spec"
    assert left_over(scene) == []


async def test_a_used_up_quota(kubernetes, namespace, operator):
    scene = Scene(kubernetes, namespace)
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"requests.memory": "200Mi"}},
    }
    kubernetes.apply(quota, namespace)
    until(lambda: kubernetes.get("resourcequota", "small", "-n", namespace).get("status", {}).get("used"), 300, "quota")
    with pytest.raises(ClusterFailedError) as caught:
        await scene.set_up(scene.spec(HEAD_ONLY), short_seconds=2)
    text = show(caught.value)
    assert "exceeded quota: small" in text
    assert caught.value.data["cause"] == "quota"
    assert left_over(scene) == []


async def test_a_set_up_that_is_cancelled_while_it_waits(kubernetes, namespace, operator):
    scene = Scene(kubernetes, namespace)
    never = values(HEAD_ONLY, image__repository="registry.invalid/no/such")
    task = asyncio.create_task(scene.set_up(scene.spec(never)))
    while not any("head " in line for _, line in scene.lines):
        await asyncio.sleep(0.1)
    task.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    # A task that is killed has 5 s until SIGKILL: nobody waits for the end of pods (on a busy machine Helm takes seconds).
    assert time.monotonic() - began < 30
    assert left_over(scene) == []


async def test_a_failure_can_be_kept_for_inspection(kubernetes, namespace, operator):
    scene = Scene(kubernetes, namespace)
    huge = values(HEAD_ONLY, head__resources={"requests": {"cpu": "200"}, "limits": {"cpu": "200"}})
    spec = scene.spec(huge)
    task = asyncio.create_task(scene.set_up(spec, keep_on_failure=True, timeout_seconds=15))
    (pod,) = await asyncio.to_thread(until, lambda: scene.pods(spec.name), 300, "head pod")
    # As the scheduler writes it (tests/kubernetes has a real one say so).
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient cpu.",
    }
    kubernetes.kubectl(
        *("patch", "pod", pod["metadata"]["name"], "-n", namespace, "--subresource=status", "-p"),
        json.dumps({"status": {"conditions": [unschedulable]}}),
    )
    with pytest.raises(ClusterTimeoutError) as caught:
        await task
    assert "What stands in its way: head pod" in show(caught.value)
    assert "is left for inspection" in scene.text
    assert scene.cluster(spec.name)

    # Deleting fails loudly when something stays, and names it.
    kubernetes.kubectl(
        *("patch", "raycluster", spec.name, "-n", namespace, "--type=merge", "-p"),
        '{"metadata":{"finalizers":["example.com/stays"]}}',
    )
    again = {"name": spec.name, "namespace": namespace, "release": spec.name, "helm": scene.helm}
    with pytest.raises(ClusterTimeoutError) as stays:
        await delete_cluster(scene.access, **again, who=Leaving(), timeout=3)
    assert f"RayCluster {spec.name} (held by finalizers example.com/stays)" in show(stays.value)
    kubernetes.kubectl(
        "patch", "raycluster", spec.name, "-n", namespace, "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )
    await delete_cluster(scene.access, **again, who=Leaving(), timeout=300)
    assert left_over(scene) == []


@pytest.fixture
def scaled_to_zero(kubernetes: Kubernetes) -> Iterator[None]:
    """A release of the operator that wants no pod."""
    where = ("-n", OPERATOR_NAMESPACE)
    chart = str(kubernetes.operator_chart)
    install = ("install", OPERATOR_RELEASE, chart, "--skip-crds", "--set", "replicas=0", "--create-namespace")
    kubernetes.helm(*install, *where)
    yield
    kubernetes.helm("uninstall", OPERATOR_RELEASE, *where)


async def test_an_operator_that_is_scaled_to_zero(kubernetes, namespace, scaled_to_zero):
    scene = Scene(kubernetes, namespace)
    with pytest.raises(ClusterFailedError) as caught:
        await scene.set_up(scene.spec(HEAD_ONLY))
    assert "The KubeRay operator is scaled to zero (Deployment kuberay-system/kuberay-operator)" in show(caught.value)
    assert left_over(scene) == []
    # Who may not look at Deployments is told what can be known.
    kubeconfig = kubernetes.service_account_kubeconfig(namespace, ROLE)
    scene = Scene(kubernetes, namespace, kubeconfig=kubeconfig)
    with pytest.raises(ClusterFailedError) as caught:
        await scene.set_up(scene.spec(HEAD_ONLY), operator_seconds=3)
    assert "no KubeRay operator has taken notice of RayCluster" in show(caught.value)
    assert caught.value.data["cause"] == "operator not running"
    assert left_over(scene) == []
