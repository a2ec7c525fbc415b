"""Handing a job to the triggerer."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from ray_provider.operators._job import arguments
from ray_provider.operators._job.arguments import JobArguments
from ray_provider.triggers.job import RayJobTrigger

if TYPE_CHECKING:
    from ray_provider.operators._job.run import JobRun

#: How much later than the job's own deadline Airflow's timeout of the deferral is: only if the trigger failed to act.
_BACKSTOP_SECONDS = 60.0


class Deferring(JobArguments, Protocol):
    """What an operator says of its job, and of who watches it."""

    conn_id: str
    gpu_device_plugin_yaml: Any
    cancel_on_kill: bool


def of_job(operator: Deferring, run: JobRun, started: datetime | None) -> tuple[RayJobTrigger, timedelta | None]:
    """Make the trigger that watches a job, and say when Airflow is to give it up.

    :param operator: whose templates are rendered.
    :param run: knows the job and its cluster.
    :param started: when the task began: its ``execution_timeout`` counts from there.
    :return: the trigger; and the time until Airflow gives it up, which is later than the trigger does (``None``:
        never).
    """
    now = time.time()
    options = arguments.watch_options(operator)
    deadline = options.deadline
    until = arguments.timeout_at(operator.execution_timeout, started, now)
    if until is not None:
        deadline = until if deadline is None else min(deadline, until)
    manifest = operator.ray_cluster_yaml
    trigger = RayJobTrigger(
        job_id=str(run.job_id),
        conn_id=operator.conn_id,
        xcom_dashboard_url=run.dashboard_url,
        ray_cluster_yaml=manifest if isinstance(manifest, str) and manifest else None,
        gpu_device_plugin_yaml=operator.gpu_device_plugin_yaml or "",
        poll_interval=options.poll_interval,
        fetch_logs=operator.fetch_logs,
        cluster=run.cluster.to_dict() if run.cluster else None,
        owns_cluster=run.owns_cluster,
        deadline=deadline,
        max_unreachable_seconds=options.max_unreachable_seconds,
        log_max_lines=options.log_max_lines,
        cancel_on_kill=operator.cancel_on_kill,
        deferred_at=now,
        session_name=run.session_name,
        appears_until=run.appears_until,
    )
    return trigger, None if deadline is None else timedelta(seconds=max(0.0, deadline - now) + _BACKSTOP_SECONDS)
