"""RayServices on a real API server: made, changed, put back, deleted, and by which rights.

Nobody serves here. What KubeRay would write when a cluster serves, a test writes; where its operator runs, it is KubeRay's
own. Ray's dashboard is the double of the unit tests, at an address of the connection's own.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from ray_provider.clusters.rayservice.deploy import RayServiceSpec, deploy
from ray_provider.clusters.rayservice.going_back import go_back
from ray_provider.clusters.rayservice.manifest import read_ray_service
from ray_provider.clusters.rayservice.proof import Proof, prove
from ray_provider.clusters.rayservice.record import FORMER, UPDATE, deploy_id
from ray_provider.clusters.rayservice.removal import delete_service
from ray_provider.clusters.rayservice.resource import LABEL, RayServiceOptions
from ray_provider.clusters.rayservice.waiting import WaitOptions, wait_deployed
from ray_provider.exceptions import (
    ClusterError,
    ClusterTimeoutError,
    ConfigurationError,
    KubernetesAccessError,
    ServeError,
    ServeFailedError,
)
from ray_provider.serve.smoke import SmokeTest
from tests.apiserver.test_rayjobs import Rights
from tests.kubernetes.clusters import HEAD_AND_WORKER, HEAD_ONLY, Scene, show, values
from tests.kubernetes.node import parts
from tests.support.kubernetes import Kubernetes, until

pytestmark = pytest.mark.timeout(600)

#: Ray's token would be made by the operator.
OPEN = values(HEAD_ONLY, authOptions={"mode": "disabled"})
OTHER = values(OPEN, head__labels={"version": "2"})
V1, V2 = "m:v1", "m:v2"
DAG = {"dag_id": "dag", "task_id": "deploy", "map_index": -1, "airflow": "here"}


def config(import_path: str) -> str:
    return f"applications:\n- name: a\n  route_prefix: /a\n  import_path: {import_path}\n"


class Services(Scene):
    """RayServices in a namespace."""

    def service(
        self,
        path=V1,
        given: Any = OPEN,
        *,
        run="run-1",
        owner=None,
        name="shop",
        strategy="auto",
        own=None,
        manifest=None,
    ) -> RayServiceSpec:
        owner = owner or DAG
        further = {"ray_cluster_yaml": manifest.cluster} if manifest else {}
        cluster = replace(self.spec(None if manifest else given, owner=owner, name=name, **further), is_named=True)
        options = RayServiceOptions(manifest.serve_config if manifest else config(path), own or {})
        return RayServiceSpec(cluster, options, deploy_id({**owner, "run_id": run}), run, strategy)

    async def deploy(self, path=V1, given: Any = OPEN, **further):
        return await deploy(self.access, self.service(path, given, **further), say=self.say)

    async def back(self, deployed, *, wait=False):
        return await go_back(self.access, deployed, wait=wait, access="url", say=self.say)

    async def remove(self, name="shop", **further):
        return await delete_service(
            self.access, namespace=self.namespace, name=name, say=self.say, **{"timeout": 20, **further}
        )

    def there(self, name="shop") -> dict[str, Any]:
        return self.kubernetes.get("rayservice", name, "-n", self.namespace)

    def notes(self) -> dict[str, str]:
        return self.there()["metadata"].get("annotations") or {}

    def import_path(self) -> str:
        return self.there()["spec"]["serveConfigV2"].rpartition("import_path: ")[2].strip()

    def tell(self, *, active="", pending="", reason="NonZeroServeEndpoints", name="shop") -> None:
        """Write what KubeRay writes of a service."""
        now = "2026-01-01T00:00:00Z"
        good = "True" if reason == "NonZeroServeEndpoints" else "False"
        ready = {"type": "Ready", "status": good, "reason": reason, "message": reason, "lastTransitionTime": now}
        status = {
            "observedGeneration": self.there(name)["metadata"]["generation"],
            "conditions": [ready],
            "activeServiceStatus": {"rayClusterName": active} if active else None,
            "pendingServiceStatus": {"rayClusterName": pending} if pending else None,
        }
        where = ("rayservice", name, "-n", self.namespace, "--subresource=status", "--type=merge")
        self.kubernetes.kubectl("patch", *where, "-p", json.dumps({"status": status}))

    def cluster_is_there(self, name: str, service="shop", *, ready=True) -> None:
        """Make what KubeRay makes of a service: a cluster, whose head is ready."""
        there = self.there(service)
        owner = {"apiVersion": "ray.io/v1", "kind": "RayService", "name": service, "uid": there["metadata"]["uid"]}
        labels = {"ray.io/originated-from-cr-name": service, "ray.io/originated-from-crd": "RayService"}
        meta = {"name": name, "labels": labels, "ownerReferences": [owner]}
        made = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": meta}
        self.kubernetes.apply({**made, "spec": there["spec"]["rayClusterConfig"]}, self.namespace)
        said = {"type": "HeadPodReady", "status": str(ready), "reason": "x", "message": ""}
        status = {"observedGeneration": 1, "conditions": [{**said, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        where = ("raycluster", name, "-n", self.namespace, "--subresource=status", "--type=merge")
        self.kubernetes.kubectl("patch", *where, "-p", json.dumps({"status": status}))

    def serves(self, cluster="shop-a") -> None:
        """Have the service serve in a cluster."""
        if not self.kubernetes.exists("raycluster", cluster, "-n", self.namespace):
            self.cluster_is_there(cluster)
        self.tell(active=cluster)

    def hold(self, yes: bool, name="shop") -> None:
        patch = json.dumps({"metadata": {"finalizers": ["example.com/held"] if yes else None}})
        self.kubernetes.kubectl("patch", "rayservice", name, "-n", self.namespace, "--type=merge", "-p", patch)

    def left(self) -> list[str]:
        kinds = "rayservices,rayclusters,pods,networkpolicies"
        return self.kubernetes.kubectl("get", kinds, "-n", self.namespace, "-o", "name").split()

    async def soon(self, test, what, seconds=300) -> None:
        await asyncio.to_thread(until, test, seconds, what)


@pytest.fixture
def services(kubernetes: Kubernetes, namespace: str, dashboard) -> Services:
    found = Services(kubernetes, namespace)
    found.access = replace(found.access, dashboard=dashboard.api.endpoint())
    return found


async def proven(services: Services, deployed, **further) -> dict[str, Any]:
    """Wait until it serves, and have it proven."""
    options = WaitOptions(time.time() + 20, operator_seconds=15)
    cluster = await wait_deployed(services.access, deployed, options, access="url", say=services.say)
    proof = Proof(owner=DAG, access="url", **further)
    handle, _ = await prove(services.access, deployed, cluster, proof, say=services.say)
    return handle.to_dict()


async def served(services: Services, dashboard, path=V1, given: Any = OPEN, cluster="shop-a", **further):
    """Deploy a version, and have it serve."""
    deployed = await services.deploy(path, given, **further)
    await asyncio.to_thread(services.serves, cluster)
    dashboard.api.serve.add("a", path)
    await proven(services, deployed)
    return deployed


# -- made and changed --------------------------------------------------------------------------------------------------


async def test_it_is_made_and_its_deploy_is_done_when_serve_has_it(services, dashboard):
    deployed = await services.deploy(given=HEAD_AND_WORKER)
    service = services.there()
    assert service["spec"]["serveConfigV2"] == config(V1)
    assert "upgradeStrategy" not in service["spec"]["rayClusterConfig"]
    assert json.loads(service["metadata"]["annotations"][UPDATE])["kind"] == "first"
    labels = service["metadata"]["labels"]
    assert (labels["airflow-ray/dag_id"], labels["airflow-ray/task_id"]) == ("dag", "deploy")
    assert "airflow-ray/run_id" not in labels
    policies = services.kubernetes.get("networkpolicies", "-n", services.namespace)["items"]
    assert [one["metadata"]["ownerReferences"][0]["uid"] for one in policies] == [service["metadata"]["uid"]] * 2
    for policy in policies:
        assert policy["spec"]["podSelector"]["matchLabels"][LABEL] == "shop"

    services.serves()
    dashboard.api.serve.add("a", V1)
    handle = await proven(services, deployed)
    assert (handle["name"], handle["cluster"], handle["applications"]) == ("shop", "shop-a", {"a": "/a"})
    assert not {UPDATE, FORMER} & services.notes().keys(), "nothing is at work any more"


async def test_the_next_run_updates_it_in_place_and_a_failure_puts_all_of_it_back(services, dashboard):
    await served(services, dashboard)
    before = services.there()
    deployed = await services.deploy(V2, run="run-2")
    assert (deployed.kind, deployed.active, services.import_path()) == ("in_place", "shop-a", V2)
    assert "Serve updates them in place, in the cluster shop-a" in services.text
    # Ready, current generation, and still the version before.
    services.tell(active="shop-a")
    wait = asyncio.create_task(proven(services, deployed))
    await asyncio.sleep(1.5)
    assert not wait.done(), wait
    dashboard.api.serve.applications["a"].config["import_path"] = V2
    dashboard.api.serve.applications["a"].status = "DEPLOY_FAILED"
    with pytest.raises(ServeFailedError):
        await wait
    assert "in the cluster shop-a" in await services.back(deployed)
    after = services.there()
    assert after["spec"] == before["spec"]
    assert not {UPDATE, FORMER} & services.notes().keys()
    assert after["status"]["activeServiceStatus"]["rayClusterName"] == "shop-a"


async def test_a_smoke_test_that_fails_leaves_the_way_back(services, dashboard):
    await served(services, dashboard)
    deployed = await services.deploy(V2, run="run-2")
    services.tell(active="shop-a")
    dashboard.api.serve.applications["a"].config["import_path"] = V2
    test = SmokeTest(path="nothing", status=200, timeout_seconds=1.0)
    with pytest.raises(ServeFailedError, match="does not answer|smoke test fails"):
        await proven(services, deployed, smoke_test=test, serve_url=dashboard.api.url)
    await services.back(deployed)
    assert services.import_path() == V1


async def test_a_first_deploy_is_deleted_again_and_an_update_never(services, dashboard):
    deployed = await services.deploy()
    assert "was deleted again" in await services.back(deployed, wait=True)
    await services.soon(lambda: not services.left(), "end of all of it")
    assert await services.back(deployed) == "The RayService is gone."
    await served(services, dashboard)
    assert "it is left as it is" in await services.back(deployed)
    assert services.there()["spec"]["serveConfigV2"] == config(V1)


async def test_nothing_to_change_is_told_and_proven_all_the_same(services, dashboard):
    await served(services, dashboard)
    generation = services.there()["metadata"]["generation"]
    again = await services.deploy(run="run-2")
    assert (again.kind, services.there()["metadata"]["generation"]) == ("nothing", generation)
    assert "nothing to change" in services.text
    await proven(services, again)
    assert await services.back(again) == "Nothing was changed."


async def test_a_retry_takes_over_what_a_worker_left_and_knows_the_way_back(services, dashboard):
    await served(services, dashboard)
    first = await services.deploy(V2, OTHER, run="run-2")
    again = await services.deploy(V2, OTHER, run="run-2")
    assert (again.kind, again.active, again.generation) == ("new_cluster", "shop-a", first.generation)
    # Another version by the next run: the way back is to the one that was proven.
    third = await services.deploy("m:v3", OTHER, run="run-3")
    assert "A deploy of run run-2 is at work on it" in services.text
    assert "has taken its place since" in await services.back(again)
    services.tell(active="shop-a", pending="shop-b")
    await services.back(third)
    assert services.import_path() == V1


# -- another cluster ---------------------------------------------------------------------------------------------------


def other_than(service: dict[str, Any], *names: str) -> str:
    pending = ((service.get("status") or {}).get("pendingServiceStatus") or {}).get("rayClusterName") or ""
    return "" if pending in names else pending


async def test_the_way_back_from_a_new_cluster_is_no_third_one(services, operator):
    """KubeRay's own operator: it compares with the pending cluster, unless that is taken out of the status."""
    own = {"rayClusterDeletionDelaySeconds": 1}
    await services.deploy(own=own)
    await services.soon(lambda: other_than(services.there()), "KubeRay's cluster")
    first = other_than(services.there())
    await services.soon(lambda: services.pods(first), "its pods")
    patch = {"status": {"activeServiceStatus": {"rayClusterName": first}, "pendingServiceStatus": None}}
    where = ("rayservice", "shop", "-n", services.namespace, "--subresource=status", "--type=merge")
    services.kubernetes.kubectl("patch", *where, "-p", json.dumps(patch))
    services.kubernetes.kubectl(
        "annotate", "rayservice", "shop", "-n", services.namespace, f"{UPDATE}-", "--overwrite"
    )  # as if it had served

    deployed = await services.deploy(V2, OTHER, run="run-2", own=own)
    assert deployed.kind == "new_cluster"
    assert "KubeRay makes a second one beside" in services.text
    await services.soon(lambda: other_than(services.there(), first), "second cluster")
    second = other_than(services.there(), first)
    assert f"in the cluster {first}" in await services.back(deployed)
    await services.soon(lambda: not other_than(services.there()), "end of the second cluster in the status")
    seen = set()
    until_ = time.monotonic() + 6
    while time.monotonic() < until_:
        seen.add(other_than(services.there()))
        await asyncio.sleep(0.3)
    assert seen == {""}, "a third cluster"
    assert services.there()["status"]["activeServiceStatus"]["rayClusterName"] == first
    assert services.pods(first)
    await services.soon(lambda: not services.pods(second), "end of the second cluster's pods")


