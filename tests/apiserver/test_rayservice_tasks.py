"""DeployRayService, DeleteRayService and the trigger, as Airflow calls them, on a real API server.

A test writes what KubeRay writes of a service that serves; the dashboard is the double of the unit tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from ray_provider import _compat
from ray_provider.exceptions import ServeError, ServeFailedError
from ray_provider.operators import DeleteRayService, DeployRayService
from ray_provider.triggers import RayServiceTrigger
from tests.apiserver.test_rayservices import OPEN, Services
from tests.support.airflow_task import FakeTask, context_of
from tests.support.dashboard import TOKEN
from tests.support.kubernetes import until

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("connection")]

V1, V2 = "m:v1", "m:v2"


@pytest.fixture
def services(kubernetes, namespace) -> Services:
    return Services(kubernetes, namespace)


@pytest.fixture
def airflow(monkeypatch) -> SimpleNamespace:
    """What a trigger may ask Airflow: the state of its task."""
    told = SimpleNamespace(state="deferred")

    async def state(_task):
        return told.state

    monkeypatch.setattr(_compat, "core_state_of", state)
    return told


@pytest.fixture
def ti() -> FakeTask:
    return FakeTask()


@pytest.fixture
def context(ti) -> dict[str, Any]:
    return context_of(ti)


@pytest.fixture
def operator(kubernetes):
    def make(path=V1, **further) -> DeployRayService:
        applications = [{"name": "a", "route_prefix": "/a", "import_path": path}]
        given = {"task_id": "task", "conn_id": "c", "name": "shop", "values": OPEN, "applications": applications}
        return DeployRayService(**{**given, "helm_path": str(kubernetes.helm4), "timeout_seconds": 60, **further})

    return make


def trigger_of(deferred: TaskDeferred, ti: FakeTask) -> RayServiceTrigger:
    """The trigger as a triggerer makes it: from what was stored of it."""
    _, arguments = deferred.trigger.serialize()
    arguments = json.loads(json.dumps(arguments))
    assert TOKEN not in repr(arguments)
    arguments["deferred_at"] = None  # nobody has to see a worker's end here
    trigger = RayServiceTrigger(**arguments)
    trigger.task_instance = SimpleNamespace(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=-1)
    return trigger


def defer(operator, context) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context)
    return caught.value


async def fire(trigger: RayServiceTrigger) -> dict[str, Any]:
    (event,) = [event.payload async for event in trigger.run()]
    return event


def play(services: Services, dashboard, path: str, status="RUNNING") -> threading.Thread:
    """Have KubeRay and Serve do what they do of a version, as soon as it is written."""

    def there() -> bool:
        return services.kubernetes.exists("rayservice", "shop", "-n", services.namespace) and (
            services.import_path() == path
        )

    def act() -> None:
        until(there, 300, "the version")
        services.serves()
        application = dashboard.api.serve.add("a", path)
        application.status = status

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_it_is_deployed_in_the_worker_updated_by_the_next_run_and_deleted_by_its_handle(
    operator, context, ti, services, dashboard
):
    base = dashboard.api.url
    play(services, dashboard, V1)
    handle = operator(serve_url=base).execute(context)
    assert (handle["name"], handle["namespace"], handle["cluster"]) == ("shop", services.namespace, "shop-a")
    assert handle["url"] == ti.xcoms["task", "ray_serve_url"] == f"{base}/a"
    assert "run_id" not in handle["owner"]
    assert TOKEN not in repr(handle) + repr(ti.xcoms)
    play(services, dashboard, V2)
    again = operator(V2, serve_url=base).execute(context_of(FakeTask("another-run")))
    assert again == handle
    assert services.import_path() == V2
    delete = DeleteRayService(task_id="delete", conn_id="c", service=again)
    assert delete.execute(context) is True
    assert not services.kubernetes.exists("rayservice", "shop", "-n", services.namespace)


def test_an_update_that_fails_puts_the_version_before_back_unless_it_is_kept(operator, context, services, dashboard):
    play(services, dashboard, V1)
    operator().execute(context)
    for keep, left in ((False, V1), (True, V2)):
        played = play(services, dashboard, V2, "DEPLOY_FAILED")

        def back() -> None:
            played.join(60)  # noqa: B023 - it is of this turn
            until(lambda: services.import_path() == V1, 300, "the way back")
            services.serves()
            dashboard.api.serve.add("a", V1)

        if not keep:
            threading.Thread(target=back, daemon=True).start()
        with pytest.raises(ServeFailedError) as caught:
            operator(V2, keep_on_failure=keep).execute(context_of(FakeTask("another-run")))
        told = "keep_on_failure" if keep else "The version before was put back, in the cluster shop-a. It serves."
        assert told in str(caught.value)
        assert services.import_path() == left


async def test_it_is_waited_for_in_the_triggerer(operator, context, ti, services, dashboard, airflow):
    deferred = defer(operator(deferrable=True), context)
    assert ti.xcoms["task", "ray_service_deployed"]["name"] == "shop"
    trigger = trigger_of(deferred, ti)
    watching = asyncio.create_task(fire(trigger))
    await asyncio.sleep(1)
    assert not watching.done(), watching
    await asyncio.to_thread(services.serves)
    dashboard.api.serve.add("a", V1)
    event = await watching
    assert (event["status"], event["cluster"]) == ("serving", "shop-a")
    handle = await asyncio.to_thread(operator(deferrable=True).execute_complete, context, event)
    assert handle["cluster"] == "shop-a"
    await trigger.cleanup()
    assert services.import_path() == V1


@pytest.mark.parametrize(("state", "left"), [("failed", V1), ("deferred", V2)])
async def test_a_kill_while_deferred_puts_an_update_back_and_a_triggerer_that_stops_does_not(
    operator, context, ti, services, dashboard, airflow, state, left
):
    play(services, dashboard, V1)
    await asyncio.to_thread(operator().execute, context)
    other = FakeTask("another-run")
    trigger = trigger_of(defer(operator(V2, deferrable=True), context_of(other)), other)
    airflow.state = state
    await trigger.on_kill()
    assert services.import_path() == left
    assert services.kubernetes.exists("rayservice", "shop", "-n", services.namespace)


async def test_a_kill_while_the_first_deploy_is_deferred_deletes_it(operator, context, ti, services, airflow):
    trigger = trigger_of(defer(operator(deferrable=True), context), ti)
    airflow.state = "failed"
    await trigger.on_kill()
    await services.soon(
        lambda: not services.kubernetes.exists("rayservice", "shop", "-n", services.namespace), "its end"
    )


async def test_a_trigger_that_sees_it_fail_puts_back_and_the_task_tells_why(
    operator, context, ti, services, airflow, dashboard
):
    deferred = defer(operator(deferrable=True), context)
    await asyncio.to_thread(services.cluster_is_there, "shop-a")
    await asyncio.to_thread(services.tell, pending="shop-a", reason="Initializing")
    dashboard.api.serve.add("a", V1).status = "DEPLOY_FAILED"
    event = await fire(trigger_of(deferred, ti))
    assert event["status"] == "failed"
    with pytest.raises(ServeFailedError, match="which was not there before, was deleted again"):
        operator(deferrable=True).execute_complete(context, event)
    assert not services.kubernetes.exists("rayservice", "shop", "-n", services.namespace)


def test_a_trigger_that_died_leaves_the_version_before(operator, context, services, dashboard):
    play(services, dashboard, V1)
    operator().execute(context)
    other = context_of(FakeTask("another-run"))
    update = operator(V2, deferrable=True)
    defer(update, other)
    assert services.import_path() == V2
    with pytest.raises(Exception, match="boom"):
        update.resume_execution("__fail__", {"error": "boom"}, other)
    assert services.import_path() == V1


def test_a_killed_task_puts_an_update_back_and_deletes_nothing(operator, context, services, dashboard):
    play(services, dashboard, V1)
    operator().execute(context)
    update = operator(V2)

    def kill() -> None:
        until(lambda: services.import_path() == V2, 300, "the update")
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    old = signal.signal(signal.SIGTERM, lambda *_: update.on_kill())
    threading.Thread(target=kill, daemon=True).start()
    try:
        with pytest.raises(ServeError, match="ended from outside"):
            update.execute(context_of(FakeTask("another-run")))
    finally:
        signal.signal(signal.SIGTERM, old)
    assert services.import_path() == V1


def test_somebody_elses_service_is_refused(operator, context, services, dashboard):
    play(services, dashboard, V1)
    operator().execute(context)
    other = FakeTask()
    other.dag_id = "other"
    with pytest.raises(AirflowFailException, match="is not this task's: it is made by dag dag, task task"):
        operator(V2).execute(context_of(other))
    assert services.import_path() == V1
