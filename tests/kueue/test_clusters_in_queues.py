"""SetupRayCluster in the queues of a real Kueue: its wait is told, its time begins at the admission, its place may go."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from ray_provider.exceptions import JobLostError
from ray_provider.operators import DeleteRayCluster, SetupRayCluster, SubmitRayJob
from ray_provider.triggers import RayClusterTrigger
from tests.kubernetes.clusters import HEAD_ONLY, values
from tests.support.airflow_task import FakeTask, context_of
from tests.support.kubernetes import until

pytestmark = pytest.mark.timeout(300)

OPEN = values(HEAD_ONLY, authOptions={"mode": "disabled"})


@pytest.fixture
def set_up(kubernetes):
    """SetupRayCluster with what all tests here give it."""

    def make(**further: Any) -> SetupRayCluster:
        given = {"task_id": "setup", "conn_id": "c", "values": OPEN, "helm_path": str(kubernetes.helm4)}
        return SetupRayCluster(**{**given, "name": "ours", "local_queue": "team", **further})

    return make


def left(kubernetes, namespace) -> list[str]:
    """Name what is there of the cluster, or of its release."""
    there = kubernetes.kubectl("get", "rayclusters,pods,networkpolicies", "-n", namespace, "-o", "name").split()
    return [one for one in there if "ours" in one] + kubernetes.helm("list", "-a", "-q", "-n", namespace).split()


def test_a_cluster_waits_for_its_place_and_its_time_begins_with_it(
    set_up, start, team, nodes, log, kubernetes, namespace
):
    team.rival("high")
    until(team.admitted, 30, "the rival's admission")
    limit = 10
    task = start(set_up(priority_class="low", timeout_seconds=limit))
    log.tells(f"Ray cluster {namespace}/ours: it waits in the queue 'team': couldn't assign flavors to pod set head")
    assert "insufficient unused quota for cpu" in log.text
    # Longer than it may take to be ready: what is measured is that no clock runs, so time has to pass.
    time.sleep(limit + 1)
    assert not task.done
    assert not [one for one in left(kubernetes, namespace) if one.startswith("pod/")]
    team.rival_leaves()
    handle = task.result()
    assert handle["name"] == "ours"
    assert team.admitted("raycluster-ours")
    assert "no effect" not in log.text, "there is a Kueue"
    delete = DeleteRayCluster(task_id="delete", conn_id="c", cluster=handle, helm_path=str(kubernetes.helm4))
    assert start(delete).result() is True
    assert left(kubernetes, namespace) == []
    until(lambda: not team.workloads("raycluster-ours"), 30, "the place given back")


def test_a_job_on_a_cluster_whose_place_is_taken_away_fails_at_once_and_says_why(
    set_up, start, team, nodes, dashboard, namespace
):
    handle = start(set_up(priority_class="low")).result()
    job = SubmitRayJob(task_id="train", conn_id="c", cluster=handle, entrypoint="true", poll_interval=0.2)
    task = start(job)
    until(lambda: dashboard.api.jobs, 60, "job")
    dashboard.job.run(b"hello\n")
    team.rival("high")
    # The dashboard, which is played, still answers: this is Kueue's word.
    with pytest.raises(JobLostError) as caught:
        task.result(60)
    assert f"Kueue took the place of Ray cluster {namespace}/ours in the queue 'team' away (Preempted" in str(
        caught.value
    )


def test_a_queue_that_is_not_there_fails_at_once_and_leaves_nothing(set_up, start, team, kubernetes, namespace):
    began = time.monotonic()
    with pytest.raises(AirflowFailException, match=r"by the queue 'nosuch': LocalQueue nosuch doesn't exist\."):
        start(set_up(local_queue="nosuch")).result()
    assert time.monotonic() - began < 45
    assert left(kubernetes, namespace) == []


def test_what_kueue_refuses_is_told_in_its_words_and_nothing_is_made(set_up, start, team, kubernetes, namespace):
    """The annotation lets an autoscaler through here; this Kueue has the gate for it off."""
    elastic = {"annotations": {"kueue.x-k8s.io/elastic-job": "true"}}
    with pytest.raises(Exception, match="only when the ElasticJobsViaWorkloadSlices feature gate is on"):
        start(set_up(profile="autoscaling", values=[OPEN, elastic])).result()
    assert left(kubernetes, namespace) == []


async def test_a_place_that_is_taken_away_during_the_start_is_waited_for_again(
    monkeypatch, set_up, team, nodes, kubernetes, namespace
):
    """In the triggerer. The pods are there and no node has room yet, when somebody of a higher priority comes."""
    nodes.full.set()
    ti = FakeTask()
    ti.task_id = "setup"
    operator = set_up(deferrable=True, priority_class="low", queue_timeout_seconds=250)
    with pytest.raises(TaskDeferred) as deferred:
        await asyncio.to_thread(operator.execute, context_of(ti))
    lines: list[str] = []
    log = SimpleNamespace(info=lambda text, *given: lines.append(text % given), exception=lines.append)
    monkeypatch.setattr(RayClusterTrigger, "log", log)
    path, arguments = deferred.value.trigger.serialize()
    assert path == "ray_provider.triggers.RayClusterTrigger"
    trigger = RayClusterTrigger(**{**json.loads(json.dumps(arguments)), "deferred_at": None})
    trigger.task_instance = SimpleNamespace(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=-1)

    async def fire() -> dict[str, Any]:
        (event,) = [event.payload async for event in trigger.run()]
        return dict(event)

    def told(text: str) -> Any:
        return asyncio.to_thread(until, lambda: text in "\n".join(lines), 60, f"{text!r} in {lines}")

    watching = asyncio.create_task(fire())
    await told("head ")
    await asyncio.to_thread(team.rival, "high")
    await told(
        f"Kueue took the place of Ray cluster {namespace}/ours in the queue 'team' away (Preempted: Preempted to"
    )
    await told("it waits in the queue 'team': couldn't assign flavors")
    assert not watching.done()
    nodes.full.clear()
    await asyncio.to_thread(team.rival_leaves)
    event = await watching
    assert event["status"] == "ready", event
    assert operator.execute_complete(context_of(ti), event)["name"] == "ours"
