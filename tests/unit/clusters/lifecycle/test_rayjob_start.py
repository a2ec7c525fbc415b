"""A RayJob's start, and its end by other means, in the states that KubeRay and Kueue show: some of them lie."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.kuberay import queue_watch
from ray_provider.clusters.kubernetes.client import path_of
from ray_provider.clusters.lifecycle import rayjob_start
from ray_provider.clusters.lifecycle.rayjob_start import RayJobOver, StartOptions, wait_started
from ray_provider.clusters.lifecycle.rayjob_watch import until_interrupted
from ray_provider.exceptions import (
    ClusterFailedError,
    ClusterTimeoutError,
    ConfigurationError,
    KubernetesAccessError,
)
from tests.support.kubernetes_api import check_seconds_told, running
from tests.support.waiting import until

JOBS = "/apis/ray.io/v1/namespaces/n/rayjobs"
CLUSTERS = "/apis/ray.io/v1/namespaces/n/rayclusters"
WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/n/workloads"
HANDLE = ClusterHandle("kubernetes", "", "", "n", rayjob="train")
FULL = ("QuotaReserved", "False", "Pending", "insufficient unused quota for cpu in flavor default, 1 more needed")
ADMITTED = ("Admitted", "True", "Admitted", "The workload is admitted")
PREEMPTED = ("Evicted", "True", "Preempted", "Preempted to accommodate a workload")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(rayjob_start, "QUEUE_SECONDS", 0.1)
    monkeypatch.setattr(queue_watch, "UNSEEN_SECONDS", 0.5)


class Scene:
    """One RayJob on an API server, and what became of whoever waits for it."""

    def __init__(self, server, access):
        self.server, self.access = server, access
        self.lines = []
        self.task = None
        server.selects.add(WORKLOADS)

    async def job(self, deployment="", job="", *, queue=None, cluster="", deleting=False, selects="", **more):
        """Have KubeRay say this of the RayJob: what is empty is left out, as it does."""
        status = {"jobDeploymentStatus": deployment, "jobStatus": job, "rayClusterName": cluster, **more}
        meta = {"uid": "u-1", "labels": {"kueue.x-k8s.io/queue-name": queue} if queue else {}}
        if deleting:
            meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        spec = {"jobId": "j", **({"managedBy": more.pop("managed_by")} if "managed_by" in more else {})}
        status.pop("managed_by", None)
        if selects:
            spec["clusterSelector"] = {"ray.io/cluster": selects}
        status = {key: value for key, value in status.items() if value}
        await self.server.put(JOBS, "train", {"metadata": meta, "spec": spec, "status": status})

    async def cluster(self, name, *, head=False):
        """Have a cluster of one worker, which never comes."""
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

    async def dashboard(self, name):
        api = f"/api/v1/namespaces/n/services/{name}-head-svc:8265/proxy/api"
        await self.server.put(api, "version", {"version": "4", "ray_version": "2.60.0", "session_name": "s"})

    async def kueue(self, *conditions, uid="u-1"):
        """Have Kueue say this by the Workload of the RayJob."""
        told = [dict(zip(("type", "status", "reason", "message"), one, strict=True)) for one in conditions]
        await self.server.put(
            "/apis", "kueue.x-k8s.io", {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2"}}
        )
        meta = {"labels": {"kueue.x-k8s.io/job-uid": uid}}
        await self.server.put(WORKLOADS, f"rayjob-{uid}", {"metadata": meta, "status": {"conditions": told}})

    def start(self, *, since=None, **options):
        given = StartOptions(**{"start_seconds": 8.0, **options})
        waiting = wait_started(self.access, HANDLE, given, access="proxy", since=since, say=self.lines.append)
        self.task = asyncio.create_task(waiting)

    def watch(self, cluster="train-a"):
        self.task = asyncio.create_task(until_interrupted(self.access, replace(HANDLE, name=cluster)))

    async def told(self, text):
        await until(lambda: any(text in line for line in self.lines) or self.task.done())
        assert any(text in line for line in self.lines), (self.lines, self.task)

    async def end(self, seconds=30.0):
        async with asyncio.timeout(seconds):
            return await self.task

    async def still(self, seconds=0.4):
        """Nothing ends it for so long."""
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


# -- a start that goes well --------------------------------------------------------------------------------------------


async def test_the_head_is_waited_for_and_no_worker():
    async with scene() as s:
        await s.job()
        s.start()
        await s.job("Initializing", cluster="train-a")
        await s.cluster("train-a")
        await s.still()
        await s.dashboard("train-a")
        await s.cluster("train-a", head=True)
        handle = await s.end()
        assert (handle.name, handle.rayjob, handle.service) == ("train-a", "train", "train-a-head-svc")
        assert handle.address.endswith("/services/train-a-head-svc:8265/proxy")
        assert "train-a is ready: Ray 2.60.0" in s.lines[-1]


async def test_a_job_that_is_there_already_is_known_at_once():
    async with scene() as s:
        await s.job("Running", "RUNNING", cluster="train-a")
        await s.cluster("train-a", head=True)
        await s.dashboard("train-a")
        s.start()
        assert (await s.end()).name == "train-a"


async def test_a_job_on_a_cluster_that_is_there_starts_at_once():
    async with scene() as s:
        await s.job("Running", cluster="shared", selects="shared")
        await s.cluster("shared", head=True)
        await s.dashboard("shared")
        s.start()
        assert (await s.end()).name == "shared"


@pytest.mark.parametrize("cluster", ["", "shared"])
async def test_a_cluster_that_was_to_be_there_and_is_not_is_told_at_once(cluster):
    """Before: KubeRay says Initializing for ever, and an event."""
    async with scene() as s:
        await s.job("Initializing", cluster=cluster, selects="shared")
        s.start(start_seconds=60.0)
        with pytest.raises(ClusterFailedError, match="The RayCluster n/shared is not there") as caught:
            await s.end()
        assert "kubectl -n n get rayclusters" in caught.value.hint


@pytest.mark.parametrize("status", [("Complete", "SUCCEEDED"), ("Complete", "STOPPED"), ("Failed", "FAILED")])
@pytest.mark.parametrize("seen", [False, True])
async def test_a_job_that_has_ended_with_its_cluster_gone_is_over(status, seen):
    """A triggerer was away while all of it happened. Before: the start's time-out."""
    async with scene() as s:
        more = {"reason": "AppFailed", "message": "boom"} if status[0] == "Failed" else {}
        if seen:
            await s.job("Running", cluster="train-a")
            await s.cluster("train-a")
        else:
            await s.job(*status, cluster="train-a", **more)
        s.start(start_seconds=60.0)
        if seen:
            await s.told("train-a")
            await s.job(*status, cluster="train-a", **more)
            await s.still()
            await s.server.remove(CLUSTERS, "train-a")
        with pytest.raises(RayJobOver) as caught:
            await s.end()
        assert (caught.value.state.job, caught.value.state.job_id) == (status[1], "j")


