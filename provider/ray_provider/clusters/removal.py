"""Taking a Ray cluster away: only what is ours, all of it, and with a look whether it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ray_provider.clusters.access import KubernetesAccess
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.helm import Helm, HelmOptions, open_helm
from ray_provider.clusters.kube import RAY, UNREACHABLE_SECONDS, Json, Kube, open_kube, path_of
from ray_provider.clusters.kuberay import find_operator
from ray_provider.clusters.naming import MANAGED, PREFIX, describe_owner, same_owner
from ray_provider.exceptions import ClusterError, ClusterTimeoutError, ConfigurationError, KubernetesError

Say = Callable[[str], None]

_CLEANUP_SECONDS = 120.0


def _quiet(_: str) -> None:
    """Say nothing."""


async def release_labels(kube: Kube, release: str, namespace: str) -> dict[str, str]:
    """Give the labels of a release: Helm keeps them on its Secret."""
    found = await kube.get(path_of("secrets", namespace), labelSelector=f"owner=helm,name={release}")
    items = sorted(found.get("items") or [], key=lambda one: int(one["metadata"]["labels"].get("version", 0)))
    labels: dict[str, str] = items[-1]["metadata"]["labels"] if items else {}
    return {key: value for key, value in labels.items() if key.startswith(PREFIX)}


async def cluster_labels(kube: Kube, name: str, release: str | None, namespace: str) -> dict[str, str]:
    """Give the labels that tell whose a cluster is: its own, else its release's."""
    cluster = await kube.find(path_of("rayclusters", namespace, name, api=RAY))
    labels = dict(((cluster or {}).get("metadata") or {}).get("labels") or {})
    if labels.get(MANAGED) or not release:
        return labels
    return {**labels, **await release_labels(kube, release, namespace)}


async def delete_cluster(
    access: KubernetesAccess,
    *,
    name: str,
    namespace: str,
    release: str | None,
    owner: Mapping[str, Any] | None = None,
    timeout: float = 300.0,
    helm: HelmOptions | None = None,
    say: Say = _quiet,
) -> bool:
    """Delete a cluster, and wait until nothing of it is left. No error where there is none.

    :param name: of the RayCluster.
    :param release: of Helm; ``None`` for a RayCluster that was not made by Helm.
    :param owner: whose it has to be; ``None``: somebody named it, and means it.
    :param timeout: seconds until all has to be gone.
    :return: whether there was one.
    :raises ClusterError: it is another's.
    :raises ClusterTimeoutError: something of it remains; the message names it.
    """
    async with open_kube(access) as kube, open_helm(access, helm) as tool:
        await _check_owner(kube, name, release, namespace, owner)
        was_there = await _uninstall(kube, tool, name, release, namespace, say)
        await wait_gone(kube, namespace, name, release, timeout)
    if was_there:
        say(f"Nothing is left of Ray cluster {namespace}/{name}.")
    else:
        say(f"There is no Ray cluster {namespace}/{name}: nothing to delete.")
    return was_there


async def take_back(
    access: KubernetesAccess,
    handle: ClusterHandle,
    error: BaseException,
    *,
    keep: bool,
    helm: HelmOptions | None = None,
    say: Say = _quiet,
) -> None:
    """Remove what a task made that failed, unless it found it there. Goes on when it is cancelled."""
    where = f"{handle.namespace}/{handle.name}"
    if not handle.created:
        return
    if keep:
        say(f"Ray cluster {where} is left for inspection. Delete it with DeleteRayCluster(name={handle.name!r}).")
        return
    say(f"Removing Ray cluster {where}, as it did not become ready.")
    work = asyncio.ensure_future(
        delete_cluster(
            access,
            name=handle.name,
            namespace=str(handle.namespace),
            release=handle.release,
            owner=handle.owner,
            timeout=_CLEANUP_SECONDS,
            helm=helm,
            say=say,
        )
    )
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await work
        raise
    except Exception as failure:  # noqa: BLE001 - the first error is the one to be raised; this one is told with it
        error.add_note(f"And what was made of it could not be removed: {failure}")
        say(f"WARNING: Ray cluster {where} could not be removed: {failure}")


