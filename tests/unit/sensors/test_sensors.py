"""Sensors honour what every sensor of Airflow honours: ``mode``, ``timeout``, ``soft_fail``, ``never_fail``."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from ray_provider.exceptions import ClusterFailedError, ConfigurationError, JobFailedError, RayProviderError
from ray_provider.sensors import RayClusterSensor, RayJobSensor
from ray_provider.sensors import cluster as cluster_sensor
from ray_provider.triggers import RayClusterTrigger, RayJobTrigger, coming_back
from tests.support.kubernetes_api import kubeconfig, running
from tests.unit.clusters.kubernetes.test_watching import CLUSTERS

pytestmark = pytest.mark.timeout(60)

BEING_DELETED = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
NOT_READY = {"metadata": {"generation": 1}, "spec": {}}


def sensor(**arguments: Any) -> RayClusterSensor:
    return RayClusterSensor(task_id="wait", conn_id="c", name="c", namespace="n", **arguments)


async def outcome_of(connection: dict[str, Any], context: Any, state: dict[str, Any], **arguments: Any) -> Exception:
    """What a sensor raises whose cluster is in this state."""
    async with running() as (server, _):
        connection.clear()
        connection.update(kube_config=kubeconfig(server))
        await server.put(CLUSTERS, "c", state)
        with pytest.raises(Exception) as raised:  # noqa: PT011 - which one it is, is the question
            await asyncio.to_thread(sensor(**arguments).execute, context)
        return raised.value


async def test_a_cluster_that_is_late_is_a_time_out_which_airflow_does_not_retry(connection, context):
    error = await outcome_of(connection, context, NOT_READY, timeout=2)
    assert isinstance(error, AirflowSensorTimeout)
    assert "was not ready after" in str(error)
    error = await outcome_of(connection, context, NOT_READY, timeout=2, soft_fail=True)
    assert isinstance(error, AirflowSkipException)
    assert "waiting for the KubeRay operator" in str(error), "the reason is told"


async def test_a_cluster_that_can_not_become_ready_fails_or_skips(connection, context):
    assert isinstance(await outcome_of(connection, context, BEING_DELETED), ClusterFailedError)
    for skip in ("soft_fail", "never_fail"):
        error = await outcome_of(connection, context, BEING_DELETED, **{skip: True})
        assert isinstance(error, AirflowSkipException)
        assert "being deleted" in str(error)


async def test_rescheduled_it_looks_for_some_seconds_and_gives_the_slot_back(connection, context, ti, monkeypatch):
    """Before: it watched in the worker for all of its time, whatever ``mode`` said."""
    monkeypatch.setattr(cluster_sensor, "_LOOK_SECONDS", 2.0)
    ti.get_first_reschedule_date = lambda _context: None
    began = time.monotonic()
    error = await outcome_of(connection, context, NOT_READY, mode="reschedule", timeout=2600, poke_interval=60)
    assert type(error).__name__ == "AirflowRescheduleException"
    assert time.monotonic() - began < 20
    error = await outcome_of(connection, context, BEING_DELETED, mode="reschedule", soft_fail=True)
    assert isinstance(error, AirflowSkipException)
    async with running() as (server, _):
        await server.stop()
        connection.update(kube_config=kubeconfig(server))
        with pytest.raises(Exception) as raised:  # noqa: PT011
            await asyncio.to_thread(sensor(mode="reschedule", poke_interval=60).execute, context)
        assert type(raised.value).__name__ == "AirflowRescheduleException", "an API server that is away for a moment"
        await server.start()


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
async def test_deferred_it_is_the_same(connection, context, mode):
    connection.update(kube_config=kubeconfig(SimpleNamespace(port=1)))
    with pytest.raises(TaskDeferred) as deferred:
        sensor(deferrable=True, mode=mode, timeout=60).execute(context)
    assert deferred.value.trigger.keep, "the cluster is somebody else's"

    def event(kind: str, *, retryable: bool = True) -> dict[str, Any]:
        error = {"kind": kind, "message": "so it is", "hint": None, "retryable": retryable}
        return {"event": {"status": "failed", "error": error}}

    def resumed(kind: str, **arguments: Any) -> Exception:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            sensor(**arguments).resume_execution("execute_complete", event(kind), context)
        return raised.value

    assert isinstance(resumed("ClusterTimeoutError"), AirflowSensorTimeout)
    assert isinstance(resumed("ClusterTimeoutError", soft_fail=True), AirflowSkipException)
    assert isinstance(resumed("ClusterFailedError"), ClusterFailedError)
    assert isinstance(resumed("ClusterFailedError", soft_fail=True), AirflowSkipException)
    assert isinstance(resumed("KubernetesAccessError"), AirflowFailException)
    # What another try may see differently is retried first, as Airflow does with a look that fails.
    assert not isinstance(resumed("KubernetesError", soft_fail=True), AirflowException)
    assert isinstance(resumed("KubernetesError", never_fail=True), AirflowSkipException)


def test_a_trigger_of_the_last_release_stays_away_as_long():
    now = time.time()
    old = RayClusterTrigger("c", {"name": "c"}, {}, now + 60, not_before=now + 6.0)
    assert old.deferred_at == pytest.approx(now)
    again = RayClusterTrigger(**old.serialize()[1])
    assert again.deferred_at == old.deferred_at


async def test_each_trigger_holds_its_task_back_on_a_slow_airflow(monkeypatch):
    """Before: that of a cluster fired after six seconds, however long Airflow took to start it."""
    held: list[tuple[float | None, float]] = []

    async def wait(deferred_at: float | None, began: float) -> None:
        held.append((deferred_at, began))

    async def watch(_: Any) -> None:
        raise ConfigurationError("it can't be watched")

    monkeypatch.setattr(coming_back, "wait", wait)
    now = time.time()
    for trigger in (
        RayClusterTrigger("c", {"name": "c"}, {}, now + 60, deferred_at=now - 9),
        RayJobTrigger("a", "c", deferred_at=now - 9),
    ):
        monkeypatch.setattr(type(trigger), "_watch", watch)
        await anext(trigger.run())
    assert [deferred_at for deferred_at, _ in held] == [now - 9, now - 9]
    assert all(began >= now for _, began in held)


def test_a_job_that_failed_skips_a_sensor_that_may_be_skipped(connection, context, dashboard):
    """Before: ``soft_fail`` did nothing, neither in the worker nor deferred."""
    job = dashboard.api.add("mine", "false")
    job.run()
    job.end("FAILED", message="no such file")
    outcome = {"submission_id": "mine", "kind": "final", "status": "FAILED", "message": "no such file"}

    def raised(**arguments: Any) -> list[Exception]:
        made = RayJobSensor(task_id="wait", conn_id="c", submission_id="mine", **arguments)
        found = []
        for act in (
            lambda: made.execute(context),
            lambda: made.resume_execution("execute_complete", {"event": {"outcome": outcome}}, context),
        ):
            with pytest.raises(Exception) as one:  # noqa: PT011
                act()
            found.append(one.value)
        return found

    assert all(isinstance(error, JobFailedError) for error in raised())
    for error in raised(soft_fail=True):
        assert isinstance(error, AirflowSkipException)
        # Resumed, Airflow puts a message of its own before ours.
        assert "no such file" in f"{error} {error.__cause__}"
    unreachable = {"event": {"error": {"message": "nobody answers", "retryable": True}}}
    with pytest.raises(RayProviderError, match="nobody answers"):
        RayJobSensor(task_id="wait", conn_id="c", submission_id="mine", soft_fail=True).resume_execution(
            "execute_complete", unreachable, context
        )


def test_a_sensor_waits_for_one_job(connection, context):
    for further in ({"submission_id": "mine"}, {"cluster": {"backend": "kubernetes"}}):
        with pytest.raises(ConfigurationError, match=f"ray_job is given, and so is {next(iter(further))}"):
            RayJobSensor(task_id="wait", conn_id="c", ray_job="train", **further)
    for none in ({}, {"submission_id": ""}):
        with pytest.raises(AirflowFailException, match="no job is named"):
            RayJobSensor(task_id="wait", conn_id="c", **none).execute(context)
    connection.pop("address")
    connection["backend"] = "local"
    with pytest.raises(AirflowFailException, match="backend: local, where there are no RayJobs"):
        RayJobSensor(task_id="wait", conn_id="c", ray_job="train").execute(context)
