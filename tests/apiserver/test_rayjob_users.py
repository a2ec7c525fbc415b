"""A RayJob on a cluster that is there counts among its users: the cluster is not deleted under it, and not left over."""

from __future__ import annotations

import asyncio

import pytest

from ray_provider.clusters.kuberay.rayjob import Selector
from ray_provider.clusters.lifecycle import users
from ray_provider.exceptions import ConfigurationError
from tests.apiserver.test_rayjobs import Jobs, Rights
from tests.kubernetes.clusters import HEAD_ONLY, MANIFEST
from tests.support.kubernetes import Kubernetes

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("operator")]


@pytest.fixture
def jobs(kubernetes: Kubernetes, namespace: str) -> Jobs:
    return Jobs(kubernetes, namespace)


def users_of(jobs: Jobs, name: str = "shared") -> list[str]:
    """Name the tasks that use a cluster, as they are written down on it."""
    return sorted(user.owner["task_id"] for user in users.users_of(jobs.cluster(name)["metadata"]))


async def test_the_cluster_of_a_rayjob_is_left_to_it_and_goes_with_it(jobs):
    made = (await jobs.apply(jobs.spec(HEAD_ONLY, name="shared"))).handle
    handle = await jobs.make(jobs.job(None, selector=Selector("shared"), owner=jobs.owner(task="train")))
    assert users_of(jobs) == ["setup", "train"]
    assert await jobs.delete(made) is False
    assert "is left to who else uses it: dag dag, run run_" in jobs.text
    assert "task train (until" in jobs.text
    assert "deletionTimestamp" not in jobs.cluster("shared")["metadata"]
    assert jobs.there()["metadata"].get("deletionTimestamp") is None
    # Its set-up has left: the RayJob was the last one.
    assert await jobs.remove(owner=handle.owner) is True
    assert jobs.left("shared") == []


async def test_a_rayjob_leaves_a_cluster_to_the_others(jobs):
    made = (await jobs.apply(jobs.spec(HEAD_ONLY, name="shared"))).handle
    await jobs.make(jobs.job(None, selector=Selector("shared"), owner=jobs.owner(task="train")))
    # Named, as by a reaper: whose it is says the entry.
    assert await jobs.remove() is True
    assert users_of(jobs) == ["setup"]
    assert await jobs.delete(made) is True


async def test_a_set_up_that_has_ended_without_a_delete_keeps_its_cluster(jobs):
    """A cluster that is to last: nobody ever asked for its end."""
    await jobs.apply(jobs.spec(HEAD_ONLY, name="shared", lease_seconds=0.5))
    await jobs.make(jobs.job(None, selector=Selector("shared"), owner=jobs.owner(task="train")))
    assert await jobs.remove() is True
    assert "deletionTimestamp" not in jobs.cluster("shared")["metadata"]
    assert users_of(jobs) == ["setup"]


async def test_what_is_refused_leaves_no_user(jobs):
    await jobs.apply(jobs.spec(HEAD_ONLY, name="shared"))
    spec = jobs.job(None, selector=Selector("shared"), owner=jobs.owner(task="train"), own={"entrypoinnt": "true"})
    with pytest.raises(ConfigurationError, match="entrypoinnt"):
        await jobs.make(spec)
    assert users_of(jobs) == ["setup"]
    # Another task that wants the same name takes nothing away from the one that has it.
    await jobs.make(jobs.job(None, selector=Selector("shared"), owner=jobs.owner(task="train")))
    with pytest.raises(ConfigurationError, match="is not this task's"):
        await jobs.make(jobs.job(None, selector=Selector("shared"), owner=jobs.owner(task="late")))
    assert users_of(jobs) == ["setup", "train"]


async def test_of_somebody_elses_cluster_no_users_are_kept(jobs):
    jobs.kubernetes.apply(MANIFEST, jobs.namespace)
    await jobs.make(jobs.job(None, selector=Selector("from-manifest")))
    assert users_of(jobs, "from-manifest") == []
    assert not users.is_recorded(jobs.cluster("from-manifest")["metadata"])
    assert await jobs.remove() is True
    assert "deletionTimestamp" not in jobs.cluster("from-manifest")["metadata"]


async def test_who_may_not_write_it_down_is_told_what_that_means(jobs):
    await jobs.apply(jobs.spec(HEAD_ONLY, name="shared"))
    rights = await asyncio.to_thread(Rights, jobs)
    await asyncio.to_thread(rights.without, "rayclusters", "patch")
    await rights.jobs.make(jobs.job(None, selector=Selector("shared"), owner=jobs.owner(task="train")))
    warning = f"WARNING: whoever deletes Ray cluster {jobs.namespace}/shared ends RayJob train on it"
    assert warning in rights.jobs.text
    assert "may not patch rayclusters" in rights.jobs.text
    assert users_of(jobs) == ["setup"]
