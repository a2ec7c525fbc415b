"""Submit a Ray job, and wait for it in the worker or in the triggerer.

Half of this module describes and takes arguments. What is done with them is in ``_job``, ``_cluster`` and ``_rayjob``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from ray_provider import cluster_of_group
from ray_provider._compat import BaseOperator, TaskDeferred, TriggerTask, conf, redact
from ray_provider._shared import xcom_keys
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.exceptions import ClusterError, RayProviderError
from ray_provider.hooks.allowed import allowed_by
from ray_provider.hooks.ray import RayHook
from ray_provider.links import RayDashboardLink, job_page
from ray_provider.operators import triggerer
from ray_provider.operators._cluster.common import folders_of
from ray_provider.operators._cluster.of_task import own_cluster
from ray_provider.operators._job import arguments, attempts, deferral, removal
from ray_provider.operators._job import memory as task_memory
from ray_provider.operators._job.memory import TaskMemory
from ray_provider.operators._job.run import JobRun
from ray_provider.operators._rayjob import flow
from ray_provider.triggers import failure

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.jobs.models import JobDetails, JobSpec
    from ray_provider.jobs.watch.watcher import JobOutcome
    from ray_provider.operators._rayjob.arguments import RayJobArguments


class SubmitRayJob(BaseOperator):
    """Submits a Ray job and waits for it. Returns the job's submission id, whichever way it waits.

    The job is submitted exactly once per logical attempt: a retry after a worker died takes the running job over
    (``durable``), a task that is run anew gets a new job. Whoever kills the task stops the job (``cancel_on_kill``).

    :param conn_id: connection of type ``ray``.
    :param entrypoint: the command that Ray runs; of a list, each item is quoted.
    :param runtime_env: Ray's runtime environment; local ``working_dir`` and ``py_modules`` are uploaded. Relative paths
        begin in the folder of the DAG's file, or in the worker's working directory.
    :param num_cpus: CPUs reserved for the entrypoint itself, not for the tasks it starts.
    :param num_gpus: GPUs reserved for the entrypoint.
    :param memory: bytes reserved for the entrypoint.
    :param resources: custom resources reserved for the entrypoint.
    :param ray_cluster_yaml: manifest of a RayCluster of the task's own: set up before the job, deleted after it,
        however the job ends.
    :param kuberay_version: version of the KubeRay operator, if it has to be installed for that.
    :param update_if_exists: change a cluster of the manifest's name that exists.
    :param gpu_device_plugin_yaml: manifest of a GPU device plugin to install with it.
    :param fetch_logs: pass the job's log on into the task's log.
    :param wait_for_completion: wait for the job's end. If not, the task succeeds when the job is submitted.
    :param job_timeout_seconds: how long a try waits for the job, which is then stopped. 0: for ever.
    :param poll_interval: the longest pause (seconds) between two looks at the job's status.
    :param xcom_task_key: ``task_id.key`` of an XCom that holds the dashboard's URL, such as ``setup.dashboard``. A
        handle that the task returned beside it is used too: it says where the token is.
    :param cluster: the handle that ``SetupRayCluster`` returned, e.g. ``setup.output``; within a
        ``RayClusterTaskGroup``, unless given, that of the group's.
    :param submission_id: the job's id, unless it is to follow from the task. Later attempts get ``-2``, ``-3`` and so
        on.
    :param metadata: of the job: text to text. Who owns the job is added.
    :param label_selector: labels of the node that the entrypoint is to run on.
    :param durable: a retry goes on with a job that an earlier try began. If not, it stops that one and submits anew.
    :param cancel_on_kill: stop the job when the task is killed (marked, cleared, timed out). A worker that is told to
        end (a rollout, a drained node) leaves the job to the next try, if ``durable`` and there is one to come.
    :param max_unreachable_seconds: how long a dashboard that does not answer is waited for.
    :param log_max_lines: pass on at most so many lines of log, and say how many were left out. ``None``: all.
    :param allow_in_package: names or paths of local files, with ``*``, that are meant to be uploaded although they look
        like secrets (``.env``, private keys) or are links that lead out of the folder: no warning names these.
    :param deferrable: wait in the triggerer. Default: Airflow's setting ``[operators] default_deferrable``, which is
        off unless set. (astro-provider-ray always deferred.)
    :param kwargs: arguments of any operator.
    """

    template_fields: Sequence[str] = (
        "conn_id",
        "entrypoint",
        "runtime_env",
        "num_cpus",
        "num_gpus",
        "memory",
        "ray_resources",
        "ray_cluster_yaml",
        "kuberay_version",
        "gpu_device_plugin_yaml",
        "job_timeout_seconds",
        "poll_interval",
        "xcom_task_key",
        "cluster",
        "submission_id",
        "metadata",
        "label_selector",
        "max_unreachable_seconds",
        "log_max_lines",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "entrypoint": "bash",
        "runtime_env": "json",
        "ray_resources": "json",
        "metadata": "json",
        "label_selector": "json",
        "cluster": "json",
    }
    operator_extra_links = (RayDashboardLink(),)
    ui_color = "#d6f0ff"
    #: Whether the task makes a cluster where nothing names one and the connection has no address.
    makes_cluster: ClassVar[bool] = False
    #: Leave the RayJob of a job that failed, for inspection.
    keep_on_failure: bool = False

    def __init__(
        self,
        *,
        conn_id: str = RayHook.default_conn_name,
        entrypoint: str | list[str],
        runtime_env: dict[str, Any] | None = None,
        num_cpus: float | str | None = 0,
        num_gpus: float | str | None = 0,
        memory: float | str | None = 0,
        resources: dict[str, Any] | None = None,
        ray_cluster_yaml: str | None = None,
        kuberay_version: str = "1.0.0",
        update_if_exists: bool = True,
        gpu_device_plugin_yaml: str = "",
        fetch_logs: bool = True,
        wait_for_completion: bool = True,
        job_timeout_seconds: float | str | timedelta | None = arguments.DEFAULT_TIMEOUT,
        poll_interval: float | str = 0.5,
        xcom_task_key: str | None = None,
        cluster: Any = None,
        submission_id: str | None = None,
        metadata: dict[str, str] | None = None,
        label_selector: dict[str, str] | None = None,
        durable: bool = True,
        cancel_on_kill: bool = True,
        max_unreachable_seconds: float | str = 600,
        log_max_lines: int | str | None = None,
        allow_in_package: Sequence[str] = (),
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.entrypoint = entrypoint
        self.runtime_env = runtime_env
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self.memory = memory
        # Not `resources`: that name is BaseOperator's own.
        self.ray_resources = resources
        self.ray_cluster_yaml = ray_cluster_yaml
        self.kuberay_version = kuberay_version
        self.update_if_exists = update_if_exists
        self.gpu_device_plugin_yaml = gpu_device_plugin_yaml
        self.fetch_logs = fetch_logs
        self.wait_for_completion = wait_for_completion
        self.job_timeout_seconds = job_timeout_seconds
        self.poll_interval = poll_interval
        self.xcom_task_key = xcom_task_key
        self.cluster = cluster_of_group.named(cluster)
        #: The cluster is that of the task group: the task names none.
        self.joined_group = (
            cluster is None
            and not (xcom_task_key or ray_cluster_yaml or self.has_ray_job)
            and cluster_of_group.join(self, kwargs, default_conn_id=RayHook.default_conn_name)
        )
        #: The DAG names a cluster. What comes of that by XCom may be nothing.
        self.names_cluster = self.cluster is not None or bool(xcom_task_key)
        self.submission_id = submission_id
        self.metadata = metadata
        self.label_selector = label_selector
        self.durable = durable
        self.cancel_on_kill = cancel_on_kill
        self.max_unreachable_seconds = max_unreachable_seconds
        self.log_max_lines = log_max_lines
        self.allow_in_package = allow_in_package
        self.deferrable = deferrable
        self._job_run: JobRun | None = None

    # -- what Airflow calls --------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Submit the job, or take over the one that an earlier try submitted; then wait.

        :param context: of the task.
        :return: the submission id.
        """
        with errors_for_airflow():
            return self._execute(context)

    def execute_started(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on after the trigger that waited for the cluster of a RayJob.

        :param context: of the task.
        :param event: the trigger's.
        :return: the submission id.
        """
        with errors_for_airflow():
            self.prepare(context)
            return flow.started(self, context, event)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on after the trigger fired.

        :param context: of the task.
        :param event: the trigger's.
        :return: the submission id.
        """
        with errors_for_airflow():
            return self._complete(context, event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral. Where the trigger failed or timed out, nobody watches the job any more: stop it.

        :param next_method: that Airflow goes on with.
        :param next_kwargs: of it: the trigger's event, or an error.
        :param context: of the task.
        """
        gone = triggerer.why_gone(next_method, next_kwargs)
        if gone is not None:
            self._abandon(context, gone)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Stop the job, and delete a cluster of the task's own."""
        if self._job_run is not None:
            self._job_run.kill()

    # -- for subclasses ------------------------------------------------------------------------------------------------

    def prepare(self, context: Context) -> None:
        """Check, and make ready what can be, before anything is created or asked for.

        :param context: of the task.
        """

    def ray_job_arguments(self, context: Context) -> RayJobArguments | None:  # noqa: ARG002
        """Say of which kind the cluster is that the job gets by a RayJob, on Kubernetes; ``None``: it gets none.

        :param context: of the task.
        """
        return None

    def specify(self, context: Context, run: JobRun, spec: JobSpec) -> JobSpec:  # noqa: ARG002
        """Change the job's specification right before its submit. It has its id; local paths are not uploaded yet.

        :param context: of the task.
        :param run: asks the cluster for something, with ``run.run``.
        :param spec: as the arguments make it.
        """
        return spec

    def result(self, context: Context, run: JobRun, outcome: JobOutcome) -> Any:  # noqa: ARG002
        """Give what the task returns after a success. The cluster is still there.

        :param context: of the task.
        :param run: asks the cluster for more, with ``run.run``.
        :param outcome: the job's.
        """
        return outcome.submission_id

    def failure(
        self,
        context: Context,  # noqa: ARG002
        run: JobRun,  # noqa: ARG002
        outcome: JobOutcome,  # noqa: ARG002
        error: RayProviderError,
    ) -> Exception:
        """Give the exception for a job that did not succeed. The cluster is still there.

        :param context: of the task.
        :param run: knows the job and its cluster.
        :param outcome: of the job.
        :param error: what would be raised otherwise.
        """
        return error

    @property
    def has_ray_job(self) -> bool:
        """Whether the DAG has KubeRay make a cluster for the job, by a RayJob."""
        return False

    @property
    def hook(self) -> RayHook:
        """The connection's hook."""
        return RayHook(self.conn_id, allowed=allowed_by(self))

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _execute(self, context: Context) -> Any:
        self.prepare(context)
        spec = arguments.job_spec(self, folders_of(context))
        run = self.new_run(context)
        memory = TaskMemory(context)
        config = run.hook.config
        done, result = removal.finish(context, run, memory)
        if done:
            return result
        wanted = self.ray_job_arguments(context) if config.backend != "local" else None
        if wanted is not None:
            return flow.begin(self, context, run, memory, spec, wanted)
        own = own_cluster(self, context, memory, config)
        if own is None:
            task_memory.locate(context, run, self.cluster, self.xcom_task_key)
        with self.answering_for(run, memory):
            run.reach(own)
            plan = self._plan(context, run, memory)
            return self.carry_out(context, run, memory, spec, plan.attempt, submit=plan.action == "submit")

    @contextmanager
    def answering_for(self, run: JobRun, memory: TaskMemory) -> Iterator[None]:
        """Stop the job, and delete a cluster of the task's own, where a step fails or the task is killed in it.

        :param run: knows the job and its cluster.
        :param memory: notes that the task was killed.
        :raises BaseException: what the step raised, after that.
        """
        try:
            yield
        except TaskDeferred:
            raise
        except BaseException as error:
            if run.killed and not run.left_to_retry:
                memory.killed()
            if isinstance(error, ClusterError) and self.keep_on_failure and not run.killed:
                flow.keep(self, run)
            run.abandon()
            raise

    def carry_out(
        self, context: Context, run: JobRun, memory: TaskMemory, spec: JobSpec, attempt: int, *, submit: bool
    ) -> Any:
        """Submit the job of a logical attempt, or take it over; then wait for it.

        :param context: of the task.
        :param run: knows the cluster.
        :param memory: keeps the attempt.
        :param spec: the job's, without its id.
        :param attempt: its number, from 1.
        :param submit: whether it is to be submitted: else an earlier try did.
        :return: what the task returns.
        """
        endpoint = run.reach()
        run.job_id = self.id_of_attempt(context, attempt)
        memory.keep(attempts.AttemptRecord(run.job_id, attempt, max_tries=memory.max_tries, submitted=not submit))
        task_memory.tell(context, run)
        if submit:
            detached = not (self.cancel_on_kill and self.wait_for_completion)
            owner = replace(task_memory.owner_of(context, attempt), detached=detached).to_metadata()
            if memory.max_tries is not None:
                owner[attempts.MAX_TRIES_KEY] = str(memory.max_tries)
            metadata = {**run.hook.config.metadata, **spec.metadata, **owner}
            self.log.info("Submitting job %s to %s: %s", run.job_id, endpoint.display_url, spec.entrypoint)
            run.submit(self.specify(context, run, replace(spec, submission_id=run.job_id, metadata=metadata)))
            memory.submitted()
        else:
            run.adopted()
        context["ti"].xcom_push(key=xcom_keys.LINK, value=job_page(endpoint, run.job_id))
        self.log.info("Job page: %s", job_page(endpoint, run.job_id))
        if not self.wait_for_completion:
            return run.job_id
        if self.deferrable:
            details = run.look()
            if run.appears_until is not None or (details is not None and not details.is_final):
                self._defer(context, run)
        return self.conclude(context, run, memory, run.watch(arguments.watch_options(self)))

    def _complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        from ray_provider.jobs.watch.outcome import peer_outcome
        from ray_provider.jobs.watch.watcher import JobOutcome

        run = self.new_run(context)
        memory = TaskMemory(context)
        task_memory.recall(context, run)
        run.job_id = event["job_id"]
        told = event.get("outcome") or peer_outcome(event)
        if told:
            run.ended()
            return self.conclude(context, run, memory, JobOutcome.from_dict(told))
        error = failure.read(event.get("error") or event)
        if self.cancel_on_kill:
            run.stop()
        run.delete_cluster()
        raise type(error)(f"Job {run.job_id} could not be watched: {error.message}", hint=error.hint)

    def conclude(self, context: Context, run: JobRun, memory: TaskMemory, outcome: JobOutcome) -> Any:
        """Turn the outcome into a return value or an exception, and take the task's own cluster away.

        :param context: of the task.
        :param run: knows the job and its cluster.
        :param memory: notes how the job ended.
        :param outcome: of the watch, in this process or in the triggerer.
        :return: what the task returns.
        :raises JobError: the job did not succeed, or nothing can be said of it.
        :raises ClusterError: it succeeded, and the task's own cluster could not be deleted.
        """
        # Ray's message of a failed job ends with the last lines of its log.
        outcome = replace(
            outcome,
            message=redact(outcome.message) if outcome.message else outcome.message,
            cause=redact(outcome.cause) if outcome.cause else outcome.cause,
        )
        if outcome.kind == "deadline":
            outcome = replace(outcome, limit=arguments.limit_of(self))
        if outcome.kind == "suspended":
            return flow.again(self, context, run, memory, outcome)
        error = outcome.error()
        try:
            if error is not None:
                raise self.failure(context, run, outcome, error)
            self.log.info("Job %s: %s", outcome.submission_id, outcome.status)
            result = self.result(context, run, outcome)
        except BaseException as failure:
            if outcome.kind != "unreachable":
                memory.seen(outcome)
            if error is not None and self.keep_on_failure:
                flow.keep(self, run)
            else:
                removal.after_failure(run, failure)
            raise
        memory.seen(outcome)
        removal.after_success(run, memory, result)
        return result

    def _defer(self, context: Context, run: JobRun) -> None:
        self.log.info("Waiting for job %s in the triggerer.", run.job_id)
        trigger, timeout = deferral.of_job(self, run, getattr(context["ti"], "start_date", None))
        self.defer(trigger=trigger, method_name="execute_complete", timeout=timeout)

    def _abandon(self, context: Context, reason: str) -> None:
        """Stop a job whose trigger is gone. Airflow raises its own error afterwards, so this one must not."""
        timed_out = "timeout" in reason.lower()
        run = self.new_run(context)
        try:
            task_memory.recall(context, run)
            if run.job_id and run.is_reachable and (timed_out or self.cancel_on_kill):
                self.log.warning("Nobody watches job %s any more (%s): stopping it.", run.job_id, reason)
                run.stop()
            run.delete_cluster()
        except RayProviderError:
            self.log.exception("Job %s could not be stopped. It may still run.", run.job_id)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def new_run(self, context: Context) -> JobRun:
        """Begin what can be killed.

        :param context: of the task.
        """
        ti = context["ti"]
        again = self.durable and (getattr(ti, "max_tries", None) or 0) >= (getattr(ti, "try_number", None) or 1)
        run = JobRun(
            self.hook, self.log, cancel_on_kill=self.cancel_on_kill, retried=TriggerTask(ti) if again else None
        )
        run.max_unreachable_seconds = arguments.watch_options(self).max_unreachable_seconds
        run.allow_in_package = arguments.names("allow_in_package", self.allow_in_package)
        self._job_run = run
        return run

    def _plan(self, context: Context, run: JobRun, memory: TaskMemory) -> attempts.Plan:
        def is_ours(attempt: int, job: JobDetails) -> bool:
            from ray_provider.jobs.submit.identity import IDENTITY_KEYS

            ours = task_memory.owner_of(context, attempt).to_metadata()
            return all(job.metadata.get(key) == ours.get(key) for key in IDENTITY_KEYS)

        return run.plan(
            memory.earlier,
            lambda attempt: self.id_of_attempt(context, attempt),
            is_ours,
            max_tries=memory.max_tries,
            durable=self.durable,
        )

    def id_of_attempt(self, context: Context, attempt: int) -> str:
        """Give the id under which a logical attempt's job is submitted.

        :param context: of the task.
        :param attempt: its number, from 1.
        """
        from ray_provider.jobs.submit.identity import submission_id_for

        if not self.submission_id:
            return submission_id_for(task_memory.owner_of(context, attempt))
        return self.submission_id if attempt == 1 else f"{self.submission_id}-{attempt}"