async def test_one_that_was_promoted_already_goes_back_to_its_cluster_as_long_as_that_is_there(services, dashboard):
    await served(services, dashboard)
    deployed = await services.deploy(V2, OTHER, run="run-2")
    services.cluster_is_there("shop-b")
    services.tell(active="shop-b")
    assert await services.back(deployed) == "The version before was put back, in the cluster shop-a."
    assert services.there()["status"]["activeServiceStatus"] == {"rayClusterName": "shop-a"}
    services.tell(active="shop-a")
    deployed = await services.deploy(V2, OTHER, run="run-3")
    services.tell(active="shop-b")
    services.kubernetes.kubectl("delete", "raycluster", "shop-a", "-n", services.namespace)
    assert "Its cluster is gone already: KubeRay makes one anew" in await services.back(deployed)
    assert services.import_path() == V1


async def test_strategies(services, dashboard):
    await served(services, dashboard)
    generation = services.there()["metadata"]["generation"]
    with pytest.raises(ConfigurationError, match="strategy is in_place, and the cluster changes") as caught:
        await services.deploy(V2, OTHER, run="run-2", strategy="in_place")
    assert "headGroupSpec.template.metadata.labels" in show(caught.value)
    assert services.there()["metadata"]["generation"] == generation
    deployed = await services.deploy(V2, run="run-2", strategy="new_cluster")
    assert deployed.kind == "new_cluster"
    again = await services.deploy(V2, run="run-2", strategy="new_cluster")
    assert again.generation == deployed.generation, "a retry makes no further one"
    services.serves("shop-b")
    dashboard.api.serve.add("a", V2)
    await proven(services, again)
    assert (await services.deploy("m:v3", run="run-3")).kind == "in_place", "the mark goes on"