# -- a start that can't come -------------------------------------------------------------------------------------------


async def test_no_operator_takes_notice():
    async with scene() as s:
        await s.job()
        began = time.monotonic()
        s.start(operator_seconds=0.6)
        with pytest.raises(ClusterFailedError, match="No KubeRay operator has taken notice of the RayJob n/train") as e:
            await s.end()
        assert 0.5 < time.monotonic() - began < 30
        assert e.value.data["cause"] == "operator not running"
        assert "watchNamespace" in e.value.hint


async def test_a_job_that_another_is_to_look_after_says_so():
    async with scene() as s:
        await s.job(managed_by="kueue.x-k8s.io/multikueue")
        s.start(operator_seconds=0.3)
        with pytest.raises(ClusterFailedError, match=r"it says managedBy: kueue\.x-k8s\.io/multikueue"):
            await s.end()


async def test_a_job_that_kuberay_refuses_is_a_mistake_in_its_spec():
    async with scene() as s:
        await s.job("ValidationFailed", message="The RayJob spec is invalid: ttlSecondsAfterFinished.")
        s.start()
        with pytest.raises(ConfigurationError) as e:
            await s.end()
        text = "KubeRay refuses the RayJob n/train: The RayJob spec is invalid: ttlSecondsAfterFinished."
        assert e.value.message == text


