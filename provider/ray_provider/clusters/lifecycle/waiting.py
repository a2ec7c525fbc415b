"""Waiting for a cluster that was made, until its dashboard answers: the last step of a set-up, a sensor's only one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.handle import Access, ClusterHandle
from ray_provider.clusters.kuberay.endpoints import dashboard_url, kubernetes_endpoint, way
from ray_provider.clusters.kuberay.queue_watch import taken_away
from ray_provider.clusters.kuberay.queueing import queue_of
from ray_provider.clusters.kuberay.raycluster import auth_of, head_service
from ray_provider.clusters.kuberay.readiness import ReadinessOptions, ReadinessWatch
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, UNREACHABLE_SECONDS, Json, open_kube, path_of
from ray_provider.exceptions import (
    ClusterFailedError,
    ClusterTimeoutError,
    RayApiError,
    RayConnectionError,
    RayProviderError,
)
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint

Say = Callable[[str], None]

_DASHBOARD_PAUSE = 0.25


def _quiet(_: str) -> None:
    """Say nothing."""


async def wait_ready(
    kube_access: KubernetesAccess,
    handle: ClusterHandle,
    readiness: ReadinessOptions,
    *,
    stale_pods: tuple[str, ...] = (),
    access: Access = "auto",
    deadline: float | None = None,
    say: Say = _quiet,
) -> ClusterHandle:
    """Wait until a cluster is ready and its dashboard answers.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the cluster, as it was made.
    :param readiness: how long its parts may take.
    :param stale_pods: uids of pods that have to be gone, after an update.
    :param access: the way to the dashboard.
    :param deadline: when (seconds since 1970) waiting ends; unless given, as ``readiness`` says.
    :param say: is given a line when something changes. Default: nobody is.
    :return: the handle, with what is known only then.
    :raises ClusterFailedError: it can't become ready.
    :raises ClusterTimeoutError: it did not in time.
    """
    while True:
        async with open_kube(kube_access) as kube:
            watch = ReadinessWatch(
                kube,
                str(handle.namespace),
                handle.name,
                readiness,
                say=say,
                stale_pods=stale_pods,
                deadline=deadline,
            )
            cluster = await watch.wait()
        try:
            return await reached(kube_access, handle, cluster, access, say)
        except RayProviderError:
            # Where its queue took the cluster away at this very moment, it is waited for once more.
            if not await _is_suspended(kube_access, handle):
                raise


async def _is_suspended(kube_access: KubernetesAccess, handle: ClusterHandle) -> bool:
    async with open_kube(kube_access) as kube:
        found = await kube.find(path_of("rayclusters", str(handle.namespace), handle.name, api=RAY))
    return bool(found and found["spec"].get("suspend"))


async def until_suspended(kube_access: KubernetesAccess, handle: ClusterHandle) -> str | None:
    """Wait until a queue takes a cluster away from the jobs on it.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the cluster.
    :return: what happened in a sentence; ``None``, at once, where the cluster is in no queue.
    :raises KubernetesError: the API server stayed away, or we may not look.
    """
    namespace, name = str(handle.namespace), handle.name
    path = path_of("rayclusters", namespace, api=RAY)
    async with open_kube(kube_access) as kube:
        found = await kube.find(f"{path}/{name}")
        if found is None or queue_of(found) is None:
            return None
        async for event in kube.watch(path, patience=UNREACHABLE_SECONDS, fieldSelector=f"metadata.name={name}"):
            for cluster in event.items if event.type == "SYNC" else (event.object,):
                if event.type != "DELETED" and cluster["spec"].get("suspend"):
                    uid, queue = str(cluster["metadata"]["uid"]), queue_of(cluster)
                    by = await taken_away(kube, "Ray cluster", namespace, name, uid=uid, queue=queue)
                    return f"{by}: its pods and the jobs on it are gone."
    raise AssertionError  # pragma: no cover - a watch does not end


async def reached(
    kube_access: KubernetesAccess, handle: ClusterHandle, cluster: Json, access: Access, say: Say
) -> ClusterHandle:
    """Wait until the dashboard of a cluster that is ready answers, and give the handle with all that is known then.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the cluster.
    :param cluster: the RayCluster.
    :param access: the way to the dashboard.
    :param say: is told that it is ready.
    :raises ClusterTimeoutError: it does not answer.
    """
    service = head_service(cluster)
    address = await dashboard_url(kube_access, str(handle.namespace), service, access, name=handle.name)
    ready = replace(handle, service=service, auth=auth_of(cluster), address=address)
    version = await _dashboard_answers(kube_access, ready, access)
    workers = int((cluster.get("status") or {}).get("readyWorkerReplicas") or 0)
    say(
        f"Ray cluster {handle.namespace}/{handle.name} is ready: Ray {version}, head and {workers} "
        f"worker{'' if workers == 1 else 's'}; dashboard {ready.address}"
    )
    return ready


async def _dashboard_answers(
    kube_access: KubernetesAccess, handle: ClusterHandle, access: Access, seconds: float = 60.0
) -> str:
    """Wait until the dashboard answers: the service follows the head's readiness a moment later."""
    endpoint = await kubernetes_endpoint(kube_access, handle, access=access)
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    async with RayJobsClient(endpoint, timeout=10.0, retry=RetryPolicy.none()) as client:
        while True:
            try:
                version = (await client.version()).ray_version
                if handle.auth.kind != "none" and way(kube_access, access) in ("proxy", "service"):
                    await check_closed(endpoint, f"{handle.namespace}/{handle.name}")
                return version
            except (RayConnectionError, RayApiError) as error:
                if not error.retryable:
                    raise
                if loop.time() >= until:
                    raise ClusterTimeoutError(
                        f"The dashboard of Ray cluster {handle.namespace}/{handle.name} does not answer, though the "
                        f"cluster is ready: {endpoint.display_url}: {error.message}",
                        hint="Through the API server's proxy the network policy has to let the API server in "
                        "(networkPolicy.apiServer.cidrs); from a pod it has to let Airflow's namespace in "
                        "(networkPolicy.allowFrom).",
                        cause="dashboard",
                        namespace=handle.namespace,
                        name=handle.name,
                    ) from error
            await asyncio.sleep(_DASHBOARD_PAUSE)


async def check_closed(endpoint: RayEndpoint, where: str) -> None:
    """Make sure that a Ray which is to ask for a token does: a tag may claim a version that the image does not have.

    :param endpoint: of the dashboard; its own token is left out.
    :param where: namespace and name of the cluster, for the message.
    :raises ClusterFailedError: it lets anybody in.
    """
    open_door = replace(endpoint, token=None, token_source=None)
    async with RayJobsClient(open_door, timeout=10.0, retry=RetryPolicy.none()) as stranger:
        try:
            await stranger.list_jobs()
        except RayApiError:
            return
    raise ClusterFailedError(
        f"The Ray cluster {where} is to ask for a token, and answers without one: whoever reaches its dashboard can "
        "run code in it.",
        hint="Is the Ray in the image as new as rayVersion, or its tag, says? Tokens need 2.52.0 or newer. Say the "
        "real version; or authOptions.mode: disabled, if that is meant.",
        cause="not closed",
    )
