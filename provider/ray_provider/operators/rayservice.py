"""Deploy RayServices, and delete them: a cluster that serves, updated without a failed request."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ray_provider._compat import BaseOperator, conf
from ray_provider._shared import xcom_keys
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.exceptions import ServeError
from ray_provider.hooks.allowed import allowed_by
from ray_provider.hooks.ray import RayHook
from ray_provider.links import RayDashboardLink
from ray_provider.operators import triggerer
from ray_provider.operators._cluster.common import where_is
from ray_provider.operators._job.arguments import deadline_of, number
from ray_provider.operators._job.storage import as_text
from ray_provider.operators._rayservice.arguments import Deploy, deploy_of, named_service, proof_of, refuse_local
from ray_provider.operators._rayservice.run import RayServiceRun
from ray_provider.triggers import failure
from ray_provider.triggers.rayservice import RayServiceTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.rayservice.handle import RayServiceHandle
    from ray_provider.clusters.rayservice.waiting import Deployed

#: How much later than the deploy's own deadline Airflow's timeout of the deferral is: only if the trigger fails to act.
_BACKSTOP_SECONDS = 180.0


class DeployRayService(BaseOperator):
    """Deploys a RayService, and waits until all of its applications run as they were written, and answer.

    KubeRay makes a Ray cluster that serves, and looks after it when the task is over. A RayService belongs to one task
    of one DAG, over all of its runs: the next run updates it. What KubeRay would do of a change is told before it is
    done: applications are updated in place; where the cluster changes, it makes a second one and switches when that
    serves. The version before keeps the traffic until then. An update that fails, or is killed, is taken back within
    seconds and deletes nothing that serves; only a first deploy is deleted again. Returns a handle (``name``,
    ``namespace``, ``cluster``, ``url``, ``applications``), and leaves the address in XCom ``ray_serve_url``.

    The cluster's arguments are those of ``SetupRayCluster``, which says more:

    :param conn_id: connection of type ``ray``.
    :param applications: what is served, as in Serve's configuration: ``[{"name": "recommender", "import_path":
        "model:app", "route_prefix": "/", "deployments": [{"name": "Model", "num_replicas": 2}]}]``.
    :param package_path: folder in object storage (``s3://bucket/code``, with a connection ``s3://conn_id@bucket/code``)
        for code of ``applications`` on this machine: clusters fetch it there without the task. Packages stay there.
    :param allow_in_package: files in the packages that are meant, although they look like secrets.
    :param ray_service_yaml: manifest of a RayService, instead: a path, a URL, YAML text or a dict.
    :param ray_cluster_yaml: manifest of a RayCluster, for the cluster.
    :param name: of the RayService (47 characters at most); else the manifest's, else one made of DAG and task.
    :param namespace: Kubernetes namespace; else the manifest's, the connection's, the kubeconfig's.
    :param strategy: ``auto``: what KubeRay does of the change. ``in_place``: a change that needs another cluster is
        refused. ``new_cluster``: a second cluster also where only applications change. ``blue_green``: the new version
        is a RayService of its own, ``NAME-blue`` or ``NAME-green``, beside the one that serves; a Service ``NAME``
        leads to the one that has the traffic. Both need their room.
    :param promote: with ``blue_green``: give it the traffic when it has passed the smoke test; else
        ``PromoteRayService`` does.
    :param keep_former: with ``blue_green``: the version before stays until the next deploy, for ``RollbackRayService``.
    :param drain_seconds: how long requests in flight have to end where it does not stay.
    :param smoke_test: one request that has to be answered as expected: ``path``, ``method``, ``send`` (JSON), and of
        the answer ``status``, ``json``, ``text``; ``timeout_seconds``. If it fails, the version before is put back.
        With ``blue_green`` the new version has no traffic yet; else it has it by then.
    :param serve_url: where the service answers, if that is not its Kubernetes service as seen from here (an Ingress).
    :param values: for the chart: a dict, YAML text, the path of a file, or a list of those (later ones win).
    :param profile: one of the provider's profiles or a list of them, below ``values``.
    :param infrastructure: the handle that ``SetupRayInfrastructure`` returned: the service is made on that Kubernetes.
    :param infrastructure_values: values above the profile and below ``values``; unless given, those of
        ``infrastructure``.
    :param chart: ``ray-cluster`` (comes with the provider), a path, an ``oci://`` URL, or a name in ``chart_repo``.
    :param chart_repo: URL of a chart repository.
    :param chart_version: version of the chart; with ``@sha256:`` and the hash of its archive behind, it has to be that
        one.
    :param strict: refuse values that the chart does not know.
    :param create_namespace: make the namespace if it is missing; a text is its Pod Security Standard. It stays.
    :param kuberay_operator: ``require`` (an error if it is missing), ``install`` it then, or ``upgrade`` it also if it
        is older.
    :param kuberay_version: version of the operator's chart, if ``kuberay_operator`` has it installed.
    :param operator_chart: path or ``oci://`` URL of the operator's chart, or its name in ``operator_chart_repo``.
    :param operator_chart_repo: URL of its repository; KubeRay's unless given.
    :param operator_values: for it.
    :param operator_namespace: where it goes: ``kuberay-system`` unless given.
    :param gpu_device_plugin_yaml: path or URL of a device plugin's manifest, installed if it is missing. It stays.
    :param helm_path: Helm's executable; else the variable ``RAY_PROVIDER_HELM``, else ``helm`` on ``PATH``.
    :param access: how the dashboard is reached (``proxy``, ``service``, ``ingress``, ``url``), if not as the connection
        says.
    :param timeout_seconds: until it has to serve.
    :param scheduling_timeout_seconds: how long a pod may wait for a node, e.g. for one that is made on demand.
    :param keep_on_failure: leave a version that does not serve as it is, for inspection.
    :param deferrable: wait in the triggerer. Default: Airflow's setting ``[operators] default_deferrable``.
    :param kwargs: arguments of any operator.
    """

    template_fields: Sequence[str] = (
        "conn_id",
        "applications",
        "package_path",
        "ray_service_yaml",
        "ray_cluster_yaml",
        "name",
        "namespace",
        "strategy",
        "drain_seconds",
        "smoke_test",
        "serve_url",
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
        "gpu_device_plugin_yaml",
        "access",
        "timeout_seconds",
        "scheduling_timeout_seconds",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("applications", "smoke_test"), "json"),
        **dict.fromkeys(("ray_service_yaml", "ray_cluster_yaml", "values"), "yaml"),
    }
    operator_extra_links = (RayDashboardLink(),)
    ui_color = "#d6f0ff"

    def __init__(
        self,
        *,
        conn_id: str = RayHook.default_conn_name,
        applications: list[dict[str, Any]] | str | None = None,
        package_path: Any = None,
        allow_in_package: Sequence[str] = (),
        ray_service_yaml: str | dict[str, Any] | None = None,
        ray_cluster_yaml: str | dict[str, Any] | None = None,
        name: str | None = None,
        namespace: str | None = None,
        strategy: str = "auto",
        promote: bool = True,
        keep_former: bool = True,
        drain_seconds: float | str | timedelta = 30,
        smoke_test: dict[str, Any] | None = None,
        serve_url: str | None = None,
        values: Any = None,
        profile: str | list[str] | None = None,
        infrastructure: Any = None,
        infrastructure_values: Any = None,
        chart: str = "ray-cluster",
        chart_repo: str | None = None,
        chart_version: str | None = None,
        strict: bool = False,
        create_namespace: bool | str = False,
        kuberay_operator: str = "require",
        kuberay_version: str | None = None,
        operator_chart: str | None = None,
        operator_chart_repo: str | None = None,
        operator_values: Any = None,
        operator_namespace: str | None = None,
        gpu_device_plugin_yaml: str | dict[str, Any] = "",
        helm_path: str | None = None,
        access: str | None = None,
        timeout_seconds: float | str | timedelta = 900,
        scheduling_timeout_seconds: float | str = 300,
        keep_on_failure: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.applications = applications
        self.package_path = as_text(package_path)
        self.allow_in_package = allow_in_package
        self.ray_service_yaml = ray_service_yaml
        self.ray_cluster_yaml = ray_cluster_yaml
        self.name = name
        self.namespace = namespace
        self.strategy = strategy
        self.promote = promote
        self.keep_former = keep_former
        self.drain_seconds = drain_seconds
        self.smoke_test = smoke_test
        self.serve_url = serve_url
        self.values = values
        self.profile = profile
        self.infrastructure = infrastructure
        self.infrastructure_values = infrastructure_values
        self.chart = chart
        self.chart_repo = chart_repo
        self.chart_version = chart_version
        self.strict = strict
        self.create_namespace = create_namespace
        self.kuberay_operator = kuberay_operator
        self.kuberay_version = kuberay_version
        self.operator_chart = operator_chart
        self.operator_chart_repo = operator_chart_repo
        self.operator_values = operator_values
        self.operator_namespace = operator_namespace
        self.gpu_device_plugin_yaml = gpu_device_plugin_yaml
        self.helm_path = helm_path
        self.access = access
        self.timeout_seconds = timeout_seconds
        self.scheduling_timeout_seconds = scheduling_timeout_seconds
        self.keep_on_failure = keep_on_failure
        self.deferrable = deferrable
        self._run: RayServiceRun | None = None

    # -- what Airflow calls --------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> dict[str, Any]:
        """Deploy it, and wait in the worker or in the triggerer.

        :param context: of the task.
        :return: the service's handle, as data.
        :raises RayProviderError: it can't work, or does not run as it should.
        """
        from ray_provider.clusters.rayservice.waiting import Deployed

        with errors_for_airflow():
            refuse_local(self.hook)
            wanted = deploy_of(self, context)
            deadline = deadline_of(context, wanted.timeout_seconds, self.execution_timeout)
            run = self._new_run()
            found = run.deploy(wanted, deadline, defer=self.deferrable)
            if isinstance(found, Deployed):
                self._defer(context, found, wanted, deadline)
            return self._done(context, run, found)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Go on after the trigger fired.

        :param context: of the task.
        :param event: the trigger's.
        :return: the service's handle, as data.
        :raises ServeError: it does not run.
        """
        from ray_provider.clusters.rayservice.waiting import Deployed

        with errors_for_airflow():
            if event["status"] == "failed":
                raise failure.read(event["error"], ServeError)
            proof, run = proof_of(self, context), self._new_run()
            return self._done(context, run, run.conclude(Deployed(**event["service"]), str(event["cluster"]), proof))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral. Where the trigger failed or timed out, nobody watches it: put back what was there.

        :param next_method: that Airflow goes on with.
        :param next_kwargs: of it: the trigger's event, or an error.
        :param context: of the task.
        """
        gone = triggerer.why_gone(next_method, next_kwargs)
        if gone is not None and not self.keep_on_failure:
            triggerer.take_back(self, context, gone, what="the RayService", key=xcom_keys.DEPLOYED, how=self._take_back)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Put back what was there before; a first deploy is deleted again."""
        if self._run is not None:
            self._run.kill()

    # -- steps ---------------------------------------------------------------------------------------------------------

    @property
    def hook(self) -> RayHook:
        """The connection's hook."""
        return RayHook(self.conn_id, allowed=allowed_by(self))

    def _new_run(self) -> RayServiceRun:
        self._run = RayServiceRun(self.hook, self.log, where_is(self.infrastructure), keep=self.keep_on_failure)
        return self._run

    def _done(self, context: Context, run: RayServiceRun, handle: RayServiceHandle) -> dict[str, Any]:
        context["ti"].xcom_push(key=xcom_keys.LINK, value=f"{run.dashboard}/#/serve")
        context["ti"].xcom_push(key=xcom_keys.URL, value=handle.url)
        if handle.url:
            self.log.info("RayService %s/%s answers at %s", handle.namespace, handle.name, handle.url)
        else:
            self.log.info("It is not known from here where the service answers: give serve_url.")
        return handle.to_dict()

    def _defer(self, context: Context, deployed: Deployed, wanted: Deploy, deadline: float) -> NoReturn:
        from ray_provider.clusters.rayservice.waiting import WaitOptions

        triggerer.defer(
            self,
            context,
            RayServiceTrigger(
                conn_id=self.conn_id,
                service=deployed.to_dict(),
                wait=WaitOptions(deadline, wanted.scheduling_seconds).to_dict(),
                kubernetes=where_is(self.infrastructure),
                access=self.access,
                keep=self.keep_on_failure,
                deferred_at=time.time(),
            ),
            what=f"RayService {deployed.namespace}/{deployed.name}",
            left=(xcom_keys.DEPLOYED, deployed.to_dict()),
            timeout=triggerer.time_left(deadline, _BACKSTOP_SECONDS),
        )

    def _take_back(self, deployed: Mapping[str, Any]) -> str:
        from ray_provider.clusters.rayservice.waiting import Deployed

        return self._new_run().take_back(Deployed(**deployed))


class DeleteRayService(BaseOperator):
    """Deletes a RayService with its clusters, and waits until nothing of it is left.

    Of ``blue_green`` it deletes both RayServices and the Service before them: that takes no new request any more, those
    in flight have time to end, then the clusters go. Of another RayService the traffic ends at once: take it away
    before. No error where there is none. By a handle it deletes only what a task of this DAG made; by name what the
    name says.

    :param conn_id: connection of type ``ray``.
    :param service: the handle that ``DeployRayService`` returned.
    :param name: of the RayService, where there is no handle.
    :param namespace: with ``name``; else the connection's.
    :param infrastructure: with ``name``: the handle that ``SetupRayInfrastructure`` returned, of the Kubernetes that it
        runs on; else the connection's.
    :param timeout_seconds: until all has to be gone.
    :param drain_seconds: with ``blue_green``: how long requests in flight have to end, before that.
    :param kwargs: arguments of any operator.
    """

    template_fields: Sequence[str] = (
        "conn_id",
        "service",
        "name",
        "namespace",
        "infrastructure",
        "timeout_seconds",
        "drain_seconds",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"service": "json"}
    ui_color = "#d6f0ff"

    def __init__(
        self,
        *,
        conn_id: str = RayHook.default_conn_name,
        service: Any = None,
        name: str | None = None,
        namespace: str | None = None,
        infrastructure: Any = None,
        timeout_seconds: float | str | timedelta = 300,
        drain_seconds: float | str | timedelta = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.service = service
        self.name = name
        self.namespace = namespace
        self.infrastructure = infrastructure
        self.timeout_seconds = timeout_seconds
        self.drain_seconds = drain_seconds
        self._run: RayServiceRun | None = None

    def execute(self, context: Context) -> bool:
        """Delete it.

        :param context: of the task.
        :return: whether there was one.
        :raises ConfigurationError: the connection is to a Ray on this machine.
        """
        with errors_for_airflow():
            timeout = float(number("timeout_seconds", self.timeout_seconds, above=True) or 300.0)
            drain = float(number("drain_seconds", self.drain_seconds) or 0.0)
            hook = RayHook(self.conn_id, allowed=allowed_by(self))
            refuse_local(hook)
            named = named_service(self, context)
            self._run = RayServiceRun(hook, self.log, named.kubernetes)
            return self._run.delete(named, timeout, drain)

    def on_kill(self) -> None:
        """End the waiting. What was asked for stays: the RayService goes."""
        if self._run is not None:
            self._run.kill()
