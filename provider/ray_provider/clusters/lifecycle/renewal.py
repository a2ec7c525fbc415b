"""A task that works on a cluster counts as its user as long as it does: its set-up's entry is renewed meanwhile."""

from __future__ import annotations

import asyncio
import logging

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.kuberay.account import get, shared_account
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.lifecycle.users import renewed
from ray_provider.exceptions import RayProviderError

log = logging.getLogger(__name__)

#: How often the entry is looked at.
PAUSE_SECONDS = 1800.0


async def renew_use(access: KubernetesAccess, handle: ClusterHandle) -> bool:
    """Move the end of the entry on that the set-up of a handle made, if a quarter of its time is over.

    :return: whether it was due.
    :raises KubernetesError: the cluster is gone, or we may not.
    """
    path = f"/apis/ray.io/v1/namespaces/{handle.namespace}/rayclusters/{handle.name}"
    connected = (await shared_account(access, handle)).connected
    change = renewed((await get(connected, path))["metadata"], handle.owner)
    if change:
        await get(connected, path, change={"metadata": {"annotations": change}})
    return bool(change)


async def keep_using(access: KubernetesAccess, handle: ClusterHandle) -> None:
    """Renew a use again and again, until this is cancelled. What goes wrong is told, and tried again."""
    while True:
        try:
            await renew_use(access, handle)
        except RayProviderError as error:
            log.warning(
                "Ray cluster %s/%s: that it is used could not be renewed; another run's delete may take it for unused "
                "when the entry ends. %s",
                handle.namespace,
                handle.name,
                error.message,
            )
        await asyncio.sleep(PAUSE_SECONDS)
