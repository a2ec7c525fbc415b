"""Wait for a Ray job that this task did not submit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ray_provider._compat import AirflowFailException, BaseSensorOperator, PokeReturnValue, conf
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.exceptions import ConfigurationError, JobError, JobLostError, JobUnreachableError, RayProviderError
from ray_provider.hooks.allowed import allowed_by
from ray_provider.hooks.peer import run_sync
from ray_provider.hooks.ray import RayHook
from ray_provider.sensors.ending import told
from ray_provider.triggers.job import RayJobTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.jobs.models import JobDetails


class RayJobSensor(BaseSensorOperator):
    """Waits until a Ray job has succeeded; fails if it ends otherwise. Never stops the job.

    For a job that ``SubmitRayJob(wait_for_completion=False)`` submitted, or somebody else.

    :param submission_id: of the job.
    :param conn_id: connection of type ``ray``.
    :param cluster: the handle that ``SetupRayCluster`` returned, if not the connection's cluster.
    :param fetch_logs: pass the job's log on into the task's log (only where ``deferrable``).
    :param max_unreachable_seconds: how long a dashboard that does not answer is waited for (only where ``deferrable``).
    :param deferrable: wait in the triggerer.
    """

    template_fields: Sequence[str] = ("submission_id", "conn_id", "cluster")

    def __init__(
        self,
        *,
        submission_id: str,
        conn_id: str = RayHook.default_conn_name,
        cluster: Any = None,
        fetch_logs: bool = False,
        max_unreachable_seconds: float = 600,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.submission_id = submission_id
        self.conn_id = conn_id
        self.cluster = cluster
        self.fetch_logs = fetch_logs
        self.max_unreachable_seconds = max_unreachable_seconds
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Wait: in the worker by poking, or in the triggerer.

        :param context: of the task.
        """
        if not self.submission_id or not isinstance(self.submission_id, str):
            raise AirflowFailException(f"submission_id is {self.submission_id!r}: no job is named.")
        if not self.deferrable:
            return super().execute(context)
        if self.poke(context):
            return self.submission_id
        return self.defer(
            trigger=RayJobTrigger(
                job_id=self.submission_id,
                conn_id=self.conn_id,
                fetch_logs=self.fetch_logs,
                cluster=self.cluster or None,
                max_unreachable_seconds=self.max_unreachable_seconds,
                cancel_on_kill=False,
                deferred_at=time.time(),
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=float(self.timeout)),
        )

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002
        """Look once. Done, the task returns the submission id.

        :param context: of the task.
        :raises JobError: the job did not succeed.
        """
        with errors_for_airflow(self._told):
            details = run_sync(self._look)
            if details is None:
                raise JobLostError(
                    f"Ray knows no job {self.submission_id}.",
                    hint="Its head may have been restarted since, or the id belongs to another cluster.",
                    submission_id=self.submission_id,
                )
            self.log.info("Job %s: %s", self.submission_id, details.status)
            if details.is_final and not details.is_success:
                from ray_provider.jobs.watch.outcome import JobOutcome

                JobOutcome(
                    submission_id=self.submission_id,
                    kind="final",
                    status=details.status,
                    message=details.message,
                    error_type=details.error_type,
                    driver_exit_code=details.driver_exit_code,
                ).raise_for_status()
            return PokeReturnValue(details.is_success, self.submission_id)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Go on after the trigger fired.

        :param context: of the task.
        :param event: the trigger's.
        :raises JobError: the job did not succeed.
        """
        from ray_provider.jobs.watch.outcome import JobOutcome

        if "outcome" in event:
            if error := JobOutcome.from_dict(event["outcome"]).error():
                raise self._told(error)
            return self.submission_id
        reported = event.get("error") or {"message": str(event.get("message"))}
        kind = RayProviderError if reported.get("retryable", True) else ConfigurationError
        raise self._told(kind(reported["message"], hint=reported.get("hint")))

    def _told(self, error: RayProviderError) -> Exception:
        # A job that has ended stays as it is; of one that could not be asked for nothing is known.
        ended = isinstance(error, JobError) and not isinstance(error, JobUnreachableError)
        return told(self, error, final=ended)

    async def _look(self) -> JobDetails | None:
        from ray_provider.jobs.client import RayJobsClient

        endpoint = await RayHook(self.conn_id, allowed=allowed_by(self)).endpoint(self.cluster or None)
        async with RayJobsClient(endpoint) as client:
            return await client.get(self.submission_id)
