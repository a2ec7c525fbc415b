"""The operator's own installation: shared, so it is found, waited for, upgraded where Helm holds it, and put back."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_provider.clusters.lifecycle.spec import KubernetesClusterSpec
from ray_provider.exceptions import ClusterTimeoutError, ConfigurationError, KubernetesError
from tests.kubernetes.clusters import HEAD_ONLY, Scene, show
from tests.support.kubernetes import Kubernetes, until

pytestmark = pytest.mark.timeout(500)
IMAGE = "quay.io/kuberay/operator"
LABELS = {"app.kubernetes.io/name": "kuberay-operator"}


@pytest.fixture
def place(kubernetes: Kubernetes) -> Iterator[str]:
    """The operator's namespace, with nothing of it left afterwards."""
    name = f"operator-{secrets.token_hex(4)}"
    kubernetes.kubectl("create", "namespace", name)
    yield name
    kubernetes.kubectl("delete", "namespace", name, "--timeout=300s")
    for kind in ("clusterroles", "clusterrolebindings"):
        for item in kubernetes.get(kind)["items"]:
            if item["metadata"].get("annotations", {}).get("meta.helm.sh/release-namespace") == name:
                kubernetes.kubectl("delete", kind, item["metadata"]["name"])


def deployment(tag: str) -> dict[str, Any]:
    """As kustomize makes it: Helm holds nothing of it."""
    pod = {"containers": [{"name": "operator", "image": f"{IMAGE}:{tag}"}]}
    template = {"metadata": {"labels": LABELS}, "spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "kuberay-operator", "labels": LABELS},
        "spec": {"replicas": 1, "selector": {"matchLabels": LABELS}, "template": template},
    }


def runs(kubernetes: Kubernetes, place: str) -> None:
    """Say of the Deployment, as its controller would, that its pod runs."""
    found = kubernetes.get("deployment", "kuberay-operator", "-n", place)
    status = {"observedGeneration": found["metadata"]["generation"], "replicas": 1, "availableReplicas": 1}
    kubernetes.kubectl(
        *("patch", "deployment", "kuberay-operator", "-n", place, "--subresource=status", "--type=merge", "-p"),
        json.dumps({"status": {**status, "readyReplicas": 1, "updatedReplicas": 1}}),
    )


@pytest.fixture
def without_definitions(kubernetes: Kubernetes, tmp_path: Path) -> Path:
    """The operator's chart for who has the definitions: the API server works for seconds on each that is applied."""
    chart = tmp_path / "kuberay-operator"
    shutil.copytree(kubernetes.operator_chart, chart, ignore=shutil.ignore_patterns("crds"))
    return chart


def spec_of(scene: Scene, mode: str, seconds: float, chart: Path | None = None) -> KubernetesClusterSpec:
    chart = chart or scene.kubernetes.operator_chart
    spec = scene.spec(HEAD_ONLY, kuberay_operator=mode, operator_chart=str(chart))
    assert spec.operator_chart is not None
    return replace(spec, operator_chart=replace(spec.operator_chart, timeout_seconds=seconds))


async def test_an_operator_that_does_not_run_is_waited_for_and_its_pod_says_why(kubernetes, namespace, place):
    scene = Scene(kubernetes, namespace)
    kubernetes.apply(deployment("v1.6.1"), place)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator-1", "labels": LABELS}}
    kubernetes.apply({**pod, "spec": deployment("v1.6.1")["spec"]["template"]["spec"]}, place)
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    state = {"name": "operator", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0}
    kubernetes.kubectl(
        *("patch", "pod", "operator-1", "-n", place, "--subresource=status", "--type=merge", "-p"),
        json.dumps({"status": {"phase": "Pending", "containerStatuses": [{**state, "state": {"waiting": waiting}}]}}),
    )
    with pytest.raises(ClusterTimeoutError, match="did not become available") as caught:
        await scene.apply(spec_of(scene, "install", 3.0))
    assert "image" in show(caught.value)
    assert IMAGE in str(caught.value)
    # It comes up while it is waited for.
    setting_up = asyncio.create_task(scene.apply(spec_of(scene, "install", 300.0)))
    while scene.text.count("does not run yet: waiting for it") < 2:
        await asyncio.sleep(0.05)
    runs(kubernetes, place)
    handle = (await setting_up).handle
    assert await scene.delete(handle) is True


