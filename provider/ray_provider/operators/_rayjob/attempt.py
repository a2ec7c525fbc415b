"""Which attempt of a RayJob's job a try of the task is at: what earlier tries left decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import RayProviderError
from ray_provider.hooks import own_rayjob
from ray_provider.jobs.watch.outcome import JobOutcome
from ray_provider.operators._job import attempts

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.kuberay.rayjob import RayJobState
    from ray_provider.jobs.models import JobDetails
    from ray_provider.operators._job.memory import TaskMemory
    from ray_provider.operators._job.run import JobRun
    from ray_provider.operators._rayjob.arguments import RayJobArguments
    from ray_provider.operators._rayjob.operator import RayJobOperator

#: Statuses of jobs that have ended.
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def plan(
    operator: RayJobOperator,
    context: Context,
    run: JobRun,
    memory: TaskMemory,
    wanted: RayJobArguments,
    namespace: str,
) -> tuple[attempts.Plan, RayJobState | None]:
    """Decide what to do by what earlier tries left, and delete what has to be gone before.

    :param operator: whose task it is.
    :param context: of the task.
    :param run: asks Kubernetes, and knows whose cluster it is to be.
    :param memory: says what an earlier try left.
    :param wanted: what the cluster is to be.
    :param namespace: of the RayJob.
    :return: what is to be done, and the RayJob that an earlier try left.
    :raises RayProviderError: Kubernetes does not say, or the RayJob that has to go does not.
    """
    owner = run.cluster_owner or {}
    found = run.take(lambda: own_rayjob.find(run.hook, wanted.where, namespace, owner))
    state = found[0] if found else None
    if state is not None and state.job_id != operator.id_of_attempt(context, state.attempt):
        # Of a run that was deleted, and made anew under its id.
        _delete(run, wanted, namespace, state.name)
        state = None
    record, job = memory.earlier, None
    if state is not None and (record is None or state.attempt >= record.attempt):
        same = record is not None and record.submission_id == state.job_id
        record = attempts.AttemptRecord(
            state.job_id,
            state.attempt,
            max_tries=record.max_tries if record is not None and same else state.max_tries,
            submitted=True,
            final=record.final if record is not None and same else None,
            stopping=(record.stopping if record is not None and same else False) or state.deleting,
        )
        job = _details(state)
    elif state is not None:
        _delete(run, wanted, namespace, state.name)
        state = None
    todo = attempts.decide(record, job, max_tries=memory.max_tries, durable=operator.durable)
    if todo.why:
        operator.log.info("%s", todo.why)
    if state is not None and todo.action == "submit" and (todo.stop_first or not operator.keep_on_failure):
        _delete(run, wanted, namespace, state.name)
    return todo, state


def _details(state: RayJobState) -> JobDetails:
    """Give what a RayJob says of its job in Ray's words."""
    from ray_provider.jobs.models import JobDetails

    status = state.job if state.job in _ENDED else ("FAILED" if state.is_over else "RUNNING")
    return JobDetails(submission_id=state.job_id, status=status)


def outcome_without_cluster(operator: RayJobOperator, job_id: str, status: str, message: str) -> JobOutcome:
    """Give how a job ended whose cluster KubeRay has deleted since: only the RayJob tells.

    :param operator: tells it in its log.
    :param job_id: of the job.
    :param status: in Ray's words.
    :param message: of the RayJob.
    """
    operator.log.warning(
        "Job %s has ended while nobody watched it, and KubeRay has deleted its cluster (ttl_seconds): its log is gone.",
        job_id,
    )
    return JobOutcome(job_id, "final", status=status, message=message)


def _delete(run: JobRun, wanted: RayJobArguments, namespace: str, name: str) -> None:
    from ray_provider.hooks import own_cluster

    handle = ClusterHandle(
        "kubernetes", "", "", namespace, owner=dict(run.cluster_owner or {}), kubernetes=wanted.where, rayjob=name
    )
    run.take(lambda: own_cluster.delete(run.hook, handle))


def attempt_of(operator: RayJobOperator, context: Context, run: JobRun, memory: TaskMemory) -> int:
    """Give the logical attempt that a resumed task is at: the one whose id lies in XCom.

    :param operator: whose task it is.
    :param context: of the task.
    :param run: knows the RayJob, and the job's id.
    :param memory: says what an earlier try left.
    :return: its number, from 1.
    :raises RayProviderError: the RayJob is gone.
    """
    if memory.earlier is not None and memory.earlier.submission_id == run.job_id:
        return memory.earlier.attempt
    cluster = run.cluster
    states = (
        run.take(lambda: own_rayjob.find(run.hook, cluster.kubernetes, cluster.namespace, run.cluster_owner or {}))
        if cluster
        else []
    )
    state = next((one for one in states if cluster and one.name == cluster.rayjob), None)
    if state is None or state.job_id != operator.id_of_attempt(context, state.attempt):
        raise RayProviderError(
            f"The RayJob {cluster.rayjob if cluster else ''} of this task is gone: somebody deleted it.",
            hint="Clear the task to run it anew.",
            cause="deleted",
        )
    return state.attempt
