"""RayJobSensor(ray_job=...) as Airflow calls it, on a real API server, with statuses as KubeRay writes them.

No operator is at work: a test writes what KubeRay writes. The dashboard is the double of the unit tests.
"""

from __future__ import annotations

import asyncio
import json
import time
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.lifecycle import rayjob_end
from ray_provider.exceptions import JobFailedError, JobLostError, JobStoppedError
from ray_provider.sensors import RayJobSensor
from tests.support.airflow_task import FakeTask, context_of
from tests.support.dashboard import TOKEN

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("connection")]

ID = "train-abcde"
SPEC = {"image": "rayproject/ray:2.60.0", "name": "ray-head"}
JOB = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "train"},
    "spec": {
        "entrypoint": "python train.py",
        "jobId": ID,
        "submissionMode": "InteractiveMode",
        "rayClusterSpec": {"headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [SPEC]}}}},
    },
}
STARTED = {"jobId": ID, "rayClusterName": "train-x7k2p", "startTime": "2026-01-01T00:00:00Z"}
RUNNING = {**STARTED, "jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
SUCCEEDED = {**STARTED, "jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "succeeded": 1}
FAILED = {
    **STARTED,
    "jobDeploymentStatus": "Failed",
    "jobStatus": "FAILED",
    "reason": "AppFailed",
    "message": "Job entrypoint command failed with exit code 1, last available logs:\nValueError: no data",
    "failed": 1,
}
STOPPED = {**STARTED, "jobDeploymentStatus": "Complete", "jobStatus": "STOPPED", "succeeded": 0, "failed": 0}
INVALID = {
    "jobDeploymentStatus": "ValidationFailed",
    "reason": "ValidationFailed",
    "message": "backoffLimit is incompatible with InteractiveMode",
}
LATE = {
    **RUNNING,
    "jobDeploymentStatus": "Failed",
    "reason": "DeadlineExceeded",
    "message": "The RayJob has passed the activeDeadlineSeconds. StartTime: …",
}


class Somebodys:
    """A RayJob of somebody else's, as KubeRay writes of it."""

    def __init__(self, kubernetes, namespace) -> None:
        self.kubernetes, self.namespace = kubernetes, namespace
        kubernetes.apply(JOB, namespace)

    def says(self, status: dict[str, Any]) -> None:
        where = ("rayjob", "train", "-n", self.namespace, "--subresource=status", "--type=merge")
        self.kubernetes.kubectl("patch", *where, "-p", json.dumps({"status": status}))

    def delete(self) -> None:
        self.kubernetes.kubectl("delete", "rayjob", "train", "-n", self.namespace)

    @property
    def spec(self) -> dict[str, Any]:
        return self.kubernetes.get("rayjob", "train", "-n", self.namespace)["spec"]


@pytest.fixture
def job(kubernetes, namespace) -> Somebodys:
    return Somebodys(kubernetes, namespace)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(rayjob_end, "_ASK_SECONDS", 0.5)
    monkeypatch.setattr(rayjob_end, "_LOST_SECONDS", 1.0)
    monkeypatch.setattr(rayjob_end, "_AGAIN_SECONDS", 0.3)


@pytest.fixture
def context() -> dict[str, Any]:
    return context_of(FakeTask())


def sensor(**arguments: Any) -> RayJobSensor:
    return RayJobSensor(**{"task_id": "wait", "conn_id": "c", "ray_job": "train", "poke_interval": 0.2, **arguments})


class Deferred:
    """A sensor in the triggerer: deferred, its trigger built again from what was stored, and resumed as a new object."""

    def __init__(self, context, **arguments: Any) -> None:
        self.context, self.arguments = context, {**arguments, "deferrable": True}
        with pytest.raises(TaskDeferred) as caught:
            sensor(**self.arguments).execute(context)
        self.method = caught.value.method_name
        path, stored = caught.value.trigger.serialize()
        assert TOKEN not in json.dumps(stored)
        module, _, name = path.rpartition(".")
        stored = {**json.loads(json.dumps(stored)), "deferred_at": None}  # nobody has to see a worker's end here
        self.trigger = getattr(import_module(module), name)(**stored)
        self.trigger.task_instance = SimpleNamespace(dag_id="dag", run_id="run", task_id="wait", map_index=-1)
        self.task = asyncio.ensure_future(self._fire())

    async def _fire(self) -> dict[str, Any]:
        (event,) = [event.payload async for event in self.trigger.run()]
        await self.trigger.cleanup()
        return json.loads(json.dumps(event))

    async def result(self) -> Any:
        event = await self.task
        return await asyncio.to_thread(
            sensor(**self.arguments).resume_execution, self.method, {"event": event}, self.context
        )


@pytest.fixture(autouse=True)
def _log_is_taken(monkeypatch):
    """No triggerer has to take the last lines of a log here."""
    from ray_provider.triggers.log_end import LogEnd

    async def taken(*_):
        return None

    monkeypatch.setattr(LogEnd, "taken", taken)


ENDS = [
    (STOPPED, JobStoppedError, "KubeRay calls that Complete"),
    (FAILED, JobFailedError, "ValueError: no data"),
    (LATE, JobFailedError, "DeadlineExceeded: The RayJob has passed the activeDeadlineSeconds"),
    (INVALID, JobFailedError, "for good: backoffLimit is incompatible with InteractiveMode"),
]


@pytest.mark.parametrize(("status", "kind", "says"), ENDS, ids=["stopped", "failed", "late", "invalid"])
def test_no_success_in_the_worker(job, context, status, kind, says):
    job.says(status)
    with pytest.raises(kind, match=says):
        sensor().execute(context)
    with pytest.raises(AirflowSkipException, match=says):
        sensor(soft_fail=True).execute(context)


@pytest.mark.parametrize(("status", "kind", "says"), ENDS, ids=["stopped", "failed", "late", "invalid"])
async def test_no_success_in_the_triggerer(job, context, dashboard, status, kind, says):
    job.says(RUNNING)
    dashboard.api.add(ID).run()
    waits = Deferred(context)
    skips = Deferred(context, soft_fail=True)
    await asyncio.to_thread(job.says, status)
    with pytest.raises(kind, match=says):
        await waits.result()
    with pytest.raises(AirflowSkipException):
        await skips.result()


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_a_job_is_followed_to_its_success_in_the_worker(job, context, dashboard, namespace, capsys, mode):
    job.says(RUNNING)
    dashboard.api.add(ID).run()
    assert not sensor(mode=mode).poke(context)
    if mode == "reschedule":
        context["ti"].get_first_reschedule_date = lambda _context: None
        with pytest.raises(Exception) as caught:
            sensor(mode=mode).execute(context)
        assert type(caught.value).__name__ == "AirflowRescheduleException"
    job.says(SUCCEEDED)
    assert sensor(mode=mode).execute(context) == ID
    assert sensor(deferrable=True).execute(context) == ID, "what has ended needs no triggerer"
    assert capsys.readouterr().out.count(f"RayJob {namespace}/train: its job {ID} has succeeded.") == 2


async def test_a_job_is_followed_to_its_success_in_the_triggerer(job, context, dashboard, namespace, capsys):
    dashboard.api.add(ID).run()
    waits = Deferred(context)
    for status in ({"jobDeploymentStatus": "Initializing"}, RUNNING):
        await asyncio.to_thread(job.says, status)
        await asyncio.sleep(0.3)
        assert not waits.task.done()
    await asyncio.to_thread(job.says, SUCCEEDED)
    assert await waits.result() == ID
    assert f"RayJob {namespace}/train: its job {ID} has succeeded." in capsys.readouterr().out
    assert job.spec["jobId"] == ID, "it changes and deletes nothing"


async def test_a_killed_sensor_leaves_the_job_as_it_is(job, context):
    waits = Deferred(context)
    await asyncio.sleep(0.3)
    waits.task.cancel()
    await asyncio.gather(waits.task, return_exceptions=True)
    if hasattr(waits.trigger, "on_kill"):
        await waits.trigger.on_kill()
    await waits.trigger.cleanup()
    assert job.spec.get("suspend", False) is False


async def test_a_lost_head_is_noticed_though_kuberay_says_running(job, context, dashboard):
    job.says(RUNNING)
    dashboard.api.add(ID).run()
    waits = Deferred(context)
    await asyncio.sleep(1.0)
    assert not waits.task.done()
    dashboard.api.restart()
    with pytest.raises(JobLostError, match="The Ray head restarted while it ran"):
        await waits.result()
    with pytest.raises(JobLostError, match="goes on saying Running, job RUNNING"):
        await asyncio.to_thread(sensor().execute, context)


@pytest.mark.parametrize("kept", [True, False])
def test_a_job_that_nobody_submits_again_is_lost_for_a_rescheduled_sensor_too(job, context, dashboard, kept):
    """Each look is another process's. Before Airflow 3.3 nothing is kept between them: there the sensor's timeout ends it."""
    if not kept:
        del context["task_state_store"]
    spec = {**JOB["spec"], "submissionMode": "HTTPMode"}
    job.kubernetes.apply({**JOB, "metadata": {"name": "http"}, "spec": spec}, job.namespace)
    where = ("rayjob", "http", "-n", job.namespace, "--subresource=status", "--type=merge")
    job.kubernetes.kubectl("patch", *where, "-p", json.dumps({"status": RUNNING}))

    def look() -> bool:
        looked = sensor(mode="reschedule", ray_job="http", max_unreachable_seconds=1).poke(context)
        time.sleep(0.6)
        return bool(looked)

    dashboard.api.add(ID).run()
    assert not look()
    dashboard.api.restart()
    assert not look()
    if not kept:
        assert not any(look() for _ in range(3))
        return
    with pytest.raises(JobLostError, match="KubeRay goes on saying Running, job RUNNING"):
        for _ in range(3):
            look()


async def test_a_job_that_is_deleted_and_one_that_never_was(job, context, dashboard):
    job.says(RUNNING)
    dashboard.api.add(ID).run()
    waits = Deferred(context)
    await asyncio.sleep(0.3)
    await asyncio.to_thread(job.delete)
    with pytest.raises(JobLostError, match="deleted before its job's end was seen"):
        await waits.result()
    for deferrable in (False, True):
        with pytest.raises(JobLostError, match=f"There is no RayJob {job.namespace}/train"):
            await asyncio.to_thread(sensor(deferrable=deferrable).execute, context)


async def test_its_time_is_over(job, context):
    job.says({"jobDeploymentStatus": "Suspended"})
    with pytest.raises(AirflowSensorTimeout, match="suspended, and in no queue: somebody has to resume it"):
        await Deferred(context, timeout=1).result()
    with pytest.raises(AirflowSkipException):
        await Deferred(context, timeout=1, soft_fail=True).result()
    with pytest.raises(AirflowSensorTimeout):
        await asyncio.to_thread(sensor(timeout=1).execute, context)


def test_a_handle_names_it_too(job, context):
    job.says(SUCCEEDED)
    handle = ClusterHandle("kubernetes", "train-x7k2p", "", job.namespace, rayjob="train").to_dict()
    pushed = {"submission_id": ID, "dashboard_url": None, "cluster": handle, "cluster_owner": {}}
    for given in (handle, pushed):
        assert sensor(ray_job=given).execute(context) == ID
    elsewhere = {**handle, "namespace": "kube-system"}
    with pytest.raises(AirflowFailException, match="leads to namespace 'kube-system'"):
        sensor(ray_job=elsewhere).execute(context)


@pytest.mark.parametrize(
    ("ray_job", "says"),
    [
        (ClusterHandle("kubernetes", "c", "", "n").to_dict(), "belongs to no RayJob"),
        ({"submission_id": "x", "cluster": None}, "not the handle"),
        ("", "no RayJob is named"),
        ("{'cluster': {'backend': 'kubernetes'}}", "train.output"),
        (7, "no RayJob is named"),
    ],
)
def test_what_names_no_job_is_refused(context, ray_job, says):
    for deferrable in (False, True):
        with pytest.raises(AirflowFailException, match=says):
            sensor(ray_job=ray_job, deferrable=deferrable).execute(context)
