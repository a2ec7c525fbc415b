"""SetupRayCluster, DeleteRayCluster, RayClusterSensor and the trigger, as Airflow calls them, on a real API server.

No operator is at work: a test writes what KubeRay writes of a cluster that becomes ready. The dashboard is the double of
the unit tests, at an address of the connection's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.sdk.exceptions import AirflowSensorTimeout

from ray_provider import _compat
from ray_provider.exceptions import ClusterError, ClusterTimeoutError
from ray_provider.operators import DeleteRayCluster, SetupRayCluster
from ray_provider.sensors import RayClusterSensor
from ray_provider.triggers import RayClusterTrigger
from tests.kubernetes.clusters import HEAD_ONLY, values
from tests.support.airflow_task import FakeTask, context_of
from tests.support.dashboard import TOKEN
from tests.support.kubernetes import Kubernetes, until

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("connection")]

#: Ray's token would be made by the operator.
OPEN = values(HEAD_ONLY, authOptions={"mode": "disabled"})


@pytest.fixture
def airflow(monkeypatch) -> SimpleNamespace:
    """What a trigger may ask Airflow: the state of its task."""
    told = SimpleNamespace(state="deferred", broken=0)

    async def state(_task):
        if told.broken:
            told.broken -= 1
            raise _compat.AirflowUnansweredError(ConnectionError("the API server restarts"))
        return told.state

    async def get(_task, _key):
        return None

    monkeypatch.setattr(_compat, "core_state_of", state)
    monkeypatch.setattr(_compat, "get_xcom", get)
    return told


class Place:
    """The namespace of a test, as a person with kubectl sees it."""

    def __init__(self, kubernetes: Kubernetes, namespace: str) -> None:
        self.kubernetes = kubernetes
        self.namespace = namespace

    def clusters(self) -> list[str]:
        found = self.kubernetes.kubectl("get", "rayclusters", "-n", self.namespace, "-o", "name")
        return [name.removeprefix("raycluster.ray.io/") for name in found.split()]

    def releases(self) -> list[str]:
        return self.kubernetes.helm("list", "-a", "-q", "-n", self.namespace).split()

    def cluster(self, name: str) -> dict[str, Any]:
        return self.kubernetes.get("raycluster", name, "-n", self.namespace)

    def make_ready(self, name: str) -> None:
        """Write what KubeRay writes of a cluster whose head is ready."""
        generation = self.cluster(name)["metadata"]["generation"]
        conditions = [
            {
                "type": kind,
                "status": "True",
                "reason": "Played",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "message": "",
            }
            for kind in ("HeadPodReady", "RayClusterProvisioned")
        ]
        status = {"observedGeneration": generation, "state": "ready", "conditions": conditions}
        where = ("raycluster", name, "-n", self.namespace, "--subresource=status", "--type=merge")
        self.kubernetes.kubectl("patch", *where, "-p", json.dumps({"status": status}))

    @contextmanager
    def becoming_ready(self) -> Iterator[None]:
        """Make the cluster ready that is about to be made."""

        def play() -> None:
            (name,) = until(self.clusters, 120, "RayCluster")
            self.make_ready(name)

        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        yield
        thread.join(120)


@pytest.fixture
def place(kubernetes, namespace) -> Place:
    return Place(kubernetes, namespace)


@pytest.fixture
def ti() -> FakeTask:
    return FakeTask()


@pytest.fixture
def context(ti) -> dict[str, Any]:
    return context_of(ti)


@pytest.fixture
def helm_path(kubernetes) -> str:
    return str(kubernetes.helm4)


@pytest.fixture
def set_up(helm_path):
    """SetupRayCluster with what all tests here give it."""
    return lambda **further: SetupRayCluster(
        **{"task_id": "task", "conn_id": "c", "values": OPEN, "helm_path": helm_path, **further}
    )


def trigger_of(deferred: TaskDeferred, ti: FakeTask) -> RayClusterTrigger:
    """The trigger as a triggerer makes it: from what was stored of it."""
    path, arguments = deferred.trigger.serialize()
    assert path == "ray_provider.triggers.RayClusterTrigger"
    arguments = json.loads(json.dumps(arguments))
    assert TOKEN not in repr(arguments)
    arguments["deferred_at"] = None  # nobody has to see a worker's end here
    trigger = RayClusterTrigger(**arguments)
    trigger.task_instance = SimpleNamespace(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=-1)
    return trigger


def defer(operator, context) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context)
    return caught.value


async def fire(trigger: RayClusterTrigger) -> dict[str, Any]:
    (event,) = [event.payload async for event in trigger.run()]
    return event


# The operators -------------------------------------------------------------------------------------------------------


def test_a_cluster_is_set_up_in_the_worker_and_deleted_by_its_handle(set_up, context, ti, place, helm_path, dashboard):
    with place.becoming_ready():
        handle = set_up().execute(context)
    assert place.clusters() == place.releases() == [handle["name"]]
    assert handle["created"]
    assert ti.xcoms["task", "dashboard"] == handle["address"] == dashboard.api.url
    labels = place.cluster(handle["name"])["metadata"]["labels"]
    assert (labels["airflow-ray/dag_id"], labels["airflow-ray/task_id"]) == ("dag", "task")
    assert TOKEN not in repr(ti.xcoms) + repr(handle)
    delete = DeleteRayCluster(task_id="delete", conn_id="c", cluster=handle, helm_path=helm_path)
    assert delete.execute(context) is True
    assert place.clusters() == place.releases() == []
    assert delete.execute(context) is False


async def test_a_cluster_is_waited_for_in_the_triggerer(set_up, context, ti, place, airflow):
    deferred = defer(set_up(deferrable=True, timeout_seconds=200), context)
    (name,) = place.clusters()
    assert ti.xcoms["task", "ray_cluster"]["name"] == name, "for the case that nothing ever watches it"
    assert 200 < deferred.timeout.total_seconds() <= 320
    trigger = trigger_of(deferred, ti)
    watching = asyncio.create_task(fire(trigger))
    await asyncio.sleep(1)
    assert not watching.done()
    place.make_ready(name)
    event = await watching
    assert event["status"] == "ready"
    handle = set_up(deferrable=True).execute_complete(context, event)
    assert handle["name"] == name
    assert ti.xcoms["task", "dashboard"] == handle["address"]
    await trigger.cleanup()
    assert place.clusters() == [name], "an ordinary end of a trigger deletes nothing"


@pytest.mark.parametrize("keep", [False, True])
async def test_a_cluster_that_does_not_become_ready_is_taken_back(set_up, context, ti, place, airflow, keep):
    deferred = defer(set_up(deferrable=True, timeout_seconds=3, keep_on_failure=keep), context)
    (name,) = place.clusters()
    event = await fire(trigger_of(deferred, ti))
    assert event["status"] == "failed"
    assert place.clusters() == [name], "the task takes it back, not the trigger"
    with pytest.raises(ClusterTimeoutError, match=f"{place.namespace}/{name} was not ready after"):
        await asyncio.to_thread(set_up(deferrable=True, keep_on_failure=keep).execute_complete, context, event)
    assert place.clusters() == place.releases() == ([name] if keep else [])


def test_a_trigger_that_died_leaves_no_cluster(set_up, context, place):
    operator = set_up(deferrable=True)
    defer(operator, context)
    assert place.clusters()
    with pytest.raises(Exception, match="boom"):
        operator.resume_execution("__fail__", {"error": "boom"}, context)
    assert place.clusters() == place.releases() == []


def test_a_killed_task_takes_back_what_it_made(set_up, context, place):
    operator = set_up()

    def kill() -> None:
        until(place.clusters, 120, "RayCluster")
        os.kill(os.getpid(), signal.SIGTERM)

    old = signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    threading.Thread(target=kill, daemon=True).start()
    try:
        with pytest.raises(ClusterError, match="ended from outside"):
            operator.execute(context)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert place.clusters() == place.releases() == []


def test_another_run_uses_a_cluster_of_that_name_and_its_handle_deletes_nothing(set_up, context, place, helm_path):
    with place.becoming_ready():
        set_up(name="shared").execute(context)
    other = context_of(FakeTask("another-run"))
    used = set_up(name="shared").execute(other)
    assert not used["created"]
    assert DeleteRayCluster(task_id="d", conn_id="c", cluster=used, helm_path=helm_path).execute(other) is False
    assert place.clusters() == ["shared"]
    # The first run still uses it: who names it leaves it, unless by force.
    assert DeleteRayCluster(task_id="d", conn_id="c", name="shared", helm_path=helm_path).execute(other) is False
    named = DeleteRayCluster(task_id="d", conn_id="c", name="shared", helm_path=helm_path, force=True)
    assert named.execute(other) is True
    assert place.clusters() == place.releases() == []


def test_a_deferred_set_up_that_nobody_watched_is_deleted_by_the_task_after_it(set_up, context, ti, place, helm_path):
    defer(set_up(deferrable=True), context)
    delete = DeleteRayCluster(task_id="delete", conn_id="c", helm_path=helm_path)
    delete.upstream_task_ids.add("task")
    assert delete.execute(context) is True
    assert place.clusters() == place.releases() == []


# A queue: what needs a Kueue is in tests/kueue ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "airflows"),
    [
        pytest.param({}, None, marks=pytest.mark.slow),
        ({"queue_timeout_seconds": "100"}, 100 + 200 + 120),
        pytest.param({"execution_timeout": timedelta(seconds=90)}, 90, marks=pytest.mark.slow),
    ],
    ids=["for ever", "limited", "the task's own"],
)
def test_a_cluster_in_a_queue_has_the_labels_and_its_time_is_not_the_queues(
    set_up, context, ti, place, airflow, capsys, limits, airflows
):
    queued = {"local_queue": "team", "priority_class": "high", "timeout_seconds": 200}
    deferred = defer(set_up(deferrable=True, **queued, **limits), context)
    limit = deferred.timeout and deferred.timeout.total_seconds()
    assert limit == airflows if airflows is None else airflows - 60 < limit <= airflows
    (name,) = place.clusters()
    labels = place.cluster(name)["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team"
    assert labels["kueue.x-k8s.io/priority-class"] == "high"
    assert "There is no Kueue here" in capsys.readouterr().out


async def test_a_suspended_cluster_is_waited_for_past_its_time_and_starts_when_it_is_let_go(
    set_up, context, ti, place, airflow
):
    """In no queue, the time counts; in one it begins when spec.suspend is false again."""
    deferred = defer(set_up(deferrable=True, local_queue="team", timeout_seconds=3), context)
    (name,) = place.clusters()
    suspend = ("patch", "raycluster", name, "-n", place.namespace, "--type=merge", "-p")
    place.kubernetes.kubectl(*suspend, json.dumps({"spec": {"suspend": True}}))
    watching = asyncio.create_task(fire(trigger_of(deferred, ti)))
    await asyncio.sleep(4)
    assert not watching.done()
    place.kubernetes.kubectl(*suspend, json.dumps({"spec": {"suspend": False}}))
    place.make_ready(name)
    assert (await watching)["status"] == "ready"


async def test_a_cluster_that_no_kueue_looks_at_is_taken_back(monkeypatch, set_up, context, ti, place, airflow):
    monkeypatch.setattr("ray_provider.clusters.kuberay.queue_watch.UNSEEN_SECONDS", 4.0)
    deferred = defer(set_up(deferrable=True, local_queue="team", timeout_seconds=3), context)
    (name,) = place.clusters()
    where = ("patch", "raycluster", name, "-n", place.namespace, "--type=merge", "-p")
    place.kubernetes.kubectl(*where, json.dumps({"spec": {"suspend": True}}))
    event = await fire(trigger_of(deferred, ti))
    assert event["status"] == "failed"
    assert f"Kueue has made no Workload for the Ray cluster {place.namespace}/{name}" in event["error"]["message"]
    with pytest.raises(AirflowFailException, match="nobody lets it go"):
        await asyncio.to_thread(set_up(deferrable=True).execute_complete, context, event)
    assert place.clusters() == place.releases() == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"timeout_seconds": 0}, "have to be more than 0"),
        ({"scheduling_timeout_seconds": -1}, "have to be more than 0"),
        ({"backend": "moon"}, "no such backend"),
        ({"name": "x" * 54}, "54 characters"),
        ({"backend": "local", "local": {"num_cpu": 1}}, "does not know"),
        ({"values": {"image": {"pullPolicy": "Sometimes"}}}, "pullPolicy"),
        ({"local_queue": "team", "queue_timeout_seconds": -1}, "queue_timeout_seconds has to be a number"),
        ({"local_queue": "team", "profile": "autoscaling"}, "a RayCluster whose number of workers changes"),
        ({"local_queue": "no label"}, "no label"),
    ],
)
#: What is refused is refused before the task defers.
@pytest.mark.parametrize("deferrable", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bad_input_is_refused_before_anything_is_made_and_burns_no_retry(
    set_up, context, place, arguments, says, deferrable
):
    with pytest.raises(AirflowFailException, match=says):
        set_up(deferrable=deferrable, **arguments).execute(context)
    assert place.clusters() == place.releases() == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "No cluster is named"),
        ({"cluster": "ray-dag-1"}, "not the handle that SetupRayCluster returns"),
        ({"name": "x", "backend": "moon"}, "no such backend"),
    ],
)
def test_a_delete_that_does_not_say_what_is_refused(context, arguments, says):
    with pytest.raises(AirflowFailException, match=says):
        DeleteRayCluster(task_id="delete", conn_id="c", **arguments).execute(context)


# The trigger ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "left"),
    [
        ("failed", False),  # by a person, or by its time limit
        pytest.param("success", False, marks=pytest.mark.slow),  # as one that failed
        (None, False),  # the run was deleted
        ("scheduled", True),  # cleared: it comes back, and takes its cluster over
        pytest.param(
            "deferred", True, marks=pytest.mark.slow
        ),  # watched on by another triggerer; as one that was cleared
        pytest.param("running", True, marks=pytest.mark.slow),
    ],
)
async def test_whom_a_kill_deletes_the_cluster_for(monkeypatch, set_up, context, ti, place, airflow, state, left):
    trigger = trigger_of(defer(set_up(deferrable=True), context), ti)
    airflow.state = state
    airflow.broken = 1
    if state is None:
        monkeypatch.setattr("ray_provider.triggers.ending.asyncio", _Hasty())
    await trigger.on_kill()
    assert bool(place.clusters()) is bool(place.releases()) is left


class _Hasty:
    """asyncio whose sleeps are short: a trigger waits 8 s in all for a state to come back."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 20)


