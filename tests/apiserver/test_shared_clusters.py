"""Two runs and one name: at the same moment, one after the other, and on what others left."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.clusters.lifecycle import contention, users
from ray_provider.clusters.lifecycle.removal import Leaving
from ray_provider.exceptions import ClusterError, ClusterTimeoutError
from tests.kubernetes.clusters import HEAD_ONLY, Scene, values
from tests.support.kubernetes import Kubernetes, until

pytestmark = pytest.mark.timeout(600)
HOLD = "example.com/hold"


def scenes(kubernetes: Kubernetes, namespace: str, helm: str) -> tuple[Scene, Scene]:
    """Two runs of a DAG."""
    first, second = (Scene(kubernetes, namespace, helm=getattr(kubernetes, helm)) for _ in range(2))
    return first, second


#: The other Helm gets the same arguments from us: `make test` has the one that is newer.
@pytest.mark.parametrize("helm", [pytest.param("helm3", marks=pytest.mark.slow), "helm4"])
async def test_at_the_same_moment_one_makes_it_both_use_it_and_the_last_one_deletes_it(kubernetes, namespace, helm):
    name = "race"
    both = scenes(kubernetes, namespace, helm)
    made = await asyncio.gather(
        *(
            scene.apply(scene.spec(values(HEAD_ONLY, annotations={"by": str(i)}), name=name))
            for i, scene in enumerate(both)
        )
    )
    winner, loser = sorted(range(2), key=lambda i: not made[i].handle.created)
    assert [made[winner].handle.created, made[loser].handle.created] == [True, False]
    # The loser changed nothing of it: one revision, with the winner's values.
    history = json.loads(kubernetes.helm("history", name, "-n", namespace, "-o", "json"))
    assert [entry["revision"] for entry in history] == [1]
    cluster = both[0].cluster(name)
    assert cluster["metadata"]["annotations"]["by"] == str(winner)
    assert len(users.users_of(cluster["metadata"])) == 2

    assert await both[winner].delete(made[winner].handle) is False
    assert made[loser].handle.owner["run_id"] in both[winner].text
    assert both[0].cluster(name)["metadata"].get("deletionTimestamp") is None
    assert await both[loser].delete(made[loser].handle) is True
    assert both[0].left(name) == []


def hold(kubernetes: Kubernetes, namespace: str, name: str, finalizers: list[str]) -> None:
    """Keep a RayCluster that is deleted, as one whose pods take their time; or let it go."""
    patch = json.dumps({"metadata": {"finalizers": finalizers}})
    kubernetes.kubectl("patch", "raycluster", name, "-n", namespace, "--type=merge", "-p", patch)


@pytest.mark.parametrize("helm", [pytest.param("helm3", marks=pytest.mark.slow), "helm4"])
async def test_the_next_run_waits_for_the_end_of_the_one_before(kubernetes, namespace, helm):
    name = "next"
    before, after = scenes(kubernetes, namespace, helm)
    first = (await before.apply(before.spec(HEAD_ONLY, name=name))).handle
    uid = before.cluster(name)["metadata"]["uid"]
    hold(kubernetes, namespace, name, [HOLD])
    deleting = asyncio.create_task(before.delete(first))
    while not before.cluster(name)["metadata"].get("deletionTimestamp"):
        await asyncio.sleep(0.05)
    setting_up = asyncio.create_task(after.apply(after.spec(HEAD_ONLY, name=name)))
    while "is being deleted: waiting for its end" not in after.text:
        await asyncio.sleep(0.05)
    assert not setting_up.done()
    hold(kubernetes, namespace, name, [])
    second = (await setting_up).handle
    assert await deleting is True
    assert second.created is True
    cluster = after.cluster(name)
    assert cluster["metadata"]["uid"] != uid
    assert cluster["metadata"].get("deletionTimestamp") is None
    assert await after.delete(second) is True
    assert after.left(name) == []


async def test_kuberay_clears_redis_before_the_release_takes_it_away(kubernetes, namespace, operator):
    scene, name = Scene(kubernetes, namespace), "with-redis"
    redis = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "{{ .Release.Name }}-redis"},
        "spec": {"ports": [{"port": 6379}], "selector": {"app": "redis"}},
    }
    given = values(
        HEAD_ONLY, gcsFaultTolerance={"enabled": True, "redisAddress": f"{name}-redis:6379"}, extraObjects=[redis]
    )
    handle = (await scene.apply(scene.spec(given, name=name))).handle
    finalizer = "ray.io/gcs-ft-redis-cleanup-finalizer"
    until(lambda: finalizer in scene.cluster(name)["metadata"].get("finalizers", []), 300, "finalizer")
    # A deletion that is given too little time names what is not done, and leaves Redis to it.
    with pytest.raises(ClusterTimeoutError, match="clean-up of Redis is not done"):
        await scene.delete(handle, timeout=3.0)
    assert f"KubeRay clears what Ray cluster {namespace}/{name} kept in Redis, before anything else goes" in scene.text
    assert kubernetes.exists("service", f"{name}-redis", "-n", namespace)
    deleting = asyncio.create_task(scene.delete(handle, timeout=None))
    await asyncio.sleep(1)
    assert kubernetes.exists("service", f"{name}-redis", "-n", namespace)
    assert not deleting.done()
    # What its kubelet would tell of the job that clears Redis.
    (job,) = await asyncio.to_thread(until, lambda: kubernetes.get("jobs", "-n", namespace)["items"], 30, "job")
    now = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    done = [
        {"type": kind, "status": "True", "lastTransitionTime": now, "lastProbeTime": now}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    status = {"status": {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": done}}
    kubernetes.kubectl(
        *("patch", "job", job["metadata"]["name"], "-n", namespace, "--subresource=status", "--type=merge", "-p"),
        json.dumps(status),
    )
    assert await deleting is True
    assert not kubernetes.exists("service", f"{name}-redis", "-n", namespace)
    assert scene.left(name) == []


async def test_a_release_whose_cluster_is_gone_is_made_anew_by_its_dag_and_told_to_others(
    kubernetes, namespace, monkeypatch
):
    monkeypatch.setattr(contention, "_ORPHAN_SECONDS", 3.0)
    scene, name = Scene(kubernetes, namespace), "orphan"
    await scene.apply(scene.spec(HEAD_ONLY, name=name))
    kubernetes.kubectl("delete", "raycluster", name, "-n", namespace)
    other = {**scene.owner(), "dag_id": "other"}
    with pytest.raises(ClusterError, match="its RayCluster is not") as caught:
        await scene.apply(scene.spec(HEAD_ONLY, name=name, owner=other))
    assert f"helm -n {namespace} uninstall {name}" in str(caught.value)
    # The next run of the same DAG.
    again = (await scene.apply(scene.spec(HEAD_ONLY, name=name))).handle
    assert again.created is True
    assert "made anew" in scene.text
    assert await scene.delete(again) is True
    assert scene.left(name) == []


async def test_a_fresh_pending_release_of_another_run_is_waited_for_and_a_stale_one_is_mended(
    kubernetes, namespace, monkeypatch
):
    scene, name = Scene(kubernetes, namespace), "pending"
    first = (await scene.apply(scene.spec(HEAD_ONLY, name=name))).handle
    secret = f"sh.helm.release.v1.{name}.v1"

    def mark(status: str) -> None:
        patch = json.dumps({"metadata": {"labels": {"status": status}}})
        kubernetes.kubectl("patch", "secret", secret, "-n", namespace, "--type=merge", "-p", patch)

    release = _release_with(kubernetes, namespace, secret, "pending-install")
    waiting = asyncio.create_task(scene.apply(scene.spec(HEAD_ONLY, name=name)))
    async with asyncio.timeout(300):
        while "waiting for it" not in scene.text:
            await asyncio.sleep(0.1)
    await asyncio.sleep(3)
    assert not waiting.done()
    assert first.owner["run_id"] in scene.text
    _put_release(kubernetes, namespace, secret, release)
    mark("deployed")
    found = (await waiting).handle
    assert found.created is False
    # Where nobody works on it any more, it is mended, and made by the one who asks.
    assert await scene.delete(found) is False
    _release_with(kubernetes, namespace, secret, "pending-install")
    monkeypatch.setattr(contention, "STALE_RELEASE_SECONDS", 0.0)
    third = (await scene.apply(scene.spec(HEAD_ONLY, name=name))).handle
    assert third.created is True
    assert await scene.delete(third, who=Leaving(owner=third.owner, force=True)) is True
    assert scene.left(name) == []


def _release_with(kubernetes: Kubernetes, namespace: str, secret: str, status: str) -> str:
    """Write a status into a release, as a Helm does that is at work or was killed; gives what it was."""
    import base64
    import gzip

    before = kubernetes.get("secret", secret, "-n", namespace)["data"]["release"]
    release = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(before))))
    release["info"]["status"] = status
    packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release).encode()))).decode()
    _put_release(kubernetes, namespace, secret, packed)
    patch = json.dumps({"metadata": {"labels": {"status": status}}})
    kubernetes.kubectl("patch", "secret", secret, "-n", namespace, "--type=merge", "-p", patch)
    return str(before)


def _put_release(kubernetes: Kubernetes, namespace: str, secret: str, packed: str) -> None:
    patch = json.dumps({"data": {"release": packed}})
    kubernetes.kubectl("patch", "secret", secret, "-n", namespace, "--type=merge", "-p", patch)


async def test_an_ended_entry_counts_as_none_a_renewed_one_counts_and_force_asks_nobody(kubernetes, namespace):
    from ray_provider.clusters.lifecycle.renewal import renew_use

    scene, name = Scene(kubernetes, namespace), "ended"
    first = (await scene.apply(scene.spec(HEAD_ONLY, name=name, lease_seconds=3600.0))).handle
    second = (await scene.apply(scene.spec(HEAD_ONLY, name=name))).handle
    path = f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/{name}"

    async def end_entry() -> None:
        past = users.entry(first.owner, 3600.0, datetime.now(tz=UTC) - timedelta(hours=2))
        async with open_kube(scene.access) as kube:
            await kube.merge(path, {"metadata": {"annotations": past}})

    await end_entry()
    # A job that runs on the handle renews its entry: it counts again.
    assert await renew_use(scene.access, first) is True
    assert await renew_use(scene.access, first) is False
    assert await scene.delete(second) is False
    # By its name, by a third run: others use it.
    assert await scene.delete(replace(second), who=Leaving(run=scene.owner())) is False
    await end_entry()
    third = (await scene.apply(scene.spec(HEAD_ONLY, name=name))).handle
    fourth = (await scene.apply(scene.spec(HEAD_ONLY, name=name))).handle
    assert await scene.delete(third) is False
    # The run's own entries are taken away when it deletes by name, and the ended one of the first does not count.
    assert await scene.delete(fourth, who=Leaving(run=fourth.owner)) is True
    assert scene.left(name) == []

    fifth = (await scene.apply(scene.spec(HEAD_ONLY, name=name))).handle
    await scene.apply(scene.spec(HEAD_ONLY, name=name))
    assert await scene.delete(fifth, who=Leaving(run=scene.owner(), force=True)) is True
    assert scene.left(name) == []
