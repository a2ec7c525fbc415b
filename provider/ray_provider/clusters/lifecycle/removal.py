"""Taking a Ray cluster away: only what is ours, all of it, and with a look whether it is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.helm.releases import Helm, HelmOptions, Release, open_helm
from ray_provider.clusters.kuberay.operator import unless_it_runs
from ray_provider.clusters.kuberay.raycluster import helm_release_of
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, open_kube, path_of
from ray_provider.clusters.kubernetes.gone import remaining
from ray_provider.clusters.lifecycle import users
from ray_provider.clusters.naming import MANAGED, PREFIX, describe_owner, same_owner
from ray_provider.exceptions import ClusterError, ClusterTimeoutError, ConfigurationError, KubernetesError
from ray_provider.jobs.explain import first_of

Say = Callable[[str], None]

#: How long a deletion may take, and how much longer where KubeRay clears Redis: its job gives up after 300 s.
DELETE_SECONDS = 300.0
_REDIS_SECONDS = 360.0
_REDIS_FINALIZER = "ray.io/gcs-ft-redis-cleanup-finalizer"
_CLEANUP_SECONDS = 120.0


def _quiet(_: str) -> None:
    """Say nothing."""


async def release_labels(kube: Kube, release: str, namespace: str) -> dict[str, str]:
    """Give the labels of a release: Helm keeps them on its Secret.

    :param kube: where.
    :param release: of Helm; the labels are those of its last revision.
    :param namespace: where it is.
    """
    found = await kube.get(path_of("secrets", namespace), labelSelector=f"owner=helm,name={release}")
    items = sorted(found.get("items") or [], key=lambda one: int(one["metadata"]["labels"].get("version", 0)))
    labels: dict[str, str] = items[-1]["metadata"]["labels"] if items else {}
    return {key: value for key, value in labels.items() if key.startswith(PREFIX)}


async def cluster_labels(
    kube: Kube, name: str, release: str | None, namespace: str, *, cluster: Json | None = None
) -> dict[str, str]:
    """Give the labels that tell whose a cluster is: its own, else its release's.

    :param kube: where.
    :param name: of the RayCluster.
    :param release: of Helm; ``None``: none holds it, and only its own labels count.
    :param namespace: where both are.
    :param cluster: the RayCluster, if it was read already.
    """
    if cluster is None:
        cluster = await kube.find(path_of("rayclusters", namespace, name, api=RAY))
    labels = dict(((cluster or {}).get("metadata") or {}).get("labels") or {})
    if labels.get(MANAGED) or not release:
        return labels
    return {**labels, **await release_labels(kube, release, namespace)}


@dataclass(frozen=True, slots=True)
class Leaving:
    """Who asks for a deletion.

    :param owner: whose the cluster has to be, or who uses it; ``None``: somebody named it, and means it.
    :param found: its set-up found it there: it goes only with its last user, and never if users are not recorded on it.
    :param run: without ``owner``: the run that asks, whose entries among the users are taken away.
    :param force: delete it whoever uses it.
    """

    owner: Mapping[str, Any] | None = None
    found: bool = False
    run: Mapping[str, Any] | None = None
    force: bool = False

    def entries(self, meta: Mapping[str, Any]) -> list[str]:
        """Give its own entries among the users of a cluster.

        :param meta: metadata of the RayCluster.
        """
        if self.owner is not None:
            return [user.key for user in users.users_of(meta) if user.key == users.entry_key(self.owner)]
        return [user.key for user in users.users_of(meta) if self.run and user.is_of_run(self.run)]


async def delete_cluster(
    kube_access: KubernetesAccess,
    *,
    name: str,
    namespace: str,
    release: str | None,
    who: Leaving,
    timeout: float | None = None,
    helm: HelmOptions | None = None,
    say: Say = _quiet,
) -> bool:
    """Delete a cluster, and wait until nothing of it is left. No error where there is none.

    :param kube_access: to the Kubernetes cluster.
    :param name: of the RayCluster.
    :param namespace: where both are.
    :param release: of Helm; ``None`` for a RayCluster that was not made by Helm.
    :param who: asks.
    :param timeout: seconds until all has to be gone; unless given, 300, and 360 more where KubeRay clears Redis.
    :param helm: how Helm is run.
    :param say: is given each line of progress. Default: nobody is.
    :return: whether it was deleted. Not where there is none; nor while others use it: only the entry of ``who`` goes
        then, and the last one deletes it.
    :raises ClusterError: it is another's.
    :raises ClusterTimeoutError: something of it remains; the message names it.
    """
    async with open_kube(kube_access) as kube, open_helm(kube_access, helm) as tool:
        removal = _Removal(kube, tool, name, namespace, release, timeout, say)
        was_there = await removal.run(who)
    if was_there:
        say(f"Nothing is left of Ray cluster {namespace}/{name}.")
    elif was_there is None:
        say(f"There is no Ray cluster {namespace}/{name}: nothing to delete.")
    return bool(was_there)


async def take_back(
    kube_access: KubernetesAccess,
    handle: ClusterHandle,
    error: BaseException,
    *,
    keep: bool,
    helm: HelmOptions | None = None,
    say: Say = _quiet,
) -> None:
    """Remove what a task made that failed, unless others use it. Goes on when it is cancelled.

    :param kube_access: to the Kubernetes cluster.
    :param handle: of the cluster. One that the task found there is left, unless the task is the last of its users.
    :param error: why it failed; it gets a note where the removal fails, too.
    :param keep: leave what the task made for inspection; only its entry among the users goes.
    :param helm: how Helm is run.
    :param say: is given each line of progress. Default: nobody is.
    :raises asyncio.CancelledError: it was cancelled meanwhile; the removal has come to its end.
    """
    where = f"{handle.namespace}/{handle.name}"
    if keep:
        if handle.created:
            say(f"Ray cluster {where} is left for inspection. Delete it with DeleteRayCluster(name={handle.name!r}).")
        await _stop_using(kube_access, handle, error)
        return
    if handle.created:
        say(f"Removing Ray cluster {where}, as it did not become ready.")
    work = asyncio.ensure_future(
        delete_cluster(
            kube_access,
            name=handle.name,
            namespace=str(handle.namespace),
            release=handle.release,
            who=Leaving(owner=handle.owner, found=not handle.created),
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


async def _stop_using(kube_access: KubernetesAccess, handle: ClusterHandle, error: BaseException) -> None:
    """Take the task's entry away from a cluster that is kept: whoever deletes it by name meets no user."""
    path = path_of("rayclusters", str(handle.namespace), handle.name, api=RAY)
    try:
        async with open_kube(kube_access) as kube:
            cluster = await kube.find(path)
            if cluster is not None:
                await users.give_up(kube, path, cluster, Leaving(owner=handle.owner).entries(cluster["metadata"]))
    except KubernetesError as failure:
        error.add_note(f"And that the task no longer uses it could not be written down: {failure}")


