"""What becomes of the cluster of a RayJob while its job runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Literal

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.kuberay.queue_watch import taken_away
from ray_provider.clusters.kuberay.rayjob import RayJobState
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, UNREACHABLE_SECONDS, Kube, open_kube, path_of
from ray_provider.clusters.kubernetes.pod_diagnosis import SUBMITTER, submitter_end
from ray_provider.exceptions import KubernetesError

#: So long Ray has to say how a job ended whose submitter has ended with it: KubeRay may have been quicker.
_OWN_WORD_SECONDS = 5.0
_LOG_LINES = 15


async def states(kube: Kube, namespace: str, name: str) -> AsyncGenerator[RayJobState | None]:
    """Follow a RayJob: what it is now, and then each change; ``None``: it is not there.

    :param kube: where.
    :param namespace: of the RayJob.
    :param name: of the RayJob.
    :raises KubernetesError: the API server stayed away, or we may not look.
    """
    path = path_of("rayjobs", namespace, api=RAY)
    async for event in kube.watch(path, patience=UNREACHABLE_SECONDS, fieldSelector=f"metadata.name={name}"):
        items = event.items if event.type == "SYNC" else (() if event.type == "DELETED" else (event.object,))
        yield RayJobState.of(items[0]) if items else None


#: What became of the cluster of a job under it, and that in sentences.
Interrupted = tuple[Literal["lost", "suspended"], str]


async def until_interrupted(kube_access: KubernetesAccess, handle: ClusterHandle) -> Interrupted:
    """Wait until a RayJob's cluster is taken away while its job runs. Ray's own end of the job is none of it.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the RayJob's cluster.
    :return: ``lost`` or ``suspended``, and what happened in sentences.
    :raises KubernetesError: the API server stayed away, or we may not look.
    """
    async with open_kube(kube_access) as kube:
        async for state in states(kube, str(handle.namespace), str(handle.rayjob)):
            found = await _interruption(kube, handle, state)
            if found is not None:
                if state is not None and state.submitter_has_failed:
                    await asyncio.sleep(_OWN_WORD_SECONDS)
                return found
    raise AssertionError  # pragma: no cover - a watch does not end


async def interruption(kube_access: KubernetesAccess, handle: ClusterHandle) -> Interrupted | None:
    """Tell whether a RayJob's cluster has been taken away: as :func:`until_interrupted`, at this moment.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the RayJob's cluster.
    :return: ``None``: it is as it was.
    :raises KubernetesError: the API server can't be asked.
    """
    async with open_kube(kube_access) as kube:
        job = await kube.find(path_of("rayjobs", str(handle.namespace), str(handle.rayjob), api=RAY))
        return await _interruption(kube, handle, RayJobState.of(job) if job else None)


async def _interruption(kube: Kube, handle: ClusterHandle, state: RayJobState | None) -> Interrupted | None:
    where = f"{handle.namespace}/{handle.rayjob}"
    # On its way out, KubeRay stops the job first: Ray alone would say that somebody stopped it.
    if state is None or (state.deleting and not state.is_over):
        return "lost", f"The RayJob {where} was deleted by somebody, and its cluster and job with it."
    if state.has_failed:
        return "lost", f"KubeRay ended the RayJob {where}, and with it its cluster and job: {state.why}."
    if state.is_suspended or (state.cluster and handle.name and state.cluster != handle.name):
        by = await taken_away(kube, "RayJob", str(handle.namespace), state.name, uid=state.uid, queue=state.queue)
        return "suspended", f"{by}: its cluster and its job are gone."
    return None


async def failed_submitter(kube_access: KubernetesAccess, handle: ClusterHandle) -> str | None:
    """Tell how a submitter failed that is a container of the head's pod (SidecarMode).

    KubeRay does not say so of a RayJob whose head was not ready before: it stays Initializing.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the RayJob's cluster.
    :return: its exit status and its last lines; ``None``: there is none, or it has not failed.
    :raises KubernetesError: the API server can't be asked.
    """
    pods = path_of("pods", str(handle.namespace))
    async with open_kube(kube_access) as kube:
        heads = await kube.get(pods, labelSelector=f"ray.io/cluster={handle.name},ray.io/node-type=head")
        for pod in heads.get("items") or []:
            ended = submitter_end(pod)
            if ended is None or not ended.get("exitCode"):
                continue
            path, query = (
                f"{pods}/{pod['metadata']['name']}/log",
                {"container": SUBMITTER, "tailLines": str(_LOG_LINES)},
            )
            try:
                said = str(await kube.request("GET", path, query=query, text=True))
            except KubernetesError as error:
                said = f"(its log can't be read: {error.message})"
            lines = [f"  {line[:500]}" for line in said.splitlines() if line.strip()]
            return "\n".join([f"exit status {ended['exitCode']}. Its last lines:", *lines])
    return None
