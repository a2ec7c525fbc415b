"""Wait for an application of Ray Serve that this task did not deploy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from ray_provider import cluster_of_group
from ray_provider._compat import BaseSensorOperator, PokeReturnValue, conf
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.exceptions import RayProviderError, ServeError, ServeFailedError, ServeTimeoutError
from ray_provider.hooks.allowed import allowed_by
from ray_provider.hooks.peer import run_sync
from ray_provider.hooks.ray import RayHook
from ray_provider.hooks.serve_application import which_application
from ray_provider.sensors.ending import told
from ray_provider.triggers import failure
from ray_provider.triggers.serve import RayServeTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.handle import ClusterHandle
    from ray_provider.serve.state import ApplicationState


class RayServeSensor(BaseSensorOperator):
    """Waits until an application of Ray Serve runs. Returns its name. Changes nothing.

    One that is not there yet is waited for, whoever deploys it, by REST or by a job. One that can't run fails the task,
    with the reason.

    :param conn_id: connection of type ``ray``.
    :param application: the handle that ``DeployServeApplication`` returned: it says the cluster, too.
    :param name: of the application, where there is no handle.
    :param cluster: the handle that ``SetupRayCluster`` returned, with ``name``; else the connection's cluster.
    :param max_unreachable_seconds: how long a dashboard that does not answer is waited for (only where ``deferrable``).
    :param deferrable: wait in the triggerer, whatever ``mode`` says.
    :param kwargs: arguments of any sensor. ``soft_fail``: an application that can't run, or does not in time, skips the
        task.
    """

    template_fields: Sequence[str] = ("conn_id", "application", "name", "cluster")
    template_fields_renderers: ClassVar[dict[str, str]] = {"application": "json", "cluster": "json"}

    def __init__(
        self,
        *,
        conn_id: str = RayHook.default_conn_name,
        application: Any = None,
        name: str | None = None,
        cluster: Any = None,
        max_unreachable_seconds: float = 600,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.application = application
        self.name = name
        self.cluster = cluster_of_group.named(cluster)
        if cluster is None and application is None:
            cluster_of_group.join(self, kwargs, default_conn_id=RayHook.default_conn_name)
        self.max_unreachable_seconds = max_unreachable_seconds
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Wait, in the worker by poking, or in the triggerer.

        :param context: of the task.
        :return: the application's name.
        """
        if not self.deferrable:
            return super().execute(context)
        if self.poke(context):
            return self._which()[0]
        name, cluster = self._which()
        now = time.time()
        return self.defer(
            trigger=RayServeTrigger(
                conn_id=self.conn_id,
                name=name,
                deadline=now + float(self.timeout),
                cluster=cluster.to_dict() if cluster else None,
                max_unreachable_seconds=float(self.max_unreachable_seconds),
                deferred_at=now,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=float(self.timeout) + 120.0),
        )

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002
        """Look once.

        :param context: of the task.
        :return: the application's name, once it runs.
        :raises ServeFailedError: it can't run.
        """
        with errors_for_airflow(self._told):
            name, cluster = self._which()
            found = run_sync(lambda: self._look(name, cluster))
            self.log.info("Application %r: %s", name, found.status if found else "not there yet")
            return PokeReturnValue(found is not None and found.status == "RUNNING", name)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Go on after the trigger fired.

        :param context: of the task.
        :param event: the trigger's.
        :raises ServeError: the application can't run.
        """
        if event["status"] == "running":
            self.log.info("Application %r: RUNNING", event["name"])
            return str(event["name"])
        raise self._told(failure.read(event["error"], ServeError))

    def _which(self) -> tuple[str, ClusterHandle | None]:
        return which_application(self.application, self.name, self.cluster)

    def _told(self, error: RayProviderError) -> Exception:
        return told(
            self,
            error,
            final=isinstance(error, ServeFailedError),
            timed_out=isinstance(error, ServeTimeoutError),
        )

    async def _look(self, name: str, cluster: ClusterHandle | None) -> ApplicationState | None:
        from ray_provider.serve.client import ServeClient
        from ray_provider.serve.waiting import failure

        endpoint = await RayHook(self.conn_id, allowed=allowed_by(self)).endpoint(cluster)
        async with ServeClient(endpoint) as client:
            found = (await client.state()).applications.get(name)
            if found is not None and found.status == "DEPLOY_FAILED":
                raise await failure(client, found)
            return found
