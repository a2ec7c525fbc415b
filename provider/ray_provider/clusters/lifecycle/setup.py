"""Making a Ray cluster on Kubernetes: a Helm release, watched until it is ready, or taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.helm.charts import ChartSource, find_chart
from ray_provider.clusters.helm.releases import Helm, open_helm
from ray_provider.clusters.helm.values import Values
from ray_provider.clusters.kuberay.endpoints import dashboard_url
from ray_provider.clusters.kuberay.queue_watch import warn_without_kueue
from ray_provider.clusters.kuberay.queueing import check_cluster, queue_of
from ray_provider.clusters.kuberay.raycluster import (
    auth_of,
    digest,
    head_service,
    helm_release_of,
    one_cluster,
    pod_spec,
)
from ray_provider.clusters.kuberay.readiness import ReadinessOptions
from ray_provider.clusters.kuberay.versions import KubeRay
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, open_kube, path_of
from ray_provider.clusters.lifecycle import users
from ray_provider.clusters.lifecycle.contention import Settling, Standing
from ray_provider.clusters.lifecycle.dry_run import check_objects
from ray_provider.clusters.lifecycle.preparation import install_shared, prepare
from ray_provider.clusters.lifecycle.removal import take_back
from ray_provider.clusters.lifecycle.spec import KubernetesClusterSpec, chart_values
from ray_provider.clusters.lifecycle.squatting import refuse_squatted
from ray_provider.clusters.lifecycle.waiting import wait_ready
from ray_provider.clusters.naming import MANAGED, PREFIX, describe_owner, owner_annotations, owner_labels
from ray_provider.exceptions import ClusterError, ConfigurationError, HelmError, KubernetesError

Say = Callable[[str], None]

#: How often another run may be quicker.
_RACES = 3


class _QuickerError(Exception):
    """Another run made or deleted the cluster between our look and our change."""


def _quiet(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What Kubernetes was told.

    :param handle: of the cluster, which is not ready yet.
    :param stale_pods: uids of pods that the operator is about to replace.
    :param queue: Kueue's LocalQueue in which it may have to wait.
    """

    handle: ClusterHandle
    stale_pods: tuple[str, ...] = ()
    queue: str | None = None


async def set_up_cluster(
    kube_access: KubernetesAccess,
    spec: KubernetesClusterSpec,
    readiness: ReadinessOptions | None = None,
    *,
    keep_on_failure: bool = False,
    say: Say = _quiet,
) -> ClusterHandle:
    """Make a cluster and wait until it is ready.

    :param kube_access: to the Kubernetes cluster.
    :param spec: the cluster as somebody wants it.
    :param readiness: how long its parts may take; unless given, the defaults, with time in a queue counted apart.
    :param keep_on_failure: leave what was made for inspection when it does not become ready.
    :param say: is given each line of progress. Default: nobody is.
    :return: its handle.
    :raises ConfigurationError: it can't work; nothing was made.
    :raises ClusterError: it can't become ready, and what was made is gone again.
    """
    readiness = readiness or ReadinessOptions(queue_apart=True)
    applied = await apply_cluster(kube_access, spec, keep_on_failure=keep_on_failure, say=say)
    try:
        return await wait_ready(
            kube_access, applied.handle, readiness, stale_pods=applied.stale_pods, access=spec.access, say=say
        )
    except BaseException as error:
        await take_back(kube_access, applied.handle, error, keep=keep_on_failure, helm=spec.helm, say=say)
        raise


