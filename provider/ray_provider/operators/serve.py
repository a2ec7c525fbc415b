"""Deploy applications of Ray Serve on a cluster that runs, and delete them: one, without touching the others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from urllib.parse import quote

from ray_provider import cluster_of_group
from ray_provider._compat import BaseOperator, conf
from ray_provider._shared import xcom_keys
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.clusters.handle import named_cluster
from ray_provider.exceptions import ServeError
from ray_provider.hooks.allowed import allowed_by
from ray_provider.hooks.ray import RayHook
from ray_provider.hooks.serve_application import which_application
from ray_provider.links import RayDashboardLink
from ray_provider.operators import triggerer
from ray_provider.operators._cluster.common import folders_of
from ray_provider.operators._job.arguments import deadline_of, names, number
from ray_provider.operators._serve.arguments import Deploy, deploy_of
from ray_provider.operators._serve.run import ServeRun, Waits
from ray_provider.serve.handle import ServeHandle
from ray_provider.triggers import failure
from ray_provider.triggers.serve import RayServeTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.serve.deploy import Written

#: How much later than the deploy's own deadline Airflow's timeout of the deferral is: only if the trigger fails to act.
_BACKSTOP_SECONDS = 120.0


class DeployServeApplication(BaseOperator):
    """Deploys one application of Ray Serve, and waits until it runs. Other applications stay as they are.

    An application of this name is updated: the version that is there serves until the new one runs. Where the new one
    does not run, fails its smoke test, or the task is killed, the former configuration is put back; an application that
    was not there before is removed again. Returns a handle (``name``, ``url``, ``route_prefix``, ``cluster``) and
    leaves the address in XCom ``ray_serve_url``.

    :param conn_id: connection of type ``ray``.
    :param name: of the application: by it, it is found again. One that a job made (``serve.run``) is never replaced.
    :param import_path: ``module:attribute`` that the cluster imports: an application, or a function that builds one.
    :param route_prefix: below which it answers, its own; ``None``: not by HTTP.
    :param args: of the function that builds it.
    :param runtime_env: Ray's runtime environment; local ``working_dir`` and ``py_modules`` are uploaded. Relative paths
        begin in the folder of the DAG's file, or in the worker's working directory.
    :param deployments: options of its deployments, as in Serve's configuration:
        ``[{"name": "Model", "num_replicas": 2}]``.
    :param options: the application's other keys, as Serve calls them (``logging_config``, ...).
    :param cluster: the handle that ``SetupRayCluster`` returned, e.g. ``setup.output``; else the connection's cluster.
    :param http_options: where Serve listens (``host``, ``port``, ...), if this task is the one that starts it. A Serve
        that runs can't be changed. Default: Ray's, and loopback with a free port on a local cluster.
    :param serve_url: where Serve's proxies are reached, if the dashboard's address does not tell (behind an Ingress).
    :param smoke_test: one request that has to be answered as expected: ``path``, ``method``, ``send`` (JSON), and of
        the answer ``status``, ``json``, ``text``; ``timeout_seconds``.
    :param timeout_seconds: until it has to run.
    :param keep_on_failure: leave an application that does not run as it is, for inspection.
    :param max_unreachable_seconds: how long a dashboard that does not answer is waited for.
    :param allow_in_package: files in the packages that are meant, although they look like secrets.
    :param deferrable: wait in the triggerer. Default: Airflow's setting ``[operators] default_deferrable``.
    :param kwargs: arguments of any operator.
    """

    template_fields: Sequence[str] = (
        "conn_id",
        "name",
        "import_path",
        "route_prefix",
        "args",
        "runtime_env",
        "deployments",
        "options",
        "cluster",
        "http_options",
        "serve_url",
        "smoke_test",
        "timeout_seconds",
        "max_unreachable_seconds",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = dict.fromkeys(
        ("args", "runtime_env", "deployments", "options", "cluster", "http_options", "smoke_test"), "json"
    )
    operator_extra_links = (RayDashboardLink(),)
    ui_color = "#d6f0ff"

    def __init__(
        self,
        *,
        conn_id: str = RayHook.default_conn_name,
        name: str,
        import_path: str,
        route_prefix: str | None = "/",
        args: dict[str, Any] | None = None,
        runtime_env: dict[str, Any] | str | None = None,
        deployments: list[dict[str, Any]] | str | None = None,
        options: dict[str, Any] | None = None,
        cluster: Any = None,
        http_options: dict[str, Any] | None = None,
        serve_url: str | None = None,
        smoke_test: dict[str, Any] | None = None,
        timeout_seconds: float | str | timedelta = 600,
        keep_on_failure: bool = False,
        max_unreachable_seconds: float | str = 600,
        allow_in_package: Sequence[str] = (),
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.name = name
        self.import_path = import_path
        self.route_prefix = route_prefix
        self.args = args
        self.runtime_env = runtime_env
        self.deployments = deployments
        self.options = options
        self.cluster = cluster_of_group.named(cluster)
        if cluster is None:
            cluster_of_group.join(self, kwargs, default_conn_id=RayHook.default_conn_name)
        self.http_options = http_options
        self.serve_url = serve_url
        self.smoke_test = smoke_test
        self.timeout_seconds = timeout_seconds
        self.keep_on_failure = keep_on_failure
        self.max_unreachable_seconds = max_unreachable_seconds
        self.allow_in_package = allow_in_package
        self.deferrable = deferrable
        self._run: ServeRun | None = None

    # -- what Airflow calls --------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> dict[str, Any]:
        """Deploy it, and wait in the worker or in the triggerer.

        :param context: of the task.
        :return: the application's handle, as data.
        """
        with errors_for_airflow():
            wanted = deploy_of(self, folders_of(context))
            return self._deploy(context, wanted, deadline_of(context, wanted.timeout_seconds, self.execution_timeout))

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Go on after the trigger fired.

        :param context: of the task.
        :param event: the trigger's.
        :return: the application's handle, as data.
        :raises ServeError: it does not run.
        """
        from ray_provider.serve.deploy import Written

        with errors_for_airflow():
            if event["status"] == "failed":
                raise failure.read(event["error"], ServeError)
            wanted = deploy_of(self, folders_of(context))
            written = Written.from_dict(event["written"])
            if event["status"] == "overwritten":
                return self._deploy(context, wanted, float(event["deadline"]), before=written)
            run = self._new_run()
            return self._done(context, run, run.conclude(wanted, written))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral. Where the trigger failed or timed out, nobody watches it: put back what was there.

        :param next_method: that Airflow goes on with.
        :param next_kwargs: of it: the trigger's event, or an error.
        :param context: of the task.
        """
        gone = triggerer.why_gone(next_method, next_kwargs)
        if gone is not None and not self.keep_on_failure:
            triggerer.take_back(
                self, context, gone, what=f"application {self.name!r}", key=xcom_keys.WRITTEN, how=self._take_back
            )
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Put back what was there before."""
        if self._run is not None:
            self._run.kill()

    # -- steps ---------------------------------------------------------------------------------------------------------

    @property
    def hook(self) -> RayHook:
        """The connection's hook."""
        return RayHook(self.conn_id, allowed=allowed_by(self))

    def _new_run(self) -> ServeRun:
        self._run = ServeRun(self.hook, self.log, named_cluster(self.cluster), keep=self.keep_on_failure)
        return self._run

    def _deploy(
        self, context: Context, wanted: Deploy, deadline: float, *, before: Written | None = None
    ) -> dict[str, Any]:
        run = self._new_run()
        allow = names("allow_in_package", self.allow_in_package)
        found = run.deploy(wanted, deadline=deadline, defer=self.deferrable, before=before, allow=allow)
        self._link(context, run)
        if isinstance(found, Waits):
            self._defer(context, run, found, wanted, deadline)
        return self._done(context, run, found)

    def _link(self, context: Context, run: ServeRun) -> None:
        page = f"{run.dashboard}/#/serve/applications/{quote(str(self.name), safe='')}"
        context["ti"].xcom_push(key=xcom_keys.LINK, value=page)

    def _done(self, context: Context, run: ServeRun, handle: ServeHandle) -> dict[str, Any]:
        self._link(context, run)
        context["ti"].xcom_push(key=xcom_keys.URL, value=handle.url)
        if handle.url:
            self.log.info("Application %r answers at %s", handle.name, handle.url)
        elif handle.route_prefix is not None:
            self.log.info("The dashboard's address does not tell where Serve answers: give serve_url.")
        return handle.to_dict()

    def _defer(self, context: Context, run: ServeRun, waits: Waits, wanted: Deploy, deadline: float) -> NoReturn:
        triggerer.defer(
            self,
            context,
            RayServeTrigger(
                conn_id=self.conn_id,
                name=self.name,
                deadline=deadline,
                written=waits.written,
                cluster=run.cluster.to_dict() if run.cluster else None,
                keep=self.keep_on_failure,
                max_unreachable_seconds=wanted.max_unreachable_seconds,
                deferred_at=time.time(),
            ),
            what=f"application {self.name!r}",
            left=(xcom_keys.WRITTEN, waits.written),
            timeout=triggerer.time_left(deadline, _BACKSTOP_SECONDS),
        )

    def _take_back(self, written: Mapping[str, Any]) -> str:
        from ray_provider.serve.deploy import Written

        return self._new_run().take_back(Written.from_dict(written))


