"""Wait for a Ray job that this task did not submit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ray_provider import cluster_of_group
from ray_provider._compat import AirflowFailException, BaseSensorOperator, PokeReturnValue, conf
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.exceptions import (
    ClusterTimeoutError,
    ConfigurationError,
    JobError,
    JobLostError,
    JobUnreachableError,
    KubernetesError,
    RayProviderError,
)
from ray_provider.hooks.allowed import allowed_by
from ray_provider.hooks.peer import run_sync
from ray_provider.hooks.ray import RayHook
from ray_provider.sensors import rayjob
from ray_provider.sensors.ending import told
from ray_provider.triggers import failure
from ray_provider.triggers.job import RayJobTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.handle import ClusterHandle
    from ray_provider.clusters.lifecycle.rayjob_end import RayJobEnd
    from ray_provider.jobs.models import JobDetails
    from ray_provider.triggers.rayjob import RayJobEndTrigger

#: How much later than the trigger's own limit Airflow's timeout of the deferral is (seconds).
_BACKSTOP_SECONDS = 120.0


class RayJobSensor(BaseSensorOperator):
    """Waits until a Ray job has succeeded; fails if it ends otherwise. Never stops the job, and deletes nothing.

    For a job that ``SubmitRayJob(wait_for_completion=False)`` submitted, or somebody else (``submission_id``); or for a
    RayJob that somebody else made: Argo CD, ``kubectl``, another DAG (``ray_job``). KubeRay's word alone is not the end
    of a RayJob: one that is ``Complete`` may have been stopped, and where the head is lost it stays ``Running``. So Ray
    is asked, too. Returns the job's id.

    :param submission_id: of the job.
    :param ray_job: instead of it: the name of a RayJob; or the handle of its cluster, such as what ``RunRayJob``
        pushes: ``train.output["ray_job"]``.
    :param namespace: of the RayJob, with its name; unless given, the connection's.
    :param conn_id: connection of type ``ray``.
    :param cluster: with ``submission_id``: the handle that ``SetupRayCluster`` returned, if not the connection's
        cluster; within a ``RayClusterTaskGroup``, unless given, that of the group's.
    :param fetch_logs: pass the job's log on into the task's log (only where ``deferrable``, with ``submission_id``).
    :param max_unreachable_seconds: how long a dashboard that does not answer is waited for (of a job by
        ``submission_id`` only where ``deferrable``).
    :param deferrable: wait in the triggerer.
    :param kwargs: arguments of any sensor.
    :raises ConfigurationError: two jobs are named.
    """

    template_fields: Sequence[str] = ("submission_id", "ray_job", "namespace", "conn_id", "cluster")

    def __init__(
        self,
        *,
        submission_id: str | None = None,
        ray_job: Any = None,
        namespace: str | None = None,
        conn_id: str = RayHook.default_conn_name,
        cluster: Any = None,
        fetch_logs: bool = False,
        max_unreachable_seconds: float = 600,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.submission_id = submission_id
        self.ray_job = ray_job
        self.namespace = namespace
        self.conn_id = conn_id
        self.cluster = cluster_of_group.named(cluster)
        self.fetch_logs = fetch_logs
        self.max_unreachable_seconds = max_unreachable_seconds
        self.deferrable = deferrable
        if ray_job is not None and (submission_id is not None or cluster is not None):
            raise ConfigurationError(
                f"ray_job is given, and so is {'submission_id' if submission_id is not None else 'cluster'}: they "
                "name two jobs.",
                hint="Keep one: ray_job for a RayJob, submission_id (with cluster) for a job that Ray knows.",
                field="ray_job",
            )
        if cluster is None and ray_job is None:
            cluster_of_group.join(self, kwargs, default_conn_id=RayHook.default_conn_name)
        #: It waits for a RayJob, whatever comes by XCom.
        self._by_ray_job = ray_job is not None
        self._found: ClusterHandle | None = None
        self._end: RayJobEnd | None = None

    def execute(self, context: Context) -> Any:
        """Wait: in the worker by poking, or in the triggerer.

        :param context: of the task.
        :raises AirflowFailException: no job is named.
        """
        if not self._by_ray_job and (not self.submission_id or not isinstance(self.submission_id, str)):
            raise AirflowFailException(f"submission_id is {self.submission_id!r}: no job is named.")
        if not self.deferrable:
            return super().execute(context)
        looked = self.poke(context)
        if looked:
            return looked.xcom_value
        return self.defer(
            trigger=self._trigger(),
            method_name="execute_complete",
            # A RayJob's trigger keeps the time itself, and says what it saw last.
            timeout=timedelta(seconds=float(self.timeout) + (_BACKSTOP_SECONDS if self._by_ray_job else 0.0)),
        )

    def _trigger(self) -> RayJobTrigger | RayJobEndTrigger:
        if self._found is not None:
            return rayjob.trigger(
                self.conn_id,
                self._found,
                timeout=float(self.timeout),
                max_unreachable_seconds=float(self.max_unreachable_seconds),
            )
        return RayJobTrigger(
            job_id=str(self.submission_id),
            conn_id=self.conn_id,
            fetch_logs=self.fetch_logs,
            cluster=self.cluster or None,
            max_unreachable_seconds=self.max_unreachable_seconds,
            cancel_on_kill=False,
            deferred_at=time.time(),
        )

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once. Done, the task returns the submission id.

        :param context: of the task.
        :raises JobError: the job did not succeed.
        """
        with errors_for_airflow(self._told):
            if self._by_ray_job:
                return self._poke_ray_job(context)
            submission_id = str(self.submission_id)
            details = run_sync(self._look)
            if details is None:
                raise JobLostError(
                    f"Ray knows no job {submission_id}.",
                    hint="Its head may have been restarted since, or the id belongs to another cluster.",
                    submission_id=submission_id,
                )
            self.log.info("Job %s: %s", self.submission_id, details.status)
            if details.is_final and not details.is_success:
                from ray_provider.jobs.watch.outcome import JobOutcome

                JobOutcome(
                    submission_id=submission_id,
                    kind="final",
                    status=details.status,
                    message=details.message,
                    error_type=details.error_type,
                    driver_exit_code=details.driver_exit_code,
                ).raise_for_status()
            return PokeReturnValue(details.is_success, self.submission_id)

    def _poke_ray_job(self, context: Context) -> PokeReturnValue:
        if self._found is None or self._end is None:
            self._found = rayjob.find(RayHook(self.conn_id, allowed=allowed_by(self)), self.ray_job, self.namespace)
            self._end = rayjob.judge(self.conn_id, self._found, float(self.max_unreachable_seconds), self.log)
            if self.reschedule:
                rayjob.recall(context, self._end)
        try:
            ended = rayjob.look(self.conn_id, self._found, self._end)
        except KubernetesError as error:
            if not self.reschedule or not error.retryable:
                raise
            self.log.info("%s", error.message)
            return PokeReturnValue(is_done=False)
        if ended is None:
            if self.reschedule:
                rayjob.keep(context, self._end)
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._succeeded(ended.job_id, self._end.where))

    def _succeeded(self, job_id: str, where: str) -> str:
        """Say how a RayJob ended: the same, whoever saw it."""
        self.log.info("RayJob %s: its job %s has succeeded.", where, job_id)
        return job_id

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """Go on after the trigger fired.

        :param context: of the task.
        :param event: the trigger's.
        :raises JobError: the job did not succeed.
        """
        from ray_provider.jobs.watch.outcome import JobOutcome

        if self._by_ray_job:
            if error := rayjob.told_by(event):
                raise self._told(error)
            return self._succeeded(event["job_id"], event["where"])
        if "outcome" in event:
            outcome = JobOutcome.from_dict(event["outcome"])
            if error := outcome.error():
                raise self._told(error)
            self.log.info("Job %s: %s", self.submission_id, outcome.status)
            return self.submission_id
        raise self._told(failure.read(event.get("error") or event))

    def _told(self, error: RayProviderError) -> Exception:
        # A job that has ended stays as it is; of one that could not be asked for nothing is known.
        ended = isinstance(error, JobError) and not isinstance(error, JobUnreachableError)
        return told(self, error, final=ended, timed_out=isinstance(error, ClusterTimeoutError))

    async def _look(self) -> JobDetails | None:
        from ray_provider.jobs.client import RayJobsClient

        endpoint = await RayHook(self.conn_id, allowed=allowed_by(self)).endpoint(self.cluster or None)
        async with RayJobsClient(endpoint) as client:
            return await client.get(str(self.submission_id))
