"""The end of a RayJob that somebody else looks after, in the states that KubeRay shows: some of them lie."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest

from ray_provider.clusters.lifecycle import rayjob_end
from ray_provider.clusters.lifecycle.rayjob_end import RayJobEnd, look, wait_ended
from ray_provider.exceptions import (
    ClusterTimeoutError,
    JobFailedError,
    JobLostError,
    JobStoppedError,
    JobUnreachableError,
    KubernetesAccessError,
    RayConnectionError,
)
from ray_provider.jobs.models import JobDetails
from tests.support.kubernetes_api import check_seconds_told
from tests.unit.clusters.lifecycle.test_rayjob_start import JOBS, Scene, running

RUNNING = ("Running", "RUNNING")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name, seconds in {
        "_ASK_SECONDS": 0.1,
        "_QUEUE_SECONDS": 0.1,
        "_LOST_SECONDS": 0.4,
        "_AGAIN_SECONDS": 0.1,
        "_OPERATOR_SECONDS": 0.3,
    }.items():
        monkeypatch.setattr(rayjob_end, name, seconds)


class Ending(Scene):
    """A RayJob, what its Ray answers, and who waits for its end."""

    def __init__(self, server, access):
        super().__init__(server, access)
        #: What Ray says of the job: it runs, is not known (None), or does not answer (an exception).
        self.ray = JobDetails("j", "RUNNING")
        self.asked = 0

    async def ask(self, state):
        self.asked += 1
        if isinstance(self.ray, Exception):
            raise self.ray
        return self.ray

    def end_of(self, patience=1.0):
        return RayJobEnd("n", "train", ask=self.ask, max_unreachable_seconds=patience, say=self.lines.append)

    def wait(self, seconds=20.0, patience=1.0):
        now = time.time()
        self.task = asyncio.create_task(
            wait_ended(self.access, self.end_of(patience), deadline=now + seconds, since=now)
        )

    async def mode(self, mode, deployment, job, **more):
        """The RayJob, submitted in another mode."""
        await self.job(deployment, job, **more)
        there = self.server.objects[JOBS]["train"]
        await self.server.put(JOBS, "train", {**there, "spec": {**there["spec"], "submissionMode": mode}})


@asynccontextmanager
async def ending():
    async with running() as (server, access):
        made = Ending(server, access)
        try:
            yield made
        finally:
            if made.task is not None:
                made.task.cancel()
                await asyncio.gather(made.task, return_exceptions=True)


ENDS = [
    (("Complete", "STOPPED"), {}, JobStoppedError, "KubeRay calls that Complete"),
    (("Complete", ""), {}, JobFailedError, "does not say that its job succeeded (jobStatus is empty)"),
    (("Complete", "FAILED"), {"message": "boom"}, JobFailedError, "Ray says:\nboom"),
    (("Failed", "FAILED"), {"reason": "AppFailed", "message": "line 1\nboom"}, JobFailedError, "line 1\nboom"),
    (
        ("Failed", "RUNNING"),
        {"reason": "DeadlineExceeded", "message": "The RayJob has passed the activeDeadlineSeconds."},
        JobFailedError,
        "DeadlineExceeded: The RayJob has passed the activeDeadlineSeconds.",
    ),
    (
        ("Failed", "RUNNING"),
        {"reason": "SubmissionFailed", "message": "BackoffLimitExceeded"},
        JobFailedError,
        "SubmissionFailed: BackoffLimitExceeded",
    ),
    (
        ("ValidationFailed", ""),
        {"reason": "ValidationFailed", "message": "backoffLimit is incompatible"},
        JobFailedError,
        "refuses the RayJob n/train, for good: backoffLimit is incompatible.",
    ),
]


@pytest.mark.parametrize("by", ["wait", "look"])
@pytest.mark.parametrize(
    ("status", "more", "kind", "said"), ENDS, ids=[f"{a[0]}-{b.get('reason', a[1])}" for a, b, *_ in ENDS]
)
async def test_an_end_that_is_no_success_fails_with_its_reason(by, status, more, kind, said):
    async with ending() as s:
        await s.job(*status, cluster="train-a", **more)
        with pytest.raises(kind) as caught:
            if by == "look":
                await look(s.access, s.end_of())
            else:
                s.wait()
                await s.end()
        assert said in caught.value.message
        assert "n/train" in caught.value.message


async def test_a_job_that_ended_in_time_is_found_past_the_deadline():
    """No triggerer ran meanwhile."""
    async with ending() as s:
        await s.job("Complete", "SUCCEEDED")
        s.wait(seconds=-100)
        assert (await s.end()).job_id == "j"
        await s.job("Running", "RUNNING")
        s.wait(seconds=-100)
        with pytest.raises(ClusterTimeoutError):
            await s.end()


async def test_a_job_is_followed_to_its_success():
    async with ending() as s:
        await s.job()
        s.wait()
        for deployment in ("Initializing", "Running", "Retrying", "Waiting"):
            await s.job(deployment, cluster="train-a")
            await s.told(f"{deployment}, cluster train-a")
        await s.job(*RUNNING, cluster="train-a")
        await s.told("Running, job RUNNING, cluster train-a")
        await s.still()
        assert s.asked > 1
        await s.job("Complete", "SUCCEEDED", cluster="train-a")
        assert (await s.end()).job_id == "j"


async def test_a_success_whose_submitter_failed_is_one():
    """In K8sJobMode, KubeRay's own Job may fail after the job has succeeded."""
    async with ending() as s:
        await s.job("Failed", "SUCCEEDED", reason="SubmissionFailed", message="BackoffLimitExceeded")
        assert await look(s.access, s.end_of()) is not None
        assert "its job succeeded, and KubeRay says SubmissionFailed" in s.lines[-1]


