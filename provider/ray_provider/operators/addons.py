"""What a Kubernetes cluster needs before Ray runs on it, installed and removed with an administrator's rights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray_provider._compat import BaseOperator
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.ray import RayHook
from ray_provider.operators._cluster.common import backend_of, device_plugin_of, folders_of, hook_of, new_run

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.lifecycle.preparation import AddonChart, AddonsSpec
    from ray_provider.operators._cluster.run import ClusterRun

#: What both say of themselves; ``timeout_seconds`` aside.
_FIELDS = (
    "conn_id",
    "infrastructure",
    "manifests",
    "charts",
    "namespaces",
    "kuberay_operator",
    "kuberay_version",
    "operator_chart",
    "operator_chart_repo",
    "operator_values",
    "operator_namespace",
    "backend",
)


class AddonsOperator(BaseOperator):
    """What both have in common: which add-ons are meant, and where.

    :param conn_id: connection of type ``ray``; its identity needs an administrator's rights in Kubernetes (cluster
        roles, CRDs, ``kube-system``). The tasks after it can have another connection, with fewer rights.
    :param infrastructure: the handle that ``SetupRayInfrastructure`` returned, of the Kubernetes cluster that is meant;
        else the connection's.
    :param manifests: objects to install, or a list of such: ``infrastructure`` (what the module of ``infrastructure``
        hands out as ``kubernetes_manifests``: device plugin, cluster autoscaler, node pools of EKS Auto Mode), the path
        or URL of a manifest, YAML text, or a dict. Default: ``infrastructure`` where there is one, else none.
    :param charts: charts to install before the manifests, each ``{"name": …, "chart": …}`` with the release's name and
        the chart's path, ``oci://`` URL or name in ``repo``; and ``repo``, ``version`` (with ``@sha256:…`` it has to be
        that archive), ``namespace`` (``kube-system`` unless given), ``values``. For what the vendors have charts for:
        NVIDIA's GPU operator, AWS' EFA plugin, Karpenter.
    :param namespaces: for Ray clusters, made if they are missing. They stay.
    :param kuberay_operator: ``install`` KubeRay's operator if it is missing, ``upgrade`` it also if it is older, or
        ``require`` it (an error if it is missing). Where the module says ``ray_operator_managed``, the cloud's own
        operator counts, and none is installed.
    :param kuberay_version: version of the operator's chart.
    :param operator_chart: path or ``oci://`` URL of the operator's chart, or its name in ``operator_chart_repo``.
    :param operator_chart_repo: URL of its repository; KubeRay's unless given.
    :param operator_values: for it.
    :param operator_namespace: where it goes: ``kuberay-system`` unless given.
    :param helm_path: Helm's executable; else the variable ``RAY_PROVIDER_HELM``, else ``helm`` on ``PATH``.
    :param backend: ``kubernetes`` or ``local``, which needs nothing; else as the connection says.
    :param kwargs: arguments of any operator.
    """

    template_fields: Sequence[str] = _FIELDS

    def __init__(
        self,
        *,
        conn_id: str = RayHook.default_conn_name,
        infrastructure: Any = None,
        manifests: Any = None,
        charts: Sequence[Mapping[str, Any]] = (),
        namespaces: str | Sequence[str] = (),
        kuberay_operator: str = "install",
        kuberay_version: str | None = None,
        operator_chart: str | None = None,
        operator_chart_repo: str | None = None,
        operator_values: Any = None,
        operator_namespace: str | None = None,
        helm_path: str | None = None,
        backend: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._run: ClusterRun | None = None
        self.conn_id = conn_id
        self.infrastructure = infrastructure
        #: A template may give nothing: then it is not the connection's own Kubernetes cluster that is meant.
        self._has_infrastructure = infrastructure is not None
        self.manifests = manifests
        self.charts = charts
        self.namespaces = namespaces
        self.kuberay_operator = kuberay_operator
        self.kuberay_version = kuberay_version
        self.operator_chart = operator_chart
        self.operator_chart_repo = operator_chart_repo
        self.operator_values = operator_values
        self.operator_namespace = operator_namespace
        self.helm_path = helm_path
        self.backend = backend

    #: The connection's hook.
    hook = property(hook_of)

    def on_kill(self) -> None:
        """End what is going on."""
        if self._run is not None:
            self._run.kill()

    def spec(self, context: Context) -> AddonsSpec:
        """Read and check what is to be installed, before anything is asked or made.

        :param context: of the task.
        :raises ConfigurationError: something can't work; the message names it.
        """
        from ray_provider.clusters.helm.releases import HelmOptions
        from ray_provider.clusters.lifecycle.preparation import AddonsSpec
        from ray_provider.clusters.lifecycle.spec import check_mode, read_operator_chart

        folders, outputs = folders_of(context), self._outputs()
        return AddonsSpec(
            documents=tuple(self._documents(context)),
            charts=tuple(_chart_of(index, one, folders) for index, one in enumerate(self.charts)),
            namespaces=(self.namespaces,) if isinstance(self.namespaces, str) else tuple(self.namespaces),
            kuberay_operator=check_mode("require" if outputs.get("ray_operator_managed") else self.kuberay_operator),
            operator_chart=read_operator_chart(
                self.operator_chart or None,
                self.operator_chart_repo or None,
                self.kuberay_version or None,
                self.operator_values,
                self.operator_namespace or None,
                folders,
            ),
            helm=HelmOptions(path=self.helm_path),
        )

    def _documents(self, context: Context) -> list[Mapping[str, Any]]:
        from ray_provider.clusters.helm.fetch import fetch_text
        from ray_provider.clusters.kuberay.manifests import read_documents

        given = self.manifests if self.manifests is not None else "infrastructure" if self.infrastructure else []
        found: list[Mapping[str, Any]] = []
        for one in given if isinstance(given, list | tuple) else [given]:
            read = device_plugin_of(one, self.infrastructure, field="manifests")
            if read:
                found += read_documents(read, what="manifests", folders=folders_of(context), fetch=fetch_text)
        return found

    def _outputs(self) -> Mapping[str, Any]:
        from ray_provider.infrastructure.handle import InfrastructureHandle

        return InfrastructureHandle.from_dict(self.infrastructure).outputs if self.infrastructure else {}


def _chart_of(index: int, given: Any, folders: tuple[Path, ...]) -> AddonChart:
    """Read one of ``charts``.

    :raises ConfigurationError: it can't work; the message names the field.
    """
    from ray_provider.clusters.helm.charts import find_chart
    from ray_provider.clusters.helm.values import read_values
    from ray_provider.clusters.lifecycle.preparation import AddonChart

    field = f"charts[{index}]"
    known = ("name", "chart", "repo", "version", "namespace", "values")
    if not isinstance(given, Mapping) or set(given) - set(known) or not (given.get("name") and given.get("chart")):
        unknown = ", ".join(sorted(map(str, set(given) - set(known)))) if isinstance(given, Mapping) else ""
        raise ConfigurationError(
            f"`{field}` "
            + (f"has what a chart has not: {unknown}." if unknown else "does not say `name` and `chart`."),
            hint=f"It is a dict with {', '.join(known)}; the first two have to be there.",
            field=field,
        )
    return AddonChart(
        name=str(given["name"]),
        source=find_chart(given["chart"], repo=given.get("repo"), version=given.get("version"), folders=folders),
        namespace=str(given.get("namespace") or "kube-system"),
        values=read_values(given.get("values"), what=f"{field}.values", folders=folders),
    )


class SetupRayAddons(AddonsOperator):
    """Installs what Ray clusters need of a Kubernetes cluster: KubeRay's operator, device plugin, cluster autoscaler.

    A step of its own, because it needs an administrator's rights and the tasks after it don't: they then set Ray
    clusters up with ``kuberay_operator="require"`` and without ``gpu_device_plugin_yaml``. All objects are checked by a
    strict dry run before the first is made. What is there already and not of this provider stays as it is; what is ours
    is brought up to date. Running it again changes nothing. Returns ``{"installed": [...]}``: what is there of ours.

    For the parameters see :class:`AddonsOperator`.
    """

    ui_color = "#e6e0ff"

    def execute(self, context: Context) -> dict[str, list[str]]:
        """Install what is missing.

        :param context: of the task.
        :return: what is there of ours, in words.
        :raises ConfigurationError: the task that was to set the infrastructure up returned nothing.
        """
        from ray_provider.clusters.lifecycle.preparation import set_up_addons

        with errors_for_airflow():
            if self._has_infrastructure and not self.infrastructure:
                raise ConfigurationError(
                    "`infrastructure` is empty: the task that was to set it up returned nothing.",
                    hint="Pass on what SetupRayInfrastructure returned: infrastructure=setup.output.",
                    field="infrastructure",
                )
            run = self._run = new_run(self)
            if backend_of(self, run) == "local":
                self.log.info("The backend is local: nothing is needed.")
                return {"installed": []}
            spec = self.spec(context)
            if self._outputs().get("efa_device_plugin_required") and not spec.charts:
                self.log.warning(
                    "Pools with EFA need AWS' EFA device plugin, too: their workers ask for vpc.amazonaws.com/efa. "
                    "The module does not have it: name AWS' chart aws-efa-k8s-device-plugin in `charts`."
                )

            async def step() -> list[str]:
                kube_access = await run.hook.akubernetes_access(run.where)
                return await set_up_addons(kube_access, spec, run.say)

            return {"installed": run.run(step)}


class DeleteRayAddons(AddonsOperator):
    """Removes what ``SetupRayAddons`` installed, before the infrastructure goes: nothing starts machines any more then.

    It is given the same arguments. What is deleted is what bears this provider's label, also if another run made it;
    what somebody else installed stays, as do CRDs and namespaces. While Ray clusters live there, it refuses. Doing so
    again finds nothing, and succeeds; so it does where the Kubernetes cluster is gone, or was never finished.

    For the other parameters see :class:`AddonsOperator`.

    :param timeout_seconds: until all has to be gone: node pools of Auto Mode only go when their machines have ended.
    :param kwargs: arguments of :class:`AddonsOperator`, and of any operator.
    """

    ui_color = "#f5dada"

    def __init__(self, *, timeout_seconds: float = 600, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.timeout_seconds = timeout_seconds

    def execute(self, context: Context) -> dict[str, list[str]]:
        """Remove it.

        :param context: of the task.
        :return: what was removed, in words.
        """
        with errors_for_airflow():
            if self._has_infrastructure and not self._outputs().get("cluster_name"):
                self.log.info("The infrastructure was never finished: nothing is installed there.")
                return {"removed": []}
            run = self._run = new_run(self)
            if backend_of(self, run) == "local":
                return {"removed": []}
            return {"removed": self._remove(run, self.spec(context))}

    def _remove(self, run: ClusterRun, spec: AddonsSpec) -> list[str]:
        from ray_provider.clusters.lifecycle.preparation import delete_addons

        async def step() -> list[str]:
            try:
                kube_access = await run.hook.akubernetes_access(run.where)
            except ConfigurationError as error:
                if not (error.data.get("gone") or error.data.get("no_server")):
                    raise
                run.say(f"{error.message} Nothing is installed there any more.")
                return []
            return await delete_addons(kube_access, spec, self.timeout_seconds, run.say)

        return run.run(step)