class _Removal:
    """The steps of one deletion.

    :param kube: where.
    :param helm: ends the release.
    :param name: of the RayCluster.
    :param namespace: of it and its release.
    :param release: of Helm; ``None``: none holds it.
    :param timeout: seconds; ``None``: as :func:`delete_cluster` says.
    :param say: is given each line of progress.
    """

    def __init__(
        self, kube: Kube, helm: Helm, name: str, namespace: str, release: str | None, timeout: float | None, say: Say
    ) -> None:
        self._kube = kube
        self._helm = helm
        self._name = name
        self._namespace = namespace
        self._release = release
        self._timeout = timeout
        self._say = say
        self._path = path_of("rayclusters", namespace, name, api=RAY)

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def run(self, who: Leaving) -> bool | None:
        """Delete it. Gives ``None`` where there was none, and false where it is left to others.

        :param who: asks.
        """
        began = time.monotonic()
        found = await self._helm.release(self._release, self._namespace) if self._release else None
        cluster = await self._kube.find(self._path)
        if found is None and cluster is None:
            await wait_gone(self._kube, self._namespace, self._name, self._release, self._timeout or DELETE_SECONDS)
            return None
        self._check_release(found, cluster)
        if not await self._may(who, cluster):
            return False
        while cluster is not None and not cluster["metadata"].get("deletionTimestamp"):
            cluster = await self._leave(who, cluster)
            if cluster is None:
                break
            remaining = self._users(who, cluster)
            if remaining and not who.force:
                self._say(
                    f"Ray cluster {self._where} is left to who else uses it: {_words(remaining)}. The last one of "
                    "them deletes it; force=True would do it now."
                )
                return False
            if found is None:
                self._say(f"Deleting RayCluster {self._where}, which no Helm release holds.")
            else:
                self._say(f"Deleting Ray cluster {self._where} with its Helm release (it is {found.status}).")
            cluster = await self._delete_cluster(cluster)
        held = _held(cluster)
        limit = self._timeout or DELETE_SECONDS + (_REDIS_SECONDS if _REDIS_FINALIZER in held else 0.0)
        if held:
            # The operator has to do something yet, and may need what else the release holds, such as its Redis.
            if _REDIS_FINALIZER in held:
                self._say(
                    f"KubeRay clears what Ray cluster {self._where} kept in Redis, before anything else goes: up to "
                    "5 minutes."
                )
            await wait_gone(self._kube, self._namespace, self._name, None, limit, only_cluster=True)
        if found is not None:
            if cluster is None:
                self._say(f"Deleting Helm release {self._namespace}/{self._release} (it is {found.status}).")
            await self._helm.uninstall(str(self._release), self._namespace)
        left = max(10.0, limit - (time.monotonic() - began))
        await wait_gone(self._kube, self._namespace, self._name, self._release, left, of=limit)
        return True

    def _check_release(self, found: Release | None, cluster: Json | None) -> None:
        if found is not None and found.resources and not found.of_kind("RayCluster"):
            raise ConfigurationError(
                f"The Helm release {self._namespace}/{self._release} has no RayCluster in it: it is something else.",
                hint="Name the release of a Ray cluster.",
            )
        manager = helm_release_of(cluster)
        if found is None and manager and manager != self._release:
            raise ConfigurationError(
                f"The RayCluster {self._where} belongs to the Helm release {manager!r}.",
                hint=f"Delete that: DeleteRayCluster(name={manager!r}).",
            )

    async def _may(self, who: Leaving, cluster: Json | None) -> bool:
        """Tell whether who asks has a say in it.

        :raises ClusterError: it is another's.
        """
        if who.owner is None:
            return True
        labels = await cluster_labels(self._kube, self._name, self._release, self._namespace, cluster=cluster)
        if same_owner(labels, who.owner):
            return True
        meta = (cluster or {}).get("metadata") or {}
        if labels.get(MANAGED) and users.is_recorded(meta) and who.entries(meta):
            return True
        if who.found:
            self._say(f"Ray cluster {self._where} was there before its set-up: it is left as it is.")
            return False
        raise ClusterError(
            f"The Ray cluster {self._where} is {describe_owner(labels)}, not by this task: it is left alone.",
            hint="Give the handle of the task that made it, or name it: DeleteRayCluster(name=...).",
            namespace=self._namespace,
            name=self._name,
            cause="not ours",
        )

    @staticmethod
    def _users(who: Leaving, cluster: Json) -> list[users.User]:
        meta = cluster["metadata"]
        return users.others(users.users_of(meta), who.entries(meta))

    async def _leave(self, who: Leaving, cluster: Json) -> Json | None:
        """Take one's own entry away while others use it. The last one's stays until the cluster goes."""
        if who.force or not self._users(who, cluster):
            return cluster
        return await users.give_up(self._kube, self._path, cluster, who.entries(cluster["metadata"]))

    async def _delete_cluster(self, cluster: Json) -> Json | None:
        """Delete the RayCluster as it was looked at, and give what is there now: it ends, is gone, or has changed."""
        try:
            await self._kube.delete(self._path, unchanged=cluster["metadata"]["resourceVersion"])
        except KubernetesError as error:
            if error.status != 409:
                raise
        return await self._kube.find(self._path)


