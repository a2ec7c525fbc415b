"""Which Ray clusters there are that tasks of this provider made, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ray_provider.clusters.handle import Backend
from ray_provider.clusters.kuberay.raycluster import helm_release_of
from ray_provider.clusters.kuberay.rayjob import LABEL, ORIGIN_KIND
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, path_of
from ray_provider.clusters.lifecycle.users import User, users_of
from ray_provider.clusters.local.state import LocalPaths, LocalRecord, local_home, this_machine
from ray_provider.clusters.naming import MANAGED, PREFIX, label_value, was_named

#: Labels of a cluster that goes with something else.
_ORIGINS = frozenset({LABEL, ORIGIN_KIND})


@dataclass(frozen=True, slots=True)
class FoundCluster:
    """A cluster, or what is left of one.

    :param backend: ``local`` or ``kubernetes``.
    :param name: of the cluster.
    :param created: when it was made.
    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``airflow``, as far as they are known; on
        Kubernetes as labels, which are shortened where a label can't hold them.
    :param namespace: on Kubernetes.
    :param release: Helm's, if there is one.
    :param what: what there is of it: ``cluster``, ``release`` if that is all, or ``rayjob``.
    :param is_named: somebody chose its name: it may be meant to outlive the run that made it.
    :param users: who is recorded as using it.
    """

    backend: Backend
    name: str
    created: datetime
    owner: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = None
    release: str | None = None
    what: str = "cluster"
    is_named: bool = False
    users: tuple[User, ...] = ()

    @property
    def where(self) -> str:
        """The namespace, or this machine."""
        return self.namespace or "this machine"

    def is_of(self, key: str, value: str) -> bool:
        """Tell whether a part of the owner is this one, be it shortened or not.

        :param key: of the owner: ``dag_id``, ``run_id`` …
        :param value: the whole one. Labels hold long values shortened.
        """
        return self.owner.get(key) in {value, label_value(value)}


async def kubernetes_clusters(kube: Kube, namespace: str | None) -> list[FoundCluster]:
    """Find what was made by tasks: RayClusters, RayJobs, and Helm releases whose RayCluster is gone or was never made.

    :param kube: where.
    :param namespace: in this one only; ``None``: in all, which needs the right to.
    :raises KubernetesAccessError: we may not.
    """
    clusters = await kube.get(
        path_of("rayclusters", namespace, api=RAY) if namespace else f"{RAY}/rayclusters",
        labelSelector=f"{MANAGED}=true",
    )
    secrets = await kube.get(
        path_of("secrets", namespace) if namespace else "/api/v1/secrets", labelSelector=f"owner=helm,{MANAGED}=true"
    )
    jobs = await kube.get(
        path_of("rayjobs", namespace, api=RAY) if namespace else f"{RAY}/rayjobs", labelSelector=f"{MANAGED}=true"
    )
    # KubeRay gives a cluster the labels of the RayJob or RayService that it is of: it goes with that. A RayService
    # outlives runs, and is deleted by its own task.
    alone = [one for one in clusters.get("items") or [] if _ORIGINS.isdisjoint(one["metadata"].get("labels") or {})]
    found = [_of_cluster(one) for one in alone]
    found += [replace(_of_cluster(one), what="rayjob") for one in jobs.get("items") or []]
    held = {(one.namespace, one.release) for one in found}
    releases = _of_releases(secrets.get("items") or [])
    return sorted(
        [*found, *(one for one in releases if (one.namespace, one.release) not in held)],
        key=lambda one: (str(one.namespace), one.created),
    )


def local_clusters() -> list[FoundCluster]:
    """Find the local clusters of this user on this machine, those too that died."""
    found = []
    for paths in LocalPaths.below(local_home()):
        record = LocalRecord.read(paths)
        if record is not None and record.machine != this_machine():
            continue
        began = record.started if record and record.started else paths.folder.stat().st_mtime
        owner = _owner((record.owner if record else {}).items())
        is_named = was_named(paths.name, owner)
        found.append(FoundCluster("local", paths.name, datetime.fromtimestamp(began, tz=UTC), owner, is_named=is_named))
    return found


def _of_cluster(cluster: Json) -> FoundCluster:
    meta = cluster["metadata"]
    return FoundCluster(
        backend="kubernetes",
        name=meta["name"],
        created=_time(meta["creationTimestamp"]),
        owner=_owner_of(meta),
        namespace=meta["namespace"],
        release=helm_release_of(cluster),
        is_named=_is_named(meta["name"], meta),
        users=tuple(users_of(meta)),
    )


def _of_releases(secrets: Iterable[Json]) -> list[FoundCluster]:
    """Helm keeps a Secret for each revision of a release: the newest says whose it is, the oldest how old it is."""
    first: dict[tuple[str, str], datetime] = {}
    found: dict[tuple[str, str], FoundCluster] = {}
    for secret in sorted(secrets, key=lambda one: int(one["metadata"]["labels"].get("version", 0))):
        meta = secret["metadata"]
        key = (meta["namespace"], meta["labels"]["name"])
        made = first.setdefault(key, _time(meta["creationTimestamp"]))
        is_named = _is_named(key[1], meta)
        found[key] = FoundCluster(
            "kubernetes", key[1], made, _owner_of(meta), key[0], key[1], "release", is_named=is_named
        )
    return list(found.values())


def _owner_of(meta: Mapping[str, Any]) -> dict[str, str]:
    labels = meta.get("labels") or {}
    return _owner((key.removeprefix(PREFIX), value) for key, value in labels.items() if key.startswith(PREFIX))


def _is_named(name: str, meta: Mapping[str, Any]) -> bool:
    """Tell whether somebody chose a name, by the labels, and the annotations, which are not shortened."""
    marks = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
    return was_named(name, {key.removeprefix(PREFIX): value for key, value in marks.items() if key.startswith(PREFIX)})


def _owner(items: Iterable[tuple[str, Any]]) -> dict[str, str]:
    return {key: str(value) for key, value in items if key not in ("managed", "named") and value not in (None, "", -1)}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
