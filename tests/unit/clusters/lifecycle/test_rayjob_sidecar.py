"""A RayJob in SidecarMode: its submitter is a container of the head's pod, ends with the job, and takes along what KubeRay
and Kubernetes say of the head. Ray itself goes on, and knows how the job ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ray_provider.clusters.kubernetes.client import path_of
from ray_provider.clusters.lifecycle import rayjob_watch
from ray_provider.clusters.lifecycle.rayjob_end import look
from ray_provider.clusters.lifecycle.rayjob_watch import failed_submitter
from ray_provider.exceptions import ClusterTimeoutError, JobFailedError, JobStoppedError, RayConnectionError
from ray_provider.jobs.models import JobDetails
from tests.unit.clusters.lifecycle.test_rayjob_end import ending
from tests.unit.clusters.lifecycle.test_rayjob_start import HANDLE, scene

PODS = path_of("pods", "n")


def head(*, ready: bool = True, exit_code: int | None = 0, cluster: str = "train-a") -> dict:
    """Give the head's pod: it is not Ready, as one of its containers has ended."""
    ended = {"terminated": {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed"}}
    return {
        "metadata": {"name": "head", "labels": {"ray.io/node-type": "head", "ray.io/cluster": cluster}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "ray-head", "image": "i"}, {"name": "ray-job-submitter", "image": "i"}],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
            "containerStatuses": [
                {
                    "name": "ray-job-submitter",
                    "ready": exit_code is None,
                    "state": {"running": {}} if exit_code is None else ended,
                },
                {"name": "ray-head", "ready": ready, "state": {"running": {}}},
            ],
        },
    }


@pytest.mark.parametrize("exit_code", [0, 1])
async def test_a_head_whose_submitter_has_ended_is_ready_with_its_ray(exit_code):
    """Before: the start waited into its time-out, and a job that failed was told as a head that ends again and again."""
    async with scene() as s:
        await s.job("Initializing", cluster="train-a")
        await s.cluster("train-a")
        await s.dashboard("train-a")
        await s.server.put(PODS, "head", head(ready=False, exit_code=exit_code))
        s.start()
        await s.still()
        await s.server.put(PODS, "head", head(exit_code=exit_code))
        assert (await s.end()).name == "train-a"


async def test_a_head_whose_submitter_runs_is_ready_when_kuberay_says_so():
    async with scene() as s:
        await s.job("Initializing", cluster="train-a")
        await s.cluster("train-a")
        await s.dashboard("train-a")
        await s.server.put(PODS, "head", head(exit_code=None))
        s.start(start_seconds=0.5)
        with pytest.raises(ClusterTimeoutError):
            await s.end()


async def test_how_a_submitter_failed_is_told_with_its_last_lines():
    async with scene() as s:
        handle = replace(HANDLE, name="train-a")
        assert await failed_submitter(s.access, handle) is None
        await s.server.put(PODS, "head", head(exit_code=0))
        assert await failed_submitter(s.access, handle) is None
        await s.server.put(PODS, "head", head(exit_code=1))
        assert "exit status 1. Its last lines:" in (await failed_submitter(s.access, handle) or "")


async def test_a_submitter_that_fails_with_its_job_lets_ray_say_so_first(monkeypatch):
    """KubeRay may see the container's end before the job's, and calls that SubmissionFailed."""
    monkeypatch.setattr(rayjob_watch, "_OWN_WORD_SECONDS", 0.6)
    said = {
        "reason": "SubmissionFailed",
        "message": "Ray head pod container ray-job-submitter terminated with exit code 1",
    }
    async with scene() as s:
        await s.job("Running", "RUNNING", cluster="train-a")
        s.watch()
        await s.job("Failed", "RUNNING", cluster="train-a", **said)
        await s.still(0.3)
        kind, text = await s.end()
        assert kind == "lost"
        assert "SubmissionFailed: Ray head pod container ray-job-submitter terminated" in text
        # Nor does a start end by it: the cluster is there, and its Ray knows.
        await s.cluster("train-a", head=True)
        await s.dashboard("train-a")
        s.start()
        assert (await s.end()).name == "train-a"


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        (JobDetails("j", "SUCCEEDED"), None),
        (JobDetails("j", "FAILED", message="ValueError: no data"), JobFailedError),
        (JobDetails("j", "STOPPED"), JobStoppedError),
    ],
)
@pytest.mark.parametrize("watched", [True, False])
async def test_who_waits_for_somebodys_job_is_told_its_end_though_kuberay_says_initializing(details, kind, watched):
    async with ending() as s:
        await s.mode("SidecarMode", "Initializing", "", cluster="train-a")
        for answer in (RayConnectionError("Nothing answers"), None, JobDetails("j", "RUNNING")):
            s.ray = answer
            assert await look(s.access, s.end_of()) is None, "it starts"
        assert not any("WARNING" in line for line in s.lines)
        s.ray = details

        async def end():
            if watched:
                s.wait()
                return await s.end()
            return await look(s.access, s.end_of())

        if kind is None:
            assert (await end()).job_id == "j"
        else:
            with pytest.raises(kind, match=details.message or "was stopped"):
                await end()


async def test_a_job_in_another_mode_that_starts_is_not_asked_for():
    async with ending() as s:
        await s.mode("HTTPMode", "Initializing", "", cluster="train-a")
        assert await look(s.access, s.end_of()) is None
        await asyncio.sleep(0)
        assert s.asked == 0
