"""Set infrastructure up with Terraform, and delete it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from ray_provider._compat import AirflowFailException, BaseOperator, deployment_name
from ray_provider._shared import xcom_keys
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.exceptions import ConfigurationError, InfrastructureError, RayProviderError
from ray_provider.hooks.terraform import TerraformTask
from ray_provider.infrastructure.errors import TerraformInterruptedError
from ray_provider.infrastructure.handle import InfrastructureHandle
from ray_provider.infrastructure.idle import check_prices
from ray_provider.infrastructure.plan import GUARDED_TYPES, PlanSummary

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.hooks.cloud_cluster import CloudCluster
    from ray_provider.infrastructure.run import InfrastructureRun

_LIVE = ("refuse", "ignore")
_ON_FAILURE = ("keep", "destroy")


class SetupRayInfrastructure(TerraformTask, BaseOperator):
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
    :param allow_drifted: addresses of guarded resources that are known to be gone, with ``*`` for anything. A plan that
        makes anew what the refresh did not find is refused unless the cloud says that it is gone.
    :param on_failure: what becomes of what a failed first set-up made: ``keep`` it (the next try goes on from there,
        and ``DeleteRayInfrastructure(trigger_rule="all_done")`` takes it back), or ``destroy`` it.
    :param ttl: how long the infrastructure is needed after each set-up, e.g. ``12h`` or a ``timedelta``. It is written
        on the cluster (tag ``airflow-ray-expires``); ``ray-provider reap --infrastructure`` deletes what is past it.
        Nothing ends by itself.
    :param kwargs: arguments of ``TerraformTask``, and of any operator.
    """

    template_fields: Sequence[str] = (*TerraformTask.terraform_fields, "ttl")
    template_fields_renderers: ClassVar[dict[str, str]] = {"variables": "json"}
    ui_color = "#e6e0ff"

    def __init__(
        self,
        *,
        module: str = "eks",
        allow_destroy: bool = False,
        allow_replace: bool = False,
        guarded_types: Iterable[str] = GUARDED_TYPES,
        plan_only: bool = False,
        hourly_prices: Mapping[str, float] | None = None,
        allow_drifted: Iterable[str] = (),
        on_failure: str = "keep",
        ttl: str | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module=module, **kwargs)
        self.ttl = ttl
        self.allow_drifted = allow_drifted
        self.on_failure = on_failure
        self.allow_destroy = allow_destroy
        self.allow_replace = allow_replace
        self.guarded_types = guarded_types
        self.plan_only = plan_only
        self.hourly_prices = hourly_prices

    def execute(self, context: Context) -> dict[str, Any]:
        """Plan, check, apply.

        :param context: of the task.
        :return: the handle, as data.
        :raises AirflowFailException: an argument can't work, or a plan is refused: another try would not help.
        """
        if self.on_failure not in _ON_FAILURE:
            raise AirflowFailException(f"on_failure: it has to be one of {', '.join(_ON_FAILURE)}.")
        with errors_for_airflow():
            prices = check_prices(self.hourly_prices)
            lasting = self._lasting()
            run = self.new_run(context)
            self._hand_on(context, run.first_handle())
            with run:
                self._mark(context, run, lasting)
                self._hand_on(context, self._handle(run, complete=False))
                summary = self._checked_plan(context, run, prices)
                if self.plan_only:
                    self.log.info("plan_only is set: nothing is changed.")
                elif summary.is_empty:
                    self.log.info("Nothing is to be changed.")
                else:
                    self._apply(run)
                self._renew(run)
                return self._handle(run, complete=not self.plan_only).to_dict()

    def _lasting(self) -> timedelta | None:
        """Give for how long it is needed."""
        from ray_provider.reaper import parse_age

        if not self.ttl:
            return None
        lasting = self.ttl if isinstance(self.ttl, timedelta) else parse_age(str(self.ttl), "ttl")
        if lasting < timedelta(minutes=1):
            raise ConfigurationError(f"ttl: {self.ttl} is less than a minute.", field="ttl")
        return lasting

    def _mark(self, context: Context, run: InfrastructureRun, lasting: timedelta | None) -> None:
        """Have it marked whose it is, until when, and where its state lies."""
        from ray_provider.infrastructure.cloud.marks import USED, Tags, owner_tags, run_tags, state_tags
        from ray_provider.infrastructure.module.made_by import own_version
        from ray_provider.infrastructure.module.source import ModuleSource

        if not run.can_be_marked:
            if lasting is not None:
                raise ConfigurationError(
                    f"ttl: the module {ModuleSource.parse(run.spec.module).public} has no variables for the tags of its"
                    " cluster: the end would be written there. Nothing was made.",
                    hint="Leave `ttl` out, or give the module the variables `tags` and `cluster_tags` (on Google Cloud"
                    " `labels` and `cluster_labels`), as the bundled ones have them.",
                    field="ttl",
                )
            return
        name = str(run.spec.variables.get("name") or run.state.cluster_name or "")
        owner = {"airflow": deployment_name(), "dag": str(self.dag_id), "task": str(self.task_id)}
        mine = owner_tags(owner, name)
        # Who made it stays its owner. What an earlier release made stays without: a new tag in a launch template would
        # replace each node.
        everywhere = run.tags.everywhere if run.state.resources else mine
        ends = None if lasting is None else datetime.now(tz=UTC) + lasting
        cluster = {
            **mine,
            **everywhere,
            **state_tags(ModuleSource.parse(run.spec.module).public, run.backend.public(), run.spec.workspace),
            **run_tags(str(context.get("run_id") or ""), ends, own_version()),
        }
        if not run.state.clusters:
            cluster[USED] = "no"
        elif not everywhere:
            cluster |= {key: value for key, value in run.tags.cluster.items() if key in mine}
        run.mark(Tags(everywhere, cluster))

    def _renew(self, run: InfrastructureRun) -> None:
        """Write run and end on a cluster that was there already."""
        clusters = run.state.clusters
        if self.plan_only or not clusters or not run.can_be_marked:
            return
        from ray_provider.hooks.cloud_marks import renew

        location = clusters[0].region or clusters[0].text("location")
        renew(self.cloud(run), clusters[0].text("name"), location, run.tags, self.log.warning)

    def _checked_plan(self, context: Context, run: InfrastructureRun, prices: Mapping[str, float]) -> PlanSummary:
        from ray_provider.infrastructure.guards import guard_missing, guard_new_cluster

        before = run.state
        if not before.clusters and not self.plan_only:
            guard_new_cluster(*run.wanted_cluster(), run.backend.label, lambda: self.cloud(run), self.log.info)
        summary = run.plan()
        for line in summary.lines():
            self.log.info("%s", run.redactor(line))
        for line in summary.idle.lines(prices) if summary.idle is not None else ():
            self.log.info("%s", line)
        context["ti"].xcom_push(key=xcom_keys.PLAN, value=summary.to_dict())
        guarded = tuple(self.guarded_types)
        guard_missing(
            summary.deleted_outside(guarded),
            before,
            lambda: self.cloud(run),
            allow_drifted=self.allow_drifted,
            doing="The plan",
        )
        summary.guard(allow_destroy=self.allow_destroy, allow_replace=self.allow_replace, guarded=guarded)
        return summary

    def _apply(self, run: InfrastructureRun) -> None:
        """Apply; after a failure destroy what was made, if that is wanted and nothing was there before."""
        nothing_before = not run.state.resources
        try:
            run.apply()
            run.read_state()
        except TerraformInterruptedError:
            raise
        except InfrastructureError as error:
            if self.on_failure != "destroy":
                raise
            if not nothing_before:
                self.log.warning(
                    "The apply failed. on_failure='destroy' takes back only what a first set-up made: the state held"
                    " resources before, which stay."
                )
                raise
            self.log.warning(
                "The apply failed, and what it made is destroyed (on_failure='destroy'): %s", error.message
            )
            try:
                run.read_state()
                run.plan(destroy=True)
                run.apply()
                left = run.read_state().addresses
            except RayProviderError as second:
                error.add_note(f"What was made could not be destroyed: {second.message}")
                raise error from second
            error.add_note(
                f"What was made is in the state still: {', '.join(left)}" if left else "What was made was destroyed."
            )
            raise

    def _handle(self, run: InfrastructureRun, *, complete: bool) -> InfrastructureHandle:
        from ray_provider.infrastructure.module.settings import public_settings
        from ray_provider.infrastructure.module.source import ModuleSource

        return InfrastructureHandle(
            module=ModuleSource.parse(run.spec.module).public,
            backend=run.backend.public(),
            workspace=run.spec.workspace,
            variables=run.public_variables(),
            outputs=run.outputs().public(),
            aws_conn_id=self.aws_conn_id,
            gcp_conn_id=self.gcp_conn_id,
            providers=public_settings(run.spec.providers),
            place=run.place(),
            made_by=run.made_by(),
            complete=complete,
        )

    def _hand_on(self, context: Context, handle: InfrastructureHandle) -> None:
        """Push the handle before anything is made: whoever deletes needs it most when this task fails."""
        context["ti"].xcom_push(
            key="return_value",
            value=replace(handle, aws_conn_id=self.aws_conn_id, gcp_conn_id=self.gcp_conn_id).to_dict(),
        )


