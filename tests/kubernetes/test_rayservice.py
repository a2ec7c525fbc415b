"""RayServices on a real Kubernetes: deployed, updated both ways, taken back both ways, promoted, drained, deleted; with
clients that call all the time and count what fails: one through the API server's proxy, one in a pod."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.clusters.rayservice.blue_green.promotion import Moving, promote, roll_back, take_down
from ray_provider.clusters.rayservice.blue_green.removal import delete_both
from ray_provider.clusters.rayservice.deploy import RayServiceSpec, deploy
from ray_provider.clusters.rayservice.going_back import go_back
from ray_provider.clusters.rayservice.proof import Proof, prove
from ray_provider.clusters.rayservice.reaching import dashboard_of
from ray_provider.clusters.rayservice.record import deploy_id
from ray_provider.clusters.rayservice.removal import delete_service
from ray_provider.clusters.rayservice.resource import RayServiceOptions
from ray_provider.clusters.rayservice.waiting import WaitOptions, wait_deployed
from ray_provider.exceptions import KubernetesError, RayApiError, RayConnectionError, ServeFailedError
from ray_provider.serve.client import ServeClient
from ray_provider.serve.smoke import SmokeTest
from tests.kubernetes.clusters import HEAD_ONLY, Scene, values
from tests.support.kubernetes import Kubernetes, until
from tests.support.pod_client import LABELS, Counts, PodClient

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

CODE = """
import asyncio
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_surge_percent=100)
class Model:
    def __init__(self, word):
        if word == "bad":
            raise ValueError("no weights")
        self.word = word

    async def __call__(self, request):
        await asyncio.sleep(float(request.query_params.get("seconds", 0)))
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
#: Serve's port lets in who is named.
ONE = {
    **values(HEAD_ONLY),
    "extraObjects": [CONFIG],
    "serve": {"allowFrom": [{"podSelector": {"matchLabels": LABELS}}]},
}
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

    async def gone(self, word: str) -> int:
        """Wait until this word has not come for two seconds: kube-proxy takes its time to hear of a change.

        :return: how often it came so far.
        """
        async with asyncio.timeout(60):
            while True:
                before = self.words[word]
                await asyncio.sleep(2)
                if self.words[word] == before:
                    return before

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
        self, word: str, given: Any, run: str, *, seconds: float = 300.0, smoke=None, own=SOON, strategy="auto"
    ) -> tuple[Any, Any]:
        serve = {"name": "a", "route_prefix": "/", "import_path": "model:build", "args": {"word": word}}
        options = RayServiceOptions(json.dumps({"applications": [serve]}), own)
        cluster = replace(self.spec(given, owner=OWNER, name="shop"), is_named=True)
        spec = RayServiceSpec(cluster, options, deploy_id({**OWNER, "run_id": run}), run, strategy)
        deployed = await deploy(self.access, spec, say=self.say)
        try:
            options = WaitOptions(time.time() + seconds, scheduling_seconds=300)
            serving = await wait_deployed(self.access, deployed, options, access="proxy", say=self.say)
            proof = Proof(owner=OWNER, smoke_test=smoke, access="proxy")
            handle, _ = await prove(self.access, deployed, serving, proof, say=self.say)
        except ServeFailedError as error:
            return deployed, error
        return deployed, handle

    async def back(self, deployed: Any) -> tuple[str, float]:
        began = time.monotonic()
        return await go_back(self.access, deployed, access="proxy", say=self.say), time.monotonic() - began

    async def delete_all(self) -> bool:
        return await delete_service(
            self.access, namespace=self.namespace, name="shop", owner=OWNER, timeout=300, say=self.say
        )

    async def healthy(self, before: str) -> float:
        """Wait until Serve says in a second cluster that all runs, and give when that was, in seconds since 1970."""
        cluster = ""
        while not cluster:
            status = (await asyncio.to_thread(self.kubernetes.get, "rayservice", "shop", "-n", self.namespace))[
                "status"
            ]
            found = [
                (status.get(key) or {}).get("rayClusterName") for key in ("pendingServiceStatus", "activeServiceStatus")
            ]
            cluster = next((one for one in found if one and one != before), "")
            await asyncio.sleep(0.3)
        async with ServeClient(await dashboard_of(self.access, self.namespace, cluster, "proxy")) as client:
            while True:
                with contextlib.suppress(RayConnectionError, RayApiError):  # its head is still starting
                    found = (await client.state(retry=RetryPolicy.none())).applications.get("a")
                    if found is not None and found.status == "RUNNING":
                        return time.time()
                await asyncio.sleep(0.1)

    def clusters(self) -> list[str]:
        return self.kubernetes.kubectl("get", "rayclusters", "-n", self.namespace, "-o", "name").split()


