"""Deleting two RayServices and the Service before them: the traffic goes away first, and what is in flight ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import Kube, open_kube, path_of
from ray_provider.clusters.lifecycle.removal import DELETE_SECONDS
from ray_provider.clusters.naming import describe_owner, same_owner
from ray_provider.clusters.rayservice import writing
from ray_provider.clusters.rayservice.blue_green.promotion import settle
from ray_provider.clusters.rayservice.blue_green.traffic import NOBODY, Traffic, look, write
from ray_provider.clusters.rayservice.removal import delete_service
from ray_provider.exceptions import ClusterError, KubernetesError

Say = Callable[[str], None]

_PAUSE = 1.0


async def delete_both(
    kube_access: KubernetesAccess,
    *,
    namespace: str,
    name: str,
    owner: Mapping[str, Any] | None = None,
    drain_seconds: float,
    timeout: float = DELETE_SECONDS,
    say: Say,
) -> bool:
    """Delete two RayServices and our Service before them, and wait until nothing of them is left.

    :param kube_access: the Kubernetes that they are on.
    :param namespace: in which they are.
    :param name: of our Service.
    :param owner: whose it has to be; unless given, somebody named it, and means it.
    :param drain_seconds: how long the requests in flight have to end, after no new ones come.
    :param timeout: seconds until all has to be gone, after that.
    :param say: gets lines of progress.
    :return: whether there was such a Service.
    :raises ClusterError: it is another's.
    :raises ClusterTimeoutError: something of it remains.
    """
    async with open_kube(kube_access) as kube:
        traffic = await look(kube, namespace, name)
        if traffic is None:
            return False
        labels = traffic.document["metadata"].get("labels")
        if owner is not None and not same_owner(labels, owner):
            raise ClusterError(
                f"The Service {namespace}/{name} is {describe_owner(labels)}, not by the task that the handle names: "
                "it is left alone.",
                hint=f"Look at it: kubectl -n {namespace} get service {name} -o yaml.",
                namespace=namespace,
                name=name,
                cause="not ours",
            )
        say(
            f"No new request comes to {namespace}/{name} any more; those in flight have {drain_seconds:.0f} s to end. "
            f"Who calls {traffic.names[0]}-serve-svc or {traffic.names[1]}-serve-svc past it gets no such time."
        )
        await _closed(kube, traffic, drain_seconds)
        await asyncio.gather(
            *(
                delete_service(kube_access, namespace=namespace, name=each, timeout=timeout, say=say)
                for each in traffic.names
            )
        )
        await kube.delete(path_of("services", namespace, name))
    say(f"Nothing is left of {namespace}/{name}.")
    return True


async def _closed(kube: Kube, traffic: Traffic, seconds: float) -> None:
    """Keep the traffic away for some time: KubeRay may be in the middle of leading it to where it was."""
    until = time.monotonic() + seconds
    while True:
        now = await look(kube, traffic.namespace, traffic.name)
        if now is None:
            return
        if not now.ending or now.is_open:
            try:
                await write(kube, replace(now, active="", ending=True), to={"selector": NOBODY})
            except KubernetesError as error:
                if not writing.is_conflict(error):
                    raise
                continue
        await settle(kube, traffic.namespace, traffic.name)
        if time.monotonic() >= until:
            return
        await asyncio.sleep(min(_PAUSE, seconds))
