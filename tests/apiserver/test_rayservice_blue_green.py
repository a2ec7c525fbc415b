"""Two RayServices behind a Service of ours, on a real API server: deployed, promoted, taken back, deleted; races and kills.

What KubeRay writes of a service that serves, a test writes (see test_rayservices.py). That KubeRay keeps our Service right
is seen where it has pods: tests/kubernetes/test_rayservice.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ray_provider import _compat
from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.clusters.rayservice.blue_green import promotion, traffic
from ray_provider.clusters.rayservice.blue_green.promotion import Moving, promote, roll_back, settle, take_down
from ray_provider.clusters.rayservice.blue_green.removal import delete_both
from ray_provider.clusters.rayservice.blue_green.traffic import NOBODY, Traffic, look
from ray_provider.clusters.rayservice.deploy import finish
from ray_provider.clusters.rayservice.proof import Proof, prove
from ray_provider.clusters.rayservice.record import UPDATE
from ray_provider.clusters.rayservice.waiting import WaitOptions, wait_deployed
from ray_provider.exceptions import (
    ClusterError,
    ClusterTimeoutError,
    ConfigurationError,
    KubernetesAccessError,
    ServeError,
    ServeFailedError,
)
from ray_provider.operators import DeleteRayService, DeployRayService, PromoteRayService, RollbackRayService
from tests.apiserver.test_rayjobs import Rights
from tests.apiserver.test_rayservice_tasks import defer, trigger_of
from tests.apiserver.test_rayservices import DAG, OPEN, Services
from tests.kubernetes.clusters import show
from tests.support.airflow_task import FakeTask, context_of
from tests.support.kubernetes import Kubernetes, until

pytestmark = pytest.mark.timeout(600)

V1, V2, V3 = "m:v1", "m:v2", "m:v3"
BLUE, GREEN = "shop-blue", "shop-green"


class Pair(Services):
    """Two RayServices, and the Service before them."""

    def front(self) -> dict[str, Any]:
        return self.kubernetes.get("service", "shop", "-n", self.namespace)

    def selector(self) -> dict[str, str]:
        return self.front()["spec"]["selector"]

    def told(self) -> dict[str, Any]:
        return json.loads(self.front()["metadata"]["annotations"][traffic.TRAFFIC])

    def named(self) -> list[str]:
        """Which RayServices have KubeRay lead our Service to them."""
        found = self.kubernetes.get("rayservices", "-n", self.namespace)["items"]
        return [one["metadata"]["name"] for one in found if "serveService" in one["spec"]]

    def all(self) -> list[str]:
        kinds = "rayservices,services"
        return self.kubernetes.kubectl("get", kinds, "-n", self.namespace, "-o", "name").split()

    def plays(self, dashboard, name: str, path: str) -> None:
        """Do what KubeRay and Serve do of a version."""
        if not self.kubernetes.exists("raycluster", f"{name}-a", "-n", self.namespace):
            self.cluster_is_there(f"{name}-a", name)
        own = {"name": f"{name}-serve-svc"}
        ports = [{"name": "serve", "port": 8000}, {"name": "serve-grpc", "port": 9000}]
        spec = {"selector": {"ray.io/cluster": f"{name}-a"}, "ports": ports}
        self.kubernetes.apply({"apiVersion": "v1", "kind": "Service", "metadata": own, "spec": spec}, self.namespace)
        self.tell(active=f"{name}-a", name=name)
        dashboard.api.serve.add("a", path)

    def moving(self, handle=None, **further) -> Moving:
        version = handle.version_id if handle else ""
        given = {"version": version, "owner": DAG, "timeout_seconds": 3.0, "access": "url", **further}
        return Moving(self.namespace, "shop", **given)

    async def promote(self, handle=None, **further) -> Traffic:
        return await promote(self.access, self.moving(handle, **further), say=self.say)

    async def roll_back(self, handle=None, **further) -> Traffic:
        return await roll_back(self.access, self.moving(handle, **further), say=self.say)

    async def take_down(self, version: str) -> bool:
        return await take_down(self.access, self.namespace, "shop", version, drain_seconds=0.0, say=self.say)

    async def delete(self, **further) -> bool:
        given = {"namespace": self.namespace, "name": "shop", "drain_seconds": 0.0, "timeout": 20, **further}
        return await delete_both(self.access, say=self.say, **given)


@pytest.fixture
def pair(kubernetes: Kubernetes, namespace: str, dashboard) -> Pair:
    found = Pair(kubernetes, namespace)
    found.access = replace(found.access, dashboard=dashboard.api.endpoint())
    return found


async def proven(pair: Pair, dashboard, path=V1, *, run="run-1", given: Any = OPEN):
    """Deploy a version, and have it proven: it waits for its traffic."""
    deployed = await pair.deploy(path, given, run=run, strategy="blue_green")
    await asyncio.to_thread(pair.plays, dashboard, deployed.name, path)
    options = WaitOptions(time.time() + 20, operator_seconds=15)
    cluster = await wait_deployed(pair.access, deployed, options, access="url", say=pair.say)
    handle, _ = await prove(pair.access, deployed, cluster, Proof(owner=DAG, access="url"), say=pair.say)
    return deployed, handle


async def served(pair: Pair, dashboard, path=V1, *, run="run-1", **further):
    """Deploy a version, and give it the traffic."""
    deployed, handle = await proven(pair, dashboard, path, run=run, **further)
    await pair.promote(handle, deploy=deployed.id, timeout_seconds=0.0)
    return deployed, handle


# -- the traffic -------------------------------------------------------------------------------------------------------


async def test_a_version_is_made_beside_the_one_that_serves_and_has_no_traffic_until_it_is_promoted(pair, dashboard):
    code = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"m.py": "v1"}}
    deployed, handle = await proven(pair, dashboard, given={**OPEN, "extraObjects": [code]})
    assert (deployed.name, deployed.service, handle.name, handle.version) == (BLUE, "shop", "shop", BLUE)
    front = pair.front()
    assert front["spec"]["selector"] == NOBODY
    assert front["metadata"]["labels"]["airflow-ray/task_id"] == "deploy"
    assert "ownerReferences" not in front["metadata"]
    assert pair.named() == []
    await pair.promote(handle, deploy=deployed.id)
    assert pair.selector() == {"ray.io/cluster": f"{BLUE}-a", "ray.io/serve": "true"}
    assert [one["port"] for one in pair.front()["spec"]["ports"]] == [8000, 9000], "KubeRay's own ports"
    assert pair.named() == [BLUE], "from here on, KubeRay keeps it right"
    assert UPDATE not in pair.there(BLUE)["metadata"]["annotations"]

    other = {**OPEN, "extraObjects": [{**code, "data": {"m.py": "v2"}}]}
    second, handle = await proven(pair, dashboard, V2, run="run-2", given=other)
    assert second.name == GREEN
    for name, text in ((BLUE, "v1"), (GREEN, "v2")):
        assert pair.kubernetes.get("configmap", f"{name}-code", "-n", pair.namespace)["data"] == {"m.py": text}
    assert (pair.selector()["ray.io/cluster"], pair.named()) == (f"{BLUE}-a", [BLUE])
    assert pair.there(BLUE)["spec"]["serveConfigV2"].endswith("m:v1\n"), "what serves is left as it is"
    await finish(pair.access, second)
    found = await pair.promote(handle)
    assert (found.active, found.other_is, pair.selector()["ray.io/cluster"]) == (GREEN, "former", f"{GREEN}-a")
    assert pair.named() == [GREEN]


@pytest.mark.slow
async def test_a_promotion_and_a_way_back_may_be_said_twice(pair, dashboard):
    await served(pair, dashboard)
    _, handle = await served(pair, dashboard, V2, run="run-2")
    assert (await pair.promote(handle)).active == GREEN
    assert (await pair.promote()).active == GREEN
    dashboard.api.serve.add("a", V1)
    for given in (handle, handle, None):
        assert (await pair.roll_back(given)).active == BLUE
    assert (pair.selector()["ray.io/cluster"], pair.named()) == (f"{BLUE}-a", [BLUE])
    assert pair.told()["other_is"] == "rejected"
    dashboard.api.serve.add("a", V2)
    assert (await pair.promote(handle)).active == GREEN, "a person may think again"


@pytest.mark.slow
async def test_what_has_no_traffic_is_taken_down_and_what_serves_never(pair, dashboard):
    _, first = await served(pair, dashboard)
    _, second = await served(pair, dashboard, V2, run="run-2")
    assert await pair.take_down(second.version_id) is False, "it has the traffic"
    assert await pair.take_down(first.version_id) is True
    assert f"rayservice.ray.io/{BLUE}" not in pair.all()
    with pytest.raises(ConfigurationError, match="has no version to go back to"):
        await pair.roll_back(second)
    assert (await pair.roll_back(first)).active == GREEN, "it has no traffic: nothing to be done"
    assert pair.selector()["ray.io/cluster"] == f"{GREEN}-a"


@pytest.mark.slow
async def test_the_next_deploy_takes_the_place_of_the_version_before(pair, dashboard):
    _, first = await served(pair, dashboard)
    await served(pair, dashboard, V2, run="run-2")
    uid = pair.there(BLUE)["metadata"]["uid"]
    third = await pair.deploy(V3, run="run-3", strategy="blue_green")
    assert third.name == BLUE
    assert pair.there(BLUE)["metadata"]["uid"] != uid
    assert "makes room for the new version" in pair.text
    with pytest.raises(ConfigurationError, match="has no version to go back to"):
        await pair.roll_back()
    with pytest.raises(ConfigurationError, match="a later deploy has taken its place"):
        await pair.promote(first)
    with pytest.raises(ServeError, match=r"shop-blue is still being deployed \(by run run-3\)"):
        await pair.promote()
    assert (pair.selector()["ray.io/cluster"], pair.named()) == (f"{GREEN}-a", [GREEN])


@pytest.mark.slow
async def test_the_very_same_version_is_not_made_twice(pair, dashboard):
    await served(pair, dashboard)
    again = await pair.deploy(V1, run="run-2", strategy="blue_green")
    assert (again.name, again.kind) == (BLUE, "nothing")
    assert pair.named() == [BLUE]
    assert f"rayservice.ray.io/{GREEN}" not in pair.all()
    assert await pair.back(again) == "Nothing was changed that has the traffic."
    await served(pair, dashboard, V2, run="run-3")
    before = await pair.deploy(V1, run="run-4", strategy="blue_green")
    assert (before.name, before.kind) == (BLUE, "nothing"), "the former one is there still"


@pytest.mark.slow
async def test_a_service_that_somebody_deletes_is_known_by_who_named_it(pair, dashboard):
    await served(pair, dashboard)
    made_again = pair.there(BLUE)["spec"]["serveService"]["metadata"]
    assert made_again["labels"]["airflow-ray/dag_id"] == "dag"
    assert json.loads(made_again["annotations"][traffic.TRAFFIC])["active"] == BLUE
    pair.kubernetes.kubectl("delete", "service", "shop", "-n", pair.namespace)
    # KubeRay makes it again, as a dependent of the RayService.
    owner = {"apiVersion": "ray.io/v1", "kind": "RayService", "name": BLUE, "controller": True}
    owner["uid"] = pair.there(BLUE)["metadata"]["uid"]
    meta = {**made_again, "ownerReferences": [owner]}
    spec = {"selector": {"ray.io/cluster": f"{BLUE}-a"}, "ports": [{"name": "serve", "port": 8000}]}
    pair.kubernetes.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}, pair.namespace)
    await served(pair, dashboard, V2, run="run-2")
    assert "ownerReferences" not in pair.front()["metadata"], "it would go with the one that it was made for"
    pair.kubernetes.kubectl("delete", "service", "shop", "-n", pair.namespace)
    third = await pair.deploy(V3, run="run-3", strategy="blue_green")
    assert third.name == BLUE, "the one that serves is left as it is"


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_what_does_not_serve_gets_no_traffic(pair, dashboard):
    await served(pair, dashboard)
    second, handle = await proven(pair, dashboard, V2, run="run-2")
    await finish(pair.access, second)
    dashboard.api.serve.applications["a"].status = "DEPLOY_FAILED"
    with pytest.raises(ServeFailedError, match="The traffic of .*/shop stays at shop-blue"):
        await pair.promote(handle)
    dashboard.api.serve.applications["a"].status = "RUNNING"
    pair.tell(pending=f"{GREEN}-a", reason="Initializing", name=GREEN)
    with pytest.raises(ServeError, match="shop-green does not serve: Initializing"):
        await pair.promote(handle)
    pair.kubernetes.kubectl("delete", "rayservice", GREEN, "-n", pair.namespace)
    with pytest.raises(ServeError, match="shop-green is gone"):
        await pair.promote(handle)
    assert (pair.selector()["ray.io/cluster"], pair.named()) == (f"{BLUE}-a", [BLUE])


async def test_whose_it_is(pair, dashboard):
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken"}}
    pair.kubernetes.apply({**foreign, "spec": {"ports": [{"port": 80}]}}, pair.namespace)
    with pytest.raises(ConfigurationError, match="Service .*/taken is there, and is not this provider's"):
        await pair.deploy(name="taken", strategy="blue_green")
    assert [one for one in pair.all() if "rayservice" in one] == []
    with pytest.raises(ConfigurationError, match="41 is the most"):
        await pair.deploy(name="a" * 42, strategy="blue_green")
    with pytest.raises(ConfigurationError, match="There is no Service .*/shop before two RayServices"):
        await pair.promote()
    _, handle = await served(pair, dashboard)
    other = {**DAG, "dag_id": "other"}
    with pytest.raises(ConfigurationError, match="is not this task's: it is made by dag dag, task deploy"):
        await pair.deploy(V2, owner=other, strategy="blue_green")
    with pytest.raises(ConfigurationError, match="it is left alone"):
        await pair.promote(handle, owner=other)
    with pytest.raises(ClusterError, match="it is left alone"):
        await pair.delete(owner=other)
    assert pair.selector()["ray.io/cluster"] == f"{BLUE}-a"


@pytest.mark.slow
async def test_a_spec_that_can_not_be_costs_no_version(pair, dashboard):
    await served(pair, dashboard)
    await served(pair, dashboard, V2, run="run-2")
    with pytest.raises(ConfigurationError, match="Kubernetes does not know"):
        await pair.deploy(V3, run="run-3", strategy="blue_green", own={"rayClusterDeletionDelay": 1})
    dashboard.api.serve.add("a", V1)
    assert (await pair.roll_back()).active == BLUE


# -- at the same moment, and in the middle -----------------------------------------------------------------------------


async def test_two_deploys_at_once_end_as_one_of_them(pair, dashboard):
    await served(pair, dashboard)
    both = await asyncio.gather(
        *(pair.deploy(path, run=path, strategy="blue_green") for path in (V2, V3)), return_exceptions=True
    )
    (left,) = [one for one in pair.all() if GREEN in one]
    assert left == f"rayservice.ray.io/{GREEN}"
    there = pair.there(GREEN)
    assert pair.told()["other_version"] == there["metadata"]["annotations"][traffic.VERSION]
    holder = json.loads(there["metadata"]["annotations"][UPDATE])["id"]
    for one in both:
        if isinstance(one, BaseException):
            assert isinstance(one, ClusterError), one
        elif one.id != holder:
            await pair.back(one)
    assert pair.there(GREEN)["metadata"]["uid"] == there["metadata"]["uid"], "the other one leaves it alone"
    assert pair.selector()["ray.io/cluster"] == f"{BLUE}-a"


@pytest.mark.slow
async def test_two_who_move_the_traffic_at_once_end_right(pair, dashboard, monkeypatch):
    await served(pair, dashboard)
    _, handle = await served(pair, dashboard, V2, run="run-2")

    async def healthy(_access, _kube, found, *_):
        return f"{found.other}-a"

    monkeypatch.setattr(promotion, "_healthy", healthy)
    for _ in range(3):
        await asyncio.gather(pair.roll_back(handle), pair.promote(handle), pair.roll_back(handle), pair.promote(handle))
        active = pair.told()["active"]
        assert pair.named() == [active]
        assert pair.selector()["ray.io/cluster"] == f"{active}-a"


async def test_a_promotion_and_a_deploy_at_once_never_delete_what_serves(pair, dashboard):
    await served(pair, dashboard)
    second, handle = await proven(pair, dashboard, V2, run="run-2")
    await finish(pair.access, second)
    ended = await asyncio.gather(
        pair.promote(handle), pair.deploy(V3, run="run-3", strategy="blue_green"), return_exceptions=True
    )
    active = pair.told()["active"]
    assert f"rayservice.ray.io/{active}" in pair.all(), ended
    assert pair.named() == [active]
    wanted = V2 if active == GREEN else V1
    assert pair.there(active)["spec"]["serveConfigV2"].rstrip().endswith(wanted)


@pytest.mark.parametrize("step", ["off", pytest.param("written", marks=pytest.mark.slow)])
async def test_who_is_killed_in_a_promotion_leaves_it_to_be_ended(pair, dashboard, monkeypatch, step):
    await served(pair, dashboard)
    deployed, handle = await proven(pair, dashboard, V2, run="run-2")
    original, count = promotion._lead, []

    async def dies(*given, **how):
        count.append(1)
        if len(count) == (2 if step == "off" else 3):
            raise asyncio.CancelledError
        return await original(*given, **how)

    async def nothing(*_given, **_how):
        raise asyncio.CancelledError

    monkeypatch.setattr(promotion, "_lead", dies)
    if step == "off":
        monkeypatch.setattr(promotion, "write", nothing)
    with pytest.raises(asyncio.CancelledError):
        await pair.promote(handle, deploy=deployed.id, timeout_seconds=0.0)
    monkeypatch.undo()
    assert pair.named() == [], "in the middle"
    done = await pair.back(deployed, wait=True)
    active = BLUE if step == "off" else GREEN
    assert (pair.told()["active"], pair.named()) == (active, [active])
    assert pair.selector()["ray.io/cluster"] == f"{active}-a"
    assert ("was deleted again" in done) == (step == "off"), done
    assert (f"rayservice.ray.io/{GREEN}" in pair.all()) == (step == "written")


# -- deleted -----------------------------------------------------------------------------------------------------------


async def test_the_traffic_goes_away_before_anything_is_deleted(pair, dashboard):
    await served(pair, dashboard)
    await served(pair, dashboard, V2, run="run-2")
    pair.hold(True, GREEN)  # what follows may take longer than the drain
    deleting = asyncio.create_task(pair.delete(drain_seconds=8.0, owner=DAG))
    await pair.soon(lambda: pair.selector() == NOBODY, "end of the traffic")
    assert pair.named() == []
    # KubeRay was in the middle of leading it to a version.
    patch = json.dumps({"spec": {"selector": {"ray.io/cluster": f"{GREEN}-a", "airflow-ray/traffic": None}}})
    pair.kubernetes.kubectl("patch", "service", "shop", "-n", pair.namespace, "--type=merge", "-p", patch)
    await pair.soon(lambda: pair.selector() == NOBODY, "end of the traffic again")
    assert {f"rayservice.ray.io/{one}" for one in (BLUE, GREEN)} <= set(pair.all()), "requests in flight"
    with pytest.raises(ConfigurationError, match="it is being deleted"):
        await pair.promote()
    with pytest.raises(ClusterError, match="is being deleted"):
        await pair.deploy(V3, run="run-3", strategy="blue_green")
    pair.hold(False, GREEN)
    assert await deleting is True
    assert [
        one for one in pair.all() if one in ("service/shop", *(f"rayservice.ray.io/{o}" for o in (BLUE, GREEN)))
    ] == []
    assert f"Who calls {BLUE}-serve-svc or {GREEN}-serve-svc past it" in pair.text
    assert await pair.delete() is False


@pytest.mark.slow
async def test_what_does_not_go_is_told_with_its_finalizer_and_goes_by_another_try(pair, dashboard):
    await served(pair, dashboard)
    patch = json.dumps({"metadata": {"finalizers": ["ray.io/rayservice-finalizer"]}})  # of KubeRay 1.6.2
    pair.kubernetes.kubectl("patch", "rayservice", BLUE, "-n", pair.namespace, "--type=merge", "-p", patch)
    with pytest.raises(ClusterTimeoutError, match=r"shop-blue \(held by finalizers ray.io/rayservice-finalizer\)"):
        await pair.delete(timeout=1)
    pair.hold(False, BLUE)
    assert await pair.delete() is True


# -- as Airflow calls it -----------------------------------------------------------------------------------------------


@pytest.fixture
def operator(kubernetes, connection):
    def make(path=V1, **further) -> DeployRayService:
        applications = [{"name": "a", "route_prefix": "/a", "import_path": path}]
        given = {"task_id": "task", "conn_id": "c", "name": "shop", "values": OPEN, "applications": applications}
        given |= {"helm_path": str(kubernetes.helm4), "timeout_seconds": 60, "strategy": "blue_green"}
        return DeployRayService(**{**given, **further})

    return make


@pytest.fixture
def airflow(monkeypatch) -> SimpleNamespace:
    """What a trigger may ask Airflow: the state of its task."""
    told = SimpleNamespace(state="failed")

    async def state(_task):
        return told.state

    monkeypatch.setattr(_compat, "core_state_of", state)
    return told


def play(pair: Pair, dashboard, name: str, path: str, status="RUNNING") -> None:
    """Have KubeRay and Serve do what they do of a version, as soon as it is written."""

    def there() -> bool:
        if not pair.kubernetes.exists("rayservice", name, "-n", pair.namespace):
            return False
        return pair.there(name)["spec"]["serveConfigV2"].rstrip().endswith(path)

    def act() -> None:
        until(there, 300, "the version")
        pair.plays(dashboard, name, path)
        dashboard.api.serve.applications["a"].status = status

    threading.Thread(target=act, daemon=True).start()


def test_a_deploy_waits_for_a_person_and_the_handle_says_which_version(operator, pair, dashboard):
    play(pair, dashboard, BLUE, V1)
    ti = FakeTask()
    first = operator(serve_url="https://shop.example.com").execute(context_of(ti))
    assert (first["name"], first["version"], first["url"]) == ("shop", BLUE, "https://shop.example.com/a")
    assert ti.xcoms["task", "ray_serve_url"] == first["url"]
    play(pair, dashboard, GREEN, V2)
    context = context_of(FakeTask("another-run"))
    handle = operator(V2, promote=False).execute(context)
    assert pair.told()["active"] == BLUE
    given = {"task_id": "t", "conn_id": "c", "drain_seconds": 0}
    told = PromoteRayService(service=handle, **given).execute(context)
    assert (told["active"], told["name"], told["version"]) == (GREEN, "shop", handle["version_id"])
    dashboard.api.serve.add("a", V1)
    back = RollbackRayService(service=handle, **given)
    assert back.execute(context)["active"] == BLUE
    assert back.execute(context)["active"] == BLUE
    assert f"rayservice.ray.io/{GREEN}" not in pair.all(), "the one that was rejected is taken down"
    other = context_of(FakeTask())
    other["ti"].dag_id = "other"
    with pytest.raises(AirflowFailException, match="a handle is for what its own DAG made"):
        PromoteRayService(service=handle, **given).execute(other)
    assert DeleteRayService(service=first, **given).execute(context) is True
    assert [one for one in pair.all() if one.endswith(("/shop", BLUE))] == []


@pytest.mark.slow
def test_a_version_that_is_never_promoted_is_taken_down_by_its_handle(operator, pair, dashboard):
    play(pair, dashboard, BLUE, V1)
    handle = operator(promote=False).execute(context_of(FakeTask()))
    given = {"task_id": "t", "conn_id": "c", "drain_seconds": 0}
    assert RollbackRayService(service=handle, **given).execute(context_of(FakeTask()))["active"] == ""
    assert f"rayservice.ray.io/{BLUE}" not in pair.all()
    assert DeleteRayService(name="shop", **given).execute(context_of(FakeTask())) is True


@pytest.mark.slow
def test_a_failure_takes_the_new_one_down_and_the_former_goes_where_that_is_asked_for(operator, pair, dashboard):
    play(pair, dashboard, BLUE, V1)
    operator().execute(context_of(FakeTask()))
    play(pair, dashboard, GREEN, V2, "DEPLOY_FAILED")
    with pytest.raises(ServeFailedError, match="was deleted again"):
        operator(V2).execute(context_of(FakeTask("run-2")))
    assert (pair.told()["active"], pair.named()) == (BLUE, [BLUE])
    assert f"rayservice.ray.io/{GREEN}" not in pair.all()
    play(pair, dashboard, GREEN, V3)
    operator(V3, keep_former=False, drain_seconds=0).execute(context_of(FakeTask("run-3")))
    assert (pair.told()["active"], pair.named()) == (GREEN, [GREEN])
    assert f"rayservice.ray.io/{BLUE}" not in pair.all()


@pytest.mark.slow
def test_a_smoke_test_that_can_not_reach_the_new_version_says_why(operator, pair, dashboard):
    play(pair, dashboard, BLUE, V1)
    with pytest.raises(AirflowFailException, match="a version is asked before it has the traffic"):
        operator(smoke_test={"status": 200}, serve_url="https://x").execute(context_of(FakeTask()))
    assert f"rayservice.ray.io/{BLUE}" not in pair.all()


async def test_a_kill_while_deferred_takes_the_new_one_down(operator, pair, dashboard, airflow):
    play(pair, dashboard, BLUE, V1)
    await asyncio.to_thread(operator().execute, context_of(FakeTask()))
    other = FakeTask("another-run")
    trigger = trigger_of(defer(operator(V2, deferrable=True), context_of(other)), other)
    airflow.state = "deferred"
    await trigger.on_kill()
    assert f"rayservice.ray.io/{GREEN}" in pair.all(), "a triggerer that stops changes nothing"
    airflow.state = "failed"
    await trigger.on_kill()
    await pair.soon(lambda: f"rayservice.ray.io/{GREEN}" not in pair.all(), "its end")
    assert (pair.told()["active"], pair.named()) == (BLUE, [BLUE])


@pytest.mark.slow
def test_a_killed_task_takes_the_new_one_down_and_a_cleared_one_makes_it_again(operator, pair, dashboard):
    play(pair, dashboard, BLUE, V1)
    operator().execute(context_of(FakeTask()))
    update = operator(V2)

    def kill() -> None:
        until(lambda: pair.kubernetes.exists("rayservice", GREEN, "-n", pair.namespace), 300, "the new one")
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    old = signal.signal(signal.SIGTERM, lambda *_: update.on_kill())
    threading.Thread(target=kill, daemon=True).start()
    ti = FakeTask("another-run")
    try:
        with pytest.raises(ServeError, match="ended from outside"):
            update.execute(context_of(ti))
    finally:
        signal.signal(signal.SIGTERM, old)
    until(lambda: f"rayservice.ray.io/{GREEN}" not in pair.all(), 300, "its end")
    assert (pair.told()["active"], pair.named()) == (BLUE, [BLUE])
    ti.clear()
    play(pair, dashboard, GREEN, V2)
    assert operator(V2).execute(context_of(ti))["version"] == GREEN
    pair.tell(active=f"{GREEN}-a", name=GREEN)  # KubeRay has seen that it has the traffic
    ti.clear()
    assert operator(V2).execute(context_of(ti))["version"] == GREEN, "it is there"
    assert pair.told()["active"] == GREEN


# -- rights ------------------------------------------------------------------------------------------------------------

RIGHTS = [
    ("deploy", "services", "create"),
    ("deploy", "services", "get"),
    ("promote", "services", "get"),
    ("promote", "services", "patch"),
    ("promote", "rayservices", "patch"),
    ("delete", "services", "patch"),
    ("delete", "services", "delete"),
]


@pytest.mark.slow
async def test_each_right_that_is_missing_is_named_and_with_all_of_them_it_works(pair, dashboard):
    rights = await asyncio.to_thread(Rights, pair)
    mine = Pair(pair.kubernetes, pair.namespace, kubeconfig=rights.kubeconfig())
    mine.access = replace(mine.access, dashboard=dashboard.api.endpoint())
    await served(mine, dashboard)
    second, handle = await proven(mine, dashboard, V2, run="run-2")
    await finish(mine.access, second)
    steps = {
        "deploy": lambda: mine.deploy(name="another", strategy="blue_green"),
        "promote": lambda: mine.promote(handle, timeout_seconds=0.0),
        "delete": lambda: mine.delete(timeout=20),
    }
    for step, resource, verb in RIGHTS:
        await asyncio.to_thread(rights.without, resource, verb)
        with pytest.raises(KubernetesAccessError) as caught:
            async with asyncio.timeout(300):
                await steps[step]()
        assert f":provider may not {verb} {resource}" in show(caught.value), (step, resource, verb)
        assert "provider-role.yaml" in show(caught.value)
        if step == "promote":
            assert pair.selector()["ray.io/cluster"] == f"{BLUE}-a"
            async with open_kube(pair.access) as kube:
                await settle(kube, pair.namespace, "shop")
        assert step == "deploy" or await _look(pair) is not None
    await asyncio.to_thread(rights.without)
    assert await mine.delete() is True


async def _look(pair: Pair) -> Traffic | None:
    async with open_kube(pair.access) as kube:
        return await look(kube, pair.namespace, "shop")
