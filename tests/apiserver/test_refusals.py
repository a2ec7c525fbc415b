"""What is refused before there is a pod, each with the text that the user gets, and nothing left."""

from __future__ import annotations

import asyncio
import shutil

import psutil
import pytest
import yaml

from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.exceptions import (
    ConfigurationError,
    HelmError,
    KubernetesAccessError,
    KubernetesError,
)
from tests.kubernetes.clusters import HEAD_ONLY, Scene, left_over, show, values
from tests.support.helm import CHART, ROOT
from tests.support.kubernetes import until

ROLE = ROOT / "helm" / "roles" / "provider-role.yaml"


async def test_namespaces_that_are_missing_or_forbidden(kubernetes, namespace):
    missing = Scene(kubernetes, "no-such-namespace")
    with pytest.raises(ConfigurationError) as absent:
        await missing.set_up(missing.spec(HEAD_ONLY))
    assert "The namespace 'no-such-namespace' does not exist" in show(absent.value)

    kubeconfig = kubernetes.service_account_kubeconfig(namespace, ROLE)
    with kubernetes.namespace() as elsewhere:
        scene = Scene(kubernetes, elsewhere, kubeconfig=kubeconfig)
        with pytest.raises(KubernetesAccessError) as caught:
            await scene.set_up(scene.spec(HEAD_ONLY))
        text = show(caught.value)
        assert f"system:serviceaccount:{namespace}:provider may not create rayclusters.ray.io" in text
        assert f"in namespace {elsewhere!r}" in text
        assert "provider-role.yaml" in text
        assert not caught.value.retryable
        assert left_over(scene) == []