@pytest.mark.parametrize("reason", ["DeadlineExceeded", "PreRunningDeadlineExceeded", "SomethingNew"])
async def test_a_job_that_kuberay_gives_up_ends_the_start(reason):
    async with scene() as s:
        await s.job("Initializing", cluster="train-a")
        await s.cluster("train-a")
        s.start()
        await s.told("train-a")
        await s.job("Failed", cluster="train-a", reason=reason, message="It took too long.")
        # Its cluster goes with it: that is told by what the job says.
        await s.server.remove(CLUSTERS, "train-a")
        with pytest.raises(
            ClusterFailedError, match=f"gave up the RayJob n/train before .*: {reason}: It took too lon"
        ):
            await s.end()


@pytest.mark.parametrize("cluster", ["", "train-a"])
async def test_a_job_that_somebody_deletes_meanwhile_is_told(cluster):
    async with scene() as s:
        await s.job("Initializing", cluster=cluster)
        await s.cluster("train-a")
        s.start()
        await until(lambda: f"watch {JOBS}" in s.server.requests)
        await s.server.remove(JOBS, "train")
        with pytest.raises(ClusterFailedError, match="The RayJob n/train was deleted while"):
            await s.end()


async def test_a_job_is_told_as_deleted_though_its_cluster_goes_first():
    async with scene() as s:
        await s.job("Initializing", cluster="train-a")
        await s.cluster("train-a")
        s.start()
        await s.told("train-a")
        # Both are gone before anybody is told: the cluster's watch may be the first to say so.
        del s.server.objects[JOBS]["train"]
        await s.server.remove(CLUSTERS, "train-a")
        with pytest.raises(ClusterFailedError, match="The RayJob n/train was deleted while"):
            await s.end()


async def test_a_job_that_is_on_its_way_out_is_not_waited_for():
    async with scene() as s:
        await s.job("Running", "STOPPED", cluster="train-a", deleting=True)
        s.start()
        with pytest.raises(ClusterFailedError, match="is being deleted"):
            await s.end()


async def test_a_cluster_that_is_deleted_under_its_job_is_told():
    async with scene() as s:
        await s.job("Initializing", cluster="train-a")
        await s.cluster("train-a")
        s.start()
        await s.told("train-a")
        await s.server.remove(CLUSTERS, "train-a")
        with pytest.raises(ClusterFailedError, match="the RayCluster was deleted while we waited"):
            await s.end()


async def test_a_head_that_no_node_takes_is_told_though_kuberay_says_initializing_for_ever():
    pod = {
        "metadata": {"labels": {"ray.io/node-type": "head", "ray.io/cluster": "train-a"}},
        "spec": {"containers": [{"name": "ray-head", "image": "i"}]},
        "status": {
            "phase": "Pending",
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/1 nodes are available: 1 Insufficient cpu.",
                }
            ],
        },
    }
    async with scene() as s:
        await s.job("Initializing", cluster="train-a")
        await s.cluster("train-a")
        await s.server.put(path_of("pods", "n"), "head", pod)
        s.start(scheduling_seconds=0.5)
        with pytest.raises(ClusterFailedError, match="1 Insufficient cpu"):
            await s.end()
        s.start(start_seconds=0.4)
        with pytest.raises(ClusterTimeoutError, match="What stands in its way: .*1 Insufficient cpu"):
            await s.end()


# -- in a queue --------------------------------------------------------------------------------------------------------


async def test_a_job_waits_in_its_queue_with_kueues_own_words_and_starts_when_it_is_let_go():
    async with scene() as s:
        await s.job("Suspended", queue="team")
        await s.kueue(FULL)
        s.start(start_seconds=2.0)
        await s.told(f"RayJob n/train: it waits in the queue 'team': {FULL[3]}.")
        less = (*FULL[:3], "insufficient unused quota for cpu in flavor default, 500m more needed")
        await s.kueue(less)
        await s.told("500m more needed")
        await s.still(0.3)
        assert len(s.lines) == 2, "each is told once"
        await s.kueue(("QuotaReserved", "True", "x", ""), ADMITTED)
        await s.job("Initializing", queue="team", cluster="train-a")
        await s.cluster("train-a", head=True)
        await s.dashboard("train-a")
        assert (await s.end()).name == "train-a"