async def _check_owner(
    kube: Kube, name: str, release: str | None, namespace: str, owner: Mapping[str, Any] | None
) -> None:
    if owner is None:
        return
    labels = await cluster_labels(kube, name, release, namespace)
    if labels and not same_owner(labels, owner):
        raise ClusterError(
            f"The Ray cluster {namespace}/{name} is {describe_owner(labels)}, not by this task: it is left alone.",
            hint="Give the handle of the task that made it, or name it: DeleteRayCluster(name=...).",
            namespace=namespace,
            name=name,
            cause="not ours",
        )


async def _uninstall(kube: Kube, helm: Helm, name: str, release: str | None, namespace: str, say: Say) -> bool:
    there = False
    if release:
        found = await helm.release(release, namespace)
        if found is not None:
            if found.resources and not found.of_kind("RayCluster"):
                raise ConfigurationError(
                    f"The Helm release {namespace}/{release} has no RayCluster in it: it is something else.",
                    hint="Name the release of a Ray cluster.",
                )
            say(f"Deleting Helm release {namespace}/{release} (it is {found.status}).")
            await helm.uninstall(release, namespace)
            there = True
    path = path_of("rayclusters", namespace, name, api=RAY)
    cluster = await kube.find(path)
    if cluster is None:
        return there
    manager = (cluster["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name")
    if manager and manager != release and not there:
        raise ConfigurationError(
            f"The RayCluster {namespace}/{name} belongs to the Helm release {manager!r}.",
            hint=f"Delete that: DeleteRayCluster(name={manager!r}).",
        )
    if not cluster["metadata"].get("deletionTimestamp"):
        if not there:
            say(f"Deleting RayCluster {namespace}/{name}, which no Helm release holds.")
        await kube.delete(path)
    return True


async def wait_gone(kube: Kube, namespace: str, name: str, release: str | None, timeout: float) -> None:
    """Wait until a cluster's RayCluster, pods, services and Secrets are gone.

    :raises ClusterTimeoutError: it names what remains.
    """
    mine = f"ray.io/cluster={name}"
    places = [
        ("RayCluster", path_of("rayclusters", namespace, api=RAY), {"fieldSelector": f"metadata.name={name}"}),
        ("pod", path_of("pods", namespace), {"labelSelector": mine}),
        ("service", path_of("services", namespace), {"labelSelector": mine}),
        ("Secret", path_of("secrets", namespace), {"labelSelector": mine}),
    ]
    if release:
        places.append(
            ("Helm release Secret", path_of("secrets", namespace), {"labelSelector": f"owner=helm,name={release}"})
        )
    left: dict[str, dict[str, Json]] = {kind: {} for kind, _, _ in places}
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            for kind, path, query in places:
                group.create_task(_until_empty(kube, path, query, left[kind]))
    except TimeoutError:
        raise await _remains(kube, namespace, name, timeout, left) from None
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _until_empty(kube: Kube, path: str, query: dict[str, str], left: dict[str, Json]) -> None:
    async for event in kube.watch(path, patience=UNREACHABLE_SECONDS, **query):
        if event.type == "SYNC":
            left.clear()
            left.update({item["metadata"]["name"]: item for item in event.items})
        elif event.type == "DELETED":
            left.pop(event.object["metadata"]["name"], None)
        else:
            left[event.object["metadata"]["name"]] = event.object
        if not left:
            return


async def _remains(
    kube: Kube, namespace: str, name: str, timeout: float, left: Mapping[str, Mapping[str, Json]]
) -> ClusterTimeoutError:
    said = []
    finalizers = False
    for kind, objects in left.items():
        for one, item in objects.items():
            held = item["metadata"].get("finalizers") or []
            finalizers |= bool(held) and kind == "RayCluster"
            said.append(f"{kind} {one}" + (f" (held by finalizers {', '.join(held)})" if held else ""))
    operator = None
    if finalizers:
        try:
            operator = await find_operator(kube)
        except KubernetesError:
            operator = None
    hint = f"kubectl -n {namespace} get raycluster,pod,service,secret -l ray.io/cluster={name}"
    if operator is not None and operator.available == 0:
        hint = f"The KubeRay operator ({operator.namespace}/{operator.name}), which ends them, does not run. {hint}"
    return ClusterTimeoutError(
        f"The Ray cluster {namespace}/{name} is not gone after {timeout:.0f} s. There remain: {'; '.join(said)}.",
        hint=hint,
        namespace=namespace,
        name=name,
        cause="remains",
        remains=said,
    )
