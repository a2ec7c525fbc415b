"""Finding Ray clusters that nobody needs any more, and deleting them: ``ray-provider reap``.

A task takes back what it made however it ends, except where no code of ours runs: a deferred set-up that is ended
before the triggerer has begun with its trigger, a worker or a triggerer that dies and whose task is not tried again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ray_provider import _compat
from ray_provider._compat import database
from ray_provider.clusters.lifecycle.inventory import FoundCluster
from ray_provider.clusters.naming import label_value
from ray_provider.exceptions import ConfigurationError, RayProviderError

if TYPE_CHECKING:
    from ray_provider.clusters.lifecycle.users import User
    from ray_provider.hooks.ray import RayHook

Say = Callable[[str], None]

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: States of a run that has ended.
FINISHED = frozenset({"success", "failed"})


@dataclass(frozen=True, slots=True)
class ReapOptions:
    """What is looked at, and what counts as not needed.

    :param namespace: Kubernetes namespace; unless given, the connection's.
    :param all_namespaces: look in all of them.
    :param older_than: also those that are older than this, whatever became of their run.
    :param named: also those whose name somebody chose: they may be meant to outlive their run.
    :param timeout: seconds for the deletion of one.
    :param helm_path: Helm's executable.
    """

    namespace: str | None = None
    all_namespaces: bool = False
    older_than: timedelta | None = None
    named: bool = False
    timeout: float = 300.0
    helm_path: str | None = None


@dataclass(frozen=True, slots=True)
class Airflow:
    """What this Airflow knows of the owners of clusters.

    :param name: of the deployment, as clusters are marked with it.
    :param dags: ids of the DAGs that it knows, among those that were asked for.
    :param runs: state of each run, by the ids of its DAG and its own.
    """

    name: str = ""
    dags: frozenset[str] = frozenset()
    runs: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def run_of(self, cluster: FoundCluster | User) -> str | None:
        """Give the state of the run that a cluster or its user belongs to; ``None`` if there is no such run.

        :param cluster: of it counts the owner.
        """
        for (dag_id, run_id), state in self.runs.items():
            if cluster.is_of("dag_id", dag_id) and cluster.is_of("run_id", run_id):
                return state
        return None

    def knows_dag_of(self, cluster: FoundCluster | User) -> bool:
        """Whether it has the DAG that a cluster or its user belongs to.

        :param cluster: of it counts the owner.
        """
        return any(cluster.is_of("dag_id", dag_id) for dag_id in self.dags)

    def may_use(self, user: User, now: datetime) -> bool:
        """Whether one who is recorded as a user still is: its entry has not ended, nor has its run.

        :param user: as it is recorded on the cluster.
        :param now: with a time zone.
        """
        if not user.counts(now):
            return False
        if self.name and user.owner.get("airflow") and not user.is_of("airflow", self.name):
            return True
        state = self.run_of(user)
        return state not in FINISHED and not (state is None and self.knows_dag_of(user))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of a cluster.

    :param cluster: which.
    :param delete: whether nobody needs it any more.
    :param run: what became of the run, in a word.
    :param reason: in words.
    """

    cluster: FoundCluster
    delete: bool
    run: str
    reason: str


def parse_age(text: str, field: str = "older_than") -> timedelta:
    """Read an age: ``90m``, ``12h``, ``2d``, ``1d12h``.

    :param text: the age.
    :param field: what it is given as.

    :raises ConfigurationError: it is none.
    """
    found = _AGE.findall(text.strip())
    if not found or _AGE.sub("", text).strip():
        raise ConfigurationError(f"{text!r} is no age.", hint="Write it as 90m, 12h, 2d or 1d12h.", field=field)
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in found))


def judge(cluster: FoundCluster, airflow: Airflow, options: ReapOptions, now: datetime) -> Verdict:
    """Decide whether anybody may still need a cluster. In doubt it is kept.

    :param cluster: with its users.
    :param airflow: what it knows of the runs.
    :param options: what may be deleted.
    :param now: with a time zone.
    """
    if cluster.owner.get("airflow") and airflow.name and not cluster.is_of("airflow", airflow.name):
        return Verdict(cluster, False, "?", f"it belongs to another Airflow ({cluster.owner['airflow']})")
    state = airflow.run_of(cluster)
    known = airflow.knows_dag_of(cluster)
    run = state or ("gone" if known else "unknown")
    if cluster.is_named and not options.named:
        return Verdict(cluster, False, run, "somebody chose its name, so it may be meant to stay: --named takes it too")
    using = [user for user in cluster.users if airflow.may_use(user, now)]
    if using:
        return Verdict(cluster, False, run, f"it is used by {using[0].words}")
    age = now - cluster.created
    if options.older_than is not None and age > options.older_than:
        return Verdict(cluster, True, run, f"it is older than {age_text(options.older_than)}")
    if state in FINISHED:
        return Verdict(cluster, True, run, "its run has ended")
    if state is not None:
        return Verdict(cluster, False, run, f"its run is {state}")
    if known:
        return Verdict(cluster, True, run, "its run was deleted")
    return Verdict(cluster, False, run, "this Airflow has no such DAG: --older-than takes it too, by its age")


