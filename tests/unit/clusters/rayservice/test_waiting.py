"""A RayService in each state in which KubeRay says less, or more, than is so: Serve's own word decides, and the cause is told."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager

import pytest

from ray_provider.clusters.rayservice import waiting
from ray_provider.clusters.rayservice.record import UPDATE, Update
from ray_provider.clusters.rayservice.state import RayServiceState, judge
from ray_provider.clusters.rayservice.waiting import Deployed, WaitOptions, wait_deployed
from ray_provider.exceptions import (
    ClusterFailedError,
    ClusterTimeoutError,
    ConfigurationError,
    KubernetesAccessError,
    ServeError,
    ServeFailedError,
    ServeTimeoutError,
)
from tests.support.kubernetes_api import check_seconds_told, running
from tests.support.waiting import until

SERVICES = "/apis/ray.io/v1/namespaces/n/rayservices"
CLUSTERS = "/apis/ray.io/v1/namespaces/n/rayclusters"
EVENTS = "/api/v1/namespaces/n/events"
OLD = "applications: [{name: a, import_path: 'm:v1'}]"
NEW = "applications: [{name: a, import_path: 'm:v2'}]"
TRACEBACK = "Traceback\n  File \"/code/m.py\", line 3, in <module>\nModuleNotFoundError: No module named 'nosuch'"

#: Conditions as KubeRay 1.6.1 has been seen to write them.
READY = ("Ready", "True", "NonZeroServeEndpoints", "Number of serve endpoints is greater than 0")
INITIALIZING = ("Ready", "False", "Initializing", "RayService is initializing")
INVALID = ("Ready", "False", "ValidationFailed", "The RayService spec is invalid: no good")
TIMED_OUT = ("Ready", "False", "InitializingTimeout", "RayService failed to become ready within 45s")
UPGRADING = (
    "UpgradeInProgress",
    "True",
    "BothActivePendingClustersExist",
    "Both active and pending Ray clusters exist",
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(waiting, "_PAUSE", 0.05)
    monkeypatch.setattr(waiting, "_DOUBT_SECONDS", 0.4)
    monkeypatch.setattr(waiting, "_IGNORED_SECONDS", 0.4)
    monkeypatch.setattr(waiting, "_EVENTS_SECONDS", 0.1)


class Scene:
    """One RayService on an API server, and what became of whoever waits for it."""

    def __init__(self, server, access):
        self.server, self.access = server, access
        self.lines = []
        self.task = None

    async def service(
        self, *conditions, active="", pending="", generation=2, observed=None, config=NEW, applications=None, **meta
    ):
        """Have KubeRay say this of the RayService."""
        status = {
            "observedGeneration": generation if observed is None else observed,
            "conditions": [dict(zip(("type", "status", "reason", "message"), one, strict=True)) for one in conditions],
            "activeServiceStatus": {
                "rayClusterName": active,
                **({"applicationStatuses": applications} if applications else {}),
            },
            "pendingServiceStatus": {"rayClusterName": pending},
        }
        meta = {"namespace": "n", "uid": "u-1", "generation": generation, **meta}
        await self.server.put(
            SERVICES,
            "shop",
            {"metadata": meta, "spec": {"serveConfigV2": config}, "status": status if conditions else {}},
        )

    async def cluster(self, name, *, head=True):
        """Have a cluster of one worker, which never becomes ready: it has no replica."""
        status = {
            "observedGeneration": 1,
            "desiredWorkerReplicas": 1,
            "head": {"serviceName": f"{name}-head-svc"},
            "conditions": [
                {"type": "HeadPodReady", "status": "True" if head else "False"},
                {"type": "RayClusterProvisioned", "status": "False"},
            ],
        }
        await self.server.put(CLUSTERS, name, {"metadata": {"generation": 1}, "spec": {}, "status": status})

    async def serve(self, name, version, status="RUNNING", message="", deployments=None):
        """Have Serve in a cluster say this; no version: no application."""
        path = f"/api/v1/namespaces/n/services/{name}-head-svc:8265/proxy/api/serve/applications"
        one = {
            "name": "a",
            "status": status,
            "message": message,
            "deployments": deployments or {},
            "deployed_app_config": {"name": "a", "import_path": f"m:{version}"},
        }
        found = {"applications": {"a": one} if version else {}, "http_options": {"port": 8000}}
        await self.server.put(path, "", found)

    async def pod(self, cluster, **status):
        meta = {"labels": {"ray.io/cluster": cluster, "ray.io/node-type": "head"}}
        spec = {"containers": [{"name": "ray-head", "image": "team/ray:none"}]}
        await self.server.put(
            "/api/v1/namespaces/n/pods", f"{cluster}-head", {"metadata": meta, "spec": spec, "status": status}
        )

    def start(self, kind="new_cluster", *, seconds=30.0, generation=2, active="shop-a", **options):
        deployed = Deployed("n", "shop", generation, "id-1", kind, active if kind != "first" else "")
        self.task = asyncio.create_task(
            wait_deployed(
                self.access,
                deployed,
                WaitOptions(time.time() + seconds, **options),
                access="proxy",
                say=self.lines.append,
            )
        )

    async def told(self, text):
        await until(lambda: any(text in line for line in self.lines) or self.task.done())
        assert any(text in line for line in self.lines), (self.lines, self.task)

    async def end(self, seconds=30.0):
        async with asyncio.timeout(seconds):
            return await self.task

    async def fails(self, kind, says, seconds=30.0):
        with pytest.raises(kind) as caught:
            await self.end(seconds)
        assert says in str(caught.value), str(caught.value)
        return caught.value

    async def still(self, seconds=0.4):
        await asyncio.sleep(seconds)
        assert not self.task.done(), self.task


@asynccontextmanager
async def scene():
    async with running() as (server, access):
        made = Scene(server, access)
        try:
            yield made
        finally:
            if made.task is not None:
                made.task.cancel()
                await asyncio.gather(made.task, return_exceptions=True)


# -- a first deploy ----------------------------------------------------------------------------------------------------


async def test_a_first_deploy_is_done_when_serve_says_so_and_kuberay_has_switched():
    async with scene() as here:
        await here.service(generation=1)
        here.start("first", generation=1)
        await here.told("KubeRay has yet to look at it")
        await here.service(INITIALIZING, pending="shop-a", generation=1)
        await here.cluster("shop-a", head=False)
        await here.told("Ray cluster n/shop-a: head")
        await here.cluster("shop-a")
        await here.serve("shop-a", "v2", "DEPLOYING")
        await here.told("Application 'a': DEPLOYING")
        await here.serve("shop-a", "v2")
        await here.still()  # all of it runs, and the services are not there yet
        await here.service(READY, active="shop-a", generation=1)
        assert await here.end() == "shop-a"
        assert "n/shop serves" in here.lines[-1]


async def test_a_worker_without_a_replica_is_not_waited_for():
    """Its probe asks for Serve's proxy: RayClusterProvisioned may never come."""
    async with scene() as here:
        await here.service(READY, active="shop-a", generation=1)
        await here.cluster("shop-a")
        await here.serve("shop-a", "v2")
        here.start("first", generation=1)
        assert await here.end() == "shop-a"