async def test_waiting_in_a_queue_is_not_the_clusters_start():
    """The clock of the start begins when KubeRay begins, and the moment before that is no missing operator."""
    async with scene() as s:
        await s.job("Suspended", queue="team")
        await s.kueue(FULL)
        s.start(since=time.time() - 3600, start_seconds=5.0, operator_seconds=2.0)
        await s.told("it waits in the queue")
        # Resumed: for a moment KubeRay says nothing at all.
        await s.job("", queue="team")
        await s.still()
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        await s.job("Initializing", queue="team", cluster="train-a", startTime=now)
        await s.cluster("train-a")
        await s.still()
        await s.dashboard("train-a")
        await s.cluster("train-a", head=True)
        await s.end()


async def test_a_queue_that_is_not_there_is_a_mistake_and_no_waiting():
    async with scene() as s:
        await s.job("Suspended", queue="nosuch")
        await s.kueue(("QuotaReserved", "False", "Inadmissible", "LocalQueue nosuch doesn't exist"))
        s.start()
        with pytest.raises(ConfigurationError) as e:
            await s.end(2)
        assert "LocalQueue nosuch doesn't exist." in e.value.message
        assert "get localqueues" in e.value.hint
        assert e.value.data["cause"] == "queue"


@pytest.mark.parametrize("there", [True, False], ids=["Kueue manages other namespaces", "no Kueue"])
async def test_a_job_that_kueue_does_not_look_at_is_let_go_by_nobody(there):
    async with scene() as s:
        await s.job("Suspended", queue="team")
        if there:
            await s.kueue(ADMITTED, uid="u-of-another")
        s.start()
        await s.told("it waits for Kueue to look at it (queue 'team')")
        began = time.monotonic()
        with pytest.raises(ConfigurationError, match="Kueue has made no Workload for the RayJob n/train"):
            await s.end()
        assert time.monotonic() - began < 30


async def test_kueue_may_take_a_moment():
    async with scene() as s:
        await s.job("Suspended", queue="team")
        s.start()
        await s.told("it waits for Kueue to look at it")
        await s.kueue(FULL)
        await s.still(0.8)
        await s.told(FULL[3])


async def test_a_queue_takes_too_long():
    async with scene() as s:
        await s.job("Suspended", queue="team")
        await s.kueue(FULL)
        began = time.monotonic()
        s.start(queue_seconds=0.6)
        with pytest.raises(ClusterTimeoutError) as e:
            await s.end()
        assert re.search(rf"was not admitted after \d+ s in the queue 'team': {re.escape(FULL[3])}\.", e.value.message)
        check_seconds_told(e.value, 1, since=began)
        assert "queue_timeout_seconds" in e.value.hint


async def test_a_triggerer_that_restarts_begins_no_new_time_in_the_queue():
    async with scene() as s:
        await s.job("Suspended", queue="team")
        await s.kueue(FULL)
        began = time.monotonic() - 61
        s.start(queue_seconds=60, since=time.time() - 61)
        with pytest.raises(ClusterTimeoutError, match=r"after \d+ s in the queue") as e:
            await s.end()
        check_seconds_told(e.value, 61, since=began)


async def test_a_job_is_let_go_by_kueue_and_kuberay_does_not_run():
    async with scene() as s:
        await s.job("Suspended", queue="team")
        await s.kueue(ADMITTED)
        s.start(operator_seconds=0.6)
        with pytest.raises(ClusterFailedError, match="No KubeRay operator has taken notice"):
            await s.end()