async def test_a_job_that_is_there_no_more_is_lost_unless_its_success_was_seen():
    async with ending() as s:
        with pytest.raises(JobLostError, match="There is no RayJob n/train"):
            await look(s.access, s.end_of())
        s.wait()
        with pytest.raises(JobLostError, match="There is no RayJob n/train"):
            await s.end()
        await s.job(*RUNNING, cluster="train-a")
        s.wait()
        await s.told("Running")
        await s.server.remove(JOBS, "train")
        with pytest.raises(
            JobLostError, match="was deleted before its job's end was seen. It was Running, job RUNNING"
        ):
            await s.end()
        await s.job(*RUNNING, deleting=True)
        with pytest.raises(JobLostError, match="is being deleted before"):
            await look(s.access, s.end_of())
        await s.job("Running", "SUCCEEDED", cluster="train-a")
        s.wait()
        await s.told("job SUCCEEDED")
        await s.server.remove(JOBS, "train")
        assert (await s.end()).job == "SUCCEEDED"


@pytest.mark.parametrize("by", ["wait", "look"])
async def test_a_lost_head_is_noticed_though_kuberay_says_running(by):
    async with ending() as s:
        await s.mode("InteractiveMode", *RUNNING, cluster="train-a")
        if by == "wait":
            s.wait()
            await s.still()
            s.ray = None
        with pytest.raises(JobLostError, match="Ray has not known it for") as caught:
            if by == "look":
                s.ray = None
                await look(s.access, s.end_of())
            else:
                await s.end()
        assert "goes on saying Running, job RUNNING" in caught.value.message


async def test_a_job_that_kuberay_submits_again_is_waited_for():
    async with ending() as s:
        await s.mode("HTTPMode", *RUNNING, cluster="train-a")
        s.ray = None
        assert await look(s.access, s.end_of()) is None
        s.wait(patience=1.2)
        await s.told("Ray does not know its job j any more")
        await s.still(0.6)
        s.ray = JobDetails("j", "RUNNING")
        await s.still(1.0)
        s.ray = None
        with pytest.raises(JobLostError, match="was lost"):
            await s.end()


