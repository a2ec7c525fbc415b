"""The operators, the trigger and the sensor for Serve, against a dashboard that behaves as Ray's."""

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
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from ray_provider import _compat
from ray_provider.exceptions import ServeError, ServeFailedError, ServeTimeoutError
from ray_provider.operators import DeleteServeApplication, DeployServeApplication
from ray_provider.sensors import RayServeSensor
from ray_provider.serve import deploy, removal
from ray_provider.serve.client import ServeClient
from ray_provider.serve.handle import ServeHandle
from ray_provider.triggers import RayServeTrigger, coming_back
from tests.support.dashboard import TOKEN

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.timeout(90)]

V1, V2 = "m:v1", "m:v2"
BROKEN = ("DEPLOY_FAILED", "Deploying app 'a' failed with exception:\nValueError: no weights", {})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(deploy, "_SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(removal, "_SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(coming_back, "seconds", lambda *_: 0.0)


@pytest.fixture
def serve(dashboard):
    return dashboard.api.serve


def operator(**given: Any) -> DeployServeApplication:
    return DeployServeApplication(
        **{"task_id": "task", "conn_id": "c", "name": "a", "import_path": V2, "route_prefix": "/a", **given}
    )


def fire(deferred: TaskDeferred, state: str = "deferred") -> dict[str, Any]:
    """What the trigger of a deferred task fires, after a way through Airflow's database."""
    kind, arguments = deferred.trigger.serialize()
    assert kind == "ray_provider.triggers.RayServeTrigger"
    trigger = RayServeTrigger(**json.loads(json.dumps(arguments)))

    async def collect() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    [event] = asyncio.run(collect())
    return json.loads(json.dumps(event))


def test_it_deploys_uploads_and_hands_on(serve, dashboard, context, ti, tmp_path):
    (tmp_path / "model.py").write_text("app = 1\n")
    serve.add("other")
    own = {"ray_actor_options": {"runtime_env": {"working_dir": str(tmp_path)}}}
    one = operator(
        runtime_env={"working_dir": str(tmp_path)}, args={"x": 1}, deployments=[{"name": "M", **own}],
        options={"logging_config": {"log_level": "DEBUG"}},
    )  # fmt: skip
    handle = one.execute(context)
    config = serve.applications["a"].config
    [uri] = {
        config["runtime_env"]["working_dir"],
        config["deployments"][0]["ray_actor_options"]["runtime_env"]["working_dir"],
    }
    assert uri.startswith("gcs://_ray_pkg_")
    assert uri.removeprefix("gcs://") in dashboard.api.packages
    assert own["ray_actor_options"]["runtime_env"]["working_dir"] == str(tmp_path), "the DAG's own is left as it is"
    assert config["args"] == {"x": 1}
    assert serve.applications["other"].status == "RUNNING"
    url = "http://127.0.0.1:8000/a"
    assert handle == {"name": "a", "route_prefix": "/a", "url": url, "cluster": None}
    assert ti.xcoms["task", "ray_serve_url"] == url
    assert ti.xcoms["task", "ray_dashboard_link"].endswith("/#/serve/applications/a")
    assert TOKEN not in json.dumps(list(ti.xcoms.values()))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"import_path": ""}, "import_path has to be module:attribute"),
        ({"options": {"loging_config": {}}}, "Is 'logging_config' meant"),
        ({"options": {"args": {}}}, "for which there is an argument"),
        ({"runtime_env": {"workng_dir": "."}}, "Is 'working_dir' meant"),
        ({"runtime_env": {"working_dir": "/no/such/folder"}}, "does not exist"),
        ({"deployments": "no list"}, "deployments has to be a list"),
        ({"http_options": {"prot": 1}}, "Is 'port' meant"),
        ({"http_options": {"port": 1}}, "Serve runs already, with port 8000"),
        ({"smoke_test": {"paht": "/"}}, "Is 'path' meant"),
        ({"route_prefix": "/other"}, "is taken by the application 'other'"),
        ({"timeout_seconds": 0}, "timeout_seconds has to be a number above 0"),
        ({"cluster": "text"}, "not the handle that SetupRayCluster returns"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_written(serve, context, given, says):
    serve.add("other")
    with pytest.raises(AirflowFailException, match=says):
        operator(**given).execute(context)
    assert serve.bodies == []


def test_a_failed_update_puts_the_former_version_back_unless_it_is_kept(serve, context):
    serve.fates[V2] = BROKEN
    for keep, left in ((False, V1), (True, V2)):
        serve.add("a", V1)
        with pytest.raises(ServeFailedError, match="ValueError: no weights") as raised:
            operator(keep_on_failure=keep).execute(context)
        assert ("keep_on_failure" if keep else "The former version was put back, and runs.") in raised.value.message
        assert serve.applications["a"].config["import_path"] == left


def test_deferred_it_waits_in_the_triggerer(serve, context, ti):
    serve.add("a", V1, runtime_env={"env_vars": {"KEY": "hunter2"}})
    serve.deploy_seconds = 0.5
    one = operator(deferrable=True, runtime_env={"env_vars": {"KEY": "hunter2"}})
    with pytest.raises(TaskDeferred) as raised:
        one.execute(context)
    left = json.dumps([raised.value.trigger.serialize(), *ti.xcoms.values()])
    assert "hunter2" not in left
    assert TOKEN not in left
    event = fire(raised.value)
    assert event["status"] == "running"
    handle = operator(deferrable=True).execute_complete(context, event)
    assert handle["url"] == "http://127.0.0.1:8000/a"


def test_a_former_version_with_other_secrets_is_waited_for_on_the_worker(serve, context, capsys):
    serve.add("a", V1, runtime_env={"env_vars": {"KEY": "hunter2"}})
    serve.deploy_seconds = 0.5
    handle = operator(deferrable=True, runtime_env={"env_vars": {"KEY": "hunter3"}}).execute(context)
    assert handle["name"] == "a"
    assert "waits on the worker instead of deferring" in capsys.readouterr().out


def test_deferred_a_failure_is_taken_back_by_the_trigger(serve, context):
    serve.fates[V2] = BROKEN
    serve.add("a", V1)
    serve.deploy_seconds = 0.5
    one = operator(deferrable=True)
    with pytest.raises(TaskDeferred) as raised:
        one.execute(context)
    event = fire(raised.value)
    assert event["status"] == "failed"
    with pytest.raises(ServeFailedError, match="no weights.*The former version was put back"):
        operator().execute_complete(context, event)
    assert serve.applications["a"].config["import_path"] == V1


def test_deferred_and_written_over_it_is_written_again_and_still_knows_what_was_there(serve, context):
    serve.fates[V2] = BROKEN
    serve.add("a", V1)
    serve.deploy_seconds = 0.5
    with pytest.raises(TaskDeferred) as raised:
        operator(deferrable=True).execute(context)
    serve.write({"applications": []})
    event = fire(raised.value)
    assert event["status"] == "overwritten"
    with pytest.raises(ServeFailedError, match="The former version was put back"):
        operator().execute_complete(context, event)
    assert serve.applications["a"].config["import_path"] == V1


def test_a_deferral_whose_trigger_is_gone_is_taken_back(serve, context, ti):
    serve.add("a", V1)
    serve.deploy_seconds = 30.0
    with pytest.raises(TaskDeferred):
        operator(deferrable=True).execute(context)
    with pytest.raises(Exception, match="(?i)timeout|failed"):
        operator().resume_execution("__fail__", {"error": "Trigger timeout"}, context)
    assert serve.applications["a"].config["import_path"] == V1


@pytest.mark.parametrize("there_before", [True, False])
def test_a_kill_puts_back_what_was_there(serve, context, there_before):
    if there_before:
        serve.add("a", V1)
    serve.deploy_seconds = 60.0
    one = operator()

    def kill_soon() -> None:
        while not serve.bodies:
            time.sleep(0.02)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    old = signal.signal(signal.SIGTERM, lambda *_: one.on_kill())
    threading.Thread(target=kill_soon, daemon=True).start()
    try:
        with pytest.raises(ServeError, match="ended from outside"):
            one.execute(context)
    finally:
        signal.signal(signal.SIGTERM, old)
    if there_before:
        assert serve.applications["a"].config["import_path"] == V1
    else:
        assert "a" not in serve.applications or serve.applications["a"].status == "DELETING"


@pytest.mark.parametrize(("state", "left"), [("failed", V1), ("deferred", V2)])
async def test_a_kill_while_deferred_is_told_from_a_triggerer_that_stalled(serve, monkeypatch, dashboard, state, left):
    async def told(_task: Any) -> str:
        return state

    monkeypatch.setattr(_compat, "core_state_of", told)
    serve.add("a", V1)
    async with ServeClient(dashboard.api.endpoint()) as client:
        wanted = {"name": "a", "import_path": V2, "route_prefix": "/a"}
        written = await deploy.Deploying(client, wanted, say=print).write()
        trigger = RayServeTrigger("c", "a", time.time() + 60, written=written.packed(wanted))
    trigger.task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)
    await trigger.on_kill()
    assert serve.applications["a"].config["import_path"] == left