async def test_who_may_not_read_what_kueue_says_waits_all_the_same():
    async with scene() as s:
        await s.kueue(FULL)
        s.server.forbidden.add(WORKLOADS)
        await s.job("Suspended", queue="team")
        s.start()
        await s.told("what Kueue says can't be read (")
        await s.told("may not list workloads")
        await s.still(0.8)
        await s.job("Initializing", queue="team", cluster="train-a")
        await s.cluster("train-a", head=True)
        await s.dashboard("train-a")
        await s.end()


async def test_a_job_that_is_suspended_in_no_queue_waits_for_somebody():
    async with scene() as s:
        await s.job("Suspended")
        s.start(queue_seconds=1.5)
        await s.told("somebody has to resume it (spec.suspend: false)")
        await s.still(0.8)
        with pytest.raises(ClusterTimeoutError, match="was not admitted after [12] s: nobody resumed it"):
            await s.end()


async def test_a_job_that_is_preempted_while_its_head_starts_waits_again():
    async with scene() as s:
        await s.job("Initializing", queue="team", cluster="train-a")
        await s.cluster("train-a")
        s.start(queue_seconds=3.0)
        await s.told("Ray cluster n/train-a: ")
        await s.kueue(PREEMPTED, FULL)
        await s.job("Suspending", queue="team", cluster="train-a")
        await s.server.remove(CLUSTERS, "train-a")
        await s.job("Suspended", queue="team")
        await s.told(f"it waits in the queue 'team': {FULL[3]}")
        await s.kueue(ADMITTED)
        await s.job("Initializing", queue="team", cluster="train-b")
        await s.cluster("train-b", head=True)
        await s.dashboard("train-b")
        assert (await s.end()).name == "train-b"


async def test_a_preemption_between_the_head_and_its_dashboard_waits_again():
    async with scene() as s:
        await s.job("Initializing", cluster="train-a", queue="team")
        await s.cluster("train-a", head=True)  # its dashboard does not answer yet
        s.start()
        await s.still()
        await s.job("Suspended", queue="team")
        await s.kueue(FULL)
        await s.told("it waits in the queue 'team'")
        await s.cluster("train-b", head=True)
        await s.dashboard("train-b")
        await s.job("Initializing", cluster="train-b", queue="team")
        assert (await s.end()).name == "train-b"


async def test_a_job_that_is_deleted_between_the_head_and_its_dashboard_is_told():
    async with scene() as s:
        await s.job("Initializing", cluster="train-a")
        await s.cluster("train-a", head=True)
        s.start()
        await s.still()
        await s.server.remove(JOBS, "train")
        with pytest.raises(ClusterFailedError, match="was deleted"):
            await s.end()


async def test_a_preemption_begins_the_time_in_the_queue_anew():
    async with scene() as s:
        await s.job("Initializing", queue="team", cluster="train-a")
        await s.cluster("train-a")
        s.start(since=time.time() - 600, queue_seconds=60, start_seconds=900)
        await s.told("Ray cluster n/train-a: ")
        await s.kueue(PREEMPTED, FULL)
        await s.job("Suspended", queue="team")
        await s.told("it waits in the queue")
        await s.still()


async def test_a_cluster_that_goes_before_its_job_says_suspended_is_no_failure():
    async with scene() as s:
        await s.job("Initializing", queue="team", cluster="train-a")
        await s.cluster("train-a")
        s.start()
        await s.told("Ray cluster n/train-a: ")
        await s.kueue(FULL)
        # What the API server holds is newer than what the watch of the RayJob has told so far.
        s.server.objects[JOBS]["train"]["status"] = {"jobDeploymentStatus": "Suspended"}
        await s.server.remove(CLUSTERS, "train-a")
        await s.told("it waits in the queue 'team'")


async def test_another_cluster_of_the_same_job_is_waited_for():
    async with scene() as s:
        await s.job("Initializing", cluster="train-a")
        await s.cluster("train-a")
        s.start()
        await s.told("Ray cluster n/train-a: ")
        await s.job("Initializing", cluster="train-b")
        await s.cluster("train-b", head=True)
        await s.dashboard("train-b")
        assert (await s.end()).name == "train-b"


