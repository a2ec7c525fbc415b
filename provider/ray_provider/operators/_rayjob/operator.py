"""What the way of a RayJob asks of an operator."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from ray_provider.operators._job.arguments import JobArguments

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.hooks.ray import RayHook
    from ray_provider.jobs.models import JobSpec
    from ray_provider.jobs.watch.watcher import JobOutcome
    from ray_provider.operators._job.memory import TaskMemory
    from ray_provider.operators._job.run import JobRun


class RayJobOperator(JobArguments, Protocol):
    """An operator that submits a job, and may have a RayJob make the cluster for it."""

    conn_id: str
    deferrable: bool
    durable: bool
    cancel_on_kill: bool
    keep_on_failure: bool
    xcom_task_key: Any

    @property
    def hook(self) -> RayHook:
        """The connection's hook."""
        ...

    def render_template(self, content: Any, context: Context) -> Any:
        """Fill in a template.

        :param content: a text, or lists and dictionaries with texts in them.
        :param context: of the task.
        """
        ...

    def defer(self, *, trigger: Any, method_name: str, timeout: timedelta | None = None) -> Any:
        """Leave the worker until a trigger fires.

        :param trigger: that waits.
        :param method_name: that the task goes on with.
        :param timeout: after which Airflow gives the trigger up; ``None``: never.
        """
        ...

    def ray_job_arguments(self, context: Context) -> Any:
        """Say what the cluster is to be (``RayJobArguments``); ``None``: it gets none by a RayJob.

        :param context: of the task.
        """
        ...

    def prepare(self, context: Context) -> None:
        """Make ready what can be.

        :param context: of the task.
        """
        ...

    def new_run(self, context: Context) -> JobRun:
        """Begin what can be killed.

        :param context: of the task.
        """
        ...

    def id_of_attempt(self, context: Context, attempt: int) -> str:
        """Give the id of a logical attempt's job.

        :param context: of the task.
        :param attempt: its number, from 1.
        """
        ...

    def answering_for(self, run: JobRun, memory: TaskMemory) -> AbstractContextManager[None]:
        """Take back what was made where a step fails.

        :param run: knows the job and its cluster.
        :param memory: of the attempt.
        """
        ...

    def carry_out(
        self, context: Context, run: JobRun, memory: TaskMemory, spec: JobSpec, attempt: int, *, submit: bool
    ) -> Any:
        """Submit the job, or take it over; then wait for it.

        :param context: of the task.
        :param run: knows the cluster, whose head is ready.
        :param memory: of the attempt.
        :param spec: of the job, without its id.
        :param attempt: its number, from 1.
        :param submit: whether it is to be submitted; else an earlier try did.
        :return: what the task returns.
        """
        ...

    def conclude(self, context: Context, run: JobRun, memory: TaskMemory, outcome: JobOutcome) -> Any:
        """Turn the outcome into a return value or an exception.

        :param context: of the task.
        :param run: knows the job and its cluster.
        :param memory: of the attempt.
        :param outcome: of the job.
        :return: what the task returns.
        """
        ...
