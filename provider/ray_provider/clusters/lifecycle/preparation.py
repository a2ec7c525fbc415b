"""What has to be there before something of Ray's is made: the operator, the namespace, what is shared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_provider.clusters.helm.charts import ChartSource, OperatorChart, find_chart
from ray_provider.clusters.helm.releases import Helm, HelmOptions, open_helm
from ray_provider.clusters.kuberay.operator import ensure_operator, find_operator, probe, require_operator
from ray_provider.clusters.kuberay.raycluster import digest
from ray_provider.clusters.kuberay.versions import KubeRay, Mode
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, open_kube, path_of
from ray_provider.clusters.kubernetes.gone import remaining
from ray_provider.clusters.kubernetes.objects import apply_all, is_ours, remove_all
from ray_provider.clusters.lifecycle.dry_run import check_namespace
from ray_provider.clusters.lifecycle.spec import KubernetesClusterSpec, chart_values
from ray_provider.clusters.naming import MANAGED
from ray_provider.exceptions import ClusterError, ClusterTimeoutError

Say = Callable[[str], None]

_DEPLOYMENTS = "/apis/apps/v1"
#: How the description of a release begins that we installed as an add-on.
_OURS = "airflow-ray add-on "
_ENDED = {"Complete", "Failed"}


async def prepare(kube: Kube, helm: Helm, namespace: str, spec: KubernetesClusterSpec, say: Say) -> KubeRay:
    """Make sure of the operator and the namespace, and tell which KubeRay is there.

    :param kube: where.
    :param helm: installs the operator.
    :param namespace: in which the cluster is to be.
    :param spec: says whether the operator, and the namespace, may be made.
    :param say: is given each line of progress.
    :raises ConfigurationError: one of them is not there.
    :raises ClusterFailedError: the operator is scaled to zero.
    """
    if spec.kuberay_operator != "require" and spec.operator_chart is not None:
        await ensure_operator(kube, helm, spec.operator_chart, spec.kuberay_operator, say)
    version = spec.operator_chart.source.version if spec.operator_chart else None
    await require_operator(kube, *([version] if version else []))
    await check_namespace(kube, namespace, create=spec.create_namespace, say=say)
    kuberay = await probe(kube, namespace)
    if not kuberay.at_least(1, 5, 1):
        say(f"The KubeRay here (CRDs of {kuberay.text}) lacks: {'; '.join(kuberay.lacks)}.")
    return kuberay


async def install_shared(kube: Kube, namespace: str, documents: Iterable[Mapping[str, Any]], say: Say) -> None:
    """Install what a task brings so that pods get GPUs, if it is missing. It is shared, and stays.

    What one of our own modules hands out is brought up to date: a pool that may grow further, say.

    :param kube: where.
    :param namespace: of objects that name none.
    :param documents: the objects.
    :param say: is told what is there, and what was made.
    """
    for document in documents:
        own = dict(document)
        path = await kube.collection(own, namespace)
        name = own["metadata"]["name"]
        there = await kube.find(f"{path}/{name}")
        if there is not None and is_ours(there) and is_ours(own):
            await kube.apply(f"{path}/{name}", own)
            continue
        if there is not None:
            say(f"{own['kind']} {name} is there already.")
            continue
        await kube.create(path, own)
        say(f"{own['kind']} {name} was made. It is shared, and stays when the cluster goes.")


@dataclass(frozen=True, slots=True)
class AddonChart:
    """A chart that somebody names for a Kubernetes cluster: NVIDIA's GPU operator, AWS' EFA plugin, Karpenter.

    :param name: of the release.
    :param source: the chart.
    :param namespace: where it goes; made if it is missing.
    :param values: for it.
    """

    name: str
    source: ChartSource
    namespace: str = "kube-system"
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def words(self) -> str:
        """As a person names it."""
        return f"Helm release {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class AddonsSpec:
    """What somebody with an administrator's rights installs once, for all Ray clusters of a Kubernetes cluster.

    :param charts: installed before the documents, which may need their CRDs, and removed after them.
    :param documents: objects, in the order in which they are made.
    :param namespace: of objects that name none.
    :param namespaces: for Ray clusters; made if they are missing, with the Pod Security Standard ``baseline``.
    :param kuberay_operator: ``require``, ``install`` (if it is missing) or ``upgrade`` (if it is older).
    :param operator_chart: brings KubeRay's operator.
    :param helm: how Helm is run.
    """

    operator_chart: OperatorChart
    charts: tuple[AddonChart, ...] = ()
    documents: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    namespace: str = "kube-system"
    namespaces: tuple[str, ...] = ()
    kuberay_operator: Mode = "install"
    helm: HelmOptions = field(default_factory=HelmOptions)


async def set_up_addons(kube_access: KubernetesAccess, spec: AddonsSpec, say: Say) -> list[str]:
    """Install what is missing, and bring up to date what is ours.

    :param kube_access: to the cluster, with an administrator's rights.
    :param spec: what is to be there.
    :param say: is given each line of progress.
    :return: what is there of ours now, in words.
    :raises ConfigurationError: Kubernetes refuses an object, or the operator is missing.
    """
    async with open_kube(kube_access) as kube:
        for one in spec.namespaces:
            await check_namespace(kube, one, create=True, say=say)
        ours = await _install_charts(kube_access, spec, say)
        ours += await apply_all(kube, spec.namespace, spec.documents, say)
        if spec.kuberay_operator == "require":
            await require_operator(kube)
            return ours
        before = await find_operator(kube, spec.operator_chart.namespace)
        async with open_helm(kube_access, spec.helm, values=spec.operator_chart.values) as helm:
            await ensure_operator(kube, helm, spec.operator_chart, spec.kuberay_operator, say)
        after = await find_operator(kube, spec.operator_chart.namespace)
        if after is None:
            return ours
        path = path_of("deployments", after.namespace, after.name, api=_DEPLOYMENTS)
        if before is None:
            await kube.merge(path, {"metadata": {"labels": {MANAGED: "true"}}})
        if is_ours(await kube.get(path)):
            ours.append(f"Deployment {after.namespace}/{after.name}")
        return ours


async def delete_addons(kube_access: KubernetesAccess, spec: AddonsSpec, timeout: float, say: Say) -> list[str]:
    """Remove what :func:`set_up_addons` installed, and wait until it is gone. CRDs and namespaces stay.

    :param kube_access: to the cluster, with an administrator's rights.
    :param spec: as it was given to :func:`set_up_addons`. What is somebody else's stays.
    :param timeout: seconds.
    :param say: is given each line of progress.
    :return: what was removed, in words.
    :raises ClusterError: Ray clusters live there: without the operator and the device plugin they could not go on.
    :raises ClusterTimeoutError: some of it is still there.
    """
    async with open_kube(kube_access) as kube:
        live = await _live(kube)
        if live:
            raise ClusterError(
                f"Ray is at work in this Kubernetes cluster: {', '.join(live)}. Nothing was removed.",
                hint="Delete them first (DeleteRayCluster): without the operator nobody would end them.",
                cause="in use",
            )
        removed = await remove_all(kube, spec.namespace, spec.documents, timeout, say)
        removed += await _remove_charts(kube_access, spec, say)
        operator = await find_operator(kube, spec.operator_chart.namespace)
        if operator is None or operator.release is None:
            return removed
        where = f"Deployment {operator.namespace}/{operator.name}"
        if not is_ours(await kube.get(path_of("deployments", operator.namespace, operator.name, api=_DEPLOYMENTS))):
            say(f"{where} is somebody else's: it stays.")
            return removed
        async with open_helm(kube_access, spec.helm) as helm:
            await helm.uninstall(operator.release, operator.namespace)
        place = path_of("deployments", operator.namespace, api=_DEPLOYMENTS)
        left = await remaining(kube, [(where, place, {"fieldSelector": f"metadata.name={operator.name}"})], timeout)
        if any(left.values()):
            raise ClusterTimeoutError(f"Still there after {timeout:.0f} s: {where}.", cause="not gone")
        say(f"{where} was deleted (Helm release {operator.release!r}). Its CRDs stay.")
        return [*removed, where]


async def _install_charts(kube_access: KubernetesAccess, spec: AddonsSpec, say: Say) -> list[str]:
    """Install the charts, or upgrade those of them that we installed before."""
    if not spec.charts:
        return []
    ours = []
    async with open_helm(kube_access, spec.helm, values={one.name: one.values for one in spec.charts}) as helm:
        for one in spec.charts:
            chart = await helm.chart(one.source)
            mark = digest(await asyncio.to_thread(one.source.digest, str(chart.metadata.version)), one.values)
            there = await helm.release(one.name, one.namespace)
            if there is not None and there.is_stuck:
                there = await helm.mend(one.name, one.namespace)
            if there is not None and not there.description.startswith(_OURS):
                say(f"{one.words} is there already, and somebody else's: it is left as it is.")
                continue
            ours.append(one.words)
            if there is not None and there.status == "deployed" and mark in there.description:
                continue
            say(
                f"{'Upgrading' if there else 'Installing'} {one.words} (chart {chart.metadata.name} "
                f"{chart.metadata.version})."
            )
            await helm.upgrade(
                *(one.name, one.namespace, chart, one.values),
                description=f"{_OURS}{mark}",
                create_namespace=True,
                skip_crds=False,
            )
    return ours


async def _remove_charts(kube_access: KubernetesAccess, spec: AddonsSpec, say: Say) -> list[str]:
    """Uninstall the releases that we installed, the last one first."""
    if not spec.charts:
        return []
    removed = []
    async with open_helm(kube_access, spec.helm) as helm:
        for one in reversed(spec.charts):
            there = await helm.release(one.name, one.namespace)
            if there is None:
                continue
            if not there.description.startswith(_OURS):
                say(f"{one.words} is somebody else's: it stays.")
                continue
            await helm.uninstall(one.name, one.namespace)
            say(f"{one.words} was uninstalled.")
            removed.append(one.words)
    return removed


async def _live(kube: Kube) -> list[str]:
    """Name what KubeRay's operator looks after and that has not ended."""
    found = []
    for plural, kind in (("rayservices", "RayService"), ("rayjobs", "RayJob"), ("rayclusters", "RayCluster")):
        items = (await kube.find(f"{RAY}/{plural}") or {}).get("items") or []
        found += [
            f"{kind} {item['metadata']['namespace']}/{item['metadata']['name']}"
            for item in items
            if (item.get("status") or {}).get("jobDeploymentStatus") not in _ENDED
        ]
    return found


async def render(
    helm: Helm, spec: KubernetesClusterSpec, kuberay: KubeRay, name: str, namespace: str, say: Say
) -> tuple[list[Json], str]:
    """Give what the chart makes of a cluster's values, for a resource that has a cluster in it.

    :param helm: renders the chart.
    :param spec: of the cluster.
    :param kuberay: the KubeRay that is there.
    :param name: of the resource.
    :param namespace: of the resource.
    :param say: is told what was added to the values, and why.
    :return: the objects, and by which chart they were made.
    :raises ConfigurationError: there is no such chart, or it refuses the values.
    """
    source = find_chart(spec.chart, repo=spec.chart_repo, version=spec.chart_version, folders=spec.folders)
    chart = await helm.chart(source)
    values, notes = chart_values(spec, kuberay, await helm.defaults(chart))
    for note in notes:
        say(note)
    made = await helm.render(chart, name, namespace, values)
    return made, f"chart {chart.metadata.name} {chart.metadata.version}"