async def test_a_change_that_kuberay_would_leave_out_is_refused(services, dashboard):
    own = {"upgradeStrategy": {"type": "None"}}
    await served(services, dashboard, own=own)
    with pytest.raises(ConfigurationError, match="upgradeStrategy.type: None: KubeRay would take the change"):
        await services.deploy(V2, OTHER, run="run-2", own=own)
    assert (await services.deploy(V2, run="run-2", own=own)).kind == "in_place"


# -- refused, and whose it is ------------------------------------------------------------------------------------------


async def test_what_can_not_be_is_refused_before_anything_is_made(services, dashboard):
    with pytest.raises(ConfigurationError, match="Kubernetes does not know `spec.rayClusterDeletionDelay`"):
        await services.deploy(own={"rayClusterDeletionDelay": 1})
    extra = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "of-a-service"}}
    with pytest.raises(ConfigurationError, match="Namespace of-a-service lies outside"):
        await services.deploy(given={**OPEN, "extraObjects": [extra]})
    assert services.left() == []
    await served(services, dashboard)
    with pytest.raises(ConfigurationError, match="Kubernetes does not know `spec.rayClusterDeletionDelay`"):
        await services.deploy(V2, run="run-2", own={"rayClusterDeletionDelay": 1})
    assert services.import_path() == V1


