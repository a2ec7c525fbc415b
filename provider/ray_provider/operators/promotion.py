"""Give a version of a RayService the traffic, or take it back: for a person between the proof and the traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from ray_provider._compat import BaseOperator
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.hooks.allowed import allowed_by
from ray_provider.hooks.ray import RayHook
from ray_provider.operators._job.arguments import number
from ray_provider.operators._rayservice.arguments import named_service, refuse_local
from ray_provider.operators._rayservice.run import RayServiceRun

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_FIELDS = ("conn_id", "service", "name", "namespace", "infrastructure", "timeout_seconds", "drain_seconds")


class PromoteRayService(BaseOperator):
    """Gives the traffic to a version that ``DeployRayService(strategy="blue_green", promote=False)`` has proven.

    The version has to serve, by Serve's own word; else the traffic stays where it is, and the task fails. If it is
    promoted already, nothing changes. One that a later deploy has replaced is refused. Returns which RayService has the
    traffic.

    :param conn_id: connection of type ``ray``.
    :param service: the handle that ``DeployRayService`` returned: this very version is meant.
    :param name: of the Service, where there is no handle: the version that waits is meant.
    :param namespace: with ``name``; else the connection's.
    :param infrastructure: with ``name``: the handle that ``SetupRayInfrastructure`` returned; else the connection's
        Kubernetes.
    :param keep_former: the version before stays until the next deploy, for ``RollbackRayService``.
    :param timeout_seconds: until the version has to say that it serves.
    :param drain_seconds: how long requests in flight have to end where the version before does not stay.
    :param kwargs: arguments of any operator.
    """

    template_fields: Sequence[str] = _FIELDS
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
        keep_former: bool = True,
        timeout_seconds: float | str | timedelta = 60,
        drain_seconds: float | str | timedelta = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.service = service
        self.name = name
        self.namespace = namespace
        self.infrastructure = infrastructure
        self.keep_former = keep_former
        self.timeout_seconds = timeout_seconds
        self.drain_seconds = drain_seconds
        self._run: RayServiceRun | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Promote it.

        :param context: of the task.
        :return: ``namespace``, ``name``, ``active`` (the RayService that has the traffic), ``version``.
        """
        return _move(self, context, back=False, keep=self.keep_former)

    def on_kill(self) -> None:
        """End the waiting. The traffic is at one version or the other, never between."""
        if self._run is not None:
            self._run.kill()


class RollbackRayService(BaseOperator):
    """Takes the traffic from a version of ``DeployRayService(strategy="blue_green")``, back to the one before.

    The version before has to serve, by Serve's own word; else the traffic stays where it is, and the task fails. The
    version that has lost the traffic, or has not got it yet, is taken down. If it is done already, nothing changes.
    Returns which RayService has the traffic.

    :param conn_id: connection of type ``ray``.
    :param service: the handle that ``DeployRayService`` returned: this very version is to have no traffic.
    :param name: of the Service, where there is no handle: the version that has the traffic is meant.
    :param namespace: with ``name``; else the connection's.
    :param infrastructure: with ``name``: the handle that ``SetupRayInfrastructure`` returned; else the connection's
        Kubernetes.
    :param keep_new: the version that has lost the traffic stays, for inspection, until the next deploy.
    :param timeout_seconds: until the version before has to say that it serves.
    :param drain_seconds: how long requests in flight have to end before the other one is taken down.
    :param kwargs: arguments of any operator.
    """

    template_fields: Sequence[str] = _FIELDS
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
        keep_new: bool = False,
        timeout_seconds: float | str | timedelta = 60,
        drain_seconds: float | str | timedelta = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.service = service
        self.name = name
        self.namespace = namespace
        self.infrastructure = infrastructure
        self.keep_new = keep_new
        self.timeout_seconds = timeout_seconds
        self.drain_seconds = drain_seconds
        self._run: RayServiceRun | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Roll it back.

        :param context: of the task.
        :return: ``namespace``, ``name``, ``active`` (the RayService that has the traffic), ``version``.
        """
        return _move(self, context, back=True, keep=self.keep_new)

    def on_kill(self) -> None:
        """End the waiting. The traffic is at one version or the other, never between."""
        if self._run is not None:
            self._run.kill()


def _move(
    operator: PromoteRayService | RollbackRayService, context: Context, *, back: bool, keep: bool
) -> dict[str, Any]:
    with errors_for_airflow():
        timeout = float(number("timeout_seconds", operator.timeout_seconds, above=True) or 60.0)
        drain = float(number("drain_seconds", operator.drain_seconds) or 0.0)
        hook = RayHook(operator.conn_id, allowed=allowed_by(operator))
        refuse_local(hook)
        named = named_service(operator, context)
        operator._run = RayServiceRun(hook, operator.log, named.kubernetes)  # noqa: SLF001 - for its on_kill
        traffic = operator._run.move(named, back=back, keep=keep, timeout=timeout, drain_seconds=drain)  # noqa: SLF001
        return {
            key: value for key, value in asdict(traffic).items() if key in ("namespace", "name", "active", "version")
        }