def tell(counts: dict[str, Counts]) -> None:
    """Print what the client in the pod has counted."""
    for name, each in counts.items():
        print(f"in a pod, {name}: {each.failed} of {each.answers.total()} failed: {dict(each.answers)}")
        print(f"  kept connections closed under a request: {len(each.closed)}; failures: {each.failures}")


def assert_none_failed(counts: dict[str, Counts], *, ended: int = 0, least: int = 500) -> None:
    """Make sure that no request failed but those on a kept connection whose cluster was deleted.

    :param ended: so many such clusters were: Kubernetes leaves a connection that is there where it is.
    """
    for name, each in counts.items():
        most = ended if name.endswith(" kept") else 0
        assert each.failed + len(each.closed) <= most, (name, each.failures, each.closed)
        assert each.answers.total() > least, (name, each.answers)


@pytest.fixture
def caller(kubernetes: Kubernetes, namespace: str) -> Iterator[Callable[..., PodClient]]:
    """Starts clients in pods; they end with the test."""
    with contextlib.ExitStack() as stack:

        def start(name: str, service: str, **further: Any) -> PodClient:
            targets = {service: (service, 8000, "/")}
            return stack.enter_context(PodClient(kubernetes, namespace, targets, name, **further))

        yield start


async def test_a_service_is_updated_and_taken_back_without_a_failed_request(
    kubernetes: Kubernetes, namespace: str, caller
):
    shop = Shop(kubernetes, namespace)
    test = SmokeTest(json={"word": "one"}, timeout_seconds=30.0)
    _, handle = await shop.deploy("one", ONE, "run-1", smoke=test)
    first = handle.cluster
    assert handle.url.endswith(f"/namespaces/{namespace}/services/shop-serve-svc:8000/proxy/")
    path = f"/api/v1/namespaces/{namespace}/services/shop-serve-svc:8000/proxy/"
    client = Client(shop, path)
    inside = await asyncio.to_thread(caller, "caller", "shop-serve-svc")
    calling = asyncio.create_task(client.run())
    try:
        await asyncio.to_thread(inside.hears, "one")
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
        healthy = asyncio.create_task(shop.healthy(first))
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
        counts = await asyncio.to_thread(inside.counts)
        tell(counts)
        # From "healthy" to all traffic: no new connection comes to the version before any more.
        switched = counts["shop-serve-svc new"].last["two"] - await healthy
        print(f"by new connections, all traffic {switched:.1f} s after Serve said that all runs")
        assert switched < 30
        assert_none_failed(counts, ended=1)

        assert await shop.delete_all() is True
        await asyncio.sleep(1)
        assert client.failures, "the client counts an outage"
        counts = await asyncio.to_thread(inside.counts)
        assert all(each.failed for each in counts.values()), "so does the one in the pod"
    finally:
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        print(shop.text)
    assert shop.clusters() == []


class Pair(Shop):
    """Two services behind one of ours."""

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/services/shop:8000/proxy/"

    async def beside(self, word: str, run: str, **further: Any) -> tuple[Any, Any]:
        return await self.deploy(word, ONE, run, strategy="blue_green", **further)

    def moving(self, handle: Any, **further: Any) -> Moving:
        return Moving(self.namespace, "shop", handle.version_id, OWNER, access="proxy", **further)

    def cluster(self) -> str:
        """Where our Service leads to."""
        selector = self.kubernetes.get("service", "shop", "-n", self.namespace)["spec"]["selector"]
        return str(selector.get("ray.io/cluster"))

    async def word(self) -> str:
        """What our Service answers."""
        return await self.slow(0.0)

    async def slow(self, seconds: float) -> str:
        """One request that takes so long."""
        async with open_kube(self.access) as kube:
            return str((await kube.request("GET", self.path, query={"seconds": str(seconds)}, timeout=60.0))["word"])