class DeleteRayInfrastructure(TerraformTask, BaseOperator):
    """Destroys what ``SetupRayInfrastructure`` made. Doing so again finds nothing, and succeeds.

    The order is: Ray clusters first (``DeleteRayCluster``, upstream of this task), then pools, cluster, network as
    Terraform orders them. While Ray clusters, load balancers, machines of Karpenter or disks of volume claims live in
    the cluster, it refuses: they are not in the state, would stay behind, cost money and keep the network from going.

    For the other parameters see :class:`~ray_provider.hooks.terraform.TerraformTask`.

    :param confirm: the name of the cluster that is to be destroyed (the module's variable ``name``).
    :param infrastructure: the handle that ``SetupRayInfrastructure`` returned. Module, backend, workspace and variables
        come from it unless they are given here; secrets have to be given again.
    :param live_clusters: ``refuse`` while Ray clusters live there, or ``ignore`` them.
    :param allow_drifted: addresses of resources that are known to be gone, with ``*`` for anything. A destroy that does
        not find all that the state lists is refused unless the cloud says that the rest is gone.
    :param kwargs: arguments of ``TerraformTask``, and of any operator.
    """

    template_fields: Sequence[str] = (*TerraformTask.terraform_fields, "infrastructure", "confirm")
    template_fields_renderers: ClassVar[dict[str, str]] = {"variables": "json"}
    ui_color = "#f5dada"

    def __init__(
        self,
        *,
        confirm: str,
        infrastructure: Any = None,
        live_clusters: str = "refuse",
        allow_drifted: Iterable[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.allow_drifted = allow_drifted
        self.confirm = confirm
        self.infrastructure = infrastructure
        self.live_clusters = live_clusters

    def execute(self, context: Context) -> dict[str, Any]:
        """Check, plan the destroy, apply it.

        :param context: of the task.
        :return: how many resources were destroyed.
        """
        with errors_for_airflow():
            return self.delete(context)

    def delete(self, context: Context | dict[str, Any]) -> dict[str, Any]:
        """Do what the task does, for a caller that knows this package's errors.

        :param context: of the task; may be empty.
        :return: how many resources were destroyed.
        :raises RayProviderError: it was refused, or failed.
        """
        if self.live_clusters not in _LIVE:
            raise ConfigurationError(f"live_clusters: it has to be one of {', '.join(_LIVE)}.", field="live_clusters")
        if not isinstance(self.confirm, str) or not self.confirm.strip():
            raise ConfigurationError("confirm: give the name of the cluster that is to be destroyed.", field="confirm")
        from ray_provider.infrastructure.removal import Removal, remove

        handle = None if self.infrastructure is None else InfrastructureHandle.from_dict(self.infrastructure)
        if handle is None and not self.module:
            raise ConfigurationError(
                "infrastructure: there is no handle: SetupRayInfrastructure was not run, or ended before it knew"
                " where its"
                " state lies.",
                hint="If there is something to delete, give `module`, `backend` and, if it was used, `workspace`.",
                field="infrastructure",
            )
        with self.new_run(context, handle, destroy=True, name=self.confirm) as run:
            removal = Removal(
                confirm=self.confirm,
                cloud=lambda: self.cloud(run),
                refuse_if_used=lambda outputs: self._refuse_if_used(run, outputs),
                known=(handle.name if handle else None) or run.spec.variables.get("name"),
                outputs=handle.outputs if handle else {},
                place=handle.place if handle else {},
                allow_drifted=self.allow_drifted,
            )
            return {"destroyed": remove(run, removal)}

    def _refuse_if_used(self, run: InfrastructureRun, outputs: Mapping[str, Any]) -> None:
        if self.live_clusters == "ignore":
            return
        from ray_provider.hooks.cloud import users_of_cluster
        from ray_provider.hooks.cloud_cluster import CloudCluster
        from ray_provider.hooks.peer import run_sync

        cluster = CloudCluster.of(
            InfrastructureHandle(module=run.spec.module, backend={}, outputs=outputs),
            aws_conn_id=self.aws_conn_id,
            gcp_conn_id=self.gcp_conn_id,
        )
        try:
            users = run_sync(lambda: users_of_cluster(cluster))
        except InfrastructureError as error:
            self._may_go_unseen(run, cluster, error)
            return
        if users:
            raise InfrastructureError(
                f"The cluster {cluster.name} is in use: {', '.join(users)}. Nothing was destroyed.",
                hint="Delete them first (DeleteRayCluster, DeleteRayAddons for node pools, volume claims by kubectl) or"
                ' set `live_clusters="ignore"`: then they stay.',
                users=users,
            )

    def _may_go_unseen(self, run: InfrastructureRun, cluster: CloudCluster, error: InfrastructureError) -> None:
        """Let a cluster go that can't be looked into, if it is on record that no Ray cluster was ever set up on it.

        :raises InfrastructureError: one was, or nothing is recorded.
        """
        from ray_provider.hooks.cloud_marks import never_used

        try:
            unused = never_used(self.cloud(run), cluster.name, cluster.location)
        except RayProviderError:
            unused = None
        if unused:
            self.log.warning(
                "%s It goes all the same: by its tag `airflow-ray-used` no Ray cluster was ever set up on it.",
                error.message,
            )
            return
        said = "a Ray cluster was set up on it" if unused is False else "nothing says that none was ever set up on it"
        raise InfrastructureError(
            f"{error.message} Nothing was destroyed: {said}. Its load balancers and disks are not in the state: they"
            " would stay, cost money and keep the network from going.",
            hint="Run this task where the Kubernetes API can be reached (a worker in its network; for a public endpoint"
            " `endpoint_public_access_cidrs`). Or look from elsewhere (kubectl get rayclusters,services -A), delete"
            ' what is there, and set `live_clusters="ignore"`.',
            cluster=cluster.name,
            used=None if unused is None else not unused,
        ) from error
