"""Set a Ray cluster up, and delete it: on Kubernetes as a Helm release, or on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ray_provider._compat import BaseOperator, conf, without_gone
from ray_provider._shared import xcom_keys
from ray_provider.airflow_errors import errors_for_airflow, for_airflow
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import ClusterError, ConfigurationError, RayProviderError
from ray_provider.hooks.ray import RayHook
from ray_provider.operators import triggerer
from ray_provider.operators._cluster.common import (
    GONE,
    backend_of,
    cluster_spec,
    folders_of,
    hook_of,
    new_run,
    owned_here,
    owner_of,
    warn_of_unused,
)
from ray_provider.operators._cluster.run import ClusterRun
from ray_provider.operators._job.arguments import number, timeout_at
from ray_provider.operators._job.memory import left_before
from ray_provider.operators.cluster_delete import DeleteRayCluster
from ray_provider.triggers import failure

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.handle import Access
    from ray_provider.clusters.kuberay.readiness import ReadinessOptions
    from ray_provider.clusters.lifecycle.spec import KubernetesClusterSpec

#: XCom with the dashboard's URL, as astro-provider-ray names it.
DASHBOARD_XCOM_KEY = xcom_keys.DASHBOARD
#: How much later than the wait's own end Airflow's timeout of the deferral is: only if the trigger fails to act.
_BACKSTOP_SECONDS = 120.0

__all__ = ["DASHBOARD_XCOM_KEY", "DeleteRayCluster", "SetupRayCluster"]


class SetupRayCluster(BaseOperator):
    """Sets a Ray cluster up, and returns its handle (plain data, without a secret) for the tasks after it.

    On Kubernetes the cluster is a Helm release: of the provider's own chart ``ray-cluster``, of another one, or made
    from a ready manifest (``ray_cluster_yaml``). The task waits until head and workers are ready and the dashboard
    answers, and fails with the cause as soon as that can't happen any more; what it made goes again then, and also when
    the task is killed. A retry goes on with what an earlier try made. Pushes the dashboard's URL as XCom ``dashboard``.

    :param conn_id: connection of type ``ray``.
    :param ray_cluster_yaml: manifest of a RayCluster: a path, a URL, YAML text or a dict. Further documents in it are
        installed and deleted with it. Templates in it are rendered, except in what a URL leads to. A URL is https,
        or ends in ``#sha256=`` and the hash of what it has to be.
    :param kuberay_version: version of the operator's chart, if ``kuberay_operator`` has it installed.
    :param gpu_device_plugin_yaml: path or URL of a device plugin's manifest, installed if it is missing. It stays when
        the cluster goes: others may use it. ``infrastructure``: what the module of ``infrastructure`` hands out as
        ``kubernetes_manifests`` (device plugin, cluster autoscaler, node pools of EKS Auto Mode), brought up to date.
    :param update_if_exists: change a cluster of that name that is there. Otherwise it is used as it is.
    :param name: of the release and the cluster; else the manifest's, else one that is unique for the run.
    :param namespace: Kubernetes namespace; else the manifest's, the connection's, the kubeconfig's.
    :param values: for the chart: a dict, YAML text, the path of a file, or a list of those (later ones win).
    :param profile: one of the provider's profiles or a list of them: cpu, gpu-eks, gpu-gke, tpu, spot, autoscaling, …
    :param infrastructure: the handle that ``SetupRayInfrastructure`` returned: the cluster is made on that Kubernetes,
        with the output ``ray_helm_values`` as ``infrastructure_values``. Credentials come from the cloud, stay in
        memory and are renewed; the connection says by whom (``aws_conn_id``, ``aws_role_arn``, ``gcp_conn_id``,
        ``gcp_impersonate``), else ``SetupRayInfrastructure`` in this DAG or the worker. The cluster's handle then says
        where it is, for the tasks after this one.
    :param infrastructure_values: values above the profile and below ``values``, for modules of your own.
    :param chart: ``ray-cluster`` (comes with the provider), a path, an ``oci://`` URL, or a name in ``chart_repo``.
    :param chart_repo: URL of a chart repository.
    :param chart_version: version of the chart; with ``@sha256:`` and the hash of its archive behind, it has to be that
        one. Plain ``http`` is taken only with it.
    :param strict: refuse values that the chart does not know.
    :param lease_seconds: how long this task counts as a user of the cluster, unless that is renewed (tasks that run
        jobs on its handle do); ``None``: for ever. Deletes of other runs leave the cluster that long.
    :param create_namespace: make the namespace if it is missing. It stays when the cluster goes. Its pods are limited
        by the Pod Security Standard ``baseline``, or another one that is given here: ``restricted``, ``privileged``.
    :param kuberay_operator: ``require`` (an error if it is missing), ``install`` (then install it), ``upgrade`` (also
        if it is older than ``kuberay_version``). It is shared: never downgraded, and never removed with a cluster.
    :param operator_chart: path or ``oci://`` URL of the operator's chart, or its name in ``operator_chart_repo``.
    :param operator_chart_repo: URL of its repository; KubeRay's unless given.
    :param operator_values: for it.
    :param operator_namespace: where it goes: ``kuberay-system`` unless given.
    :param helm_path: Helm's executable; else the variable ``RAY_PROVIDER_HELM``, else ``helm`` on ``PATH``.
    :param access: how the dashboard is reached (``proxy``, ``service``, ``ingress``, ``url``), if not as the connection
        says.
    :param local_queue: name of a Kueue LocalQueue (``queue`` is Airflow's own, for its workers). The cluster is
        suspended until Kueue admits it; the task says what Kueue says meanwhile, and waits again after a preemption.
    :param priority_class: name of a Kueue WorkloadPriorityClass.
    :param queue_timeout_seconds: how long it may wait in the queue; ``None``: for ever.
    :param wait_for_workers: true: all workers that are wanted; false: only the head; or a number of them.
    :param timeout_seconds: until it is ready; of a cluster in a queue from its admission.
    :param scheduling_timeout_seconds: how long a pod may wait for a node, e.g. for one that is made on demand.
    :param keep_on_failure: leave a cluster that does not become ready for inspection.
    :param backend: ``kubernetes`` or ``local``; else as the connection says.
    :param local: arguments for the local backend (``num_cpus``, ``num_gpus``, ``resources``, …).
    :param deferrable: wait in the triggerer.
    :param kwargs: arguments of any operator.
    """

    template_fields: Sequence[str] = (
        "conn_id",
        "ray_cluster_yaml",
        "kuberay_version",
        "gpu_device_plugin_yaml",
        "name",
        "namespace",
        "values",
        "profile",
        "infrastructure",
        "infrastructure_values",
        "chart",
        "chart_repo",
        "chart_version",
        "kuberay_operator",
        "operator_chart",
        "operator_chart_repo",
        "operator_values",
        "operator_namespace",
        "access",
        "local_queue",
        "priority_class",
        "queue_timeout_seconds",
        "backend",
        "local",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"values": "yaml", "ray_cluster_yaml": "yaml"}
    ui_color = "#d6f0ff"

    def __init__(
        self,
        conn_id: str = RayHook.default_conn_name,
        ray_cluster_yaml: str | dict[str, Any] | None = None,
        kuberay_version: str | None = None,
        gpu_device_plugin_yaml: str | dict[str, Any] = "",
        update_if_exists: bool = False,
        *,
        name: str | None = None,
        namespace: str | None = None,
        values: Any = None,
        profile: str | list[str] | None = None,
        infrastructure: Any = None,
        infrastructure_values: Any = None,
        chart: str = "ray-cluster",
        chart_repo: str | None = None,
        chart_version: str | None = None,
        strict: bool = False,
        lease_seconds: float | None = 86400,
        create_namespace: bool | str = False,
        kuberay_operator: str = "require",
        operator_chart: str | None = None,
        operator_chart_repo: str | None = None,
        operator_values: Any = None,
        operator_namespace: str | None = None,
        helm_path: str | None = None,
        access: str | None = None,
        local_queue: str | None = None,
        priority_class: str | None = None,
        queue_timeout_seconds: float | str | None = None,
        wait_for_workers: bool | int = True,
        timeout_seconds: float = 900,
        scheduling_timeout_seconds: float = 300,
        keep_on_failure: bool = False,
        backend: str | None = None,
        local: dict[str, Any] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        without_gone(type(self).__name__, kwargs, GONE)
        super().__init__(**kwargs)
        self._run: ClusterRun | None = None
        self.conn_id = conn_id
        self.ray_cluster_yaml = ray_cluster_yaml
        self.kuberay_version = kuberay_version
        self.gpu_device_plugin_yaml = gpu_device_plugin_yaml
        self.update_if_exists = update_if_exists
        self.name = name
        self.namespace = namespace
        self.values = values
        self.profile = profile
        self.infrastructure = infrastructure
        self.infrastructure_values = infrastructure_values
        self.chart = chart
        self.chart_repo = chart_repo
        self.chart_version = chart_version
        self.strict = strict
        self.lease_seconds = lease_seconds
        self.create_namespace = create_namespace
        self.kuberay_operator = kuberay_operator
        self.operator_chart = operator_chart
        self.operator_chart_repo = operator_chart_repo
        self.operator_values = operator_values
        self.operator_namespace = operator_namespace
        self.helm_path = helm_path
        self.access = access
        self.local_queue = local_queue
        self.priority_class = priority_class
        self.queue_timeout_seconds = queue_timeout_seconds
        self.wait_for_workers = wait_for_workers
        self.timeout_seconds = timeout_seconds
        self.scheduling_timeout_seconds = scheduling_timeout_seconds
        self.keep_on_failure = keep_on_failure
        self.backend = backend
        self.local = local
        self.deferrable = deferrable

    # -- what Airflow calls --------------------------------------------------------------------------------------------

    #: The connection's hook.
    hook = property(hook_of)

    def on_kill(self) -> None:
        """End what is going on; what the task made so far goes again."""
        if self._run is not None:
            self._run.kill()

    def execute(self, context: Context) -> dict[str, Any]:
        """Set the cluster up.

        :param context: of the task.
        :return: its handle, as data.
        :raises ConfigurationError: it can't work; nothing was made.
        """
        with errors_for_airflow():
            run = self._run = new_run(self)
            if backend_of(self, run) == "local":
                if self.infrastructure is not None:
                    raise ConfigurationError(
                        "`infrastructure` is given, but the backend is local.",
                        hint='Set `backend="kubernetes"`, in the task or in the connection.',
                        field="infrastructure",
                    )
                warn_of_unused(self)
                return self._done(
                    context, run.start_local(self._local_spec(context), update_if_exists=self.update_if_exists)
                )
            spec = self._spec(context, run)
            if not self.deferrable:
                return self._done(context, run.set_up(spec, self._readiness(), keep_on_failure=self.keep_on_failure))
            return self._defer(context, run, spec)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on after the trigger fired.

        :param context: of the task.
        :param event: the trigger's.
        :return: the cluster's handle, as data.
        :raises ClusterError: it did not become ready; what was made of it is gone again, unless it is to be kept.
        """
        handle = ClusterHandle.from_dict(event["cluster"])
        if event["status"] == "ready":
            return self._done(context, handle)
        error = failure.read(event["error"], ClusterError)
        self._take_back(handle, error)
        raise for_airflow(error)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral. Where the trigger failed or timed out, nobody watches the cluster: take it back.

        :param next_method: that Airflow goes on with.
        :param next_kwargs: of it: the trigger's event, or an error.
        :param context: of the task.
        """
        gone = triggerer.why_gone(next_method, next_kwargs)
        handle = None if gone is None else self._handle_of(context)
        if gone is not None and handle is not None:
            self._take_back(handle, ClusterError(gone))
        return super().resume_execution(next_method, next_kwargs, context)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _defer(self, context: Context, run: ClusterRun, spec: KubernetesClusterSpec) -> dict[str, Any]:
        from ray_provider.triggers.cluster import RayClusterTrigger

        readiness = self._readiness()  # refuses what can't work, before there is a cluster
        applied = run.apply(spec, keep_on_failure=self.keep_on_failure)
        now = time.time()
        deadline, limit = self._limits(context, readiness, now, queue=applied.queue)
        context["ti"].xcom_push(key=xcom_keys.HANDLE, value=applied.handle.to_dict())
        self.log.info("Waiting in the triggerer until Ray cluster %s is ready.", applied.handle.name)
        self.defer(
            trigger=RayClusterTrigger(
                conn_id=self.conn_id,
                cluster=applied.handle.to_dict(),
                readiness=readiness.to_dict(),
                deadline=deadline,
                stale_pods=list(applied.stale_pods),
                access=self.access,
                helm_path=self.helm_path,
                keep=self.keep_on_failure,
                deferred_at=now,
            ),
            method_name="execute_complete",
            timeout=None if limit is None else timedelta(seconds=limit),
        )
        raise AssertionError  # pragma: no cover - defer raises

    def _limits(
        self, context: Context, readiness: ReadinessOptions, now: float, *, queue: str | None
    ) -> tuple[float, float | None]:
        """Give when the trigger ends the wait, and after how many seconds Airflow ends the trigger.

        :param queue: in which the cluster may have to wait: what comes after that begins later, the trigger sees when.
        """
        deadline, rest = now + readiness.timeout_seconds, None
        until = timeout_at(self.execution_timeout, getattr(context["ti"], "start_date", None), now)
        if until is not None:
            rest = max(0.0, until - now)
            if queue is None:
                deadline = min(deadline, until)
        if queue is None:
            return deadline, max(0.0, deadline - now) + _BACKSTOP_SECONDS
        limit = None
        if readiness.queue_seconds is not None:
            limit = readiness.queue_seconds + readiness.timeout_seconds + _BACKSTOP_SECONDS
        return deadline, rest if limit is None or (rest is not None and rest < limit) else limit

    def _done(self, context: Context, handle: ClusterHandle) -> dict[str, Any]:
        context["ti"].xcom_push(key=xcom_keys.DASHBOARD, value=handle.address)
        self.log.info("Dashboard: %s", handle.address)
        return handle.to_dict()

    def _take_back(self, handle: ClusterHandle, error: RayProviderError) -> None:
        run = self._run = new_run(self, handle.kubernetes)
        try:
            run.take_back(handle, error, keep=self.keep_on_failure, helm_path=self.helm_path)
        except RayProviderError:
            # The first error is the one to be raised.
            self.log.exception("Ray cluster %s could not be removed.", handle.name)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _spec(self, context: Context, run: ClusterRun) -> KubernetesClusterSpec:
        return cluster_spec(
            self,
            context,
            manifest=self.ray_cluster_yaml or None,
            namespace=self.namespace or None,
            access=cast("Access", self.access or run.hook.config.access),
            render=lambda text: str(self.render_template(text, context)),
            name=self.name or None,
            update_if_exists=self.update_if_exists,
            lease_seconds=self.lease_seconds,
            local_queue=self.local_queue or None,
            priority_class=self.priority_class or None,
        )

    def _readiness(self) -> ReadinessOptions:
        from ray_provider.clusters.kuberay.readiness import ReadinessOptions

        if self.timeout_seconds <= 0 or self.scheduling_timeout_seconds <= 0:
            raise ConfigurationError(
                "`timeout_seconds` and `scheduling_timeout_seconds` have to be more than 0.",
                hint="Give seconds, or leave them out.",
                field="timeout_seconds",
            )
        return ReadinessOptions(
            timeout_seconds=float(self.timeout_seconds),
            wait_for_workers=self.wait_for_workers,
            scheduling_seconds=float(self.scheduling_timeout_seconds),
            queue_apart=True,
            queue_seconds=number("queue_timeout_seconds", self.queue_timeout_seconds) or None,
        )

    def _local_spec(self, context: Context) -> Any:
        from ray_provider.clusters.kuberay.manifests import read_manifest
        from ray_provider.clusters.local.spec import LocalClusterSpec
        from ray_provider.clusters.naming import unique_name

        owner = owner_of(context)
        name = self.name
        if not name and self.ray_cluster_yaml:
            name = read_manifest(
                self.ray_cluster_yaml,
                folders=folders_of(context),
                render=lambda text: str(self.render_template(text, context)),
            ).name
        try:
            return LocalClusterSpec(name=name or unique_name(owner), owner=owner, **(self.local or {}))
        except TypeError as error:
            known = [field.name for field in fields(LocalClusterSpec) if field.name not in {"name", "owner"}]
            raise ConfigurationError(
                f"`local` has an argument that the local backend does not know: {error}.",
                hint=f"It takes {', '.join(known)}.",
                field="local",
            ) from error

    @staticmethod
    def _handle_of(context: Context) -> ClusterHandle | None:
        left = left_before(context, xcom_keys.HANDLE)
        return None if left is None else owned_here(ClusterHandle.from_dict(left), context)
