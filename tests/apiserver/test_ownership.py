"""Whose a cluster is: other runs, other tools and the autoscaler have what is theirs; by which access makes no difference."""

from __future__ import annotations

import asyncio
import json

import pytest
import yaml

from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.clusters.lifecycle.removal import Leaving
from ray_provider.exceptions import ClusterError, ConfigurationError, HelmError
from tests.kubernetes.clusters import HEAD_AND_WORKER, HEAD_ONLY, MANIFEST, Scene, values


#: The other Helm gets the same arguments from us: `make test` has the one that is newer.
@pytest.mark.parametrize("helm", [pytest.param("helm3", marks=pytest.mark.slow), "helm4"])
async def test_an_update_leaves_the_autoscalers_replicas_alone(kubernetes, namespace, helm):
    scene = Scene(kubernetes, namespace, helm=getattr(kubernetes, helm))
    autoscaled = values(
        HEAD_AND_WORKER,
        head__enableInTreeAutoscaling=True,
        head__autoscalerOptions={
            "version": "v2",
            "idleTimeoutSeconds": 600,
            "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
        },
        worker__replicas=0,
        worker__minReplicas=0,
        worker__maxReplicas=3,
    )
    handle = (await scene.apply(scene.spec(autoscaled, name="ray-scaled"))).handle
    # As the autoscaler does it, in its own name.
    kubernetes.kubectl(
        *("patch", "raycluster", handle.name, "-n", namespace, "--type=json", "--field-manager=ray-autoscaler", "-p"),
        json.dumps([{"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 2}]),
    )
    changed = values(autoscaled, annotations={"example.com/note": "changed"}, worker__maxReplicas=4)
    await scene.apply(scene.spec(changed, name="ray-scaled", update_if_exists=True))
    spec = scene.cluster(handle.name)["spec"]["workerGroupSpecs"][0]
    assert (spec["replicas"], spec["maxReplicas"]) == (2, 4)
    await scene.delete(handle)


async def test_two_runs_at_once_do_not_meet(kubernetes, namespace):
    scenes = [Scene(kubernetes, namespace), Scene(kubernetes, namespace, helm=kubernetes.helm4)]
    handles = [made.handle for made in await asyncio.gather(*(scene.apply(scene.spec(HEAD_ONLY)) for scene in scenes))]
    assert handles[0].name != handles[1].name
    assert await scenes[0].delete(handles[0]) is True
    assert scenes[0].left(handles[0].name) == []
    assert scenes[1].cluster(handles[1].name)["metadata"].get("deletionTimestamp") is None
    # One's handle with the other's name deletes nothing.
    with pytest.raises(ClusterError, match="left alone"):
        await scenes[0].delete(handles[1], who=Leaving(owner=handles[0].owner))
    # The same DAG and run of another Airflow is somebody else.
    with pytest.raises(ClusterError, match="left alone"):
        other = {**handles[1].owner, "airflow": "https://other.example.com"}
        await scenes[0].delete(handles[1], who=Leaving(owner=other))
    assert await scenes[1].delete(handles[1]) is True


async def test_a_cluster_that_helm_did_not_make_is_used_and_deleted_by_name(kubernetes, namespace):
    scene = Scene(kubernetes, namespace)
    kubernetes.apply(MANIFEST, namespace)
    with pytest.raises(ConfigurationError, match="was not made by Helm"):
        await scene.apply(scene.spec(ray_cluster_yaml=MANIFEST, update_if_exists=True))
    handle = (await scene.apply(scene.spec(ray_cluster_yaml=MANIFEST))).handle
    assert (handle.created, handle.release, handle.auth.kind) == (False, None, "none")
    assert await scene.delete(handle, release=handle.name, who=Leaving()) is True
    assert not kubernetes.exists("raycluster", "from-manifest", "-n", namespace)


async def test_access_by_content_and_by_token(kubernetes, namespace):
    content = yaml.safe_load(kubernetes.kubeconfig.read_text())
    token = kubernetes.token(namespace, "default")

    async def provider(refused: bool) -> str:
        return token

    for access in (
        KubernetesAccess(kubeconfig=content),
        KubernetesAccess(server=kubernetes.server, ca_data=kubernetes.ca_certificate, token_provider=provider),
    ):
        async with open_kube(access) as kube:
            assert (await kube.get("/version"))["gitVersion"].startswith("v1.")
        assert "BEGIN" not in repr(access)
        assert token not in repr(access)


async def test_helm_4_updates_what_helm_3_has_installed(kubernetes, namespace):
    """A platform moves to Helm 4 while clusters live on."""
    name = "moved"
    before, after = (Scene(kubernetes, namespace, helm=helm) for helm in (kubernetes.helm3, kubernetes.helm4))
    await before.apply(before.spec(HEAD_ONLY, name=name))
    changed = values(HEAD_ONLY, annotations={"helm": "4"})
    await after.apply(after.spec(changed, name=name, update_if_exists=True))
    assert after.cluster(name)["metadata"]["annotations"]["helm"] == "4"
    history = json.loads(kubernetes.helm("history", name, "-n", namespace, "-o", "json"))
    assert [entry["status"] for entry in history] == ["superseded", "deployed"]


async def test_what_a_helm_that_fails_has_made_is_taken_back(kubernetes, namespace, tmp_path):
    """It may have made the cluster, and its GPUs, before it failed."""
    failing = tmp_path / "helm"
    failing.write_text(
        f"""#!/bin/sh
{kubernetes.helm4} "$@" || exit $?
for word in "$@"; do
  case "$word" in install | --install) echo "Error: the connection broke" >&2; exit 1 ;; esac
done
"""
    )
    failing.chmod(0o755)
    scene = Scene(kubernetes, namespace, helm=failing)
    with pytest.raises(HelmError, match="the connection broke"):
        await scene.apply(scene.spec(HEAD_ONLY, name="broken"))
    assert scene.left("broken") == []


async def test_what_gpu_pods_need_is_brought_up_to_date_and_what_others_installed_is_left_alone(kubernetes, namespace):
    """As ``gpu_device_plugin_yaml`` has it: one object by hand, one that a module of ours hands out."""
    scene = Scene(kubernetes, namespace)

    def plugin(text: str) -> dict[str, object]:
        ours = {"app.kubernetes.io/managed-by": "airflow-ray"}
        return {
            "apiVersion": "v1",
            "kind": "List",
            "items": [
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": data}
                for name, labels, data in (("ours", ours, {"text": text}), ("theirs", {}, {"text": text}))
            ],
        }

    def texts() -> list[str]:
        found = kubernetes.kubectl(
            "get", "configmaps", "ours", "theirs", "-n", namespace, "-o", "jsonpath={.items[*].data.text}"
        )
        return found.split()

    handle = (await scene.apply(scene.spec(HEAD_ONLY, gpu_device_plugin_yaml=plugin("first")))).handle
    assert texts() == ["first", "first"]
    await scene.apply(scene.spec(HEAD_ONLY, gpu_device_plugin_yaml=plugin("second")))
    assert texts() == ["second", "first"]
    await scene.delete(handle)