async def test_a_trigger_that_ends_in_order_changes_nothing(serve):
    serve.add("a", V1)
    trigger = RayServeTrigger("c", "a", time.time() + 60, written={"name": "a", "digest": "", "found": "absent"})
    await trigger.cleanup()
    assert serve.bodies == []
    assert RayServeTrigger(**trigger.serialize()[1]).serialize() == trigger.serialize()


def test_a_smoke_test_has_to_pass(serve, dashboard, context):
    """The double of the dashboard stands in for Serve's proxy: it answers JSON below /api/version, without a token."""
    base = dashboard.api.url
    one = {"route_prefix": "/api", "serve_url": base}
    test = {"path": "/authentication_mode", "json": {"authentication_mode": "token"}}
    assert operator(**one, smoke_test=test).execute(context)["url"] == f"{base}/api"
    serve.add("a", V1)
    serve.applications["a"].config["route_prefix"] = "/api"
    with pytest.raises(
        ServeFailedError, match=r"smoke test fails: GET .*/api/authentication_mode: the answer is not"
    ) as raised:
        operator(**one, smoke_test={**test, "json": {"authentication_mode": "none"}}).execute(context)
    assert "The former version was put back" in raised.value.message
    assert serve.applications["a"].config["import_path"] == V1
    asked = [
        headers
        for (_, path), headers in zip(dashboard.api.requests, dashboard.api.headers, strict=True)
        if "mode" in path
    ]
    assert asked
    assert not any(TOKEN in str(headers) for headers in asked), "Ray's token is not for applications"


