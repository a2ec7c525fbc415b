"""A RayService on a real Kubernetes: deployed, updated both ways, taken back both ways, deleted; with a client that calls
all the time and counts what fails."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.clusters.rayservice.deploy import RayServiceSpec, deploy
from ray_provider.clusters.rayservice.going_back import go_back
from ray_provider.clusters.rayservice.proof import Proof, prove
from ray_provider.clusters.rayservice.record import deploy_id
from ray_provider.clusters.rayservice.removal import delete_service
from ray_provider.clusters.rayservice.resource import RayServiceOptions
from ray_provider.clusters.rayservice.waiting import WaitOptions, wait_deployed
from ray_provider.exceptions import KubernetesError, ServeFailedError
from ray_provider.serve.smoke import SmokeTest
from tests.kubernetes.clusters import HEAD_ONLY, Scene, values
from tests.support.kubernetes import Kubernetes

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

CODE = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_surge_percent=100)
class Model:
    def __init__(self, word):
        if word == "bad":
            raise ValueError("no weights")
        self.word = word

    async def __call__(self, request):
        return {"word": self.word}

def build(args):
    return Model.bind(args["word"])
"""
CODE_OF = {
    "containerEnv": [{"name": "PYTHONPATH", "value": "/code"}],
    "volumes": [{"name": "code", "configMap": {"name": "shop-code"}}],
    "volumeMounts": [{"name": "code", "mountPath": "/code"}],
}
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop-code"}, "data": {"model.py": CODE}}
ONE = {**values(HEAD_ONLY), "extraObjects": [CONFIG]}
ONE["head"] = {**ONE["head"], **CODE_OF}
#: A cluster that has lost the traffic goes after so many seconds.
SOON = {"rayClusterDeletionDelaySeconds": 10}
OWNER = {"dag_id": "dag", "task_id": "deploy", "map_index": -1, "airflow": "here"}


@dataclass
class Client:
    """Calls all the time, by new connections and by one that is kept, and counts."""

    scene: Scene
    path: str
    words: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    first: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        await asyncio.gather(self.keep(), self.anew())

    async def keep(self) -> None:
        async with open_kube(self.scene.access) as kube:
            while True:
                await self.call(kube)

    async def anew(self) -> None:
        while True:
            async with open_kube(self.scene.access) as kube:
                await self.call(kube)
            await asyncio.sleep(0.05)

    async def call(self, kube: Any) -> None:
        try:
            answer = await kube.request("GET", self.path, timeout=20.0)
        except KubernetesError as error:
            self.failures.append(error.message[:200])
        else:
            self.words[answer["word"]] += 1
            self.first.setdefault(answer["word"], time.time())
        await asyncio.sleep(0.03)


class Shop(Scene):
    """One service."""

    async def deploy(
        self, word: str, given: Any, run: str, *, seconds: float = 240.0, smoke=None, own=SOON
    ) -> tuple[Any, Any]:
        serve = {"name": "a", "route_prefix": "/", "import_path": "model:build", "args": {"word": word}}
        options = RayServiceOptions(json.dumps({"applications": [serve]}), own)
        cluster = replace(self.spec(given, owner=OWNER, name="shop"), is_named=True)
        spec = RayServiceSpec(cluster, options, deploy_id({**OWNER, "run_id": run}), run)
        deployed = await deploy(self.access, spec, say=self.say)
        try:
            options = WaitOptions(time.time() + seconds, scheduling_seconds=120)
            serving = await wait_deployed(self.access, deployed, options, how="proxy", say=self.say)
            proof = Proof(owner=OWNER, smoke_test=smoke, how="proxy")
            handle, _ = await prove(self.access, deployed, serving, proof, say=self.say)
        except ServeFailedError as error:
            return deployed, error
        return deployed, handle

    async def back(self, deployed: Any) -> tuple[str, float]:
        began = time.monotonic()
        return await go_back(self.access, deployed, how="proxy", say=self.say), time.monotonic() - began

    async def delete_all(self) -> bool:
        return await delete_service(
            self.access, namespace=self.namespace, name="shop", owner=OWNER, timeout=120, say=self.say
        )

    def clusters(self) -> list[str]:
        return self.kubernetes.kubectl("get", "rayclusters", "-n", self.namespace, "-o", "name").split()


async def test_a_service_is_updated_and_taken_back_without_a_failed_request(kubernetes: Kubernetes, namespace: str):
    shop = Shop(kubernetes, namespace)
    test = SmokeTest(json={"word": "one"}, timeout_seconds=30.0)
    _, handle = await shop.deploy("one", ONE, "run-1", smoke=test)
    first = handle.cluster
    assert handle.url.endswith(f"/namespaces/{namespace}/services/shop-serve-svc:8000/proxy/")
    path = f"/api/v1/namespaces/{namespace}/services/shop-serve-svc:8000/proxy/"
    client = Client(shop, path)
    calling = asyncio.create_task(client.run())
    try:
        # In place: a good one, a bad one.
        deployed, handle = await shop.deploy("two", ONE, "run-2")
        assert (deployed.kind, handle.cluster) == ("in_place", first)
        deployed, error = await shop.deploy("bad", ONE, "run-3")
        assert "no weights" in str(error)
        done, took = await shop.back(deployed)
        assert (deployed.kind, done) == (
            "in_place",
            f"The version before was put back, in the cluster {first}. It serves.",
        )
        in_place = took

        # By a second cluster: a bad one, a good one, and one whose smoke test fails after the switch.
        other = {**ONE, "head": {**ONE["head"], "labels": {"version": "2"}}}
        deployed, error = await shop.deploy("bad", other, "run-4")
        assert deployed.kind == "new_cluster"
        assert "no weights" in str(error)
        done, took = await shop.back(deployed)
        assert done == f"The version before was put back, in the cluster {first}. It serves."
        assert took < 20, "no third cluster"
        deployed, handle = await shop.deploy("three", other, "run-5")
        second = handle.cluster
        assert (deployed.kind, second != first) == ("new_cluster", True)
        wrong = SmokeTest(json={"word": "five"}, timeout_seconds=1.0)
        third = {**ONE, "head": {**ONE["head"], "labels": {"version": "3"}}}
        deployed, error = await shop.deploy("four", third, "run-6", smoke=wrong)
        assert "smoke test fails" in str(error)
        promoted_back, back_took = await shop.back(deployed)
        assert f"in the cluster {second}" in promoted_back
        await asyncio.sleep(2)
        failed, answered = list(client.failures), client.words.total()
        assert client.words["four"] > 0, "it had the traffic"
        assert failed == [], (answered, client.words)
        assert answered > 1000, client.words
        print(f"0 of {answered} failed: {dict(client.words)}; back in {in_place:.1f}, {took:.1f}, {back_took:.1f} s")

        assert await shop.delete_all() is True
        await asyncio.sleep(1)
        assert client.failures, "the client counts an outage"
    finally:
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        print(shop.text)
    assert shop.clusters() == []
