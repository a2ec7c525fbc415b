"""Set infrastructure up with Terraform, and delete it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ray_provider._compat import BaseOperator
from ray_provider.exceptions import ConfigurationError, InfrastructureError, RayProviderError
from ray_provider.hooks.terraform import TerraformTask
from ray_provider.infrastructure.handle import InfrastructureHandle
from ray_provider.infrastructure.idle import check_prices
from ray_provider.infrastructure.plan import GUARDED_TYPES

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.infrastructure.session import InfrastructureRun

#: XCom with the plan's summary: counts, and what was changed by name.
PLAN_XCOM_KEY = "plan"
_LIVE = ("refuse", "ignore")


class InfrastructureOperator(TerraformTask, BaseOperator):
    """What both have in common. For the parameters see :class:`~ray_provider.hooks.terraform.TerraformTask`."""

    template_fields: Sequence[str] = TerraformTask.terraform_fields
    template_fields_renderers: ClassVar[dict[str, str]] = {"variables": "json"}
    ui_color = "#e6e0ff"


class SetupRayInfrastructure(InfrastructureOperator):
    """Makes or changes a Kubernetes cluster with node pools for Ray, by Terraform (or OpenTofu).

    A plan is made, shown and checked, and exactly that plan is applied. A plan that would destroy or replace a cluster,
    a pool or a store of data is refused unless that is allowed. Nothing to do is done quickly. The task needs a worker
    slot while it runs (a new cluster takes 15 to 20 minutes): Terraform can't wait elsewhere. A killed task interrupts
    Terraform, which saves its state and releases the lock, also when Airflow kills the task's process meanwhile; the
    next try goes on from there.

    Returns a handle (plain data, without anything sensitive) for ``SetupRayCluster``, ``DeleteRayInfrastructure`` and
    ``InfrastructureDriftSensor``; ``handle["outputs"]`` are the module's outputs. Pushes the plan's summary as XCom
    ``plan``.

    For the other parameters see :class:`~ray_provider.hooks.terraform.TerraformTask`.

    :param module: ``eks``, ``gke``, an absolute path, or a git URL.
    :param allow_destroy: a plan may destroy guarded resources (a pool that was taken out of ``variables``, say).
    :param allow_replace: a plan may replace them.
    :param guarded_types: resource types that are guarded, with ``*`` for anything.
    :param plan_only: make the plan and show it; change nothing.
    :param hourly_prices: what one of each thing costs per hour, in your currency, e.g. ``{"control plane": 0.10, "NAT
        gateway": 0.045, "m6i.2xlarge": 0.384}``; the plan then says what runs by the hour with nobody using it.
    """

    def __init__(
        self,
        *,
        module: str = "eks",
        allow_destroy: bool = False,
        allow_replace: bool = False,
        guarded_types: Iterable[str] = GUARDED_TYPES,
        plan_only: bool = False,
        hourly_prices: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module=module, **kwargs)
        self.allow_destroy = allow_destroy
        self.allow_replace = allow_replace
        self.guarded_types = guarded_types
        self.plan_only = plan_only
        self.hourly_prices = hourly_prices

    def execute(self, context: Context) -> dict[str, Any]:
        """Plan, check, apply.

        :param context: of the task.
        :return: the handle, as data.
        """
        try:
            prices = check_prices(self.hourly_prices)
            with self.new_run(context) as run:
                summary = run.plan()
                for line in summary.lines():
                    self.log.info("%s", run.redactor(line))
                for line in summary.idle.lines(prices) if summary.idle is not None else ():
                    self.log.info("%s", line)
                context["ti"].xcom_push(key=PLAN_XCOM_KEY, value=summary.to_dict())
                summary.guard(
                    allow_destroy=self.allow_destroy,
                    allow_replace=self.allow_replace,
                    guarded=tuple(self.guarded_types),
                )
                if self.plan_only:
                    self.log.info("plan_only is set: nothing is changed.")
                elif summary.is_empty:
                    self.log.info("Nothing is to be changed.")
                else:
                    run.apply()
                from ray_provider.infrastructure.backend import Backend
                from ray_provider.infrastructure.source import ModuleSource

                return InfrastructureHandle(
                    module=ModuleSource.parse(run.spec.module).public,
                    backend=Backend.parse(run.spec.backend).public(),
                    workspace=run.spec.workspace,
                    variables=run.public_variables(),
                    outputs=run.outputs().public(),
                    aws_conn_id=self.aws_conn_id,
                    gcp_conn_id=self.gcp_conn_id,
                ).to_dict()
        except RayProviderError as error:
            raise self.for_airflow(error) from error


class DeleteRayInfrastructure(InfrastructureOperator):
    """Destroys what ``SetupRayInfrastructure`` made. Doing so again finds nothing, and succeeds.

    The order is: Ray clusters first (``DeleteRayCluster``, upstream of this task), then pools, cluster, network as
    Terraform orders them. While Ray clusters or load balancers live in the cluster, it refuses: their machines and
    addresses are not in the state, would stay behind and keep the network from going.

    For the other parameters see :class:`~ray_provider.hooks.terraform.TerraformTask`.

    :param infrastructure: the handle that ``SetupRayInfrastructure`` returned. Module, backend, workspace and variables
        come from it unless they are given here; secrets have to be given again.
    :param confirm: the name of the cluster that is to be destroyed (the module's variable ``name``).
    :param live_clusters: ``refuse`` while Ray clusters live there, or ``ignore`` them.
    """

    template_fields: Sequence[str] = (*InfrastructureOperator.template_fields, "infrastructure", "confirm")
    ui_color = "#f5dada"

    def __init__(
        self,
        *,
        confirm: str,
        infrastructure: Any = None,
        live_clusters: str = "refuse",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.confirm = confirm
        self.infrastructure = infrastructure
        self.live_clusters = live_clusters

    def execute(self, context: Context) -> dict[str, Any]:
        """Check, plan the destroy, apply it.

        :param context: of the task.
        :return: how many resources were destroyed.
        """
        try:
            return self._delete(context)
        except RayProviderError as error:
            raise self.for_airflow(error) from error

    def _delete(self, context: Context) -> dict[str, Any]:
        if self.live_clusters not in _LIVE:
            raise ConfigurationError(f"live_clusters: it has to be one of {', '.join(_LIVE)}.", field="live_clusters")
        if not isinstance(self.confirm, str) or not self.confirm.strip():
            raise ConfigurationError("confirm: give the name of the cluster that is to be destroyed.", field="confirm")
        handle = None if self.infrastructure is None else InfrastructureHandle.from_dict(self.infrastructure)
        with self.new_run(context, handle) as run:
            if not run.resources():
                self.log.info("There is nothing in the state: nothing is to be destroyed.")
                return {"destroyed": 0}
            outputs = run.outputs()
            name = (
                outputs.cluster_name
                or (handle and handle.outputs.get("cluster_name"))
                or run.spec.variables.get("name")
            )
            if self.confirm != name:
                raise ConfigurationError(
                    f"confirm: {self.confirm!r} is not the name of what this state holds, {name!r}."
                    " Nothing was destroyed.",
                    field="confirm",
                )
            if self.live_clusters == "refuse" and outputs.cloud and outputs.cluster_name:
                self._refuse_if_used(run, outputs.public())
            summary = run.plan(destroy=True)
            for line in summary.lines():
                self.log.info("%s", run.redactor(line))
            run.apply()
            left = run.resources()
        if left:
            raise InfrastructureError(f"After the destroy the state still holds {', '.join(left)}.", resources=left)
        return {"destroyed": summary.counts["delete"]}

    @staticmethod
    def _name_in(handle: InfrastructureHandle | None) -> Any:
        return handle.outputs.get("cluster_name") if handle else None

    def _refuse_if_used(self, run: InfrastructureRun, outputs: Mapping[str, Any]) -> None:
        from ray_provider.hooks.cloud import users_of_cluster
        from ray_provider.hooks.cloud_cluster import CloudCluster
        from ray_provider.hooks.peer import run_sync

        cluster = CloudCluster.of(
            InfrastructureHandle(module=run.spec.module, backend={}, outputs=outputs),
            aws_conn_id=self.aws_conn_id,
            gcp_conn_id=self.gcp_conn_id,
        )
        users = run_sync(lambda: users_of_cluster(cluster))
        if users:
            raise InfrastructureError(
                f"The cluster {cluster.name} is in use: {', '.join(users)}. Nothing was destroyed.",
                hint='Delete them first (DeleteRayCluster), or set `live_clusters="ignore"`.',
                users=users,
            )
