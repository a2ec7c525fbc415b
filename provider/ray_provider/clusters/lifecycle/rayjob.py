"""Making a RayJob with all that goes beside it, finding the one of an earlier try, and taking it away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.helm.releases import HelmOptions, open_helm
from ray_provider.clusters.kuberay.account import get
from ray_provider.clusters.kuberay.operator import probe, require_operator, still_there
from ray_provider.clusters.kuberay.queue_watch import warn_without_kueue
from ray_provider.clusters.kuberay.queueing import queue_of
from ray_provider.clusters.kuberay.rayjob import (
    LABEL,
    ORIGIN_NAME,
    SUBMITTED,
    RayJobOptions,
    RayJobState,
    beside,
    make,
    make_selecting,
    refuse_unknown_mode,
)
from ray_provider.clusters.kuberay.versions import KubeRay
from ray_provider.clusters.kubernetes.access import KubernetesAccess, connect
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, open_kube, path_of
from ray_provider.clusters.kubernetes.gone import remaining
from ray_provider.clusters.lifecycle.dry_run import check_objects, path_beside
from ray_provider.clusters.lifecycle.preparation import install_shared, prepare, render
from ray_provider.clusters.lifecycle.removal import DELETE_SECONDS
from ray_provider.clusters.lifecycle.renewal import RayJobUse, begin_use, end_use
from ray_provider.clusters.lifecycle.spec import KubernetesClusterSpec
from ray_provider.clusters.naming import check_length, describe_owner, owner_labels, same_owner
from ray_provider.exceptions import (
    ClusterError,
    ClusterFailedError,
    ConfigurationError,
    KubernetesError,
    RayProviderError,
)

Say = Callable[[str], None]

_CONFLICT = 409


def _quiet(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class RayJobSpec:
    """A RayJob as a task wants it.

    :param cluster: its cluster; the name in it is that of the RayJob.
    :param options: what the RayJob says beside.
    """

    cluster: KubernetesClusterSpec
    options: RayJobOptions


async def find_jobs(
    kube_access: KubernetesAccess, namespace: str | None, owner: Mapping[str, Any]
) -> list[RayJobState]:
    """Find the RayJobs that a task instance has made, the latest attempt first.

    :param kube_access: to the Kubernetes cluster.
    :param namespace: in which it makes them; unless given, the connection's.
    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``airflow``.
    :raises KubernetesError: we may not look.
    """
    where = await asyncio.to_thread(kube_access.namespace_or_default, namespace)
    labels = owner_labels(owner)
    async with open_kube(kube_access) as kube:
        found = await kube.get(
            path_of("rayjobs", where, api=RAY),
            labelSelector=",".join(f"{key}={value}" for key, value in labels.items()),
        )
    own = [one for one in found.get("items") or [] if same_owner(one["metadata"].get("labels"), owner)]
    return sorted((RayJobState.of(one) for one in own), key=lambda one: one.attempt, reverse=True)


async def create_job(kube_access: KubernetesAccess, spec: RayJobSpec, *, say: Say = _quiet) -> ClusterHandle:
    """Make a RayJob and what goes beside it. Does not wait for its cluster.

    :param kube_access: to the Kubernetes cluster.
    :param spec: the RayJob, and the cluster that it makes or selects.
    :param say: is given each line of progress. Default: nobody is.
    :return: a handle, whose cluster has no name yet.
    :raises ConfigurationError: it can't work; nothing was made.
    :raises ClusterError: it was not made.
    """
    name, wanted = check_length(spec.cluster.name, "RayJob"), spec.cluster
    namespace = await asyncio.to_thread(kube_access.namespace_or_default, wanted.namespace)
    labels = owner_labels(wanted.owner, is_named=wanted.is_named)
    async with open_kube(kube_access) as kube:
        if spec.options.selector is not None:
            selector = spec.options.selector
            await require_operator(kube)
            cluster = await check_selected(kube, namespace, name, selector.cluster)
            parts = _Parts(
                make_selecting(selector, name, labels, spec.options),
                [beside(one, name) for one in selector.others],
                await probe(kube, namespace),
                f"on the Ray cluster {selector.cluster}",
            )
            use = RayJobUse(namespace, selector.cluster, name, wanted.owner)
            await begin_use(kube, cluster, use, say)
            try:
                return await _create_all(kube_access, kube, namespace, parts, wanted, say)
            except BaseException:
                await end_use(kube_access, kube, use, say, helm=wanted.helm)
                raise
        async with open_helm(kube_access, wanted.helm, labels=labels, values=wanted.values) as helm:
            kuberay = await prepare(kube, helm, namespace, wanted, say)
            refuse_unknown_mode(spec.options.mode, kuberay)
            rendered, origin = await render(helm, wanted, kuberay, name, namespace, say)
            made = make(rendered, name, spec.options)
        parts = _Parts(*made, kuberay, origin)
        return await _create_all(kube_access, kube, namespace, parts, wanted, say)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is to be made: a RayJob, what goes beside it, for which KubeRay, and of what it was made."""

    job: Json
    beside: list[Json]
    kuberay: KubeRay
    origin: str