async def test_who_may_not_look_at_rayjobs_is_told_so():
    async with scene() as s:
        s.server.forbidden.add(JOBS)
        s.start()
        with pytest.raises(KubernetesAccessError, match="may not list rayjobs"):
            await s.end()


# -- the end of a cluster whose job runs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status",
    [
        ("Running", "RUNNING"),  # also where the head is lost: the job's own watch notices that
        ("Initializing", ""),
        ("Waiting", ""),
        ("Running", "PENDING"),
        ("Complete", "SUCCEEDED"),
        ("Complete", "STOPPED"),
        ("Failed", "FAILED"),
        ("Dreaming", "ASLEEP"),
    ],
    ids=":".join,
)
async def test_what_ray_itself_tells_is_no_interruption(status):
    async with scene() as s:
        await s.job("Running", "RUNNING", cluster="train-a")
        s.watch()
        await until(lambda: f"watch {JOBS}" in s.server.requests)
        await s.job(*status, cluster="train-a", reason="AppFailed" if "FAILED" in status else "")
        await s.still(0.2)


async def test_a_job_that_kuberay_ends_is_lost():
    async with scene() as s:
        await s.job("Running", "RUNNING", cluster="train-a")
        s.watch()
        await s.job("Failed", "RUNNING", cluster="train-a", reason="DeadlineExceeded", message="Too long.")
        kind, text = await s.end()
        assert (kind, text) == (
            "lost",
            "KubeRay ended the RayJob n/train, and with it its cluster and job: DeadlineExceeded: Too long.",
        )


@pytest.mark.parametrize("slowly", [True, False])
async def test_a_job_that_is_deleted_is_lost(slowly):
    async with scene() as s:
        await s.job("Running", "RUNNING", cluster="train-a")
        s.watch()
        await until(lambda: f"watch {JOBS}" in s.server.requests)
        if slowly:
            # Its finalizer waits until KubeRay has stopped the job: Ray says STOPPED meanwhile, and that somebody did it.
            await s.job("Running", "RUNNING", cluster="train-a", deleting=True)
        else:
            await s.server.remove(JOBS, "train")
        kind, text = await s.end()
        assert kind == "lost"
        assert "The RayJob n/train was deleted by somebody" in text


async def test_a_job_that_has_ended_and_is_deleted_then_has_ended():
    async with scene() as s:
        await s.job("Complete", "SUCCEEDED", cluster="train-a", deleting=True)
        s.watch()
        await s.still(0.2)


async def test_a_job_that_is_gone_before_anybody_looks_is_lost():
    async with scene() as s:
        s.watch()
        assert (await s.end())[0] == "lost"


@pytest.mark.parametrize("state", ["Suspending", "Suspended"])
async def test_a_preemption_is_told_in_kueues_words(state):
    async with scene() as s:
        await s.job("Running", "RUNNING", queue="team", cluster="train-a")
        s.watch()
        await s.kueue(PREEMPTED, FULL)
        await s.job(state, queue="team")
        kind, text = await s.end()
        assert kind == "suspended"
        assert text == (
            "Kueue took the place of RayJob n/train in the queue 'team' away (Preempted: Preempted to accommodate a "
            "workload): its cluster and its job are gone."
        )


async def test_a_preemption_is_told_though_kueue_may_not_be_asked():
    async with scene() as s:
        await s.kueue(PREEMPTED)
        s.server.forbidden.add(WORKLOADS)
        await s.job("Suspended", queue="team")
        s.watch()
        kind, text = await s.end()
        assert kind == "suspended"
        assert "in the queue 'team' away: its" in text


async def test_a_job_that_somebody_suspends_is_told_as_that():
    async with scene() as s:
        await s.job("Suspended")
        s.watch()
        assert await s.end() == (
            "suspended",
            "The RayJob n/train was suspended by somebody: its cluster and its job are gone.",
        )


async def test_another_cluster_is_a_suspension_that_nobody_saw():
    async with scene() as s:
        await s.job("Running", "RUNNING", cluster="train-b")
        s.watch()
        assert (await s.end())[0] == "suspended"
        s.watch("train-b")
        await s.still(0.2)