async def test_an_object_that_is_somebody_elses_takes_a_first_deploy_back(services):
    extra = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "b"}}
    services.kubernetes.apply(extra, services.namespace)
    with pytest.raises(ClusterError, match="ConfigMap settings is there already"):
        await services.deploy(given={**OPEN, "extraObjects": [extra]})
    await services.soon(lambda: not services.left(), "end of what was made")
    assert services.kubernetes.exists("configmap", "settings", "-n", services.namespace)


async def test_whose_a_service_is(services, dashboard):
    await served(services, dashboard)
    for owner in ({**DAG, "dag_id": "other"}, {**DAG, "task_id": "other"}, {**DAG, "airflow": "there"}):
        with pytest.raises(ConfigurationError, match=r"is not this task's: it is made by dag dag, task deploy"):
            await services.deploy(V2, owner=owner)
        with pytest.raises(ClusterError, match="it is left alone"):
            await services.remove(owner=owner)
    assert services.import_path() == V1
    services.kubernetes.kubectl("label", "rayservice", "shop", "-n", services.namespace, "airflow-ray/managed-")
    with pytest.raises(ConfigurationError, match="it is not made by this provider"):
        await services.deploy(V2)


async def test_two_deploys_at_once_end_as_one_of_them_and_the_other_leaves_it_alone(services, dashboard):
    await served(services, dashboard)
    both = await asyncio.gather(services.deploy(V2, run="run-2"), services.deploy("m:v3", run="run-3"))
    holder = json.loads(services.notes()[UPDATE])["id"]
    winner = next(one for one in both if one.id == holder)
    loser = next(one for one in both if one.id != holder)
    services.tell(active="shop-a")
    with pytest.raises(ServeError, match="Somebody else has changed the RayService"):
        await wait_deployed(services.access, loser, WaitOptions(time.time() + 5), access="url", say=services.say)
    path = services.import_path()
    assert "has taken its place since" in await services.back(loser)
    assert services.import_path() == path
    await services.back(winner)
    assert services.import_path() == V1, "the one that was proven"
    # One that hears of it only when a later one has ended has changed something all the same.
    early = await services.deploy(V2, run="run-4")
    await served(services, dashboard, V1, run="run-5")
    told = await services.back(early)
    assert told == "It is no longer this deploy that the RayService is about: it is left as it is."
    assert services.import_path() == V1