async def _create_all(
    kube_access: KubernetesAccess, kube: Kube, namespace: str, parts: _Parts, wanted: KubernetesClusterSpec, say: Say
) -> ClusterHandle:
    """Have all of it checked; then make it, or nothing."""
    job, name = parts.job, parts.job["metadata"]["name"]
    job["metadata"]["namespace"] = namespace
    await warn_without_kueue(kube, queue_of(job), say)
    paths = [await path_beside(kube, namespace, document, "RayJob") for document in parts.beside]
    await check_objects(kube, namespace, [job, *parts.beside], parts.kuberay)
    await install_shared(kube, namespace, wanted.gpu_plugin, say)
    say(f"Making RayJob {namespace}/{name} ({parts.origin}).")
    made = await _create(kube, namespace, job, wanted.owner)
    try:
        for path, document in zip(paths, parts.beside, strict=True):
            await _create_beside(kube, path, document, made)
    except BaseException as error:
        await _take_back(kube_access, namespace, name, error, say)
        raise
    return handle_of(RayJobState.of(made), namespace, wanted.owner)


async def check_selected(kube: Kube, namespace: str, name: str, cluster: str) -> Json:
    """Make sure that the cluster is there which a RayJob is to run on: KubeRay would wait for it for ever.

    :param kube: where.
    :param namespace: of both.
    :param name: of the RayJob.
    :param cluster: name of the RayCluster.
    :return: the RayCluster.
    :raises ClusterFailedError: it is not, or is on its way out.
    """
    found = await kube.find(path_of("rayclusters", namespace, cluster, api=RAY))
    if found is None or found["metadata"].get("deletionTimestamp"):
        raise ClusterFailedError(
            f"The RayCluster {namespace}/{cluster} {'is being deleted' if found else 'is not there'}. The RayJob "
            f"{name} is to run on it (spec.clusterSelector), and KubeRay would wait for it for ever.",
            hint=f"Is the name right, and the namespace? kubectl -n {namespace} get rayclusters. SetupRayCluster makes "
            "one.",
            cause="no cluster",
            namespace=namespace,
            name=cluster,
        )
    return found


def handle_of(state: RayJobState, namespace: str, owner: Mapping[str, Any]) -> ClusterHandle:
    """Give the handle of a RayJob's cluster, as far as it is known.

    :param state: of the RayJob.
    :param namespace: of the RayJob.
    :param owner: whose it is.
    """
    return ClusterHandle(
        "kubernetes", state.cluster, "", namespace, service=None, owner=dict(owner), created=True, rayjob=state.name
    )


async def _create(kube: Kube, namespace: str, job: Json, owner: Mapping[str, Any]) -> Json:
    """Create the RayJob, or take the one that an answer was lost of: it has our owner and our id."""
    name = job["metadata"]["name"]
    try:
        return await kube.create(path_of("rayjobs", namespace, api=RAY), job)
    except KubernetesError as error:
        if error.status != _CONFLICT:
            raise
    there = await kube.find(path_of("rayjobs", namespace, name, api=RAY))
    if there is None or there["metadata"].get("deletionTimestamp"):
        raise ClusterError(
            f"The RayJob {namespace}/{name} of before is being deleted.",
            hint="A retry of the task makes it anew.",
            namespace=namespace,
            name=name,
            cause="race",
        )
    labels = there["metadata"].get("labels")
    if same_owner(labels, owner) and there["spec"].get("jobId") == job["spec"]["jobId"]:
        return there
    raise ConfigurationError(
        f"The RayJob {namespace}/{name} is there, and is not this task's: it is {describe_owner(labels)}.",
        hint="Give the task another name, or none: then one is made that is unique for the run.",
        namespace=namespace,
        name=name,
        cause="not ours",
    )


async def _create_beside(kube: Kube, path: str, document: Json, job: Json) -> None:
    """Create an object that Kubernetes deletes together with the RayJob."""
    what, meta = f"{document['kind']} {document['metadata']['name']}", job["metadata"]
    document["metadata"]["ownerReferences"] = [
        {"apiVersion": job["apiVersion"], "kind": "RayJob", "name": meta["name"], "uid": meta["uid"]}
    ]
    try:
        await kube.create(path, document)
    except KubernetesError as error:
        if error.status != _CONFLICT:
            raise
        there = await kube.find(f"{path}/{document['metadata']['name']}") or {"metadata": {}}
        if (there["metadata"].get("labels") or {}).get(LABEL) != meta["name"]:
            raise ConfigurationError(
                f"The {what} is there already in namespace {meta['namespace']!r}, and is not this RayJob's.",
                hint="Give it another name, or leave it out.",
                field="extraObjects",
            ) from error