async def test_two_services_take_turns_without_a_failed_request_and_kuberay_keeps_ours_right(
    kubernetes: Kubernetes, namespace: str, caller
):
    pair = Pair(kubernetes, namespace)
    deployed, first = await pair.beside("one", "run-1", smoke=SmokeTest(json={"word": "one"}))
    await promote(pair.access, pair.moving(first, deploy=deployed.id, timeout_seconds=0.0), say=pair.say)
    assert first.url.endswith("/services/shop:8000/proxy/")
    assert "shop-blue-serve-svc" in first.version_url
    client = Client(pair, pair.path)
    inside = await asyncio.to_thread(caller, "caller", "shop")
    past = await asyncio.to_thread(caller, "past", "shop-blue-serve-svc", pause=0.2)
    calling = asyncio.create_task(client.run())
    try:
        for each in (inside, past):
            await asyncio.to_thread(each.hears, "one")
        # One that does not pass its smoke test never has traffic.
        wrong = SmokeTest(json={"word": "two"}, timeout_seconds=1.0)
        deployed, error = await pair.beside("never", "run-2", smoke=wrong)
        assert "smoke test fails" in str(error)
        await pair.back(deployed)
        # A good one, in one moment; back; and there again.
        deployed, second = await pair.beside("two", "run-3", smoke=SmokeTest(json={"word": "two"}))
        assert client.words.keys() == {"one"}
        in_flight = asyncio.create_task(pair.slow(3.0))
        await asyncio.sleep(1)
        moved = time.time()
        await promote(pair.access, pair.moving(second, deploy=deployed.id, timeout_seconds=0.0), say=pair.say)
        assert await in_flight == "one"
        took = client.first["two"] - moved
        ones = await client.gone("one")
        await asyncio.sleep(5)
        assert client.words["one"] == ones, "KubeRay leads it back"
        counts = await asyncio.to_thread(inside.counts)
        in_pod = counts["shop new"].last["one"] - moved
        print(f"by new connections of a pod, all traffic {in_pod:.1f} s after the promotion began")
        assert in_pod < 10
        await roll_back(pair.access, pair.moving(second), say=pair.say)
        twos = await client.gone("two")
        await asyncio.sleep(5)
        assert (client.words["two"], client.words["one"] > ones) == (twos, True)
        await promote(pair.access, pair.moving(second), say=pair.say)
        await asyncio.sleep(5)
        assert_none_failed(await asyncio.to_thread(past.counts), least=50)
        assert await take_down(pair.access, namespace, "shop", first.version_id, drain_seconds=3.0, say=pair.say)
        counts = await asyncio.to_thread(past.counts)
        tell(counts)
        assert all(each.failed for each in counts.values()), "who calls past our Service gets no drain"

        # No task runs: somebody changes what serves by kubectl, and KubeRay makes another cluster of it.
        before = pair.cluster()
        patch = [
            {"op": "add", "path": "/spec/rayClusterConfig/headGroupSpec/template/metadata/labels/version", "value": "2"}
        ]
        where = ("rayservice", "shop-green", "-n", namespace, "--type=json")
        kubernetes.kubectl("patch", *where, "-p", json.dumps(patch))
        await asyncio.to_thread(until, lambda: pair.cluster() != before, 300, "the Service at the other cluster")
        await asyncio.to_thread(until, lambda: len(pair.clusters()) == 1, 300, "the end of the first cluster")
        await asyncio.sleep(3)
        answered = client.words.total()
        assert client.failures == [], (answered, client.words)
        assert "never" not in client.words
        assert answered > 1000, client.words
        print(f"0 of {answered} failed: {dict(client.words)}; all traffic {took:.1f} s after the promotion")
        counts = await asyncio.to_thread(inside.counts)
        tell(counts)
        assert_none_failed(counts, ended=2)
        assert "never" not in counts["shop new"].answers

        # The head that serves is lost: an outage, which the client counts, and the traffic comes back.
        kubernetes.kubectl(
            "delete", "pod", "-l", "ray.io/node-type=head", "-n", namespace, "--grace-period=0", "--force"
        )
        await asyncio.to_thread(until, lambda: client.failures, 300, "an outage that the client counts")
        twos = client.words["two"]
        await asyncio.to_thread(until, lambda: client.words["two"] > twos + 50, 300, "the traffic again")

        await asyncio.to_thread(inside.hears, "two")
        failed = {name: each.failed for name, each in (await asyncio.to_thread(inside.counts)).items()}
        assert failed["shop new"] > 0, "the client in the pod counts it, too"

        # The traffic goes away, and what is in flight ends.
        in_flight = asyncio.create_task(pair.slow(6.0))
        await asyncio.sleep(1)
        done = delete_both(pair.access, namespace=namespace, name="shop", owner=OWNER, drain_seconds=10.0, say=pair.say)
        assert await done is True
        assert await in_flight == "two"
    finally:
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        print(pair.text)
    assert pair.clusters() == []
    assert not kubernetes.exists("service", "shop", "-n", namespace)