async def test_one_that_kuberay_gave_up_is_made_anew(services):
    await services.deploy()
    uid = services.there()["metadata"]["uid"]
    services.tell(reason="InitializingTimeout")
    deployed = await services.deploy(run="run-2")
    assert deployed.kind == "first"
    assert services.there()["metadata"]["uid"] != uid
    assert "it is made anew" in services.text


# -- deleted -----------------------------------------------------------------------------------------------------------


async def test_deleting_waits_until_nothing_is_left(services, operator):
    await services.deploy()
    await services.soon(lambda: other_than(services.there()), "KubeRay's cluster")
    cluster = other_than(services.there())
    await services.soon(lambda: services.pods(cluster), "its pods")
    services.hold(True)
    with pytest.raises(ClusterTimeoutError, match=r"RayService shop \(held by finalizers example.com/held\)"):
        await services.remove(timeout=1)
    with pytest.raises(ClusterError, match="of before is being deleted"):
        await services.deploy(run="run-2")
    services.hold(False)
    await services.soon(lambda: not services.left(), "end of all of it")
    assert await services.remove() is False
    await services.deploy()
    await services.soon(lambda: other_than(services.there()), "KubeRay's cluster")
    await services.soon(lambda: services.pods(other_than(services.there())), "its pods")
    assert await services.remove(owner=DAG) is True
    kinds = "rayservices,rayclusters,pods"
    assert services.kubernetes.kubectl("get", kinds, "-n", services.namespace, "-o", "name").split() == []


# -- KubeRay's samples -------------------------------------------------------------------------------------------------

REFUSED = {
    "ray-service.incremental-upgrade.yaml": "NewClusterWithIncrementalUpgrade",
    "ray-service.vllm-tpu-v6e-singlehost.yaml": "does not say which Ray it is",
}


