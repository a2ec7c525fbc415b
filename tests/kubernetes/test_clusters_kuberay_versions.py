"""Other KubeRays (``make test-kuberay-matrix``): what older ones lack is said in words, and the rest works."""

from __future__ import annotations

import asyncio
import os

import pytest

from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint
from ray_provider.clusters.kuberay.operator import probe
from ray_provider.clusters.kuberay.rayjob import RayJobOptions
from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.clusters.lifecycle.rayjob import RayJobSpec, create_job, delete_job, find_jobs
from ray_provider.clusters.lifecycle.rayjob_start import StartOptions, wait_started
from ray_provider.clusters.rayservice.blue_green.promotion import promote, roll_back
from ray_provider.clusters.rayservice.blue_green.removal import delete_both
from ray_provider.exceptions import ConfigurationError
from ray_provider.jobs.client import RayJobsClient
from tests.kubernetes.clusters import HEAD_AND_WORKER, HEAD_ONLY, Scene, left_over, values
from tests.kubernetes.test_rayservice import ONE, OWNER, Pair, Shop

pytestmark = pytest.mark.timeout(1200)


async def test_the_version_is_found_out_by_what_is_known(kubernetes):
    kuberay = kubernetes.kuberay_version
    async with open_kube(Scene(kubernetes, "default").access) as kube:
        found = await probe(kube, "default")
    assert found.text == {"1.4.2": "1.4.0", "1.5.1": "1.5.1"}.get(kuberay, "1.6.0")
    assert any("token authentication" in words for words in found.lacks) == (kuberay == "1.4.2")
    assert any("upgradeStrategy" in words for words in found.lacks) == (kuberay < "1.6")