# -- delete ------------------------------------------------------------------------------------------------------------


def test_deleting_one_by_handle_or_by_name(serve, context):
    serve.add("a")
    serve.add("b")
    delete = DeleteServeApplication(task_id="d", conn_id="c", application={"name": "a", "cluster": None})
    assert delete.execute(context) is True
    assert sorted(serve.applications) == ["b"]
    assert delete.execute(context) is False
    with pytest.raises(AirflowFailException, match="No application is named"):
        DeleteServeApplication(task_id="d", conn_id="c").execute(context)


# -- the sensor --------------------------------------------------------------------------------------------------------


def sensor(**given: Any) -> RayServeSensor:
    return RayServeSensor(**{"task_id": "wait", "conn_id": "c", "name": "a", **given})


def test_the_sensor_waits_for_what_is_not_there_yet(serve, context):
    assert not sensor().poke(context)
    serve.add("a", imperative=True)
    found = sensor().poke(context)
    assert found
    assert found.xcom_value == "a"
    assert sensor(deferrable=True).execute(context) == "a"


def test_the_sensor_fails_or_skips_with_the_reason(serve, context):
    broken = serve.add("a")
    broken.status, broken.message = BROKEN[:2]
    with pytest.raises(ServeFailedError, match="no weights"):
        sensor().execute(context)
    with pytest.raises(AirflowSkipException, match="no weights"):
        sensor(soft_fail=True).execute(context)
    serve.applications.clear()
    with pytest.raises(TaskDeferred) as raised:
        sensor(deferrable=True, timeout=0.5).execute(context)
    event = fire(raised.value)
    assert event["error"]["kind"] == ServeTimeoutError.__name__
    with pytest.raises(AirflowSensorTimeout, match="'a' did not run within"):
        sensor().execute_complete(context, event)
    with pytest.raises(AirflowSkipException):
        sensor(soft_fail=True).execute_complete(context, event)
    assert sensor().execute_complete(context, {"status": "running", "name": "a"}) == "a"


@pytest.mark.parametrize(
    ("url", "route_prefix", "says"),
    [
        ("http://h:8000/a", "/a", "Application 'a' answers at http://h:8000/a"),
        (None, "/a", "give serve_url"),
        (None, None, ""),  # it is called by other applications alone
    ],
)
def test_where_it_answers_is_told_or_what_to_give(context, ti, capsys, url, route_prefix, says):
    run = SimpleNamespace(dashboard="http://h:8265", cluster=None)
    operator()._done(context, run, ServeHandle("a", route_prefix, url))
    told = [line for line in capsys.readouterr().out.splitlines() if "answers" in line]
    assert [says in line for line in told] == ([True] if says else [])
    assert ti.xcoms["task", "ray_serve_url"] == url
