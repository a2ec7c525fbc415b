"""What goes wrong with Ray clusters on a real Kubernetes: each fault with the text that the user gets, and nothing left."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_provider.clusters import helm_command
from ray_provider.clusters.access import KubernetesAccess
from ray_provider.exceptions import (
    ClusterFailedError,
    ClusterTimeoutError,
    ConfigurationError,
    HelmError,
    KubernetesAccessError,
    KubernetesError,
)
from tests.kubernetes.clusters import HEAD_ONLY, Scene, values
from tests.support.kubernetes import Kubernetes, until

pytestmark = pytest.mark.timeout(240)

ROLE = Path("helm/roles/provider-role.yaml")
CHART = Path("helm/ray-cluster")


@pytest.fixture(scope="module")
def namespace(kubernetes: Kubernetes) -> Iterator[str]:
    """One for all tests here: each leaves it empty, and says so."""
    with kubernetes.namespace("clusters") as name:
        yield name


def show(error: BaseException) -> str:
    """Print an error as a user gets it (pytest -s shows it), and give it in one line for what is asserted."""
    print(f"\n--- {type(error).__name__}\n{error}")
    return " ".join(str(error).split())


def left_over(scene: Scene) -> list[str]:
    """Name the releases, and what else a cluster is made of, in the scene's namespace."""
    kinds = "rayclusters,pods,services,networkpolicies"
    objects = scene.kubernetes.kubectl("get", kinds, "-n", scene.namespace, "-o", "name").split()
    return scene.kubernetes.helm("list", "-a", "-q", "-n", scene.namespace).split() + objects