@pytest.mark.slow
async def test_every_sample_of_kuberays_repository_is_carried_through_or_refused_by_name(services):
    samples = sorted(parts.samples(parts.kuberay_version()).ensure().rglob("ray-service*.yaml"))
    assert len(samples) >= 14
    assert REFUSED.keys() <= {one.name for one in samples}
    for path in samples:
        if path.name in REFUSED:
            with pytest.raises(ConfigurationError, match=REFUSED[path.name]):
                manifest = read_ray_service(path)
                await services.deploy(manifest=manifest, name=manifest.name, own=manifest.own)
            continue
        manifest = read_ray_service(path)
        await services.deploy(manifest=manifest, name=manifest.name, own=manifest.own)
        spec = services.there(manifest.name)["spec"]
        assert spec["serveConfigV2"] == manifest.serve_config, path.name
        groups = [one["groupName"] for one in spec["rayClusterConfig"].get("workerGroupSpecs") or ()]
        given = manifest.cluster.cluster["spec"].get("workerGroupSpecs") or ()
        assert groups == [one["groupName"] for one in given], path.name
        assert await services.remove(manifest.name) is True


# -- rights ------------------------------------------------------------------------------------------------------------

RIGHTS = [
    ("make", "rayservices", "create"),
    ("make", "networkpolicies", "create"),
    ("change", "rayservices", "get"),
    ("change", "rayservices", "patch"),
    ("wait", "rayservices", "get"),
    ("wait", "rayclusters", "list"),
    ("wait", "rayclusters", "watch"),
    ("wait", "pods", "list"),
    ("delete", "rayservices", "delete"),
    ("delete", "rayservices", "list"),
    ("delete", "rayclusters", "list"),
    ("delete", "pods", "list"),
]


@pytest.mark.slow
async def test_each_right_that_is_missing_is_named_and_with_all_of_them_it_works(services, dashboard):
    rights = await asyncio.to_thread(Rights, services)
    mine = Services(services.kubernetes, services.namespace, kubeconfig=rights.kubeconfig())
    mine.access = replace(mine.access, dashboard=dashboard.api.endpoint())
    await served(mine, dashboard)
    deployed = await mine.deploy(V2, OTHER, run="run-2")
    mine.tell(active="shop-a", pending="shop-b")
    services.cluster_is_there("shop-b", ready=False)
    options = WaitOptions(time.time() + 300)
    wait = asyncio.create_task(wait_deployed(mine.access, deployed, options, access="url", say=mine.say))
    await asyncio.sleep(1.5)
    assert not wait.done(), wait
    wait.cancel()
    await asyncio.gather(wait, return_exceptions=True)

    steps = {
        "make": lambda: mine.deploy(name="other"),
        "change": lambda: mine.deploy("m:v3", OTHER, run="run-2"),
        "wait": lambda: wait_deployed(mine.access, deployed, options, access="url", say=mine.say),
        "delete": lambda: mine.remove("held", timeout=5),
    }
    for step, resource, verb in RIGHTS:
        if step == "delete":
            if not services.kubernetes.exists("rayservice", "held", "-n", services.namespace):
                await services.deploy(name="held")
            services.hold(True, "held")
        await asyncio.to_thread(rights.without, resource, verb)
        with pytest.raises(KubernetesAccessError) as caught:
            async with asyncio.timeout(300):
                await steps[step]()
        assert f":provider may not {verb} {resource}" in show(caught.value), (step, resource, verb)
        assert "provider-role.yaml" in show(caught.value)
    services.hold(False, "held")
    # Without the right to change the status it goes back by a third cluster, and says so.
    await asyncio.to_thread(rights.without, "rayservices/status", "patch")
    done = await mine.back(deployed)
    assert "may not patch rayservices/status" in done
    assert "With that right the one that serves would have been kept" in done
    assert services.import_path() == V1
    await asyncio.to_thread(rights.without)
    again = await mine.deploy(V2, OTHER, run="run-3")
    services.tell(active="shop-a", pending="shop-b")
    assert await mine.back(again) == "The version before was put back, in the cluster shop-a."
    assert not (services.there()["status"].get("pendingServiceStatus") or {}).get("rayClusterName")
    assert await mine.remove() is True
