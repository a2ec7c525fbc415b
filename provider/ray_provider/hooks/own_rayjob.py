"""A cluster that KubeRay makes for one job, by a RayJob: the seam between the glue and ``clusters``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_provider.clusters.handle import Access, ClusterHandle
    from ray_provider.clusters.kuberay.rayjob import RayJobState
    from ray_provider.clusters.lifecycle.rayjob import RayJobSpec
    from ray_provider.clusters.lifecycle.rayjob_end import RayJobEnd
    from ray_provider.clusters.lifecycle.rayjob_start import StartOptions
    from ray_provider.hooks.ray import RayHook
    from ray_provider.jobs.models import JobDetails
    from ray_provider.jobs.watch.outcome import Interruption

log = logging.getLogger(__name__)

Say = Callable[[str], None]
Where = Mapping[str, Any] | None


async def find(hook: RayHook, where: Where, namespace: str | None, owner: Mapping[str, Any]) -> list[RayJobState]:
    """Find the RayJobs that a task instance has made, the latest attempt first.

    :param hook: of the connection.
    :param where: which Kubernetes; unless given, the connection's.
    :param namespace: unless given, the connection's.
    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``airflow``.
    """
    from ray_provider.clusters.lifecycle.rayjob import find_jobs

    return await find_jobs(await hook.akubernetes_access(where), namespace, owner)


async def make(hook: RayHook, where: Where, spec: RayJobSpec, say: Say) -> ClusterHandle:
    """Make a RayJob. Does not wait for its cluster.

    :param hook: of the connection.
    :param where: which Kubernetes; unless given, the connection's.
    :param spec: what it is to be.
    :param say: is given each line of progress.
    :raises ConfigurationError: it can't work; nothing was made.
    """
    from ray_provider.clusters.lifecycle.rayjob import create_job
    from ray_provider.hooks.cloud_marks import record_use

    kube_access = await hook.akubernetes_access(where)
    await record_use(kube_access.identity, say)
    return replace(await create_job(kube_access, spec, say=say), kubernetes=where)


async def namespace_of(hook: RayHook, where: Where, namespace: str | None) -> str:
    """Give the namespace that something is made in.

    :param hook: of the connection.
    :param where: which Kubernetes; unless given, the connection's.
    :param namespace: unless given, the connection's.
    """
    kube_access = await hook.akubernetes_access(where)
    return await asyncio.to_thread(kube_access.namespace_or_default, namespace)


async def wait(
    hook: RayHook, handle: ClusterHandle, options: StartOptions, *, access: Access | None, since: float | None, say: Say
) -> ClusterHandle:
    """Wait until the dashboard of a RayJob's cluster answers.

    :param hook: of the connection.
    :param handle: of the cluster, whose name need not be known.
    :param options: how long the parts of the start may take.
    :param access: the way to it; unless given, as the connection says.
    :param since: when (seconds since 1970) waiting began.
    :param say: is given each line of progress.
    """
    from ray_provider.clusters.lifecycle.rayjob_start import wait_started

    kube_access = await hook.akubernetes_access(handle.kubernetes)
    return await wait_started(
        kube_access, handle, options, access=access or (await hook.aconfig()).access, since=since, say=say
    )


def judge_end(hook: RayHook, handle: ClusterHandle, *, max_unreachable_seconds: float, say: Say) -> RayJobEnd:
    """Make what judges a RayJob that somebody else looks after: how it ended, and whether it still can.

    :param hook: of the connection.
    :param handle: names the RayJob; its cluster need not be known.
    :param max_unreachable_seconds: how long (seconds) a Ray that has answered before may not.
    :param say: is given each line of progress.
    """
    from ray_provider.clusters.lifecycle.rayjob_end import RayJobEnd

    async def ask(state: RayJobState) -> JobDetails | None:
        from ray_provider._shared.retry import RetryPolicy
        from ray_provider.jobs.client import RayJobsClient

        endpoint = await hook.endpoint(replace(handle, name=state.cluster))
        async with RayJobsClient(endpoint, timeout=10.0, retry=RetryPolicy.none()) as client:
            return await client.get(state.job_id)

    return RayJobEnd(
        str(handle.namespace), str(handle.rayjob), ask=ask, max_unreachable_seconds=max_unreachable_seconds, say=say
    )


async def look_at_end(hook: RayHook, handle: ClusterHandle, end: RayJobEnd) -> RayJobState | None:
    """Look once whether a RayJob has ended; ``None``: it goes on.

    :param hook: of the connection.
    :param handle: names the RayJob.
    :param end: judges it.
    :raises JobError: it did not succeed, or can't any more.
    """
    from ray_provider.clusters.lifecycle.rayjob_end import look

    return await look(await hook.akubernetes_access(handle.kubernetes), end)


async def about_to_submit(hook: RayHook, handle: ClusterHandle | None, session: str | None) -> None:
    """Write down on the RayJob of a cluster, if it has one, that its job is about to be submitted.

    :param hook: of the connection.
    :param handle: of the cluster.
    :param session: of the head.
    """
    if handle is None or not handle.rayjob:
        return
    from ray_provider.clusters.lifecycle.rayjob import mark_submitted

    await mark_submitted(await hook.akubernetes_access(handle.kubernetes), handle, session)


async def end_use(hook: RayHook, handle: ClusterHandle) -> None:
    """Take the RayJob from the users of a cluster that it ran on, and that was there before, though the RayJob stays.

    :param hook: of the connection.
    :param handle: of the cluster.
    """
    if not handle.name:
        return
    from ray_provider.clusters.kubernetes.client import open_kube
    from ray_provider.clusters.lifecycle.renewal import RayJobUse
    from ray_provider.clusters.lifecycle.renewal import end_use as end

    kube_access = await hook.akubernetes_access(handle.kubernetes)
    async with open_kube(kube_access) as kube:
        await end(kube_access, kube, RayJobUse(str(handle.namespace), handle.name, str(handle.rayjob)), log.info)


async def has_cluster(hook: RayHook, handle: ClusterHandle | None) -> bool:
    """Tell whether the cluster of a RayJob is still there.

    :param hook: of the connection.
    :param handle: of the cluster.
    """
    if handle is None or not handle.name:
        return False
    from ray_provider.clusters.kubernetes.client import RAY, open_kube, path_of

    async with open_kube(await hook.akubernetes_access(handle.kubernetes)) as kube:
        return await kube.find(path_of("rayclusters", str(handle.namespace), handle.name, api=RAY)) is not None


async def interruption(hook: RayHook, handle: ClusterHandle) -> Interruption | None:
    """Tell whether a RayJob's cluster has been taken away from under its job.

    :param hook: of the connection.
    :param handle: of the cluster.
    """
    from ray_provider.clusters.lifecycle.rayjob_watch import interruption as found_now
    from ray_provider.jobs.watch.outcome import Interruption

    found = await found_now(await hook.akubernetes_access(handle.kubernetes), handle)
    return Interruption(*found) if found else None


async def failed_submitter(hook: RayHook, handle: ClusterHandle) -> str | None:
    """Tell how a RayJob's submitter failed that is a container of the head's pod; ``None``: it has not.

    :param hook: of the connection.
    :param handle: of the cluster.
    """
    from ray_provider.clusters.lifecycle.rayjob_watch import failed_submitter as found_now

    return await found_now(await hook.akubernetes_access(handle.kubernetes), handle)