async def test_an_image_that_does_not_exist(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    missing = values(HEAD_ONLY, image__repository="registry.invalid/no/such", image__tag="2.60.0")
    with pytest.raises(ClusterFailedError) as caught:
        await scene.set_up(scene.spec(missing), image_seconds=4, short_seconds=4)
    text = show(caught.value)
    assert "the image 'registry.invalid/no/such:2.60.0' of head pod" in text
    assert "can't be pulled" in text
    assert caught.value.data["cause"] == "image"
    assert left_over(scene) == []


async def test_a_request_bigger_than_any_node(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    huge = values(HEAD_ONLY, head__resources={"requests": {"cpu": "200", "memory": "1Gi"}, "limits": {"cpu": "200"}})
    with pytest.raises(ClusterFailedError) as caught:
        await scene.set_up(scene.spec(huge), scheduling_seconds=2)
    text = show(caught.value)
    assert "head pod" in text
    assert "it asks for cpu 200, memory 1Gi" in text
    assert "Insufficient cpu" in text
    assert left_over(scene) == []


async def test_a_spec_that_the_operator_refuses(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    # The API server takes it, and so does the chart: a cluster of a RayJob may not have an upgrade strategy.
    invalid = values(HEAD_ONLY, labels={"ray.io/originated-from-crd": "RayJob"}, upgradeStrategy={"type": "Recreate"})
    with pytest.raises(ClusterFailedError) as caught:  # and not by a time-out
        await scene.set_up(scene.spec(invalid))
    text = show(caught.value)
    assert "the KubeRay operator refuses the spec" in text
    assert caught.value.data["cause"] == "invalid spec"
    assert left_over(scene) == []


async def test_an_operator_that_is_scaled_to_zero(kubernetes, namespace):
    with kubernetes.operator_stopped():
        scene = Scene(kubernetes, namespace)
        with pytest.raises(ClusterFailedError) as caught:
            await scene.set_up(scene.spec(HEAD_ONLY))
        assert "The KubeRay operator is scaled to zero (Deployment kuberay-system/kuberay-operator)" in show(
            caught.value
        )
        assert left_over(scene) == []
        # Who may not look at Deployments is told what can be known.
        kubeconfig = kubernetes.service_account_kubeconfig(namespace, ROLE)
        scene = Scene(kubernetes, namespace, kubeconfig=kubeconfig)
        with pytest.raises(ClusterFailedError) as caught:
            await scene.set_up(scene.spec(HEAD_ONLY), operator_seconds=3)
        assert "no KubeRay operator has taken notice of RayCluster" in show(caught.value)
        assert caught.value.data["cause"] == "operator not running"
    assert left_over(scene) == []


def instead_of_ray(*command: str, **changes: object) -> dict:
    """Give values of a cluster whose head runs something else than ``ray start``."""
    own = {"head__annotations": {"ray.io/overwrite-container-cmd": "true"}, "head__command": list(command)}
    return values(HEAD_ONLY, **own, **changes)


async def test_a_head_that_is_killed_for_memory(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    small = {"requests": {"cpu": "200m", "memory": "96Mi"}, "limits": {"cpu": "2", "memory": "96Mi"}}
    # Memory taken at one stroke: a Ray that nears its limit slowly can stand still there for minutes, reading its
    # libraries over and over, before Linux gives it up.
    greedy = instead_of_ray("python", "-c", "b'x' * (1 << 30)", head__resources=small)
    with pytest.raises(ClusterFailedError) as caught:
        await scene.set_up(scene.spec(greedy), short_seconds=2)
    text = show(caught.value)
    assert "was killed for memory (OOMKilled, its limit is 96Mi" in text
    assert "a Ray head needs 2 GiB" in text
    assert left_over(scene) == []


async def test_a_head_that_runs_and_never_becomes_ready(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    idle = instead_of_ray("bash", "-c", "trap exit TERM; echo waiting for a licence; sleep 600 & wait")
    with pytest.raises(ClusterTimeoutError) as caught:
        await scene.set_up(scene.spec(idle), timeout_seconds=25)
    text = show(caught.value)
    assert "What is missing: the head. So far, the container 'ray-head' of head pod" in text
    assert "and is not ready; its last event is Unhealthy: Readiness probe failed" in text
    assert "Last lines: waiting for a licence" in text
    assert "close to its memory limit (2Gi)" in text
    assert left_over(scene) == []


async def test_a_head_whose_command_fails_shows_its_last_lines(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    broken = values(HEAD_ONLY, head__rayStartParams={"num-cpus": "1", "no-such-parameter": "1"})
    with pytest.raises(ClusterFailedError) as caught:
        await scene.set_up(scene.spec(broken), short_seconds=3)
    text = show(caught.value)
    assert "ends again and again" in text
    assert "--no-such-parameter" in text
    assert left_over(scene) == []


async def test_a_used_up_quota(kubernetes, namespace):
    with kubernetes.namespace() as own:
        await check_a_used_up_quota(kubernetes, own)


async def check_a_used_up_quota(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"requests.memory": "200Mi"}},
    }
    kubernetes.apply(quota, namespace)
    until(lambda: kubernetes.get("resourcequota", "small", "-n", namespace).get("status", {}).get("used"), 20, "quota")
    with pytest.raises(ClusterFailedError) as caught:
        await scene.set_up(scene.spec(HEAD_ONLY), short_seconds=2)
    text = show(caught.value)
    assert "exceeded quota: small" in text
    assert caught.value.data["cause"] == "quota"
    assert left_over(scene) == []


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
    assert helm_command.end_running_helms(grace=0) == 1
    with pytest.raises(HelmError) as killed:
        await task
    assert "signal" in show(killed.value)
    status = kubernetes.helm("status", name, "-n", namespace)
    assert "pending-install" in status

    # Another run of the same name does not touch it yet; the retried task mends it.
    other = scene.spec(HEAD_ONLY, name=name)
    with pytest.raises(HelmError, match="somebody works on it"):
        await scene.set_up(other)
    handle = await scene.set_up(scene.spec(HEAD_ONLY, owner=owner))
    assert "was left pending-install: mending it" in scene.text
    assert await scene.delete(handle) is True
    assert not kubernetes.exists("secret", "-n", namespace, "-l", f"owner=helm,name={name}")
    # Hooks are not part of a release.
    kubernetes.kubectl("delete", "job", "never", "-n", namespace, "--cascade=foreground", "--ignore-not-found")
    kubernetes.kubectl("wait", "--for=delete", "pod", "-l", "job-name=never", "-n", namespace, "--timeout=40s")


async def test_an_api_server_that_is_restarted_while_waiting(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    task = asyncio.create_task(scene.set_up(scene.spec(HEAD_ONLY)))
    while not any("head " in line for _, line in scene.lines):
        await asyncio.sleep(0.1)
    await asyncio.to_thread(kubernetes.restart_api_server, stay_down=3)
    handle = await task
    assert handle.created
    await scene.delete(handle)


async def test_a_set_up_that_is_cancelled_while_it_waits(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    never = values(HEAD_ONLY, image__repository="registry.invalid/no/such")
    task = asyncio.create_task(scene.set_up(scene.spec(never)))
    while not any("head " in line for _, line in scene.lines):
        await asyncio.sleep(0.1)
    task.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    # A task that is killed has 5 s until SIGKILL.
    assert time.monotonic() - began < 5
    assert left_over(scene) == []


async def test_a_failure_can_be_kept_for_inspection(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    huge = values(HEAD_ONLY, head__resources={"requests": {"cpu": "200"}, "limits": {"cpu": "200"}})
    spec = scene.spec(huge)
    with pytest.raises(ClusterTimeoutError) as caught:
        await scene.set_up(spec, keep_on_failure=True, timeout_seconds=10)
    assert "What stands in its way: head pod" in show(caught.value)
    assert "is left for inspection" in scene.text
    assert scene.cluster(spec.name)

    # Deleting fails loudly when something stays, and names it.
    kubernetes.kubectl(
        *("patch", "raycluster", spec.name, "-n", namespace, "--type=merge", "-p"),
        '{"metadata":{"finalizers":["example.com/stays"]}}',
    )
    from ray_provider.clusters.removal import delete_cluster

    again = {"name": spec.name, "namespace": namespace, "release": spec.name, "helm": scene.helm}
    with pytest.raises(ClusterTimeoutError) as stays:
        await delete_cluster(scene.access, **again, timeout=3)
    assert f"RayCluster {spec.name} (held by finalizers example.com/stays)" in show(stays.value)
    kubernetes.kubectl(
        "patch", "raycluster", spec.name, "-n", namespace, "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )
    await delete_cluster(scene.access, **again, timeout=30)
    assert left_over(scene) == []


async def test_what_a_wrong_access_says(kubernetes, namespace, tmp_path):
    import yaml

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
