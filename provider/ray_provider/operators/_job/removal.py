"""The end of a cluster of the task's own, once its job has ended: what becomes of the task where that fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import ClusterError, ClusterLeftError, RayProviderError
from ray_provider.operators._job.memory import take_over

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.operators._job.memory import TaskMemory
    from ray_provider.operators._job.run import JobRun

#: The longest result (characters of JSON) that is kept for a retry.
_LONGEST_RESULT = 48_000


def after_failure(run: JobRun, failure: BaseException) -> None:
    """Delete the cluster of a job that failed. Why the job failed is what the task fails with.

    :param run: knows the cluster, if the task made one.
    :param failure: why. What became of the cluster is added to it.
    """
    try:
        run.delete_cluster()
    except RayProviderError as error:
        run.log.warning("The task's own cluster could not be deleted: %s", error)
        failure.add_note(f"And the task's own cluster could not be deleted: {error}")


def after_success(run: JobRun, memory: TaskMemory, result: Any) -> None:
    """Delete the cluster of a job that succeeded.

    :param run: knows the cluster, if the task made one.
    :param memory: keeps the result.
    :param result: what the task is to return. It is kept where the deletion fails: a retry deletes, and returns it.
    :raises ClusterError: the cluster could not be deleted.
    """
    cluster = run.cluster
    try:
        run.delete_cluster()
    except RayProviderError as error:
        if cluster is None:
            raise
        message = f"Job {run.job_id} succeeded, and its cluster could not be deleted: {error.message}"
        if _keep(memory, cluster, result):
            hint = _hint("A retry of the task deletes it, and does not run the job again.", error)
            raise ClusterError(message, hint=hint, **error.data) from error
        hint = _hint("The task is not retried, as that would run the job again. Delete the cluster.", error)
        raise ClusterLeftError(message, hint=hint, **error.data) from error


def finish(context: Context, run: JobRun, memory: TaskMemory) -> tuple[bool, Any]:
    """Delete what an earlier try could not, if its job had succeeded and the task was not cleared since.

    :param context: of the task.
    :param run: gets the job and its cluster.
    :param memory: says what an earlier try left.
    :return: whether that is all there is to do, and what the task returns.
    :raises ClusterError: the cluster could not be deleted this time either.
    """
    record = memory.earlier
    if record is None or record.left is None or record.was_cleared(memory.max_tries):
        return False, None
    run.job_id = record.submission_id
    take_over(context, run, ClusterHandle.from_dict(record.left["cluster"]))
    run.log.info("Job %s of an earlier try has succeeded. Its cluster is left to be deleted.", run.job_id)
    result = record.left["result"]
    run.ended()
    after_success(run, memory, result)
    memory.keep(replace(record, left=None))
    return True, result


def _hint(advice: str, error: RayProviderError) -> str:
    return f"{advice} {error.hint}" if error.hint else advice


def _keep(memory: TaskMemory, cluster: ClusterHandle, result: Any) -> bool:
    """Keep what a retry needs, if Airflow can keep it."""
    record = memory.record
    if record is None or not memory.lasts:
        return False
    try:
        text = json.dumps(result)
    except (TypeError, ValueError):
        return False
    if len(text) > _LONGEST_RESULT or json.loads(text) != result:
        return False
    left: Mapping[str, Any] = {"cluster": cluster.to_dict(), "result": result}
    memory.keep(replace(record, left=left))
    return True
