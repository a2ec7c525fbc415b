"""Wait for a Ray cluster that this task did not make."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ray_provider._compat import BaseSensorOperator, PokeReturnValue, conf
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import (
    ClusterError,
    ClusterFailedError,
    ClusterTimeoutError,
    ConfigurationError,
    RayProviderError,
)
from ray_provider.hooks.allowed import allowed_by
from ray_provider.hooks.peer import run_sync
from ray_provider.hooks.ray import RayHook
from ray_provider.sensors.ending import told
from ray_provider.triggers import failure
from ray_provider.triggers.cluster import RayClusterTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.handle import Access
    from ray_provider.clusters.kuberay.readiness import ReadinessOptions


#: How long one look lasts with ``mode="reschedule"``: enough to read all there is, and to see a cause that is there.
_LOOK_SECONDS = 8.0


class RayClusterSensor(BaseSensorOperator):
    """Waits until a Ray cluster on Kubernetes is ready, by watching it. Returns its handle. Never deletes it.

    For a cluster that somebody else keeps: Argo CD, another DAG, a person.

    :param conn_id: connection of type ``ray``.
    :param cluster: the handle that ``SetupRayCluster`` returned.
    :param name: of the RayCluster, where there is no handle.
    :param namespace: its namespace, with ``name``.
    :param wait_for_workers: true: all workers that are wanted; false: only the head; or a number of them.
    :param scheduling_timeout_seconds: how long a pod may wait for a node.
    :param access: how the dashboard is reached; else as the connection says.
    :param deferrable: wait in the triggerer, whatever ``mode`` says.
    :param kwargs: arguments of any sensor. ``mode="poke"``: watch in the worker, and notice the end at once;
        ``"reschedule"``: look every ``poke_interval`` seconds (Airflow's default: 60), and give the worker's slot back
        between. ``timeout``: seconds for all of it (Airflow's default: a week); a time-out is not retried.
        ``soft_fail``: a cluster that is not ready in time, or can't become so, skips the task.
    """

    template_fields: Sequence[str] = ("conn_id", "cluster", "name", "namespace", "access")
    template_fields_renderers: ClassVar[dict[str, str]] = {"cluster": "json"}

    def __init__(
        self,
        *,
        conn_id: str = RayHook.default_conn_name,
        cluster: Any = None,
        name: str | None = None,
        namespace: str | None = None,
        wait_for_workers: bool | int = True,
        scheduling_timeout_seconds: float = 300,
        access: str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.cluster = cluster
        self.name = name
        self.namespace = namespace
        self.wait_for_workers = wait_for_workers
        self.scheduling_timeout_seconds = scheduling_timeout_seconds
        self.access = access
        self.deferrable = deferrable
        self._deadline: float | None = None

    def execute(self, context: Context) -> Any:
        """Wait, in the worker or in the triggerer.

        :param context: of the task.
        :return: the cluster's handle, as data.
        """
        self._deadline = time.time() + float(self.timeout)
        if not self.deferrable:
            return super().execute(context)
        with errors_for_airflow(self._told):
            handle = self._handle()
        now = time.time()
        return self.defer(
            trigger=RayClusterTrigger(
                conn_id=self.conn_id,
                cluster=handle.to_dict(),
                readiness=self._readiness().to_dict(),
                deadline=now + float(self.timeout),
                access=self.access,
                keep=True,
                deferred_at=now,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=float(self.timeout) + 120.0),
        )

    def poke(self, context: Context) -> bool | PokeReturnValue:  # noqa: ARG002
        """Watch the cluster: to the end of the time, or with ``mode="reschedule"`` for some seconds.

        :param context: of the task.
        :return: the cluster's handle, as data, once it is ready.
        :raises ClusterError: it can't become ready, or has not in time.
        """
        with errors_for_airflow(self._told):
            try:
                handle = self._handle()
                ready = run_sync(lambda: self._wait(handle))
            except ClusterTimeoutError as error:
                if not self.reschedule:
                    raise
                self.log.info("%s", error.message)
                return False
        return PokeReturnValue(is_done=True, xcom_value=ready.to_dict())

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Go on after the trigger fired.

        :param context: of the task.
        :param event: the trigger's.
        :raises ClusterError: the cluster can't become ready.
        """
        if event["status"] == "ready":
            self.log.info("Ray cluster %s/%s is ready.", event["cluster"]["namespace"], event["cluster"]["name"])
            return dict(event["cluster"])
        raise self._told(failure.read(event["error"], ClusterError))

    def _told(self, error: RayProviderError) -> Exception:
        return told(
            self,
            error,
            final=isinstance(error, ClusterFailedError),
            timed_out=isinstance(error, ClusterTimeoutError),
        )

    @property
    def hook(self) -> RayHook:
        """The connection's hook."""
        return RayHook(self.conn_id, allowed=allowed_by(self))

    async def _wait(self, handle: ClusterHandle) -> ClusterHandle:
        from ray_provider.clusters.lifecycle.waiting import wait_ready

        hook = self.hook
        config = await hook.aconfig()
        return await wait_ready(
            await hook.akubernetes_access(handle.kubernetes),
            handle,
            self._readiness(),
            access=cast("Access", self.access or config.access),
            deadline=time.time() + _LOOK_SECONDS if self.reschedule else self._deadline,
            say=lambda line: self.log.info("%s", line),
        )

    def _handle(self) -> ClusterHandle:
        if self.cluster:
            if not isinstance(self.cluster, Mapping):
                raise ConfigurationError(
                    f"`cluster` is a {type(self.cluster).__name__}, not the handle that SetupRayCluster returns.",
                    hint="Pass its return value: cluster=setup.output.",
                )
            found = ClusterHandle.from_dict(self.cluster)
            # Before it is handed to the triggerer, which looks at nothing any more.
            run_sync(lambda: self.hook.access_of(found))
            return found
        if not self.name:
            raise ConfigurationError("No cluster is named.", hint="Give cluster=setup.output, or name=...")
        kube_access = self.hook.kubernetes_access()
        return ClusterHandle(
            backend="kubernetes",
            name=self.name,
            address="",
            namespace=kube_access.namespace_or_default(self.namespace),
            service=f"{self.name}-head-svc",
            created=False,
        )

    def _readiness(self) -> ReadinessOptions:
        from ray_provider.clusters.kuberay.readiness import ReadinessOptions

        return ReadinessOptions(
            timeout_seconds=float(self.timeout),
            wait_for_workers=self.wait_for_workers,
            scheduling_seconds=float(self.scheduling_timeout_seconds),
        )
