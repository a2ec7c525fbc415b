"""The way of a job whose cluster KubeRay makes for it: plan, make, wait for the head, then as any other job."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ray_provider._shared import xcom_keys
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import (
    ClusterError,
    ConfigurationError,
    JobLostError,
    KubernetesError,
    RayApiError,
    RayConnectionError,
    RayProviderError,
)
from ray_provider.hooks import own_rayjob
from ray_provider.jobs.watch.outcome import JobOutcome
from ray_provider.operators._cluster.common import folders_of, owner_of
from ray_provider.operators._job import arguments, attempts
from ray_provider.operators._job import memory as task_memory
from ray_provider.operators._job.memory import TaskMemory
from ray_provider.operators._rayjob import submitter
from ray_provider.operators._rayjob.attempt import attempt_of, outcome_without_cluster, plan
from ray_provider.triggers import failure
from ray_provider.triggers.watching import tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.handle import Access
    from ray_provider.jobs.models import JobSpec
    from ray_provider.operators._job.run import JobRun
    from ray_provider.operators._rayjob.arguments import RayJobArguments
    from ray_provider.operators._rayjob.operator import RayJobOperator

#: How much later than the start's own limits Airflow's timeout of the deferral is (seconds).
_BACKSTOP_SECONDS = 120.0


def begin(
    operator: RayJobOperator, context: Context, run: JobRun, memory: TaskMemory, spec: JobSpec, wanted: RayJobArguments
) -> Any:
    """Make the RayJob of this attempt, or take over the one that an earlier try made; then go on with its job.

    :param operator: whose task it is.
    :param context: of the task.
    :param run: gets the job and its cluster.
    :param memory: says what an earlier try left.
    :param spec: of the job, without its id.
    :param wanted: what its cluster is to be.
    :return: what the task returns.
    :raises RayProviderError: the RayJob was not made, or its job did not succeed.
    """
    wanted.start_options()
    _refuse_detached(operator)
    first = wanted.spec(operator, context, 1, memory.max_tries)  # refuses what can't work before anything is asked
    owner = owner_of(context)
    where = wanted.where
    namespace = run.take(lambda: own_rayjob.namespace_of(run.hook, where, first.cluster.namespace))
    with operator.answering_for(run, memory):
        run.cluster_owner = owner
        todo, state = plan(operator, context, run, memory, wanted, namespace)
        run.job_id = operator.id_of_attempt(context, todo.attempt)
        made = first if todo.attempt == 1 else wanted.spec(operator, context, todo.attempt, memory.max_tries)
        # From here on a kill deletes it, whether the answer has come or not.
        run.cluster = ClusterHandle(
            "kubernetes", "", "", namespace, owner=owner, kubernetes=where, rayjob=made.cluster.name
        )
        adopted = state is not None and todo.action == "adopt"
        memory.keep(attempts.AttemptRecord(run.job_id, todo.attempt, max_tries=memory.max_tries, submitted=adopted))
        task_memory.tell(context, run)
        if not adopted:
            try:
                run.cluster = run.take(lambda: own_rayjob.make(run.hook, where, made, partial(tell, run.log)))
            except RayProviderError as error:
                if not error.retryable:  # it was refused: nothing of ours is there
                    run.cluster = None
                raise
        elif state is not None:
            run.cluster = replace(run.cluster, name=state.cluster)
            if state.is_over and not run.take(lambda: own_rayjob.has_cluster(run.hook, run.cluster)):
                outcome = outcome_without_cluster(operator, state.job_id, state.job, state.message)
                return operator.conclude(context, run, memory, outcome)
        return _start(operator, context, run, memory, spec, todo.attempt, wanted)


def started(operator: RayJobOperator, context: Context, event: Mapping[str, Any]) -> Any:
    """Go on when the trigger has seen the cluster's head ready, or that it can't be.

    :param operator: whose task it is.
    :param context: of the task.
    :param event: the trigger's.
    :return: what the task returns.
    :raises RayProviderError: the cluster's head can't become ready, or the DAG's new version makes no RayJob.
    """
    run, memory = operator.new_run(context), TaskMemory(context)
    task_memory.recall(context, run)
    wanted = operator.ray_job_arguments(context)
    if wanted is None:
        raise ConfigurationError(
            "The task waited for a RayJob, and makes none any more: its DAG was changed meanwhile."
        )
    with operator.answering_for(run, memory):
        spec = arguments.job_spec(operator, folders_of(context))
        if event["status"] == "over":
            job = event["job"]
            outcome = outcome_without_cluster(operator, job["job_id"], job["status"], job["message"])
            return operator.conclude(context, run, memory, outcome)
        if event["status"] != "ready":
            raise failure.read(event["error"], ClusterError)
        for line in event.get("said", ()):
            operator.log.info("%s", line)
        handle = ClusterHandle.from_dict(event["cluster"])
        run.cluster = replace(handle, owner=run.cluster_owner or {}, rayjob=run.cluster.rayjob if run.cluster else None)
        return _submit(operator, context, run, memory, spec, attempt_of(operator, context, run, memory), wanted)


def again(operator: RayJobOperator, context: Context, run: JobRun, memory: TaskMemory, outcome: JobOutcome) -> Any:
    """Wait for a place once more, and submit the job again: a queue took its cluster away (preempted).

    :param operator: whose task it is.
    :param context: of the task.
    :param run: knows the RayJob.
    :param memory: of the attempt, which stays the same.
    :param outcome: of the watch that ended by it.
    :raises RayProviderError: the RayJob is gone, or its job did not succeed.
    """
    wanted = operator.ray_job_arguments(context)
    if wanted is None or run.cluster is None:
        raise outcome.error() or RuntimeError("The outcome is no error.")
    operator.log.warning("%s It waits for its turn, and is submitted again then.", outcome.message)
    # The log of the job begins anew, in another cluster.
    context["ti"].xcom_push(key=xcom_keys.OFFSET, value={"submission_id": run.job_id, "offset": 0, "lines": 0})
    run.forget_ray()
    run.cluster = replace(run.cluster, name="", service=None, address="")
    with operator.answering_for(run, memory):
        spec = arguments.job_spec(operator, folders_of(context))
        operator.prepare(context)
        attempt = attempt_of(operator, context, run, memory)
        task_memory.tell(context, run)
        return _start(operator, context, run, memory, spec, attempt, wanted)


def keep(operator: RayJobOperator, run: JobRun) -> None:
    """Leave the RayJob of a job that failed, and say until when it is there.

    :param operator: tells it in its log.
    :param run: knows the RayJob.
    """
    if run.cluster is None or not run.cluster.rayjob:
        return
    operator.log.warning(
        "RayJob %s/%s is left for inspection (keep_on_failure). A cluster that KubeRay made for it goes soon after the "
        "job's end (ttl_seconds); delete the rest: kubectl -n %s delete rayjob %s",
        run.cluster.namespace,
        run.cluster.rayjob,
        run.cluster.namespace,
        run.cluster.rayjob,
    )
    kept, run.cluster = run.cluster, None
    try:
        run.take(lambda: own_rayjob.end_use(run.hook, kept))
    except RayProviderError as error:
        operator.log.warning("That its job uses a cluster no more could not be written down: %s", error)


def _start(
    operator: RayJobOperator,
    context: Context,
    run: JobRun,
    memory: TaskMemory,
    spec: JobSpec,
    attempt: int,
    wanted: RayJobArguments,
) -> Any:
    """Wait for the head of the cluster: in the triggerer, or here."""
    from ray_provider.clusters.lifecycle.rayjob_start import RayJobOver

    handle, options = run.cluster, wanted.start_options()
    if handle is None:
        raise RuntimeError("No RayJob is known yet.")
    if operator.deferrable:
        _defer(operator, context, handle, wanted)
    now = time.time()
    try:
        run.cluster = run.take(
            lambda: own_rayjob.wait(
                run.hook,
                handle,
                options,
                access=cast("Access | None", wanted.access),
                since=now,
                say=partial(tell, run.log),
            )
        )
    except RayJobOver as over:
        outcome = outcome_without_cluster(operator, over.state.job_id, over.state.job, over.state.message)
        return operator.conclude(context, run, memory, outcome)
    return _submit(operator, context, run, memory, spec, attempt, wanted)


def _submit(
    operator: RayJobOperator,
    context: Context,
    run: JobRun,
    memory: TaskMemory,
    spec: JobSpec,
    attempt: int,
    wanted: RayJobArguments,
) -> Any:
    """Submit the job to the cluster, unless it is there; then wait for it like any other."""
    try:
        return _submit_to_this(operator, context, run, memory, spec, attempt, wanted)
    except (RayApiError, RayConnectionError, KubernetesError) as error:
        cluster = run.cluster
        if cluster is None or run.killed:
            raise
        # Was it taken away at this very moment? Then what did not answer was not to answer.
        found = run.take(lambda: own_rayjob.interruption(run.hook, cluster))
        if found is None:
            raise
        outcome = JobOutcome(str(run.job_id), found.kind, message=found.message)
        if found.kind == "suspended":
            return again(operator, context, run, memory, outcome)
        raise outcome.error() or error from error


def _submit_to_this(
    operator: RayJobOperator,
    context: Context,
    run: JobRun,
    memory: TaskMemory,
    spec: JobSpec,
    attempt: int,
    wanted: RayJobArguments,
) -> Any:
    run.job_id = operator.id_of_attempt(context, attempt)
    run.reach()
    run.meet()
    manifest = wanted.manifest(operator, context)
    if manifest is not None and manifest.is_submitted_by_kuberay:
        run.appears_until = time.time() + wanted.start_options().start_seconds
        if manifest.own["submissionMode"] == "SidecarMode":
            submitter.check(run)
        return operator.carry_out(context, run, memory, spec, attempt, submit=False)
    if run.look() is None:
        _check_not_lost(run)
        return operator.carry_out(context, run, memory, spec, attempt, submit=True)
    return operator.carry_out(context, run, memory, spec, attempt, submit=False)


def _check_not_lost(run: JobRun) -> None:
    """Refuse to submit a job again that was submitted to an earlier head of the same cluster: it went with that."""
    from ray_provider.clusters.lifecycle.rayjob import submitted_in

    cluster = run.cluster
    if cluster is None:
        return
    states = run.take(lambda: own_rayjob.find(run.hook, cluster.kubernetes, cluster.namespace, cluster.owner))
    state = next((one for one in states if one.name == cluster.rayjob), None)
    before = state.submitted if state else None
    if before is None or before.partition("/")[0] != cluster.name:
        return
    if before != submitted_in(cluster.name, run.session_name):
        run.ended()
        raise JobLostError(
            f"Job {run.job_id} was lost: the Ray head of RayJob {cluster.namespace}/{cluster.rayjob} restarted while "
            "it ran, and a head without fault tolerance forgets its jobs.",
            hint="Clear or retry the task: the job runs anew, under a new id.",
            submission_id=run.job_id,
        )


def _defer(operator: RayJobOperator, context: Context, handle: ClusterHandle, wanted: RayJobArguments) -> None:
    from ray_provider.triggers.rayjob import RayJobStartTrigger

    options, now = wanted.start_options(), time.time()
    # The trigger keeps the limits. Airflow's own is for one that does not; a queue may come by a label, too.
    limit = None
    if options.queue_seconds is not None:
        limit = options.queue_seconds + options.start_seconds + _BACKSTOP_SECONDS
    until = arguments.timeout_at(operator.execution_timeout, getattr(context["ti"], "start_date", None), now)
    if until is not None:
        limit = max(0.0, until - now if limit is None else min(limit, until - now))
    operator.log.info("Waiting for the cluster of RayJob %s in the triggerer.", handle.rayjob)
    operator.defer(
        trigger=RayJobStartTrigger(
            conn_id=operator.conn_id,
            cluster=handle.to_dict(),
            start=options.to_dict(),
            since=now,
            access=wanted.access,
            deferred_at=now,
        ),
        method_name="execute_started",
        timeout=None if limit is None else timedelta(seconds=limit),
    )


def _refuse_detached(operator: RayJobOperator) -> None:
    if not operator.wait_for_completion:
        raise ConfigurationError(
            "wait_for_completion is off, and the cluster of a RayJob goes when the task ends: so would the job.",
            hint="Leave wait_for_completion on, or set the cluster up with SetupRayCluster (cluster=setup.output).",
            field="wait_for_completion",
        )
    if operator.cluster or operator.xcom_task_key:
        raise ConfigurationError(
            "The task names a cluster, and is to make one by a RayJob.",
            hint="Keep one of the two: SubmitRayJob runs a job on a cluster that is there.",
            field="cluster",
        )
