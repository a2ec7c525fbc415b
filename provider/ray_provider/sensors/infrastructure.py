"""Wait until infrastructure is no longer what its module says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray_provider._compat import BaseSensorOperator, PokeReturnValue
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.hooks.terraform import TerraformTask
from ray_provider.infrastructure.handle import InfrastructureHandle

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class InfrastructureDriftSensor(TerraformTask, BaseSensorOperator):
    """Succeeds when the infrastructure is no longer what module and variables say: somebody changed it, or them.

    Each look is a plan without a lock, half a minute of a worker; so the sensor gives its slot back between looks
    (``mode="reschedule"``). It changes nothing. Returns the report: what an apply would change, and what was changed
    outside of Terraform.

    For the other parameters see :class:`~ray_provider.hooks.terraform.TerraformTask`.

    :param infrastructure: the handle that ``SetupRayInfrastructure`` returned. Module, backend, workspace and variables
        come from it unless they are given here; secrets have to be given again.
    :param mode: as of any sensor. Default: ``reschedule``: it holds no worker between looks.
    :param poke_interval: seconds between looks. Default: an hour.
    :param kwargs: arguments of any sensor.
    """

    template_fields: Sequence[str] = (*TerraformTask.terraform_fields, "infrastructure")

    def __init__(
        self, *, infrastructure: Any = None, mode: str = "reschedule", poke_interval: float = 3600, **kwargs: Any
    ) -> None:
        super().__init__(mode=mode, poke_interval=poke_interval, **kwargs)
        self.infrastructure = infrastructure

    def poke(self, context: Context) -> Any:
        """Look once.

        :param context: of the task.
        :return: the report, once there is drift.
        """
        from ray_provider.infrastructure.guards import guard_missing
        from ray_provider.infrastructure.plan import GUARDED_TYPES

        with errors_for_airflow():
            handle = None if self.infrastructure is None else InfrastructureHandle.from_dict(self.infrastructure)
            with self.new_run(context, handle) as run:
                before = run.state
                summary = run.plan(lock=False)
                guard_missing(
                    summary.deleted_outside(GUARDED_TYPES), before, lambda: self.cloud(run), doing="The report"
                )
                for line in summary.lines():
                    self.log.info("%s", run.redactor(line))
        return PokeReturnValue(is_done=not summary.is_empty, xcom_value=summary.to_dict())