async def test_the_reason_of_a_bad_first_deploy_is_told_at_once():
    async with scene() as here:
        await here.service(INITIALIZING, pending="shop-a", generation=1)
        await here.cluster("shop-a")
        await here.serve("shop-a", "v2", "DEPLOY_FAILED", TRACEBACK)
        here.start("first", generation=1)
        error = await here.fails(ServeFailedError, "No module named 'nosuch'")
        assert "m.py, line 3" in str(error)


async def test_an_image_that_is_not_there_is_told_by_the_pods():
    """KubeRay says Initializing, for ever."""
    async with scene() as here:
        await here.service(INITIALIZING, pending="shop-a", generation=1)
        await here.cluster("shop-a", head=False)
        waits = {"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}}
        await here.pod("shop-a", phase="Pending", containerStatuses=[{"name": "ray-head", "state": waits}])
        here.start("first", generation=1, seconds=2.0)
        # The head's deadline and the service's are the same: either may be the first.
        await here.fails((ClusterTimeoutError, ServeTimeoutError), "team/ray:none")


async def test_no_room_is_told_with_what_is_asked_for_and_fails_at_the_deadline():
    wants = (
        "Deployment 'D' in application 'a' has 1 replicas that have taken more than 30s to be scheduled. This may be due "
        "to waiting for the cluster to auto-scale or for a runtime environment to be installed. Resources required for "
        'each replica: {"CPU": 64}, total resources available: {"CPU": 2.0}. Use `ray status` for more details.'
    )
    async with scene() as here:
        await here.service(INITIALIZING, pending="shop-a", generation=1)
        await here.cluster("shop-a")
        await here.serve("shop-a", "v2", "DEPLOYING", deployments={"D": {"status": "UPDATING", "message": wants}})
        here.start("first", generation=1, seconds=1.0)
        await here.told("WARNING: RayService n/shop: Application 'a'")
        await here.fails(ServeTimeoutError, '{"CPU": 64}')


async def test_what_kuberay_says_by_an_event_only_is_told():
    async with scene() as here:
        await here.service(INITIALIZING, pending="shop-a", generation=1)
        await here.cluster("shop-a")
        await here.serve("shop-a", None)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        where = (
            "Failed to update serve applications to the RayCluster n/shop-a: " + "please check the documentation " * 20
        )
        normal = (
            f"{where} err: Put http://x: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )
        for name, message in (("e1", normal), ("e2", f"{where} err: error converting YAML to JSON")):
            event = {"type": "Warning", "reason": "FailedToUpdateServeApplications", "message": message}
            await here.server.put(EVENTS, name, {**event, "lastTimestamp": now})
        here.start("first", generation=1, seconds=1.0)
        await here.told("WARNING: KubeRay says: FailedToUpdateServeApplications: error converting YAML")
        await here.fails(ServeTimeoutError, "error converting YAML to JSON")
        assert not any("Client.Timeout" in line for line in here.lines), "that one is normal"


async def test_a_refused_spec_is_told_in_kuberays_words():
    async with scene() as here:
        await here.service(INVALID, generation=1, observed=0)
        here.start("first", generation=1)
        await here.fails(
            ConfigurationError, "KubeRay refuses the RayService n/shop: The RayService spec is invalid: no good."
        )


async def test_a_service_that_kuberay_gave_up_is_told():
    async with scene() as here:
        await here.service(TIMED_OUT, generation=1)
        here.start("first", generation=1)
        await here.fails(ClusterFailedError, "KubeRay has given up the RayService n/shop")


async def test_no_operator_is_told():
    async with scene() as here:
        await here.service(generation=1)
        here.start("first", generation=1, operator_seconds=0.3)
        await here.fails(ClusterFailedError, "No KubeRay operator has taken notice of the RayService n/shop")


# -- an update in place ------------------------------------------------------------------------------------------------


async def test_the_new_generation_is_not_the_new_version():
    """For a moment all is current, Ready and RUNNING, and of the version before."""
    async with scene() as here:
        running_ = {"a": {"status": "RUNNING"}}
        await here.service(READY, active="shop-a", applications=running_)
        await here.cluster("shop-a")
        await here.serve("shop-a", "v1")
        here.start("in_place")
        await here.still(0.8)
        await here.serve("shop-a", "v2", "DEPLOYING")
        await here.still()
        await here.serve("shop-a", "v2")
        assert await here.end() == "shop-a"


async def test_a_failed_update_in_place_is_one_though_kuberay_says_ready():
    async with scene() as here:
        await here.service(READY, active="shop-a")
        await here.cluster("shop-a")
        await here.serve("shop-a", "v2", "DEPLOY_FAILED", TRACEBACK)
        here.start("in_place")
        await here.fails(ServeFailedError, "No module named 'nosuch'")


async def test_a_failure_of_the_version_before_is_none_of_the_new_one():
    async with scene() as here:
        await here.service(READY, active="shop-a")
        await here.cluster("shop-a")
        await here.serve("shop-a", "v1", "DEPLOY_FAILED", TRACEBACK)
        here.start("in_place")
        await here.still()
        await here.serve("shop-a", "v2")
        assert await here.end() == "shop-a"


async def test_a_service_that_nobody_can_reach_is_not_deployed():
    """Serve says RUNNING, and no pod of it is in the service."""
    async with scene() as here:
        await here.service(("Ready", "False", "ZeroServeEndpoints", "dropped to 0"), active="shop-a")
        await here.cluster("shop-a")
        await here.serve("shop-a", "v2")
        here.start("in_place", seconds=0.8)
        await here.fails(ServeTimeoutError, "dropped to 0")


async def test_a_refusal_of_the_spec_before_is_not_that_of_the_new_one():
    """The condition stays until KubeRay has looked at the new spec."""
    async with scene() as here:
        await here.service(INVALID, active="shop-a", observed=1)
        await here.cluster("shop-a")
        await here.serve("shop-a", "v2")
        here.start("in_place")
        await here.still(0.2)
        await here.service(READY, active="shop-a")
        assert await here.end() == "shop-a"


async def test_an_update_that_kuberay_refuses_is_told():
    async with scene() as here:
        await here.service(INVALID, active="shop-a", observed=1)
        here.start("in_place")
        await here.fails(ConfigurationError, "KubeRay refuses the RayService")


# -- another cluster ---------------------------------------------------------------------------------------------------


async def test_a_new_cluster_is_done_when_it_has_the_traffic():
    async with scene() as here:
        await here.service(READY, UPGRADING, active="shop-a", pending="shop-b")
        await here.cluster("shop-a")
        await here.serve("shop-a", "v2")
        await here.cluster("shop-b")
        await here.serve("shop-b", "v2")
        here.start("new_cluster")
        await here.still()
        await here.service(READY, active="shop-b")
        assert await here.end() == "shop-b"


async def test_a_second_cluster_that_can_not_start_is_told_though_kuberay_says_ready_for_ever():
    async with scene() as here:
        await here.service(READY, UPGRADING, active="shop-a", pending="shop-b")
        await here.cluster("shop-b")
        await here.serve("shop-b", "v2", "DEPLOY_FAILED", TRACEBACK)
        here.start("new_cluster")
        await here.fails(ServeFailedError, "No module named 'nosuch'")


async def test_a_cluster_without_nodes_is_told_by_its_pods():
    async with scene() as here:
        await here.service(READY, UPGRADING, active="shop-a", pending="shop-b")
        await here.cluster("shop-b", head=False)
        no = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no gpu"}
        await here.pod("shop-b", phase="Pending", conditions=[no])
        here.start("new_cluster", scheduling_seconds=0.3)
        await here.fails(ClusterFailedError, "no gpu")


async def test_a_change_that_kuberay_leaves_out_is_no_success():
    """upgradeStrategy None, or the operator's ENABLE_ZERO_DOWNTIME=false: Ready, current generation, the old pods."""
    async with scene() as here:
        await here.service(READY, active="shop-a")
        await here.cluster("shop-a")
        await here.serve("shop-a", "v2")
        here.start("new_cluster")
        await here.fails(ConfigurationError, "makes no second cluster for the RayService n/shop")


# -- others ------------------------------------------------------------------------------------------------------------


async def test_a_change_by_somebody_else_is_not_taken_for_ones_own():
    async with scene() as here:
        await here.service(READY, active="shop-a", generation=3)
        here.start("in_place", generation=2)
        error = await here.fails(ServeError, "Somebody else has changed the RayService n/shop")
        assert error.data["cause"] == "overwritten"


async def test_a_service_that_is_deleted_meanwhile_is_told():
    async with scene() as here:
        await here.service(READY, active="shop-a")
        await here.cluster("shop-a")
        await here.serve("shop-a", "v1")
        here.start("in_place")
        await here.still(0.2)
        await here.service(READY, active="shop-a", deletionTimestamp="2026-01-01T00:00:00Z")
        await here.fails(ServeError, "was deleted while")
        await here.server.remove(SERVICES, "shop")
        here.start("in_place")
        await here.fails(ServeError, "was deleted while")


async def test_a_right_that_is_missing_is_told_and_an_api_server_that_is_away_is_waited_for():
    async with scene() as here:
        await here.service(READY, active="shop-a")
        await here.cluster("shop-a")
        await here.serve("shop-a", "v1")
        here.start("in_place")
        await here.still(0.2)
        await here.server.stop()
        await here.still(0.3)
        await here.server.start()
        await here.serve("shop-a", "v2")
        assert await here.end() == "shop-a"
        here.server.forbidden.add(f"{SERVICES}/shop")
        here.start("in_place")
        await here.fails(KubernetesAccessError, "may not list")


async def test_a_dashboard_that_does_not_answer_is_named_in_the_end():
    async with scene() as here:
        await here.service(READY, active="shop-a")
        await here.cluster("shop-a")
        began = time.monotonic()
        here.start("in_place", seconds=0.8)
        error = await here.fails(ServeTimeoutError, "does not serve the new version after")
        assert re.search(r"after \d+ s \(in the cluster shop-a\)", error.message)
        check_seconds_told(error, 1, since=began)


def test_what_a_later_kuberay_says_passes_as_text():
    document = {
        "metadata": {"name": "shop", "generation": 2, "annotations": {UPDATE: Update("i", "r").to_text()}},
        "status": {
            "observedGeneration": 2,
            "conditions": [
                {"type": "Ready", "status": "Unknown", "reason": "Suspended", "message": "it is  suspended."},
                {"type": "RollbackInProgress", "status": "True", "reason": "TargetClusterChanged"},
            ],
        },
    }
    state = RayServiceState.of(document)
    assert (state.ready, state.why, state.update) == (False, "it is suspended", Update("i", "r"))
    assert judge(state, 2, Update("i")).step == "wait"


def test_a_kuberay_without_conditions_says_running():
    status = {"observedGeneration": 2, "serviceStatus": "Running", "activeServiceStatus": {"rayClusterName": "shop-a"}}
    found = judge(RayServiceState.of({"metadata": {"name": "shop", "generation": 2}, "status": status}), 2, Update("i"))
    assert (found.step, found.cluster, found.done) == ("ask", "shop-a", True)
