"""What a person wants of a Ray cluster on Kubernetes, and what Helm is to be told for it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from ray_provider.clusters.handle import Access
from ray_provider.clusters.helm.charts import BUNDLED, OperatorChart, find_chart, find_profile
from ray_provider.clusters.helm.releases import HelmOptions
from ray_provider.clusters.helm.values import Values, ValuesInput, check_known, merge, read_values, tell_unknown
from ray_provider.clusters.kuberay.manifests import RayClusterManifest, read_manifest
from ray_provider.clusters.kuberay.queueing import labels_of
from ray_provider.clusters.kuberay.versions import MODES, NAMESPACE, REPOSITORY, VERSION, KubeRay, Mode
from ray_provider.clusters.kubernetes.namespaces import security_level
from ray_provider.clusters.lifecycle.users import LEASE_SECONDS
from ray_provider.clusters.naming import check_name, owner_annotations, owner_labels, unique_name
from ray_provider.exceptions import ConfigurationError
from ray_provider.resources import bundled

#: Keys of ``values`` that only the provider's own chart has.
_OWN_KEYS = ("commonLabels", "commonAnnotations")
#: What any chart may take beyond what its values.yaml shows: maps of pod templates and the like.
_OPEN_MAPS = ("spec", "additionalWorkerGroups", "worker", "head")


@dataclass(frozen=True, slots=True)
class KubernetesClusterSpec:
    """A Ray cluster as somebody wants it, all of it read, merged and checked: see :meth:`ClusterRequest.spec`.

    :param name: of the release and the RayCluster.
    :param namespace: where.
    :param values: for the chart, merged.
    :param manifest: a ready RayCluster, instead of the chart's own.
    :param chart: which chart.
    :param chart_repo: URL of its repository.
    :param chart_version: which version of it.
    :param strict: refuse values that the chart does not know.
    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``.
    :param is_named: somebody chose the name; else it is unique for the run.
    :param update_if_exists: change a cluster of that name that is there.
    :param lease_seconds: how long this task counts as a user of the cluster unless that is renewed; ``None``: for ever.
    :param create_namespace: make the namespace if it is missing. It stays when the cluster goes.
    :param kuberay_operator: ``require``, ``install`` (if it is missing) or ``upgrade`` (if it is older).
    :param operator_chart: brings the operator, if it is to be installed.
    :param helm: how Helm is run.
    :param access: how the dashboard is reached.
    :param gpu_plugin: manifest of a device plugin, installed if it is missing; it stays.
    :param local_queue: Kueue's LocalQueue in which the RayCluster waits.
    :param priority_class: Kueue's WorkloadPriorityClass.
    :param folders: where relative paths begin.
    """

    name: str
    namespace: str | None = None
    values: Values = field(default_factory=dict, repr=False)
    manifest: RayClusterManifest | None = field(default=None, repr=False)
    chart: str = BUNDLED
    chart_repo: str | None = None
    chart_version: str | None = None
    strict: bool = False
    owner: Mapping[str, Any] = field(default_factory=dict)
    is_named: bool = False
    update_if_exists: bool = False
    lease_seconds: float | None = LEASE_SECONDS
    create_namespace: bool | str = False
    kuberay_operator: Mode = "require"
    operator_chart: OperatorChart | None = None
    helm: HelmOptions = field(default_factory=HelmOptions)
    access: Access = "auto"
    gpu_plugin: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    local_queue: str | None = None
    priority_class: str | None = None
    folders: tuple[Path, ...] = ()

    def renamed(self, name: str) -> KubernetesClusterSpec:
        """Give the same with another name, also in its manifest.

        :param name: of the release and the RayCluster.
        """
        if self.manifest is None:
            return replace(self, name=name)
        metadata = {**self.manifest.cluster["metadata"], "name": name}
        cluster = {**self.manifest.cluster, "metadata": metadata}
        return replace(self, name=name, manifest=replace(self.manifest, cluster=cluster))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRequest:
    """All that a person says of a Ray cluster on Kubernetes, as they say it. :meth:`spec` reads and checks it.

    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index`` of the task.
    :param name: of the release and the RayCluster; else the manifest's, else one that is unique for the run.
    :param namespace: where; else the manifest's, else the connection's.
    :param values: for the chart: a dict, YAML text, a path, or a list of those.
    :param profile: one or several of the provider's profiles, below ``values``.
    :param infrastructure_values: Terraform's ``ray_helm_values``, between the two.
    :param ray_cluster_yaml: a RayCluster manifest: a path, URL, YAML text, dict, or one that was read already.
    :param chart: a path, a name or an OCI URL. Default: the provider's own.
    :param chart_repo: URL of the repository in which it has that name.
    :param chart_version: which version of it; unless given, the newest.
    :param strict: refuse values that the chart does not know. Default: of the provider's own, they are warned of.
    :param update_if_exists: change a cluster of that name that is there. Default: use it as it is.
    :param lease_seconds: how long this task counts as a user of the cluster unless that is renewed; ``None``: for ever.
    :param create_namespace: make the namespace if it is missing; a text is its Pod Security level. It stays.
    :param kuberay_operator: ``require``, ``install`` (if it is missing) or ``upgrade`` (if it is older).
    :param kuberay_version: of the operator's chart, if it is to be installed.
    :param operator_chart: a path or OCI URL of the operator's chart, instead of KubeRay's repository.
    :param operator_chart_repo: URL of another repository for it.
    :param operator_values: for the operator's chart, in any form of ``values``.
    :param operator_namespace: where the operator is installed. Default: ``kuberay-system``.
    :param helm: how Helm is run. Default: as :class:`~ray_provider.clusters.helm.releases.HelmOptions` says.
    :param access: the way to the dashboard: ``auto``, ``proxy``, ``service``, ``ingress`` or ``url``.
    :param gpu_device_plugin_yaml: installed if it is missing: a path, URL, YAML text or dict. It stays.
    :param local_queue: name of a Kueue LocalQueue in which the RayCluster waits (a RayJob waits itself).
    :param priority_class: name of a Kueue WorkloadPriorityClass.
    :param folders: where relative paths begin.
    :param render: renders templates in files.
    :param fetch: gets the text behind a URL.
    """

    owner: Mapping[str, Any]
    name: str | None = None
    namespace: str | None = None
    values: ValuesInput = field(default=None, repr=False)
    profile: str | Sequence[str] | None = None
    infrastructure_values: ValuesInput = field(default=None, repr=False)
    ray_cluster_yaml: str | Path | Mapping[str, Any] | RayClusterManifest | None = field(default=None, repr=False)
    chart: str | Path = BUNDLED
    chart_repo: str | None = None
    chart_version: str | None = None
    strict: bool = False
    update_if_exists: bool = False
    lease_seconds: float | None = LEASE_SECONDS
    create_namespace: bool | str = False
    kuberay_operator: str = "require"
    kuberay_version: str | None = None
    operator_chart: str | Path | None = None
    operator_chart_repo: str | None = None
    operator_values: ValuesInput = field(default=None, repr=False)
    operator_namespace: str | None = None
    helm: HelmOptions | None = None
    access: Access = "auto"
    gpu_device_plugin_yaml: str | Mapping[str, Any] | None = field(default=None, repr=False)
    local_queue: str | None = None
    priority_class: str | None = None
    folders: tuple[Path, ...] = ()
    render: Callable[[str], str] | None = None
    fetch: Callable[[str], str] | None = None

    def spec(self) -> KubernetesClusterSpec:
        """Read and check all of it, before anything is asked or made.

        :raises ConfigurationError: something can't work; the message names it.
        """
        _check_options(self.lease_seconds, self.access)
        security_level(self.create_namespace)
        manifest = self._manifest()
        values = self._merged()
        chosen = self.name or (manifest.name if manifest else None) or values.get("fullnameOverride")
        find_chart(self.chart, repo=self.chart_repo, version=self.chart_version, folders=self.folders)
        return KubernetesClusterSpec(
            name=check_name(chosen) if chosen else unique_name(self.owner),
            namespace=self.namespace or (manifest.namespace if manifest else None),
            values=values,
            manifest=manifest,
            chart=str(self.chart),
            chart_repo=self.chart_repo,
            chart_version=self.chart_version,
            strict=self.strict,
            owner=dict(self.owner),
            is_named=bool(chosen),
            update_if_exists=self.update_if_exists,
            lease_seconds=self.lease_seconds,
            create_namespace=self.create_namespace,
            kuberay_operator=check_mode(self.kuberay_operator),
            operator_chart=read_operator_chart(
                self.operator_chart,
                self.operator_chart_repo,
                self.kuberay_version,
                self.operator_values,
                self.operator_namespace,
                self.folders,
            ),
            helm=self.helm or HelmOptions(),
            access=self.access,
            gpu_plugin=_plugin(self.gpu_device_plugin_yaml, self.folders, self.fetch),
            local_queue=self.local_queue,
            priority_class=self.priority_class,
            folders=self.folders,
        )

    def _manifest(self) -> RayClusterManifest | None:
        given = self.ray_cluster_yaml
        if not given:
            return None
        if str(self.chart) != BUNDLED or self.chart_repo:
            raise ConfigurationError(
                "`ray_cluster_yaml` and `chart` are both given.",
                hint="A manifest is installed by the provider's own chart: leave `chart` out.",
            )
        if self.profile:
            raise ConfigurationError(
                "`ray_cluster_yaml` and `profile` are both given.",
                hint="A manifest says all of the cluster itself: use one of the two.",
            )
        if not isinstance(given, RayClusterManifest):
            given = read_manifest(given, folders=self.folders, render=self.render, fetch=self.fetch)
        _check_names(given, self.name, self.namespace)
        return given

    def _merged(self) -> Values:
        """Give the values: a profile's count least, the user's own most."""
        profiles = [self.profile] if isinstance(self.profile, str) else list(self.profile or ())
        given = read_values(self.values, folders=self.folders, render=self.render)
        merged = merge(
            *(read_values(find_profile(one)) for one in profiles),
            read_values(self.infrastructure_values, what="infrastructure_values", folders=self.folders),
            given,
        )
        full_name = merged.get("fullnameOverride")
        if full_name and self.name and full_name != self.name:
            raise ConfigurationError(
                f"The task names the cluster {self.name!r}, and `values.fullnameOverride` {full_name!r}.",
                hint="Leave one of them out.",
            )
        return merged


def check_mode(kuberay_operator: str) -> Mode:
    """Give what is to become of the operator, if there is such a mode.

    :param kuberay_operator: what somebody wrote.
    :raises ConfigurationError: there is not.
    """
    if kuberay_operator not in MODES:
        raise ConfigurationError(
            f"`kuberay_operator` is {kuberay_operator!r}: it must be one of {', '.join(MODES)}.",
            hint="require: an error if it is missing. install: installs it then. upgrade: also if it is older.",
        )
    return kuberay_operator  # type: ignore[return-value]


def _check_options(lease_seconds: float | None, access: str) -> None:
    if lease_seconds is not None and lease_seconds <= 0:
        raise ConfigurationError(
            f"`lease_seconds` is {lease_seconds}: it has to be more than 0.",
            hint="Say for how many seconds the cluster is used, or None for ever.",
            field="lease_seconds",
        )
    if access not in get_args(Access):
        raise ConfigurationError(f"`access` is {access!r}: it must be one of {', '.join(get_args(Access))}.")


def _check_names(manifest: RayClusterManifest, name: str | None, namespace: str | None) -> None:
    """Refuse a task that names another cluster than its manifest."""
    if name and name != manifest.name:
        raise ConfigurationError(
            f"The task names the cluster {name!r}, and its manifest {manifest.name!r}.",
            hint="Leave one of them out.",
        )
    if namespace and manifest.namespace and namespace != manifest.namespace:
        raise ConfigurationError(
            f"The task says namespace {namespace!r}, and its manifest {manifest.namespace!r}.",
            hint="Leave one of them out.",
        )


def chart_values(
    spec: KubernetesClusterSpec, kuberay: KubeRay, defaults: Mapping[str, Any], labels: Mapping[str, str] | None = None
) -> tuple[Values, list[str]]:
    """Make what Helm is told.

    :param spec: the cluster as somebody wants it.
    :param kuberay: what Kubernetes knows.
    :param defaults: the chart's own values: what it has no key for is not said to it.
    :param labels: whose the cluster is, where that is known already; else the spec's owner.
    :return: the values, and what was added and why, in sentences.
    :raises ConfigurationError: with ``strict``: the chart does not know one of the values.
    """
    notes: list[str] = []
    own: Values = {}
    if "kuberayVersion" in defaults:
        own["kuberayVersion"] = kuberay.text
        if kuberay.at_least(1, 6, 0) and "upgradeStrategy" in defaults:
            own["upgradeStrategy"] = {"type": "Recreate"}
    base: Values = {}
    if spec.manifest is not None:
        base, notes = spec.manifest.to_values(
            kuberay.version, auth_is_said=bool((spec.values.get("authOptions") or {}).get("mode"))
        )
    values = merge(own, base, spec.values)
    if spec.strict:
        check_known(spec.values, defaults, open_maps=_OPEN_MAPS)
        if "strict" in defaults:
            values["strict"] = True
    elif spec.chart == BUNDLED:
        schema = json.loads(bundled("helm", BUNDLED, "values.schema.json").read_text(encoding="utf-8"))
        told = tell_unknown(spec.values, schema)
        notes += [f"WARNING: {told}"] if told else []
    queued = labels_of(spec.local_queue, spec.priority_class)
    if queued and "labels" in defaults:
        values = merge(values, {"labels": queued})
    if "fullnameOverride" in defaults:
        values["fullnameOverride"] = spec.name
    if all(key in defaults for key in _OWN_KEYS):
        marks: Values = {"commonLabels": dict(labels or owner_labels(spec.owner, is_named=spec.is_named))}
        if labels is None:
            marks["commonAnnotations"] = owner_annotations(spec.owner)
        values = merge(values, marks)
    return copy.deepcopy(values), notes


def read_operator_chart(
    chart: str | Path | None,
    repo: str | None,
    version: str | None,
    values: ValuesInput,
    namespace: str | None,
    folders: tuple[Path, ...],
) -> OperatorChart:
    """Find out which chart brings the operator, and read its values.

    :param chart: a path or OCI URL; ``None``: KubeRay's own.
    :param repo: URL of a repository; ``None``: KubeRay's, if no chart is given.
    :param version: of the chart; ``None``: from a repository the one that this release is tested with.
    :param values: for the chart: a dict, YAML text, a path, or a list of those.
    :param namespace: where it is installed; ``None``: ``kuberay-system``.
    :param folders: where relative paths begin.
    :raises ConfigurationError: there is no such chart, or its values can't be read.
    """
    if chart is None or repo:
        source = find_chart(chart or "kuberay-operator", repo=repo or REPOSITORY, version=version or VERSION)
    else:
        source = find_chart(chart, version=version, folders=folders)
    return OperatorChart(
        source=source,
        values=read_values(values, what="operator_values", folders=folders),
        namespace=namespace or NAMESPACE,
    )


def _plugin(
    given: str | Mapping[str, Any] | None, folders: tuple[Path, ...], fetch: Callable[[str], str] | None
) -> tuple[Mapping[str, Any], ...]:
    if not given:
        return ()
    from ray_provider.clusters.kuberay.manifests import read_documents

    return tuple(read_documents(given, what="gpu_device_plugin_yaml", folders=folders, fetch=fetch))