def _words(remaining: list[users.User]) -> str:
    return first_of([user.words for user in remaining], 5)


def _held(cluster: Json | None) -> list[str]:
    """Give what has to be done before a RayCluster goes, beside deleting what it owns."""
    finalizers = ((cluster or {}).get("metadata") or {}).get("finalizers") or []
    return [one for one in finalizers if one != "foregroundDeletion"]


async def wait_gone(
    kube: Kube,
    namespace: str,
    name: str,
    release: str | None,
    timeout: float,
    *,
    only_cluster: bool = False,
    of: float | None = None,
) -> None:
    """Wait until a cluster's RayCluster, pods, services and Secrets are gone.

    :param kube: where.
    :param namespace: of the cluster.
    :param name: of the RayCluster.
    :param release: its Secrets have to go, too; ``None``: none holds it.
    :param timeout: seconds.
    :param only_cluster: for the RayCluster alone.
    :param of: how long the whole deletion may take, for the message; unless given, ``timeout``.
    :raises ClusterTimeoutError: it names what remains.
    """
    mine = f"ray.io/cluster={name}"
    places = [
        ("RayCluster", path_of("rayclusters", namespace, api=RAY), {"fieldSelector": f"metadata.name={name}"}),
        ("pod", path_of("pods", namespace), {"labelSelector": mine}),
        ("service", path_of("services", namespace), {"labelSelector": mine}),
        ("Secret", path_of("secrets", namespace), {"labelSelector": mine}),
    ]
    if only_cluster:
        places = places[:1]
    if release:
        places.append(
            ("Helm release Secret", path_of("secrets", namespace), {"labelSelector": f"owner=helm,name={release}"})
        )
    left = await remaining(kube, places, timeout)
    if left:
        raise await _remains(kube, namespace, name, of or timeout, left)


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
    hint = f"kubectl -n {namespace} get raycluster,pod,service,secret -l ray.io/cluster={name}"
    if any(_REDIS_FINALIZER in _held(item) for item in left.get("RayCluster", {}).values()):
        hint = (
            "KubeRay's clean-up of Redis is not done: the job "
            f"{name}-redis-cleanup deletes what the cluster kept there, and gives up after 5 minutes. Does Redis "
            f"still answer? `kubectl -n {namespace} logs -l ray.io/cluster={name},ray.io/node-type=redis-cleanup` "
            f"says why not; try again after that. {hint}"
        )
    if finalizers:
        hint = await unless_it_runs(kube, hint)
    return ClusterTimeoutError(
        f"The Ray cluster {namespace}/{name} is not gone after {timeout:.0f} s. There remain: {'; '.join(said)}.",
        hint=hint,
        namespace=namespace,
        name=name,
        cause="remains",
        remains=said,
    )
