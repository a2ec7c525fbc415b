"""What a trigger met reaches its task: a failure in its own words, retried only where that makes sense, and a good end."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import ClusterError, KubernetesError, RayProviderError
from ray_provider.infrastructure.errors import TerraformCredentialsError
from ray_provider.operators import DeployRayService, DeployServeApplication, RunRayJob, SetupRayCluster, SubmitRayJob
from ray_provider.operators._rayjob import flow
from ray_provider.sensors import RayClusterSensor, RayJobSensor, RayServeSensor
from ray_provider.triggers import (
    RayClusterTrigger,
    RayJobEndTrigger,
    RayJobStartTrigger,
    RayJobTrigger,
    RayServeTrigger,
    RayServiceTrigger,
    coming_back,
    failure,
)

HANDLE = ClusterHandle("kubernetes", "c", "", "team", created=False, rayjob="train").to_dict()
LATER = time.time() + 600
TRIGGERS = {
    "cluster": RayClusterTrigger("c", HANDLE, {}, LATER),
    "job": RayJobTrigger("job-1", "c"),
    "start": RayJobStartTrigger("c", HANDLE, {}, LATER),
    "end": RayJobEndTrigger("c", HANDLE, LATER, LATER),
    "serve": RayServeTrigger("c", "app", LATER),
    "service": RayServiceTrigger("c", {"namespace": "team", "name": "shop"}, {"deadline": LATER}),
}
COMMON: dict[str, Any] = {"task_id": "task", "conn_id": "c"}
RESUMED = [
    ("cluster", SetupRayCluster(**COMMON), "execute_complete"),
    ("cluster", RayClusterSensor(**COMMON, cluster=HANDLE), "execute_complete"),
    ("job", SubmitRayJob(**COMMON, entrypoint="true"), "execute_complete"),
    ("job", RayJobSensor(**COMMON, submission_id="job-1"), "execute_complete"),
    ("start", RunRayJob(**COMMON, entrypoint="true"), "execute_started"),
    ("end", RayJobSensor(**COMMON, ray_job="train"), "execute_complete"),
    ("serve", DeployServeApplication(**COMMON, name="app", import_path="m:app"), "execute_complete"),
    ("serve", RayServeSensor(**COMMON, name="app"), "execute_complete"),
    ("service", DeployRayService(**COMMON), "execute_complete"),
]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(*_: Any) -> None:
        return None

    monkeypatch.setattr(coming_back, "wait", wait)
    # What becomes of a cluster is not what this is about.
    monkeypatch.setattr(SetupRayCluster, "_take_back", lambda *_: None)
    monkeypatch.setattr(flow, "keep", lambda *_: None)


async def event_of(which: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Have a trigger meet an error, and give its event as Airflow hands it on."""
    trigger = TRIGGERS[which]

    async def watch(_: Any) -> None:
        raise error

    monkeypatch.setattr(type(trigger), "_watch", watch)
    event = json.loads(json.dumps((await anext(trigger.run())).payload))
    assert isinstance(event, dict)
    return event


@pytest.mark.parametrize(("which", "task", "method"), RESUMED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("retried", [True, False])
async def test_a_task_is_retried_only_where_its_trigger_met_what_may_pass(
    context: Any, connection: Any, monkeypatch: pytest.MonkeyPatch, which: str, task: Any, method: str, retried: bool
) -> None:
    """The second is of a kind that the task does not look up by its name: those of Terraform and the clouds."""
    error = KubernetesError if retried else TerraformCredentialsError
    event = await event_of(which, error("the cloud says no", hint="log in again"), monkeypatch)
    raised = RayProviderError if retried else AirflowFailException
    with pytest.raises(raised, match="the cloud says no\nWhat to do: log in again"):
        task.resume_execution(method, {"event": event}, context)


ENDED: list[tuple[Any, dict[str, Any], str]] = [
    (
        RayClusterSensor(**COMMON, cluster=HANDLE),
        {"status": "ready", "cluster": HANDLE},
        "Ray cluster team/c is ready.",
    ),
    (
        RayJobSensor(**COMMON, submission_id="job-1"),
        {"outcome": {"submission_id": "job-1", "kind": "final", "status": "SUCCEEDED"}},
        "Job job-1: SUCCEEDED",
    ),
    (
        RayJobSensor(**COMMON, ray_job="train"),
        {"status": "ended", "job_id": "job-1", "where": "team/train"},
        "RayJob team/train: its job job-1 has succeeded.",
    ),
    (RayServeSensor(**COMMON, name="app"), {"status": "running", "name": "app"}, "Application 'app': RUNNING"),
]


@pytest.mark.parametrize(("sensor", "event", "says"), ENDED, ids=["cluster", "job", "RayJob", "serve"])
def test_a_sensor_that_waited_in_the_triggerer_says_what_it_waited_for(
    context: Any, connection: Any, capsys: pytest.CaptureFixture[str], sensor: Any, event: dict[str, Any], says: str
) -> None:
    sensor.resume_execution("execute_complete", {"event": event}, context)
    assert says in capsys.readouterr().out


async def test_a_secret_in_what_a_trigger_quotes_does_not_reach_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_provider._compat.redact", lambda text: text.replace("hunter2", "***"))
    for which in TRIGGERS:
        event = await event_of(which, ClusterError("its last lines: password hunter2"), monkeypatch)
        assert "hunter2" not in json.dumps(event), which


@pytest.mark.parametrize(
    ("said", "kind", "retried"),
    [
        ({"kind": "KubernetesError", "message": "m", "hint": "h"}, KubernetesError, True),
        ({"message": "m", "hint": None}, ClusterError, True),
        ({"kind": "OfALaterRelease", "message": "m", "hint": None, "retryable": True, "more": 1}, ClusterError, True),
        ({"kind": "OfALaterRelease", "message": "m", "retryable": False}, RayProviderError, False),
        ({"kind": "KubernetesAccessError", "message": "m"}, KubernetesError, False),
        ({"kind": "Any", "message": "m"}, ClusterError, True),
        ({"status": "EXCEPTION", "message": "m", "job_id": "of astro-provider-ray"}, ClusterError, True),
        ("m", ClusterError, True),
    ],
)
def test_what_another_release_says_is_read(said: Any, kind: type, retried: bool) -> None:
    error = failure.read(said, ClusterError)
    assert isinstance(error, kind)
    assert (error.message, error.retryable) == ("m", retried)