async def test_a_field_that_the_definitions_here_do_not_know(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    newer = values(HEAD_ONLY, kuberayVersion="1.7.0", tlsOptions={"enabled": True})
    with pytest.raises(ConfigurationError) as caught:
        await scene.set_up(scene.spec(newer))
    text = show(caught.value)
    assert "Kubernetes does not know `spec.tlsOptions" in text
    assert "KubeRay 1.7.0 and newer" in text
    assert "would drop it without a word" in text
    assert left_over(scene) == []


async def test_values_that_the_chart_refuses(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    with pytest.raises(ConfigurationError) as schema:
        await scene.set_up(scene.spec(values(HEAD_ONLY, image__pullPolicy="Sometimes")))
    assert "pullPolicy" in show(schema.value)
    with pytest.raises(ConfigurationError) as groups:
        await scene.set_up(scene.spec(values(HEAD_ONLY, headOnly=False)))
    assert "The chart refuses `worker.disabled`: no worker group is left" in show(groups.value)
    with pytest.raises(ConfigurationError) as unknown:
        await scene.set_up(scene.spec(values(HEAD_ONLY, imgae={"tag": "x"}), strict=True))
    assert "The chart has no value `imgae`. Did you mean `image`?" in show(unknown.value)
    assert left_over(scene) == []
    handle = (await scene.apply(scene.spec(values(HEAD_ONLY, imgae={"tag": "x"}, head__replica=3)))).handle
    assert "`head.replica`, `imgae`" in scene.text or "`imgae`, `head.replica`" in scene.text, "told, where not strict"
    assert await scene.delete(handle) is True


async def test_charts_that_can_not_be_fetched(kubernetes, namespace, tmp_path):
    scene = Scene(kubernetes, namespace)
    with pytest.raises(HelmError) as unreachable:
        await scene.set_up(
            scene.spec(HEAD_ONLY, chart="ray-cluster", chart_repo="https://charts.invalid/", chart_version="1.6.1")
        )
    assert "The chart can't be fetched" in show(unreachable.value)
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: broken\n")
    with pytest.raises(ConfigurationError) as broken:
        await scene.set_up(scene.spec(HEAD_ONLY, chart=str(tmp_path)))
    show(broken.value)
    assert left_over(scene) == []


async def test_a_helm_killed_in_the_middle_and_the_task_retried(kubernetes, namespace, tmp_path):
    scene = Scene(kubernetes, namespace)
    # A chart whose hook never ends: Helm stays in the middle of the release until it is killed.
    chart = tmp_path / "ray-cluster"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "hook.yaml").write_text(
        """
apiVersion: batch/v1
kind: Job
metadata:
  name: never
  annotations: {helm.sh/hook: pre-install, helm.sh/hook-delete-policy: "before-hook-creation,hook-failed"}
spec:
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers: [{name: never, image: "rayproject/ray:2.60.0", command: [sleep, "600"]}]
"""
    )
    owner = scene.owner()
    task = asyncio.create_task(scene.set_up(scene.spec(HEAD_ONLY, owner=owner, chart=str(chart)), keep_on_failure=True))
    name = scene.spec(HEAD_ONLY, owner=owner).name
    await asyncio.to_thread(
        until,
        lambda: kubernetes.exists("secret", "-n", namespace, "-l", f"owner=helm,name={name},status=pending-install"),
        30,
        "release in the middle",
    )
    (helm,) = [child for child in psutil.Process().children() if name in child.cmdline()]
    helm.kill()
    with pytest.raises(HelmError) as killed:
        await task
    assert "signal" in show(killed.value)
    status = kubernetes.helm("status", name, "-n", namespace)
    assert "pending-install" in status

    # Another run of the same name does not touch it yet; the retried task mends it.
    other = asyncio.create_task(scene.apply(scene.spec(HEAD_ONLY, name=name)))
    while not other.done() and "waiting for it" not in scene.text:
        await asyncio.sleep(0.1)
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    handle = (await scene.apply(scene.spec(HEAD_ONLY, owner=owner))).handle
    assert "was left pending-install: mending it" in scene.text
    assert await scene.delete(handle) is True
    assert not kubernetes.exists("secret", "-n", namespace, "-l", f"owner=helm,name={name}")


async def test_what_a_wrong_access_says(kubernetes, namespace, tmp_path):
    def scene(content: dict) -> Scene:
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return Scene(kubernetes, namespace, kubeconfig=path)

    content = yaml.safe_load(kubernetes.kubeconfig.read_text())
    with pytest.raises(ConfigurationError) as context:
        KubernetesAccess(kubeconfig=content, context="nowhere").resolve()
    assert "The kubeconfig has no context 'nowhere'. It has:" in show(context.value)

    expired = Scene(kubernetes, namespace, kubeconfig=kubernetes.token_kubeconfig("not-a-token"))
    with pytest.raises(KubernetesAccessError) as refused:
        await expired.set_up(expired.spec(HEAD_ONLY))
    assert "does not accept our credentials (401): they have expired" in show(refused.value)
    assert "Fetch the kubeconfig anew" in str(refused.value)
    assert not refused.value.retryable

    content["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    away = scene(content)
    with pytest.raises(KubernetesError) as unreachable:
        await away.set_up(away.spec(HEAD_ONLY))
    assert "The Kubernetes API server at 127.0.0.1:1 can't be reached" in show(unreachable.value)
    assert unreachable.value.retryable
    assert left_over(away) == []


async def test_a_helm_that_is_missing_or_too_old(kubernetes, namespace, tmp_path):
    old = tmp_path / "helm"
    old.write_text("#!/bin/sh\necho v3.8.1\n")
    old.chmod(0o700)
    for path, words in ((old, "is too old: 3.13.0 is needed"), (tmp_path / "nowhere", "Install Helm")):
        scene = Scene(kubernetes, namespace, helm=path)
        with pytest.raises(ConfigurationError) as caught:
            await scene.set_up(scene.spec(HEAD_ONLY))
        assert words in show(caught.value)
    assert left_over(scene) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"given": "image: [unclosed"}, "not valid YAML in line 1"),
        ({"given": HEAD_ONLY, "name": "x" * 54}, "has 54 characters: KubeRay allows 1 to 53"),
        ({"ray_cluster_yaml": "kind: RayJob\napiVersion: ray.io/v1\nmetadata: {name: x}"}, "and holds: RayJob"),
        ({"ray_cluster_yaml": "a: ["}, "not valid YAML"),
        ({"given": HEAD_ONLY, "chart": "./no-such-chart"}, "no-such-chart"),
    ],
)
def test_what_is_refused_before_kubernetes_is_asked(kubernetes, namespace, options, words):
    scene = Scene(kubernetes, namespace)
    with pytest.raises(ConfigurationError) as caught:
        scene.spec(options.pop("given", None), **options)
    assert words in show(caught.value)
    assert not caught.value.retryable
