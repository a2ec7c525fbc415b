"""A Ray cluster in one of Kueue's queues, in the states that KubeRay and Kueue show: what is told, and which clock runs."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.kuberay import queue_watch, readiness
from ray_provider.clusters.kuberay.queueing import check_cluster, labels_of
from ray_provider.clusters.kuberay.readiness import ReadinessOptions, ReadinessWatch
from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.exceptions import ClusterTimeoutError, ConfigurationError
from ray_provider.hooks import RayHook
from tests.support.kubernetes_api import check_seconds_told, running
from tests.support.waiting import until
from tests.unit.clusters.lifecycle.test_rayjob_start import ADMITTED, FULL, PREEMPTED

CLUSTERS = "/apis/ray.io/v1/namespaces/n/rayclusters"
WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/n/workloads"
HANDLE = ClusterHandle("kubernetes", "c", "", "n", service="c-head-svc")
WRONG = ("QuotaReserved", "False", "Inadmissible", "LocalQueue team doesn't exist")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(readiness, "QUEUE_SECONDS", 0.1)
    monkeypatch.setattr(queue_watch, "UNSEEN_SECONDS", 0.5)


class Scene:
    """One RayCluster on an API server, and what became of whoever waits for it."""

    def __init__(self, server, kube, access):
        self.server, self.kube, self.access = server, kube, access
        self.lines = []
        self.task = None
        self.generation = 1
        server.selects.add(WORKLOADS)

    async def cluster(self, *, suspend=None, head=False, queue="team", noticed=True, changed=None):
        """Have KubeRay say this of the cluster; each is a change of its spec."""
        self.generation += 1
        when = (changed or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {
            "observedGeneration": self.generation if noticed else self.generation - 1,
            "conditions": [
                {"type": "HeadPodReady", "status": "True" if head else "False"},
                {"type": "RayClusterProvisioned", "status": "True" if head else "False"},
                {
                    "type": "RayClusterSuspended",
                    "status": "True" if suspend else "False",
                    "lastTransitionTime": when,
                },
            ],
        }
        meta = {"uid": "u-1", "generation": self.generation}
        if queue:
            meta["labels"] = {"kueue.x-k8s.io/queue-name": queue}
        spec = {} if suspend is None else {"suspend": suspend}
        await self.server.put(CLUSTERS, "c", {"metadata": meta, "spec": spec, "status": status})

    async def kueue(self, *conditions):
        """Have Kueue say this by the cluster's Workload; nothing: there is none."""
        await self.server.put(
            "/apis", "kueue.x-k8s.io", {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2"}}
        )
        if conditions:
            told = [dict(zip(("type", "status", "reason", "message"), one, strict=True)) for one in conditions]
            meta = {"labels": {"kueue.x-k8s.io/job-uid": "u-1"}}
            await self.server.put(WORKLOADS, "raycluster-c", {"metadata": meta, "status": {"conditions": told}})

    def start(self, *, deadline=None, **options):
        given = ReadinessOptions(**{"timeout_seconds": 30.0, "queue_apart": True, **options})
        watch = ReadinessWatch(self.kube, "n", "c", given, say=self.lines.append, deadline=deadline)
        self.task = asyncio.create_task(watch.wait())

    async def told(self, text):
        await until(lambda: any(text in line for line in self.lines) or self.task.done())
        assert any(text in line for line in self.lines), (self.lines, self.task)

    async def end(self, seconds=30.0):
        async with asyncio.timeout(seconds):
            return await self.task

    async def still(self, seconds=0.5):
        """Nothing ends it for so long."""
        await asyncio.sleep(seconds)
        assert not self.task.done(), self.task


@asynccontextmanager
async def scene():
    async with running() as (server, access), open_kube(access) as kube:
        made = Scene(server, kube, access)
        try:
            yield made
        finally:
            if made.task is not None:
                made.task.cancel()
                await asyncio.gather(made.task, return_exceptions=True)


async def test_what_kueue_says_is_told_and_no_time_runs_in_the_queue():
    async with scene() as s:
        await s.cluster(suspend=True)
        await s.kueue(FULL)
        s.start(timeout_seconds=0.8)
        await s.told("Ray cluster n/c: it waits in the queue 'team': insufficient unused quota for cpu in flavor")
        await s.still(1.2)
        assert len(s.lines) == 1, "what has not changed is not told again"
        await s.kueue(ADMITTED)
        await s.cluster(suspend=False)
        await s.still(0.3)
        await s.cluster(suspend=False, head=True)
        await s.end()


async def test_the_time_for_the_start_begins_when_the_queue_lets_go():
    async with scene() as s:
        await s.cluster(suspend=True)
        await s.kueue(FULL)
        s.start(timeout_seconds=1.0)
        await s.still(1.2)
        await s.cluster(suspend=False)
        began = time.monotonic()
        with pytest.raises(ClusterTimeoutError, match=r"n/c was not ready after \d+ s: head not made yet") as e:
            await s.end()
        check_seconds_told(e.value, 1, since=began)
        assert 0.8 < time.monotonic() - began < 30


async def test_a_queue_that_is_not_there_fails_at_once_with_kueues_words():
    async with scene() as s:
        await s.cluster(suspend=True)
        await s.kueue(WRONG)
        s.start()
        with pytest.raises(ConfigurationError) as caught:
            await s.end(2)
        text = "The Ray cluster n/c can't be admitted by the queue 'team': LocalQueue team doesn't exist."
        assert caught.value.message == text
        assert "kubectl -n n get localqueues" in caught.value.hint


@pytest.mark.parametrize("kueue", [True, False])
async def test_a_cluster_that_nobody_looks_at_is_not_waited_for(kueue):
    async with scene() as s:
        await s.cluster(suspend=True)
        if kueue:
            await s.kueue()
        s.start()
        await s.told("it waits for Kueue to look at it (queue 'team')")
        with pytest.raises(ConfigurationError, match="Kueue has made no Workload for the Ray cluster n/c") as caught:
            await s.end()
        assert "framework ray.io/raycluster" in caught.value.hint


async def test_the_users_limit_for_the_queue_is_kept_and_says_what_it_waited_for():
    async with scene() as s:
        await s.cluster(suspend=True)
        await s.kueue(FULL)
        s.start(queue_seconds=0.6)
        with pytest.raises(
            ClusterTimeoutError, match=r"not admitted after \d s in the queue 'team': insufficient"
        ) as e:
            await s.end()
        assert "queue_timeout_seconds" in e.value.hint


async def test_the_limit_for_the_queue_goes_on_in_another_triggerer():
    """By what KubeRay wrote down: who looks now does not know how long another has waited."""
    async with scene() as s:
        await s.cluster(suspend=True, changed=datetime.now(UTC) - timedelta(seconds=100))
        await s.kueue(FULL)
        s.start(queue_seconds=90)
        with pytest.raises(ClusterTimeoutError, match=r"not admitted after 10\d s in the queue"):
            await s.end(2)


async def test_a_start_goes_on_in_another_triggerer_though_its_first_time_is_over():
    """The deadline of the deferral was made before the queue; it was let go a moment ago."""
    async with scene() as s:
        await s.cluster(suspend=False, changed=datetime.now(UTC) - timedelta(seconds=2))
        s.start(deadline=time.time() - 100, timeout_seconds=60)
        await s.still()
        await s.cluster(suspend=False, head=True)
        await s.end()


async def test_a_cluster_that_was_in_no_queue_has_its_time_and_no_more():
    async with scene() as s:
        await s.cluster(queue=None)
        s.start(deadline=time.time() + 0.4, timeout_seconds=60)
        with pytest.raises(ClusterTimeoutError, match="was not ready after"):
            await s.end()


async def test_a_place_that_is_taken_away_is_told_and_waited_for_again():
    async with scene() as s:
        await s.cluster(suspend=False)
        await s.kueue(ADMITTED)
        s.start(timeout_seconds=1.0)
        await s.told("head not made yet")
        await s.kueue(PREEMPTED, FULL)
        await s.cluster(suspend=True, noticed=False)
        await s.told(
            "Kueue took the place of Ray cluster n/c in the queue 'team' away (Preempted: Preempted to accommodate"
        )
        await s.told("it waits in the queue 'team': insufficient unused quota")
        await s.still(1.2)
        await s.cluster(suspend=False)
        await s.cluster(suspend=False, head=True)
        await s.end()


async def test_a_cluster_whose_place_is_taken_is_not_ready_though_its_head_still_is():
    async with scene() as s:
        await s.kueue(PREEMPTED, FULL)
        await s.cluster(suspend=True, head=True, noticed=False)
        s.start()
        await s.told("it waits in the queue")
        await s.still()


async def test_the_right_that_is_missing_is_named_and_the_cluster_waited_for():
    async with scene() as s:
        await s.cluster(suspend=True)
        await s.kueue(FULL)
        s.server.forbidden.add(WORKLOADS)
        s.start()
        await s.told("what Kueue says can't be read (u may not list workloads")
        await s.still(0.8)
        await s.cluster(suspend=False, head=True)
        await s.end()


async def test_a_sensors_time_goes_on_in_the_queue_and_its_end_says_so():
    async with scene() as s:
        await s.cluster(suspend=True)
        await s.kueue(FULL)
        s.start(queue_apart=False, timeout_seconds=0.6)
        with pytest.raises(ClusterTimeoutError, match="it waits in the queue 'team': insufficient unused quota"):
            await s.end()


async def test_a_cluster_that_somebody_suspended_is_told_as_that():
    async with scene() as s:
        await s.cluster(suspend=True, queue=None)
        s.start(timeout_seconds=0.6)
        with pytest.raises(ClusterTimeoutError, match="it is suspended, and in no queue"):
            await s.end()
        assert "somebody has to resume it (spec.suspend: false)" in s.lines[0]


# -- what is made ------------------------------------------------------------------------------------------------------


def ray_cluster(*, labels=None, annotations=None, autoscaling=False):
    meta = {"name": "c", "labels": labels or {}, "annotations": annotations or {}}
    return {"metadata": meta, "spec": {"enableInTreeAutoscaling": autoscaling}}


def test_a_chart_that_drops_the_label_is_refused():
    with pytest.raises(ConfigurationError, match="wait in the queue 'team': Kueue would not see it") as caught:
        check_cluster(ray_cluster(), "team")
    assert caught.value.data["field"] == "local_queue"
    check_cluster(ray_cluster(labels=labels_of("team", None)), "team")


def test_an_autoscaler_is_refused_in_a_queue_however_that_is_named():
    for told in ("team", None):
        with pytest.raises(ConfigurationError, match="does not admit a RayCluster whose number of workers changes"):
            check_cluster(ray_cluster(labels=labels_of("team", "high"), autoscaling=True), told)
    elastic = {"kueue.x-k8s.io/elastic-job": "true"}
    check_cluster(ray_cluster(labels=labels_of("team", None), annotations=elastic, autoscaling=True), "team")
    check_cluster(ray_cluster(autoscaling=True), None)


# -- jobs on a cluster whose place is taken away -----------------------------------------------------------------------


def interrupted(s, access):
    class Hook(RayHook):
        async def access_of(self, _handle):
            return access

    s.task = asyncio.create_task(Hook("c").interruptions(HANDLE)())


async def test_a_job_is_told_that_the_queue_took_its_cluster_away():
    async with scene() as s:
        await s.cluster(suspend=False, head=True)
        await s.kueue(ADMITTED)
        interrupted(s, s.access)
        await until(lambda: f"watch {CLUSTERS}" in s.server.requests)
        await s.still()
        await s.kueue(PREEMPTED, FULL)
        await s.cluster(suspend=True, head=True, noticed=False)
        found = await s.end()
        assert found.kind == "lost"
        assert found.message == (
            "Kueue took the place of Ray cluster n/c in the queue 'team' away (Preempted: Preempted to accommodate a "
            "workload): its pods and the jobs on it are gone."
        )


async def test_a_cluster_in_no_queue_or_out_of_sight_is_not_watched_under_its_jobs():
    async with scene() as s:
        await s.cluster(queue=None)
        interrupted(s, s.access)
        assert await s.end() is None
        await s.server.remove(CLUSTERS, "c")
        interrupted(s, s.access)
        assert await s.end() is None
        s.server.token = "another"
        interrupted(s, s.access)
        assert await s.end() is None
        assert f"watch {CLUSTERS}" not in s.server.requests