@pytest.mark.parametrize("change", [{"keep": True}, {"created": False}], ids=str)
async def test_a_kill_leaves_what_is_to_be_kept_and_what_the_task_found(set_up, context, ti, place, airflow, change):
    trigger = trigger_of(defer(set_up(deferrable=True), context), ti)
    airflow.state = "failed"
    if "keep" in change:
        trigger.keep = True
    else:
        trigger.cluster["created"] = False
        (name,) = place.clusters()
        place.kubernetes.kubectl(
            "annotate", "raycluster", name, "-n", place.namespace, "airflow-ray/user.other=another"
        )
    await trigger.on_kill()
    assert place.clusters()


async def test_a_deletion_that_fails_is_told_in_the_log(monkeypatch, set_up, context, ti, place, airflow):
    told: list[str] = []
    log = SimpleNamespace(info=lambda *_: None, exception=lambda text, *arguments: told.append(text % arguments))
    monkeypatch.setattr(RayClusterTrigger, "log", log)
    trigger = trigger_of(defer(set_up(deferrable=True), context), ti)
    (name,) = place.clusters()
    airflow.state = "failed"
    trigger.helm_path = "/no/such/helm"
    await trigger.on_kill()
    assert told == [f"Ray cluster {place.namespace}/{name} could not be deleted. It is still there."]
    assert place.clusters() == [name]


