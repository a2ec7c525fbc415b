"""A cluster that one task makes for itself and takes away again: the seam between the glue and ``clusters``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_provider.clusters.handle import ClusterHandle

if TYPE_CHECKING:
    from ray_provider.hooks.ray import RayHook

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OwnCluster:
    """What a task wants for itself.

    :param name: of the cluster; the same for all tries of a task, so that a retry finds what a dead worker left.
    :param ray_cluster_yaml: path or URL of a RayCluster manifest; unless given, what the provider's chart makes by
        default. On the local backend it has no effect: there is one machine, and all of it is the cluster.
    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``.
    :param update_if_exists: change a cluster of that name that is there.
    :param gpu_device_plugin_yaml: path or URL of a device plugin's DaemonSet.
    :param folders: where relative paths begin.
    :param render: renders templates in the manifest's file.
    """

    name: str
    ray_cluster_yaml: str | None = None
    owner: Mapping[str, Any] = field(default_factory=dict)
    update_if_exists: bool = True
    gpu_device_plugin_yaml: str = ""
    folders: tuple[Path, ...] = ()
    render: Callable[[str], str] | None = None


async def set_up(hook: RayHook, wanted: OwnCluster) -> ClusterHandle:
    """Make the cluster, or find the one that an earlier try of the same task made.

    :param hook: of the connection, which says where clusters are.
    :param wanted: what it is to be.
    :raises ConfigurationError: the manifest can't work.
    :raises ClusterError: the cluster can't become ready; what was made of it is gone again.
    """
    config = await hook.aconfig()
    if config.backend == "local":
        from ray_provider.clusters.local.cluster import start_local
        from ray_provider.clusters.local.spec import LocalClusterSpec

        return await start_local(LocalClusterSpec(name=wanted.name, owner=dict(wanted.owner)), say=_say)
    from ray_provider.clusters.helm.fetch import fetch_text
    from ray_provider.clusters.lifecycle.setup import set_up_cluster
    from ray_provider.clusters.lifecycle.spec import ClusterRequest

    spec = ClusterRequest(
        owner=dict(wanted.owner),
        ray_cluster_yaml=wanted.ray_cluster_yaml,
        update_if_exists=wanted.update_if_exists,
        access=config.access,
        gpu_device_plugin_yaml=wanted.gpu_device_plugin_yaml or None,
        folders=wanted.folders,
        render=wanted.render,
        fetch=fetch_text,
    ).spec()
    return await set_up_cluster(await hook.akubernetes_access(), spec, say=_say)


async def delete(hook: RayHook, handle: ClusterHandle) -> bool:
    """Take the cluster away, and wait until nothing of it is left.

    :param hook: of the connection; where the cluster is says its handle.
    :param handle: of a cluster that :func:`belongs_to` the task.
    :return: whether there was one.
    :raises ClusterError: it could not be deleted.
    """
    if handle.backend == "local":
        from ray_provider.clusters.local.cluster import delete_local

        return await delete_local(handle.name, owner=dict(handle.owner))
    if handle.rayjob:
        from ray_provider.clusters.lifecycle.rayjob import delete_job

        kube_access = await hook.akubernetes_access(handle.kubernetes)
        return await delete_job(
            kube_access, namespace=str(handle.namespace), name=handle.rayjob, owner=handle.owner, say=_say
        )
    from ray_provider.clusters.lifecycle.removal import Leaving, delete_cluster

    return await delete_cluster(
        await hook.akubernetes_access(handle.kubernetes),
        name=handle.name,
        namespace=str(handle.namespace),
        release=handle.release,
        who=Leaving(owner=handle.owner, found=not handle.created),
        say=_say,
    )


def _say(line: str) -> None:
    log.info("%s", line)


def belongs_to(handle: ClusterHandle, owner: Mapping[str, Any]) -> bool:
    """Tell whether this task made the cluster: in this try, or in an earlier one. Only then may it delete it.

    :param handle: of the cluster.
    :param owner: the task instance, by the keys of :class:`OwnCluster`.
    """
    return handle.created or (bool(handle.owner) and all(handle.owner.get(key) == owner[key] for key in owner))
