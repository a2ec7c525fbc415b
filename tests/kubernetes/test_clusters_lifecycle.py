"""Ray clusters on a real Kubernetes: made, used, changed, told apart and deleted."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint
from ray_provider.clusters.kubernetes.client import Kube
from ray_provider.clusters.lifecycle.removal import Leaving
from ray_provider.exceptions import ConfigurationError, RayApiError
from ray_provider.jobs.client import RayJobsClient
from tests.kubernetes.clusters import HEAD_AND_WORKER, HEAD_ONLY, MANIFEST, ON_TWO_NODES, Scene, operator_runs, values
from tests.support.kubernetes import Kubernetes

pytestmark = pytest.mark.timeout(1200)

ROLE = Path("helm/roles/provider-role.yaml")


@pytest.fixture(scope="module")
def namespace(kubernetes: Kubernetes) -> Iterator[str]:
    """One for all tests here: each leaves it empty, and says so."""
    with kubernetes.namespace("clusters") as name:
        yield name


class ReadyTime(threading.Thread):
    """Notes when kubectl, which watches too, sees that KubeRay calls a cluster ready."""

    def __init__(self, kubernetes: Kubernetes, namespace: str, name: str) -> None:
        super().__init__(daemon=True)
        self.at: float | None = None
        self._process = subprocess.Popen(
            [kubernetes.kubectl_path, "get", "rayclusters", "-n", namespace, "-o", "json", "--watch"],
            env=kubernetes.env(),
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name_of_cluster = name
        self.start()

    def run(self) -> None:
        decoder, text = json.JSONDecoder(), ""
        assert self._process.stdout is not None
        while piece := self._process.stdout.readline():
            text += piece
            try:
                found, end = decoder.raw_decode(text)
            except ValueError:
                continue
            text = text[end:].lstrip()
            conditions = {c["type"]: c["status"] for c in (found.get("status") or {}).get("conditions", [])}
            if conditions.get("RayClusterProvisioned") == "True" and conditions.get("HeadPodReady") == "True":
                self.at = time.time()
                return

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


# By a DAG the same is done with both Helms (airflow/test_dag_clusters.py).
@pytest.mark.parametrize("helm", ["helm3", pytest.param("helm4", marks=pytest.mark.slow)])
async def test_a_cluster_is_made_used_and_deleted_and_nothing_is_left(kubernetes, namespace, helm, monkeypatch):
    # With Helm 3 as a service account that has the provider's Role and no other right.
    kubeconfig = kubernetes.service_account_kubeconfig(namespace, ROLE) if helm == "helm3" else None
    scene = Scene(kubernetes, namespace, helm=getattr(kubernetes, helm), kubeconfig=kubeconfig)
    spec = scene.spec(HEAD_AND_WORKER)
    ready_time = ReadyTime(kubernetes, namespace, spec.name)
    requests: list[tuple[float, str]] = []
    send = Kube._send

    async def counted(self, method, path, *further):
        requests.append((time.time(), f"{method} {path}"))
        return await send(self, method, path, *further)

    monkeypatch.setattr(Kube, "_send", counted)
    try:
        handle = await scene.set_up(spec)
        ready = time.time()
    finally:
        ready_time.join(5)
        ready_time.end()
    assert ready_time.at is not None
    # The dashboard has been asked in this time, too: a second on a machine that has nothing else to do.
    assert ready - ready_time.at <= 15.0
    # A list and a watch of four things, and now and then why a pod does not start: no polling.
    began = next(at for at, line in scene.lines if "Installing" in line)
    asked = [what for at, what in requests if at > began]
    assert len(asked) <= 20, asked

    assert handle.created
    assert handle.release == handle.name == spec.name
    assert "token" not in json.dumps(handle.to_dict()).replace("auth_token", "")
    assert (handle.auth.kind, handle.auth.secret_name) == ("secret", spec.name)
    labels = scene.cluster(handle.name)["metadata"]["labels"]
    assert labels["airflow-ray/dag_id"] == "dag"
    assert "ran on 2 nodes" in await scene.job(handle, ON_TWO_NODES)
    await check_that_the_token_is_wanted(scene, handle)

    # An unchanged one is a no-op that says so.
    scene.lines.clear()
    again = await scene.set_up(spec)
    assert "nothing to change" in scene.text
    assert again == handle
    assert json.loads(kubernetes.helm("history", spec.name, "-n", namespace, "-o", "json"))[-1]["revision"] == 1

    # A change that replaces no pod KubeRay never acknowledges: it is waited for briefly.
    lasting = values(HEAD_AND_WORKER, worker__resources__requests__memory="510Mi", upgradeStrategy={"type": "None"})
    before = {pod["metadata"]["uid"] for pod in scene.pods(spec.name)}
    await scene.set_up(scene.spec(lasting, owner=spec.owner))
    assert "upgradeStrategy is None" in scene.text
    assert {pod["metadata"]["uid"] for pod in scene.pods(spec.name)} == before

    # One that replaces pods is waited for until all of them are new, and ready.
    scene.lines.clear()
    tag = kubernetes.ray_image_again.rpartition(":")[2]
    worker = {"worker__resources__requests__memory": "520Mi"}
    await scene.set_up(scene.spec(values(HEAD_AND_WORKER, image__tag=tag, **worker), owner=spec.owner))
    assert "All 2 pods are replaced, as their spec changed." in scene.text
    pods = scene.pods(spec.name)
    assert len(pods) == 2
    assert not before & {pod["metadata"]["uid"] for pod in pods}
    assert all(status["ready"] for pod in pods for status in pod["status"]["containerStatuses"])
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {kubernetes.ray_image_again}
    assert "520Mi" in [pod["spec"]["containers"][0]["resources"]["requests"]["memory"] for pod in pods]

    assert await scene.delete(handle) is True
    assert scene.left(handle.name) == []
    assert await scene.delete(handle) is False
    assert operator_runs(kubernetes)


async def check_that_the_token_is_wanted(scene: Scene, handle: ClusterHandle) -> None:
    endpoint = await kubernetes_endpoint(scene.access, handle)
    secret = await endpoint.token_source(None)
    assert secret
    assert secret not in repr(endpoint)
    for token in (None, "wrong"):
        async with RayJobsClient(replace(endpoint, token=token, token_source=None)) as client:
            with pytest.raises(RayApiError):
                await client.list_jobs()
    # The other way in: a service's name, from inside.
    inside = await kubernetes_endpoint(scene.access, handle, access="service")
    assert inside.url == f"http://{handle.service}.{scene.namespace}.svc:8265"


@pytest.mark.slow  # the test above does it in the run that made the cluster
async def test_changes_are_rolled_out_and_waited_for(kubernetes, namespace):
    scene = Scene(kubernetes, namespace, helm=kubernetes.helm4)
    first = await scene.set_up(scene.spec(HEAD_ONLY, name="ray-lasting"))
    before = {pod["metadata"]["uid"] for pod in scene.pods(first.name)}
    tag = kubernetes.ray_image_again.rpartition(":")[2]
    changed = values(HEAD_ONLY, image__tag=tag)

    # Another run: without update_if_exists it uses what is there.
    scene.lines.clear()
    found = await scene.set_up(scene.spec(changed, name="ray-lasting"))
    assert found.created is False
    assert "is used as it is" in scene.text
    assert {pod["metadata"]["uid"] for pod in scene.pods(first.name)} == before

    scene.lines.clear()
    update = scene.spec(changed, name="ray-lasting", update_if_exists=True)
    second = await scene.set_up(update)
    assert second.created is False
    assert "pods are replaced" in scene.text
    (pod,) = scene.pods(first.name)
    assert pod["metadata"]["uid"] not in before
    assert pod["spec"]["containers"][0]["image"].endswith(tag)
    assert all(status["ready"] for status in pod["status"]["containerStatuses"])

    scene.lines.clear()
    await scene.set_up(update)
    assert "nothing to change" in scene.text

    # Both runs use it: the first to leave deletes nothing, though it made the cluster, and the last one does.
    assert await scene.delete(first) is False
    assert "is left to who else uses it" in scene.text
    assert await scene.delete(second) is True
    assert scene.left(first.name) == []


async def test_a_manifest_is_installed_secured_and_deleted_as_a_whole(kubernetes, namespace, tmp_path):
    scene = Scene(kubernetes, namespace)
    path = tmp_path / "cluster.yaml"
    path.write_text(MANIFEST)
    spec = scene.spec(ray_cluster_yaml=str(path))
    handle = await scene.set_up(spec)
    assert (handle.name, handle.auth.kind) == ("from-manifest", "secret")
    assert "token authentication is switched on" in scene.text
    assert scene.cluster("from-manifest")["metadata"]["labels"]["team"] == "data"
    assert "hello" in await scene.job(handle, "printenv greeting")
    assert kubernetes.exists("configmap", "settings", "-n", namespace)
    # By its name alone, as a DAG does that has no handle: the run made it.
    assert await scene.delete(handle, who=Leaving(run=handle.owner)) is True
    assert scene.left("from-manifest") == []
    assert not kubernetes.exists("configmap", "settings", "-n", namespace)


@pytest.mark.slow  # tests/apiserver/test_operator_by_helm.py does it with the same Helm
async def test_the_operator_is_asked_for_and_installed_only_when_told(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    chart = str(kubernetes.operator_chart)
    with kubernetes.without_operator():
        with pytest.raises(ConfigurationError, match="not installed") as caught:
            await scene.apply(scene.spec(HEAD_ONLY))
        assert "helm install kuberay-operator" in str(caught.value)
        handle = (await scene.apply(scene.spec(HEAD_ONLY, kuberay_operator="install", operator_chart=chart))).handle
        assert "KubeRay operator is available" in scene.text
        await scene.delete(handle)
        assert operator_runs(kubernetes)
        scene.lines.clear()
        spec = scene.spec(HEAD_ONLY, kuberay_operator="upgrade", operator_chart=chart)
        handle = (await scene.apply(spec)).handle
        assert "left as it is" in scene.text
        await scene.delete(handle)