async def test_an_operator_that_helm_does_not_hold_is_not_upgraded_by_it(kubernetes, namespace, place):
    scene = Scene(kubernetes, namespace)
    kubernetes.apply(deployment("v1.5.1"), place)
    runs(kubernetes, place)

    def definitions() -> list[str]:
        return [item["metadata"]["resourceVersion"] for item in kubernetes.get("crds")["items"]]

    before = definitions()
    with pytest.raises(ConfigurationError, match="was not installed by Helm") as caught:
        await scene.apply(spec_of(scene, "upgrade", 5.0))
    assert "Nothing was changed" in show(caught.value)
    assert "config/default?ref=v1.6.1" in str(caught.value)
    assert definitions() == before
    assert kubernetes.get("secrets", "-n", place, "-l", "owner=helm")["items"] == []


async def test_what_another_installation_left_is_shared_and_nobody_is_told_to_delete_it(
    kubernetes, namespace, without_definitions
):
    """Its Deployment is away for now. Before: "delete what is there"."""
    scene = Scene(kubernetes, namespace)
    theirs = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "kuberay-operator"},
        "rules": [],
    }
    kubernetes.apply(theirs, namespace)
    try:
        with pytest.raises(ConfigurationError, match="ClusterRole 'kuberay-operator'") as caught:
            await scene.apply(spec_of(scene, "install", 5.0, without_definitions))
        assert "It is shared: it is left alone" in show(caught.value)
        assert "delete" not in str(caught.value).lower()
        assert "uninstall" not in str(caught.value).lower()
        role = kubernetes.get("clusterrole", "kuberay-operator")
        assert "meta.helm.sh/release-name" not in role["metadata"].get("annotations", {})
    finally:
        kubernetes.kubectl("delete", "clusterrole", "kuberay-operator")


async def test_an_upgrade_goes_to_the_release_that_holds_it_and_back_if_it_does_not_come_up(
    kubernetes, namespace, place, without_definitions
):
    scene = Scene(kubernetes, namespace)
    chart = str(kubernetes.operator_chart)
    kubernetes.helm("install", "ops", chart, "-n", place, "--skip-crds", "--set", "image.tag=v1.5.1")
    runs(kubernetes, place)

    def image() -> str:
        found = kubernetes.get("deployment", "kuberay-operator", "-n", place)
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"])

    upgrading = asyncio.create_task(scene.apply(spec_of(scene, "upgrade", 8.0)))
    await asyncio.to_thread(until, lambda: image().endswith("v1.6.1"), 180, "the new version")
    await asyncio.to_thread(until, lambda: image().endswith("v1.5.1"), 180, "the former version")
    runs(kubernetes, place)
    with pytest.raises(ClusterTimeoutError, match="was rolled back") as caught:
        await upgrading
    assert "The former version runs again" in show(caught.value)
    assert [entry["name"] for entry in json.loads(kubernetes.helm("list", "-n", place, "-o", "json"))] == ["ops"]
    # And where it does come up.
    upgrading = asyncio.create_task(scene.apply(spec_of(scene, "upgrade", 300.0, without_definitions)))
    await asyncio.to_thread(until, lambda: image().endswith("v1.6.1"), 180, "the new version")
    runs(kubernetes, place)
    handle = (await upgrading).handle
    assert "Helm release 'ops'" in scene.text
    assert await scene.delete(handle) is True


async def test_a_namespace_that_is_ending_is_named(kubernetes, namespace):
    ending = f"{namespace}-ending"
    kubernetes.kubectl("create", "namespace", ending)
    held = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "finalizers": ["example.com/hold"]}}
    kubernetes.apply(held, ending)
    kubernetes.kubectl("delete", "namespace", ending, "--wait=false")
    scene = Scene(kubernetes, ending)
    try:
        with pytest.raises(KubernetesError) as caught:
            await scene.apply(scene.spec(HEAD_ONLY))
        assert f"The namespace {ending!r} is being deleted" in show(caught.value)
    finally:
        patch = json.dumps({"metadata": {"finalizers": None}})
        kubernetes.kubectl("patch", "configmap", "c", "-n", ending, "--type=merge", "-p", patch)
