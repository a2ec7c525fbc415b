"""Two runs, one name: what is on its way, or on its way out, is waited for before anything is decided."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.clusters.helm.releases import Helm, Release
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, path_of
from ray_provider.clusters.lifecycle.removal import cluster_labels, wait_gone
from ray_provider.clusters.naming import describe_owner, same_owner
from ray_provider.exceptions import ClusterError

Say = Callable[[str], None]

#: A release that is in the middle of something for longer than this is not worked on by anybody any more.
STALE_RELEASE_SECONDS = 600.0
#: How long an ending cluster is waited for: KubeRay's clean-up of Redis may take five minutes.
ENDING_SECONDS = 420.0
#: How long a release may be without its RayCluster while somebody deletes both.
_ORPHAN_SECONDS = 20.0
_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is of a name, when nothing of it is on its way.

    :param cluster: the RayCluster, if there is one.
    :param release: the Helm release, if there is one.
    :param labels: whose they are.
    :param ours: they are this task's, or left by its DAG without a RayCluster.
    """

    cluster: Json | None
    release: Release | None
    labels: Mapping[str, str]
    ours: bool


class Settling:
    """Waits until a name's cluster and release stand still.

    :param kube: where.
    :param helm: Helm, for the same.
    :param namespace: in which namespace.
    :param name: of both.
    :param owner: who asks.
    :param say: is given a line when something is waited for.
    """

    def __init__(
        self, kube: Kube, helm: Helm, namespace: str, name: str, owner: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self._kube = kube
        self._helm = helm
        self._namespace = namespace
        self._name = name
        self._owner = owner
        self._say = say
        self._last = ""

    async def settle(self) -> Standing:
        """Wait, and tell what there is.

        :raises ClusterTimeoutError: an ending cluster does not end.
        :raises ClusterError: there is a release of somebody else's without a RayCluster.
        """
        orphan_since: float | None = None
        while True:
            release = await self._helm.release(self._name, self._namespace)
            cluster = await self._kube.find(path_of("rayclusters", self._namespace, self._name, api=RAY))
            if cluster is not None and cluster["metadata"].get("deletionTimestamp"):
                self._tell(f"Ray cluster {self._where} is being deleted: waiting for its end.")
                await wait_gone(self._kube, self._namespace, self._name, None, ENDING_SECONDS)
                continue
            labels = await cluster_labels(
                self._kube, self._name, release.name if release else None, self._namespace, cluster=cluster
            )
            ours = same_owner(labels, self._owner)
            if release is not None and release.is_stuck:
                if ours or release.age >= STALE_RELEASE_SECONDS:
                    self._say(f"Helm release {self._where} was left {release.status}: mending it.")
                    await self._helm.mend(release.name, self._namespace)
                else:
                    self._tell(
                        f"Helm release {self._where} is {release.status} ({describe_owner(labels)}): waiting for it, "
                        f"for {STALE_RELEASE_SECONDS - release.age:.0f} s at most."
                    )
                    await asyncio.sleep(_PAUSE)
                continue
            if release is None or cluster is not None or ours or not _is_of_ray(release):
                return Standing(cluster, release, labels, ours)
            orphan_since = orphan_since or time.monotonic()
            if time.monotonic() - orphan_since < _ORPHAN_SECONDS:
                self._tell(f"Helm release {self._where} has no RayCluster (any more): waiting whether it goes, too.")
                await asyncio.sleep(_PAUSE)
                continue
            return self._orphan(release, labels)

    def _orphan(self, release: Release, labels: Mapping[str, str]) -> Standing:
        """Decide about a release whose RayCluster is gone: its own DAG makes it anew, others are told what to do."""
        if same_owner(labels, self._owner, run=False):
            self._say(f"Helm release {self._where} was left without its RayCluster: it is made anew.")
            return Standing(None, release, labels, ours=True)
        raise ClusterError(
            f"The Helm release {self._where} is there ({release.status}; {describe_owner(labels)}), but its RayCluster "
            "is not: somebody deleted only that.",
            hint=f"helm -n {self._namespace} uninstall {self._name}; or give this cluster another name.",
            cause="release without cluster",
            namespace=self._namespace,
            name=self._name,
        )

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{self._name}"

    def _tell(self, line: str) -> None:
        """Say what is waited for, once."""
        key = line.partition(":")[0]
        if key != self._last:
            self._last = key
            self._say(line)


def _is_of_ray(release: Release) -> bool:
    return not release.resources or bool(release.of_kind("RayCluster"))