async def _take_back(kube_access: KubernetesAccess, namespace: str, name: str, error: BaseException, say: Say) -> None:
    """Delete a RayJob that is only half there. Goes on when it is cancelled."""
    work = asyncio.ensure_future(delete_job(kube_access, namespace=namespace, name=name, say=say))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await work
    except RayProviderError as failure:
        error.add_note(f"And the RayJob {namespace}/{name} could not be deleted: {failure}")
        say(f"WARNING: RayJob {namespace}/{name} could not be deleted: {failure}")


async def mark_submitted(kube_access: KubernetesAccess, handle: ClusterHandle, session: str | None) -> None:
    """Write down on the RayJob that its job is about to be submitted: a later try has to know.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the RayJob's cluster.
    :param session: of the head.
    :raises KubernetesError: the RayJob is gone, or we may not change it.
    """
    path = path_of("rayjobs", str(handle.namespace), str(handle.rayjob), api=RAY)
    note = {SUBMITTED: submitted_in(handle.name, session)}
    await get(await connect(kube_access), path, change={"metadata": {"annotations": note}})


def submitted_in(cluster: str, session: str | None) -> str:
    """Say where a job was submitted: in which cluster, to which of its heads.

    :param cluster: name of the RayCluster.
    :param session: of its head; ``None``: it is not known.
    """
    return f"{cluster}/{session or ''}"


async def delete_job(
    kube_access: KubernetesAccess,
    *,
    namespace: str,
    name: str,
    owner: Mapping[str, Any] | None = None,
    timeout: float = DELETE_SECONDS,
    helm: HelmOptions | None = None,
    say: Say = _quiet,
) -> bool:
    """Delete a RayJob, and wait until nothing of it is left. KubeRay stops its job first. No error where there is none.

    :param kube_access: to the Kubernetes cluster.
    :param namespace: of the RayJob.
    :param name: of the RayJob.
    :param owner: whose it has to be; unless given, somebody named it, and means it.
    :param timeout: seconds until all has to be gone. Default: 300.
    :param helm: for the cluster that it ran on, where it is the last user of that.
    :param say: is given each line of progress. Default: nobody is.
    :return: whether there was one.
    :raises ClusterError: it is another's.
    :raises ClusterTimeoutError: something of it remains.
    """
    path = path_of("rayjobs", namespace, name, api=RAY)
    async with open_kube(kube_access) as kube:
        there = await kube.find(path)
        if there is None:
            say(f"There is no RayJob {namespace}/{name}: nothing to delete.")
            return False
        labels = there["metadata"].get("labels")
        if owner is not None and not same_owner(labels, owner):
            raise ClusterError(
                f"The RayJob {namespace}/{name} is {describe_owner(labels)}, not by this task: it is left alone.",
                hint=f"Look at it: kubectl -n {namespace} get rayjob {name} -o yaml.",
                namespace=namespace,
                name=name,
                cause="not ours",
            )
        state = RayJobState.of(there)
        say(f"Deleting RayJob {namespace}/{name}{'' if state.selected else ' with its cluster'}.")
        await kube.delete(path)
        await _wait_gone(kube, namespace, state, timeout)
        say(f"Nothing is left of RayJob {namespace}/{name}.")
        if state.selected:
            await end_use(kube_access, kube, RayJobUse(namespace, state.selected, name), say, helm=helm)
    return True


async def _wait_gone(kube: Kube, namespace: str, state: RayJobState, timeout: float) -> None:
    name = state.name
    mine = {"labelSelector": f"{LABEL}={name}"}
    places = [
        ("RayJob", path_of("rayjobs", namespace, api=RAY), {"fieldSelector": f"metadata.name={name}"}),
        ("RayCluster", path_of("rayclusters", namespace, api=RAY), {"labelSelector": f"{ORIGIN_NAME}={name}"}),
        ("pod", path_of("pods", namespace), mine),
    ]
    if state.mode == "K8sJobMode":
        # The submitter is a Job's, named like the RayJob; it bears none of our labels.
        places.append(("submitter's pod", path_of("pods", namespace), {"labelSelector": f"job-name={name}"}))
    left = await remaining(kube, places, timeout)
    if left:
        look = f"kubectl -n {namespace} get rayjob,raycluster,pod -l {LABEL}={name}"
        raise await still_there(kube, "RayJob", namespace, name, timeout, left, look)
