"""What lies already where KubeRay is about to put its own: it would be taken for the cluster's.

A Secret that somebody laid there holds a token that he knows, and a Service leads tasks, with it, to pods of his.
"""

from __future__ import annotations

from collections.abc import Callable

from ray_provider.clusters.kuberay.raycluster import auth_of, head_service
from ray_provider.clusters.kubernetes.client import Json, Kube, path_of
from ray_provider.exceptions import ConfigurationError


async def refuse_squatted(
    kube: Kube, namespace: str, cluster: Json, *, is_named: bool, say: Callable[[str], None]
) -> None:
    """Look whether the names are free that KubeRay gives to what it makes for a RayCluster that is not there yet.

    :param kube: where.
    :param namespace: of the cluster.
    :param cluster: the RayCluster that is about to be made.
    :param is_named: somebody chose its name: a Secret of that name may then be the token that is wanted, which is said.
    :param say: is warned of a Secret of that name.
    :raises ConfigurationError: an object is there that no cluster of that name has left.
    """
    name = str(cluster["metadata"]["name"])
    token = None if (cluster["spec"].get("authOptions") or {}).get("secretName") else auth_of(cluster).secret_name
    for plural, kind, wanted in (("services", "Service", head_service(cluster)), ("secrets", "Secret", token)):
        if wanted is None:
            continue
        found = await kube.find(path_of(plural, namespace, wanted))
        if found is None or _is_going(found, name):
            continue
        if is_named and kind == "Secret":
            say(
                f"WARNING: the Secret {namespace}/{wanted} was there before the Ray cluster: its token is used, and "
                "whoever made it knows it. Say authOptions.secretName to mean it."
            )
            continue
        raise ConfigurationError(
            f"The {kind} {namespace}/{wanted} was not made with the Ray cluster {name!r}: it was there before it. "
            "Whoever made it could take the cluster's token or hand it one.",
            hint=f"See who made it: kubectl -n {namespace} get {plural} {wanted} -o yaml. If it may go, delete it.",
            cause="not ours",
        )


def _is_going(found: Json, name: str) -> bool:
    """Whether a former cluster of that name left it: Kubernetes removes it, as its owner is gone."""
    metadata = found["metadata"]
    owners = metadata.get("ownerReferences") or []
    return bool(metadata.get("deletionTimestamp")) or any(
        owner.get("kind") == "RayCluster" and owner.get("name") == name for owner in owners
    )
