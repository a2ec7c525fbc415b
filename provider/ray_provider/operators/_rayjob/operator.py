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
        """Fill in a template."""
        ...

    def defer(self, *, trigger: Any, method_name: str, timeout: timedelta | None = None) -> Any:
        """Leave the worker until a trigger fires."""
        ...

    def ray_job_arguments(self, context: Context) -> Any:
        """Say what the cluster is to be (``RayJobArguments``); ``None``: it gets none by a RayJob."""
        ...

    def prepare(self, context: Context) -> None:
        """Make ready what can be."""
        ...

    def new_run(self, context: Context) -> JobRun:
        """Begin what can be killed."""
        ...

    def id_of_attempt(self, context: Context, attempt: int) -> str:
        """Give the id of a logical attempt's job."""
        ...

    def answering_for(self, run: JobRun, memory: TaskMemory) -> AbstractContextManager[None]:
        """Take back what was made where a step fails."""
        ...

    def carry_out(
        self, context: Context, run: JobRun, memory: TaskMemory, spec: JobSpec, attempt: int, *, submit: bool
    ) -> Any:
        """Submit the job, or take it over; then wait for it."""
        ...

    def conclude(self, context: Context, run: JobRun, memory: TaskMemory, outcome: JobOutcome) -> Any:
        """Turn the outcome into a return value or an exception."""
        ...