# With the version that is tested all day, the other modules say this and more.
if os.environ.get("KUBERAY_VERSION"):

    async def test_a_cluster_of_each_version(kubernetes, namespace):
        kuberay = kubernetes.kuberay_version
        scene = Scene(kubernetes, namespace)
        given = HEAD_AND_WORKER
        if kuberay == "1.4.2":
            with pytest.raises(ConfigurationError) as caught:
                await scene.set_up(scene.spec(HEAD_ONLY))
            assert "token authentication needs KubeRay 1.5.1 or newer" in str(caught.value)
            assert "lacks:" in scene.text
            given = values(given, authOptions={"mode": "disabled"})
        owner = scene.owner()  # both set-ups are one user's: another one would have to leave, too
        handle = await scene.set_up(scene.spec(given, name="ray-lasting", owner=owner))
        assert handle.auth.kind == ("none" if kuberay == "1.4.2" else "secret")
        assert "hello" in await scene.job(handle, "echo hello")
        scene.lines.clear()
        changed = values(given, worker__resources__requests__memory="600Mi")
        await scene.set_up(scene.spec(changed, name="ray-lasting", owner=owner, update_if_exists=True))
        rolled = "pods are replaced" in scene.text
        assert rolled == (kuberay >= "1.6")
        assert rolled or "can't roll changes out (1.6.0 can)" in scene.text
        assert await scene.delete(handle) is True
        assert scene.left(handle.name) == []

    async def test_a_rayjob_of_each_version(kubernetes, namespace):
        """As RunRayJob does it: KubeRay makes the cluster, the client submits, all of it is deleted."""
        scene = Scene(kubernetes, namespace)
        given = (
            values(HEAD_ONLY, authOptions={"mode": "disabled"}) if kubernetes.kuberay_version == "1.4.2" else HEAD_ONLY
        )
        spec = RayJobSpec(scene.spec(given, name="train"), RayJobOptions(job_id="job-1"))
        made = await create_job(scene.access, spec, say=scene.say)
        ready = await wait_started(scene.access, made, StartOptions(start_seconds=300), say=scene.say)
        assert "hello" in await scene.job(ready, "echo hello", submission_id="job-1")

        async def complete() -> bool:
            (state,) = await find_jobs(scene.access, namespace, spec.cluster.owner)
            return (state.deployment, state.job) == ("Complete", "SUCCEEDED")

        async with asyncio.timeout(300):
            while not await complete():
                await asyncio.sleep(0.5)
        assert await delete_job(scene.access, namespace=namespace, name="train", say=scene.say) is True
        assert left_over(scene) == []

    async def test_a_job_of_a_second_in_sidecar_mode(kubernetes, namespace):
        """Its submitter ends before the head is ready. Older ones would take the mode, and never submit."""
        scene = Scene(kubernetes, namespace)
        old = kubernetes.kuberay_version == "1.4.2"
        given = values(HEAD_ONLY, authOptions={"mode": "disabled"}) if old else HEAD_ONLY
        options = RayJobOptions(job_id="job-1", own={"submissionMode": "SidecarMode", "entrypoint": "echo hello"})
        spec = RayJobSpec(scene.spec(given, name="short"), options)
        if old:
            with pytest.raises(ConfigurationError, match="SidecarMode needs KubeRay 1.5.1 or newer"):
                await create_job(scene.access, spec, say=scene.say)
            assert left_over(scene) == []
            return
        made = await create_job(scene.access, spec, say=scene.say)
        ready = await wait_started(scene.access, made, StartOptions(start_seconds=300), say=scene.say)
        async with RayJobsClient(await kubernetes_endpoint(scene.access, ready)) as client, asyncio.timeout(300):
            while (found := await client.get("job-1")) is None or not found.is_final:
                await asyncio.sleep(0.5)
            assert found.is_success
            await asyncio.sleep(20)  # in which KubeRay, or the pod's readiness, would take it away
            assert (await client.get("job-1")) == found
        assert await delete_job(scene.access, namespace=namespace, name="short", say=scene.say) is True
        assert left_over(scene) == []

    async def test_a_rayservice_of_each_version(kubernetes, namespace):
        """Deployed, updated in place, taken back, deleted."""
        shop = Shop(kubernetes, namespace)
        given = values(ONE, authOptions={"mode": "disabled"}) if kubernetes.kuberay_version == "1.4.2" else ONE
        _, handle = await shop.deploy("one", given, "run-1", own={})
        deployed, again = await shop.deploy("two", given, "run-2", own={})
        assert (deployed.kind, again.cluster) == ("in_place", handle.cluster)
        deployed, error = await shop.deploy("bad", given, "run-3", own={})
        assert "no weights" in str(error)
        done, _ = await shop.back(deployed)
        assert done == f"The version before was put back, in the cluster {handle.cluster}. It serves."
        assert await shop.delete_all() is True
        assert left_over(shop) == []


if os.environ.get("KUBERAY_VERSION", "") >= "1.6":

    async def test_two_rayservices_take_turns_on_a_newer_version(kubernetes, namespace):
        """Blue/green: deployed, promoted, taken back, deleted."""
        pair = Pair(kubernetes, namespace)
        deployed, first = await pair.beside("one", "run-1")
        await promote(pair.access, pair.moving(first, deploy=deployed.id, timeout_seconds=0.0), say=pair.say)
        assert await pair.word() == "one"
        deployed, second = await pair.beside("two", "run-2")
        assert await pair.word() == "one", "it has no traffic until it is promoted"
        await promote(pair.access, pair.moving(second, deploy=deployed.id, timeout_seconds=0.0), say=pair.say)
        assert await pair.word() == "two"
        await asyncio.sleep(5)  # in which KubeRay would lead it back
        assert await pair.word() == "two"
        await roll_back(pair.access, pair.moving(second), say=pair.say)
        assert await pair.word() == "one"
        further = {"namespace": namespace, "name": "shop", "drain_seconds": 1.0, "say": pair.say}
        assert await delete_both(pair.access, owner=OWNER, **further) is True
        assert left_over(pair) == []