async def apply_cluster(
    kube_access: KubernetesAccess, spec: KubernetesClusterSpec, *, keep_on_failure: bool = False, say: Say = _quiet
) -> Applied:
    """Install or upgrade the release of a cluster, or find it as it should be. Does not wait for it.

    :param kube_access: to the Kubernetes cluster.
    :param spec: the cluster as somebody wants it.
    :param keep_on_failure: leave what was made for inspection when it fails. Default: it is removed.
    :param say: is given each line of progress. Default: nobody is.
    :raises ConfigurationError: it can't work; nothing was made.
    :raises ClusterError: it was not made.
    """
    labels = owner_labels(spec.owner, is_named=spec.is_named)
    namespace = await asyncio.to_thread(kube_access.namespace_or_default, spec.namespace)
    async with (
        open_kube(kube_access) as kube,
        open_helm(kube_access, spec.helm, labels=labels, values=spec.values) as helm,
    ):
        return await _Setup(kube_access, spec, kube, helm, namespace, say).run(keep_on_failure)


class _Setup:
    """The steps of one set-up.

    :param kube_access: to the Kubernetes cluster.
    :param spec: the cluster as somebody wants it.
    :param kube: where.
    :param helm: makes the release.
    :param namespace: where it is to be.
    :param say: is given each line of progress.
    """

    def __init__(
        self,
        kube_access: KubernetesAccess,
        spec: KubernetesClusterSpec,
        kube: Kube,
        helm: Helm,
        namespace: str,
        say: Say,
    ) -> None:
        self._kube_access = kube_access
        self._spec = spec
        self._kube = kube
        self._helm = helm
        self._namespace = namespace
        self._say = say
        self._settling = Settling(kube, helm, namespace, spec.name, spec.owner, say)

    async def run(self, keep_on_failure: bool) -> Applied:
        spec = self._spec
        kuberay = await prepare(self._kube, self._helm, self._namespace, spec, self._say)
        source = find_chart(spec.chart, repo=spec.chart_repo, version=spec.chart_version, folders=spec.folders)
        chart = await self._helm.chart(source)
        defaults = await self._helm.defaults(chart)
        loser = False
        for attempt in range(_RACES + 1):
            standing = await self._settling.settle()
            try:
                found = await self._found(standing, loser=loser)
                return found or await self._install(
                    standing, kuberay, source, chart, defaults, keep_on_failure, sure=attempt > 0
                )
            except _QuickerError as error:
                if attempt == _RACES:
                    raise ClusterError(
                        f"Others make and delete the Ray cluster {self._namespace}/{spec.name} all the time: {error}",
                        hint="Give each of them a name of its own, or try again.",
                        cause="race",
                    ) from error
                self._say(f"{error} Looking again.")
                loser = True
        raise AssertionError  # pragma: no cover - the loop returns or raises

    async def _install(
        self,
        standing: Standing,
        kuberay: KubeRay,
        source: ChartSource,
        chart: Any,
        defaults: Mapping[str, Any],
        keep_on_failure: bool,
        *,
        sure: bool,
    ) -> Applied:
        """Install the release, or upgrade the one that is there.

        :param sure: nobody else is installing it, even if Helm says that the name is taken (it keeps a history).
        """
        existing, created = standing.release, standing.release is None or standing.ours
        values, to_be = await self._render(standing, kuberay, chart, defaults)
        name = to_be["metadata"]["name"]
        mark = digest(await asyncio.to_thread(source.digest, str(chart.metadata.version)), values)
        before = await self._cluster(name)
        if existing is not None and existing.status == "deployed" and mark in existing.description and before:
            self._say(f"Ray cluster {self._namespace}/{name} is as it should be: nothing to change.")
            used = await self._use(before, created=standing.ours)
            return Applied(await self._handle(used, created=standing.ours), queue=queue_of(used))
        await warn_without_kueue(self._kube, queue_of(to_be), self._say)
        if before is None:
            await refuse_squatted(self._kube, self._namespace, to_be, is_named=self._spec.is_named, say=self._say)
        pods = await self._pods(name) if before else []
        await install_shared(self._kube, self._namespace, self._spec.gpu_plugin, self._say)
        apply = self._helm.install if existing is None and not sure else self._helm.upgrade
        try:
            self._say(
                f"{'Upgrading' if existing else 'Installing'} Helm release {self._namespace}/{self._spec.name} "
                f"(chart {chart.metadata.name} {chart.metadata.version})."
            )
            await apply(self._spec.name, self._namespace, chart, values, description=f"airflow-ray {mark}")
            after = await self._cluster(name)
            if after is None:
                raise ClusterError(f"The RayCluster {self._namespace}/{name} was deleted while it was set up.")
            after = await self._use(after, created=created)
        except BaseException as error:
            await self._not_installed(error, name, keep=keep_on_failure, is_new=not existing)
            raise
        stale = self._stale(before, after, pods, kuberay)
        return Applied(await self._handle(after, created=created), stale_pods=stale, queue=queue_of(after))

    async def _render(
        self, standing: Standing, kuberay: KubeRay, chart: Any, defaults: Mapping[str, Any]
    ) -> tuple[Values, Json]:
        """Give the values for the chart, and the RayCluster that it makes of them: all of it looked at before."""
        spec, existing = self._spec, standing.release
        theirs = (
            {key: value for key, value in standing.labels.items() if key.startswith(PREFIX)}
            if existing and not standing.ours
            else None
        )
        values, notes = chart_values(spec, kuberay, defaults, theirs)
        for note in notes:
            self._say(note)
        rendered = await self._helm.render(chart, spec.name, self._namespace, values, is_upgrade=existing is not None)
        name = one_cluster(rendered, spec.name)
        to_be = next(one for one in rendered if one.get("kind") == "RayCluster" and one["metadata"]["name"] == name)
        check_cluster(to_be, spec.local_queue)
        await check_objects(self._kube, self._namespace, rendered, kuberay)
        return values, to_be

    async def _not_installed(self, error: BaseException, name: str, *, keep: bool, is_new: bool) -> None:
        """Take back what an installation has made by half.

        :raises _QuickerError: another run was quicker, and nothing of ours was made.
        """
        spec = self._spec
        if isinstance(error, HelmError) and error.data.get("cause") == "release exists":
            raise _QuickerError(f"Another run installs {self._namespace}/{spec.name} at this moment.") from error
        half = ClusterHandle("kubernetes", name, "", self._namespace, spec.name, owner=spec.owner, created=is_new)
        await take_back(self._kube_access, half, error, keep=keep, helm=spec.helm, say=self._say)

    async def _found(self, standing: Standing, *, loser: bool) -> Applied | None:
        """Decide about a cluster that is there and not of this task.

        :param loser: another run was quicker with it, a moment ago.
        """
        spec, cluster, existing = self._spec, standing.cluster, standing.release
        where = f"{self._namespace}/{spec.name}"
        if not spec.is_named and not standing.ours and (cluster is not None or existing is not None):
            what = "RayCluster" if cluster is not None else "Helm release"
            raise ConfigurationError(
                f"The {what} {where} is not this run's: it is {describe_owner(standing.labels)}. It has a name that "
                "only this run's cluster can have, and is neither used nor changed.",
                hint=f"See who made it: kubectl -n {self._namespace} get raycluster {spec.name} -o yaml. If it may "
                f"go, delete it: DeleteRayCluster(name={spec.name!r}).",
                cause="not ours",
            )
        if existing is None:
            manager = helm_release_of(cluster)
            if cluster is None or manager == spec.name:  # of a release that a killed Helm left and that was mended
                return None
            if spec.update_if_exists:
                raise ConfigurationError(
                    f"The RayCluster {where} is there, and was not made by Helm"
                    + (f" release {spec.name!r} but {manager!r}" if manager else "")
                    + ": it can't be updated by it.",
                    hint="Use it as it is (update_if_exists=False), or give this one another name. Whoever made it "
                    "can change it.",
                    cause="exists",
                )
            self._say(f"RayCluster {where} is there: it is used as it is.")
            return await self._as_it_is(cluster, release=None)
        if standing.ours:
            return None
        if existing.resources and not existing.of_kind("RayCluster"):
            raise ConfigurationError(
                f"The Helm release {where} is there and is no Ray cluster.",
                hint="Use another name.",
            )
        if cluster is not None and not spec.update_if_exists:
            self._say(
                f"Ray cluster {where} is there ({describe_owner(standing.labels)}): it is used as it is. "
                + ("" if loser else "update_if_exists=True would change it.")
            )
            return await self._as_it_is(cluster)
        if standing.labels.get(MANAGED) != "true":
            raise ConfigurationError(
                f"The Helm release {where} was not made by this provider: it is not changed.",
                hint="Use another name, or use it as it is: update_if_exists=False.",
                cause="not ours",
            )
        return None

    async def _as_it_is(self, cluster: Json, release: str | None = "") -> Applied:
        used = await self._use(cluster, created=False)
        handle = await self._handle(used, created=False, release=release)
        return Applied(handle, queue=queue_of(used))

    async def _cluster(self, name: str) -> Json | None:
        return await self._kube.find(path_of("rayclusters", self._namespace, name, api=RAY))

    async def _pods(self, name: str) -> list[Json]:
        found = await self._kube.get(path_of("pods", self._namespace), labelSelector=f"ray.io/cluster={name}")
        items: list[Json] = found.get("items") or []
        return items

    async def _use(self, cluster: Json, *, created: bool) -> Json:
        """Write down on the RayCluster that this task uses it; and whose it is, where the chart has no way to.

        :raises _QuickerError: it is being deleted.
        """
        spec, labels = self._spec, cluster["metadata"].get("labels") or {}
        if not created and not labels.get(MANAGED):
            return cluster  # somebody made it by other means: who uses it is not our business
        change: Json = {"annotations": users.entry(spec.owner, spec.lease_seconds)}
        if created and not labels.get(MANAGED):
            change["labels"] = owner_labels(spec.owner, is_named=spec.is_named)
            change["annotations"] |= owner_annotations(spec.owner)
        try:
            used = await self._kube.merge(
                path_of("rayclusters", self._namespace, cluster["metadata"]["name"], api=RAY), {"metadata": change}
            )
        except KubernetesError as error:
            if error.status != 404 or created:
                raise
            raise _QuickerError(f"Ray cluster {self._namespace}/{spec.name} was deleted a moment ago.") from error
        if not created and used["metadata"].get("deletionTimestamp"):
            raise _QuickerError(f"Ray cluster {self._namespace}/{spec.name} is being deleted.")
        return used

    def _stale(self, before: Json | None, after: Json, pods: list[Json], kuberay: KubeRay) -> tuple[str, ...]:
        """Find out which pods the operator is about to replace."""
        if before is None or pod_spec(before) == pod_spec(after):
            return ()
        strategy = ((after["spec"].get("upgradeStrategy") or {}).get("type")) or "None"
        if strategy != "Recreate":
            why = (
                f"KubeRay {kuberay.text} can't roll changes out (1.6.0 can)"
                if not kuberay.at_least(1, 6, 0)
                else f"upgradeStrategy is {strategy}"
            )
            self._say(f"WARNING: pods that run keep their former spec, as {why}. New ones get the new one.")
            return ()
        self._say(f"All {len(pods)} pods are replaced, as their spec changed.")
        return tuple(pod["metadata"]["uid"] for pod in pods)

    async def _handle(self, cluster: Json, *, created: bool, release: str | None = "") -> ClusterHandle:
        name = cluster["metadata"]["name"]
        service = head_service(cluster)
        return ClusterHandle(
            backend="kubernetes",
            name=name,
            namespace=self._namespace,
            release=self._spec.name if release == "" else release,
            service=service,
            # The Ingress is looked for when the cluster is ready: its controller has given it a host by then.
            address=await dashboard_url(
                self._kube_access,
                self._namespace,
                service,
                "proxy" if self._spec.access == "ingress" else self._spec.access,
                name=name,
            ),
            auth=auth_of(cluster),
            owner=dict(self._spec.owner),
            created=created,
        )