class DeleteServeApplication(BaseOperator):
    """Deletes one application of Ray Serve, and waits until it is gone. Other applications stay as they are.

    No error where there is none. Serve itself goes on: it goes with its cluster. One that a job made (``serve.run``) is
    not deleted by Serve's REST API: that is an error. Use it as a teardown:
    ``DeleteServeApplication(application=deploy.output).as_teardown(setups=deploy)``.

    :param conn_id: connection of type ``ray``.
    :param application: the handle that ``DeployServeApplication`` returned: it says the cluster, too.
    :param name: of the application, where there is no handle.
    :param cluster: the handle that ``SetupRayCluster`` returned, with ``name``; else the connection's cluster.
    :param timeout_seconds: until it has to be gone. Its replicas end the requests in flight first.
    :param kwargs: arguments of any operator.
    """

    template_fields: Sequence[str] = ("conn_id", "application", "name", "cluster", "timeout_seconds")
    template_fields_renderers: ClassVar[dict[str, str]] = {"application": "json", "cluster": "json"}
    ui_color = "#d6f0ff"

    def __init__(
        self,
        *,
        conn_id: str = RayHook.default_conn_name,
        application: Any = None,
        name: str | None = None,
        cluster: Any = None,
        timeout_seconds: float | str | timedelta = 120,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.application = application
        self.name = name
        self.cluster = cluster_of_group.named(cluster)
        if cluster is None and application is None:
            cluster_of_group.join(self, kwargs, default_conn_id=RayHook.default_conn_name)
        self.timeout_seconds = timeout_seconds
        self._run: ServeRun | None = None

    def execute(self, context: Context) -> bool:  # noqa: ARG002
        """Delete it.

        :param context: of the task.
        :return: whether there was one.
        """
        with errors_for_airflow():
            name, cluster = which_application(self.application, self.name, self.cluster)
            timeout = float(number("timeout_seconds", self.timeout_seconds, above=True) or 120.0)
            self._run = ServeRun(RayHook(self.conn_id, allowed=allowed_by(self)), self.log, cluster)
            return self._run.delete(name, timeout)

    def on_kill(self) -> None:
        """End the waiting. What was written stays: the application goes."""
        if self._run is not None:
            self._run.kill()