async def survey(hook: RayHook, options: ReapOptions, *, local: bool) -> list[FoundCluster]:
    """Find the clusters that tasks made.

    :param hook: of the connection.
    :param options: in which namespaces to look.
    :param local: on this machine; else on the connection's Kubernetes.
    :raises KubernetesError: we may not look.
    """
    if local:
        from ray_provider.clusters.lifecycle.inventory import local_clusters

        return await asyncio.to_thread(local_clusters)
    from ray_provider.clusters.kubernetes.client import open_kube
    from ray_provider.clusters.lifecycle.inventory import kubernetes_clusters

    kube_access = await hook.akubernetes_access()
    namespace = None
    if not options.all_namespaces:
        namespace = await asyncio.to_thread(kube_access.namespace_or_default, options.namespace)
    async with open_kube(kube_access) as kube:
        return await kubernetes_clusters(kube, namespace)


def ask_airflow(clusters: Iterable[FoundCluster]) -> Airflow:
    """Ask the metadata database about the owners of clusters. Blocking.

    :param clusters: whose owners and users it is asked for.
    """
    clusters = list(clusters)
    owners = [owner for one in clusters for owner in (one.owner, *(user.owner for user in one.users))]
    wanted = {owner["dag_id"] for owner in owners if owner.get("dag_id")}
    dags = {dag_id for dag_id in database.known_dags() if dag_id in wanted or label_value(dag_id) in wanted}
    return Airflow(_compat.deployment_name(), frozenset(dags), database.run_states(dags))


async def delete(hook: RayHook, cluster: FoundCluster, options: ReapOptions, say: Say) -> bool:
    """Delete a cluster, if it is still that owner's; and wait until nothing of it is left.

    :param hook: of the connection.
    :param cluster: as it was found.
    :param options: how many seconds it may take, and how Helm is run.
    :param say: is given each line of progress.
    :return: whether there was one.
    :raises ClusterError: it could not be deleted, or is another's by now.
    """
    if cluster.backend == "local":
        from ray_provider.clusters.local.cluster import delete_local

        return await delete_local(cluster.name, owner=cluster.owner or None, say=say)
    kube_access = await hook.akubernetes_access()
    if cluster.what == "rayjob":
        from ray_provider.clusters.lifecycle.rayjob import delete_job

        return await delete_job(
            kube_access,
            namespace=str(cluster.namespace),
            name=cluster.name,
            owner=cluster.owner,
            timeout=options.timeout,
            say=say,
        )
    from ray_provider.clusters.helm.releases import HelmOptions
    from ray_provider.clusters.lifecycle.removal import Leaving, delete_cluster

    return await delete_cluster(
        kube_access,
        name=cluster.name,
        namespace=str(cluster.namespace),
        release=cluster.release,
        who=Leaving(owner=cluster.owner, force=True),
        timeout=options.timeout,
        helm=HelmOptions(path=options.helm_path),
        say=say,
    )


async def delete_all(hook: RayHook, verdicts: Iterable[Verdict], options: ReapOptions, say: Say) -> list[str]:
    """Delete what nobody needs, one after the other. Goes on after a failure.

    :param hook: of the connection.
    :param verdicts: those that keep a cluster are passed over.
    :param options: as for :func:`delete`.
    :param say: is given each line of progress.
    :return: what could not be deleted, and why.
    """
    failures = []
    for verdict in verdicts:
        if verdict.delete:
            try:
                await delete(hook, verdict.cluster, options, say)
            except RayProviderError as error:
                failures.append(f"{verdict.cluster.where}/{verdict.cluster.name}: {error}")
    return failures


def age_text(age: timedelta) -> str:
    """Say an age shortly: ``3d4h``, ``12h``, ``5m``, ``20s``.

    :param age: a negative one counts as none.
    :return: its two largest units at most.
    """
    seconds = max(0, round(age.total_seconds()))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


def rows(verdicts: Sequence[Verdict], now: datetime | None = None) -> list[tuple[str, ...]]:
    """Give the rows of a table that shows what was found and what is to become of it, its head first.

    :param verdicts: in the order in which they are shown.
    :param now: with a time zone; unless given, the present.
    """
    now = now or datetime.now(tz=UTC)
    head = ("WHERE", "CLUSTER", "AGE", "DAG", "RUN", "TASK", "RUN IS", "", "WHY")
    made: list[tuple[str, ...]] = [head]
    for verdict in verdicts:
        one = verdict.cluster
        name = one.name + {"cluster": "", "rayjob": " (RayJob)"}.get(one.what, f" ({one.what} only)")
        owner = [one.owner.get(key, "?") for key in ("dag_id", "run_id", "task_id")]
        what = "delete" if verdict.delete else "keep"
        made.append((one.where, name, age_text(now - one.created), *owner, verdict.run, what, verdict.reason))
    return made