@pytest.mark.parametrize(
    ("ray", "kind", "says"),
    [
        (None, JobLostError, "was lost: Ray has not known it"),
        (RayConnectionError("Nothing answers at http://head"), JobUnreachableError, "has not answered for"),
    ],
)
async def test_looks_that_know_of_each_other_see_what_lasts_too_long(ray, kind, says):
    """As a sensor's that is made anew for each look: without a memory it waits for good."""
    async with ending() as s:
        await s.mode("HTTPMode", *RUNNING, cluster="train-a")
        memory: object = None

        async def look_again():
            nonlocal memory
            end = s.end_of(patience=0.5)
            end.recall(memory)
            assert await look(s.access, end) is None
            memory = json.loads(json.dumps(end.memory()))
            await asyncio.sleep(0.3)

        await look_again()
        s.ray = ray
        await look_again()
        # Another RayJob of that name begins anew, and so does one of which something else was kept.
        for other in ({**memory, "uid": "2"}, "gone", None):
            end = s.end_of(patience=0.1)
            end.recall(other)
            assert await look(s.access, end) is None
        s.ray = JobDetails("j", "RUNNING")
        await look_again()
        assert memory["missing_since"] is memory["silent_since"] is None, "it was there again"
        s.ray = ray
        await look_again()
        await look_again()
        with pytest.raises(kind, match=says):
            await look_again()


async def test_a_job_that_is_not_submitted_yet_is_not_lost():
    """With an id set before, KubeRay says Running before anybody has submitted the job."""
    async with ending() as s:
        await s.mode("InteractiveMode", "Running", "", cluster="train-a")
        s.ray = None
        s.wait()
        await s.still(1.0)
        assert s.asked == 0


async def test_a_ray_that_is_silent_counts_only_where_it_has_answered_before():
    async with ending() as s:
        await s.job(*RUNNING, cluster="train-a")
        s.ray = RayConnectionError("Nothing answers at http://head")
        s.wait(patience=0.4)
        await s.told("WARNING: Ray can't be asked about the job of RayJob n/train")
        await s.still(0.8)
        s.ray = JobDetails("j", "RUNNING")
        await s.still(0.4)
        s.ray = RayConnectionError("Nothing answers at http://head")
        with pytest.raises(JobUnreachableError, match="has not answered for .* s, though KubeRay says Running"):
            await s.end()


async def test_who_holds_a_job_that_is_suspended_is_told():
    async with ending() as s:
        await s.job("Suspended")
        began = time.monotonic()
        s.wait(seconds=2.0)
        await s.told("suspended, and in no queue: somebody has to resume it")
        await s.job("Suspended", queue="team")
        await s.told("waits in Kueue's queue 'team': Kueue has not looked at it")
        await s.kueue(("QuotaReserved", "False", "Pending", "insufficient unused quota for cpu"))
        await s.told("waits in Kueue's queue 'team': insufficient unused quota for cpu")
        with pytest.raises(ClusterTimeoutError, match=r"has not ended after \d+ s: waits in Kueue's queue 'team'") as e:
            await s.end()
        check_seconds_told(e.value, 2, since=began)


async def test_a_job_that_nobody_looks_at_says_so():
    async with ending() as s:
        await s.job()
        s.wait()
        await s.told("no KubeRay operator has looked at it yet")
        await s.job(managed_by="kueue.x-k8s.io/multikueue")
        await s.told("managedBy: kueue.x-k8s.io/multikueue")


async def test_a_right_that_is_missing_is_named():
    async with ending() as s:
        s.server.forbidden.add(JOBS)
        s.wait()
        with pytest.raises(KubernetesAccessError, match="list"):
            await s.end()
        assert not [one for one in s.server.requests if not one.startswith(("GET ", "watch "))], "it only looks"
