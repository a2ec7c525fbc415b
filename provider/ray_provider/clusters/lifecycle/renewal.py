"""Who works on a cluster counts as its user: a task as long as it does, and a RayJob on a cluster that is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.helm.releases import HelmOptions
from ray_provider.clusters.kuberay.account import get, shared_account
from ray_provider.clusters.kuberay.raycluster import helm_release_of
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, path_of
from ray_provider.clusters.lifecycle import users
from ray_provider.clusters.lifecycle.removal import Leaving, delete_cluster
from ray_provider.exceptions import KubernetesAccessError, RayProviderError

log = logging.getLogger(__name__)

#: How often the entry is looked at.
PAUSE_SECONDS = 1800.0


async def renew_use(kube_access: KubernetesAccess, handle: ClusterHandle) -> bool:
    """Move the end of the entry on that was made for the owner of a handle, if a quarter of its time is over.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the cluster; its owner is who uses it.
    :return: whether it was due.
    :raises KubernetesError: the cluster is gone, or we may not.
    """
    path = f"/apis/ray.io/v1/namespaces/{handle.namespace}/rayclusters/{handle.name}"
    connected = (await shared_account(kube_access, handle)).connected
    change = users.renewed((await get(connected, path))["metadata"], handle.owner)
    if change:
        await get(connected, path, change={"metadata": {"annotations": change}})
    return bool(change)


async def keep_using(kube_access: KubernetesAccess, handle: ClusterHandle) -> None:
    """Renew a use again and again, until this is cancelled. What goes wrong is told, and tried again.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the cluster. It is looked at every 30 minutes.
    """
    while True:
        try:
            await renew_use(kube_access, handle)
        except RayProviderError as error:
            log.warning(
                "Ray cluster %s/%s: that it is used could not be renewed; another run's delete may take it for unused "
                "when the entry ends. %s",
                handle.namespace,
                handle.name,
                error.message,
            )
        await asyncio.sleep(PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class RayJobUse:
    """What a RayJob is to the cluster that it selects.

    :param namespace: of both.
    :param cluster: name of the RayCluster.
    :param rayjob: name of the RayJob.
    :param owner: the task whose RayJob it is; ``None``: whoever's, as it is gone.
    """

    namespace: str
    cluster: str
    rayjob: str
    owner: Mapping[str, Any] | None = None

    @property
    def path(self) -> str:
        """Where the RayCluster is."""
        return path_of("rayclusters", self.namespace, self.cluster, api=RAY)

    def entries(self, meta: Mapping[str, Any]) -> list[str]:
        """Give its entries among the users of the cluster.

        :param meta: metadata of the RayCluster.
        """
        own = None if self.owner is None else users.entry_key(self.owner)
        found = (user for user in users.users_of(meta) if user.owner.get(users.RAYJOB) == self.rayjob)
        return [user.key for user in found if own is None or user.key == own]


async def begin_use(kube: Kube, cluster: Json, use: RayJobUse, say: Callable[[str], None]) -> None:
    """Write down that a RayJob uses the cluster that it selects, if users are recorded there: its delete waits for it.

    :param kube: where.
    :param cluster: the RayCluster.
    :param use: with its owner.
    :param say: is warned where we may not write.
    """
    if not users.is_recorded(cluster["metadata"]):
        return  # somebody made it by other means: who uses it is not our business
    entry = users.entry({**(use.owner or {}), users.RAYJOB: use.rayjob}, users.LEASE_SECONDS)
    try:
        await kube.merge(use.path, {"metadata": {"annotations": entry}})
    except KubernetesAccessError as error:
        where = f"{use.namespace}/{use.cluster}"
        say(f"WARNING: whoever deletes Ray cluster {where} ends RayJob {use.rayjob} on it: {error.message}")


async def end_use(
    kube_access: KubernetesAccess,
    kube: Kube,
    use: RayJobUse,
    say: Callable[[str], None],
    *,
    helm: HelmOptions | None = None,
) -> None:
    """Take a RayJob's entry away from the cluster that it ran on. The last user of all deletes it, as ever.

    A set-up's entry that is there says that its cluster was never to be deleted, also where it has ended.

    :param kube_access: to the Kubernetes cluster.
    :param kube: the same, connected.
    :param use: of a RayJob that is gone.
    :param say: is given each line of progress.
    :param helm: how Helm is run, where the cluster is deleted.
    :raises ClusterError: the cluster could not be deleted.
    """
    cluster = await kube.find(use.path)
    mine = use.entries(cluster["metadata"]) if cluster is not None else []
    if cluster is None or not mine:
        return
    cluster = await users.give_up(kube, use.path, cluster, mine)
    if cluster is not None and not users.users_of(cluster["metadata"]):
        say(f"Ray cluster {use.namespace}/{use.cluster} was left to RayJob {use.rayjob}, its last user.")
        release = helm_release_of(cluster)
        await delete_cluster(
            kube_access, name=use.cluster, namespace=use.namespace, release=release, who=Leaving(), helm=helm, say=say
        )
