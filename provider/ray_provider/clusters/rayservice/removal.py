"""Deleting a RayService, and waiting until nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_provider.clusters.kuberay.operator import still_there
from ray_provider.clusters.kuberay.rayjob import ORIGIN_NAME
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, open_kube, path_of
from ray_provider.clusters.kubernetes.gone import remaining
from ray_provider.clusters.lifecycle.removal import DELETE_SECONDS
from ray_provider.clusters.naming import describe_owner, same_owner
from ray_provider.clusters.rayservice.resource import LABEL
from ray_provider.clusters.rayservice.writing import service_path
from ray_provider.exceptions import ClusterError

Say = Callable[[str], None]


async def delete_service(
    kube_access: KubernetesAccess,
    *,
    namespace: str,
    name: str,
    owner: Mapping[str, Any] | None = None,
    timeout: float = DELETE_SECONDS,
    say: Say,
) -> bool:
    """Delete a RayService, and wait until nothing of it is left. Its traffic ends at once.

    No error where there is none.

    :param kube_access: to the Kubernetes cluster.
    :param namespace: of the RayService.
    :param name: of the RayService.
    :param owner: whose it has to be; unless given, somebody named it, and means it.
    :param timeout: seconds until all has to be gone.
    :param say: gets lines of progress.
    :return: whether there was one.
    :raises ClusterError: it is another's.
    :raises ClusterTimeoutError: something of it remains.
    """
    path = service_path(namespace, name)
    async with open_kube(kube_access) as kube:
        there = await kube.find(path)
        if there is None:
            say(f"There is no RayService {namespace}/{name}: nothing to delete.")
            return False
        labels = there["metadata"].get("labels")
        if owner is not None and not same_owner(labels, owner):
            raise ClusterError(
                f"The RayService {namespace}/{name} is {describe_owner(labels)}, not by the task that the handle "
                "names: it is left alone.",
                hint=f"Look at it: kubectl -n {namespace} get rayservice {name} -o yaml.",
                namespace=namespace,
                name=name,
                cause="not ours",
            )
        say(f"Deleting RayService {namespace}/{name} with its clusters. Its traffic ends.")
        await kube.delete(path)
        left = await remaining(kube, _places(namespace, name), timeout)
        if left:
            look = f"kubectl -n {namespace} get rayservice,raycluster,pod -l {LABEL}={name}"
            raise await still_there(kube, "RayService", namespace, name, timeout, left, look)
    say(f"Nothing is left of RayService {namespace}/{name}.")
    return True


def _places(namespace: str, name: str) -> list[tuple[str, str, dict[str, str]]]:
    return [
        ("RayService", path_of("rayservices", namespace, api=RAY), {"fieldSelector": f"metadata.name={name}"}),
        (
            "RayCluster",
            path_of("rayclusters", namespace, api=RAY),
            {"labelSelector": f"{ORIGIN_NAME}={name},ray.io/originated-from-crd=RayService"},
        ),
        ("pod", path_of("pods", namespace), {"labelSelector": f"{LABEL}={name}"}),
    ]