async def test_a_connection_that_can_not_work_ends_the_wait_with_its_reason(set_up, context, ti, airflow, connection):
    trigger = trigger_of(defer(set_up(deferrable=True), context), ti)
    connection["kube_config_path"] = "/no/such/kubeconfig"
    began = time.monotonic()
    event = await fire(trigger)
    assert event["status"] == "failed"
    assert "/no/such/kubeconfig" in event["error"]["message"]
    assert not event["error"]["retryable"]
    assert time.monotonic() - began < 60, "it is not tried again and again"


# The sensor ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def theirs(kubernetes, namespace, place) -> str:
    """A cluster that somebody else keeps."""
    container = {"name": "ray-head", "image": "rayproject/ray:2.60.0"}
    spec = {
        "rayVersion": "2.60.0",
        "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [container]}}},
    }
    kubernetes.apply(
        {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "theirs"}, "spec": spec}, namespace
    )
    return "theirs"


def sensor(**further) -> RayClusterSensor:
    return RayClusterSensor(**{"task_id": "wait", "conn_id": "c", "name": "theirs", "timeout": 100, **further})


def test_a_sensor_waits_in_the_worker_and_gives_the_handle(context, place, theirs, dashboard):
    began = time.monotonic()
    threading.Timer(1.5, place.make_ready, ["theirs"]).start()
    handle = sensor().execute(context)
    assert time.monotonic() - began > 1
    assert (handle["name"], handle["namespace"], handle["created"]) == ("theirs", place.namespace, False)
    assert handle["address"] == dashboard.api.url


async def test_a_sensor_waits_in_the_triggerer_and_deletes_nothing(context, ti, place, theirs, airflow):
    deferred = defer(sensor(deferrable=True), context)
    trigger = trigger_of(deferred, ti)
    place.make_ready("theirs")
    event = await fire(trigger)
    assert sensor().execute_complete(context, event)["name"] == "theirs"
    airflow.state = "failed"
    await trigger_of(deferred, ti).on_kill()
    assert place.clusters() == ["theirs"]


async def test_a_sensor_says_why_it_waited_in_vain(context, ti, place, theirs, airflow):
    deferred = defer(sensor(deferrable=True, timeout=2), context)
    event = await fire(trigger_of(deferred, ti))
    with pytest.raises(AirflowSensorTimeout, match=f"{place.namespace}/theirs was not ready after"):
        sensor().execute_complete(context, event)
    assert place.clusters() == ["theirs"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"name": None}, "No cluster is named"), ({"cluster": "theirs"}, "not the handle that SetupRayCluster returns")],
)
def test_a_sensor_that_does_not_say_what_for_is_refused(context, arguments, says):
    with pytest.raises(AirflowFailException, match=says):
        sensor(**arguments).execute(context)
