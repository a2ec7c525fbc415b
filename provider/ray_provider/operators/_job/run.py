"""One try of a task and its job: the steps that an operator takes, each of which can be killed at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ray_provider import _compat
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import JobLostError, JobStoppedError, RayApiError, RayConnectionError, RayProviderError
from ray_provider.hooks import own_cluster, own_rayjob
from ray_provider.operators._job import attempts
from ray_provider.operators.background import Steps
from ray_provider.triggers import watching

if TYPE_CHECKING:
    from ray_provider.hooks.ray import RayHook
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.jobs.models import JobDetails, JobSpec
    from ray_provider.jobs.watch.watcher import JobOutcome, WatchOptions

T = TypeVar("T")

#: Airflow 3 sends SIGKILL 5 s after SIGTERM: what a signal handler waits for has to be done before.
_HANDLER_SECONDS = 4.0
#: After an exception in the main thread (``execution_timeout``) there is more time.
_GRACE_SECONDS = 45.0
#: How long Airflow is asked who ended the task: the stop itself has to fit in as well.
_ASK_SECONDS = 1.5
#: A submit that is on its way may need so long until Ray knows the job.
_APPEAR_SECONDS = 3.0


class JobRun:
    """Holds what is known of the job, and takes the steps.

    All public methods are for the task's main thread. Where a step is cut short, the job is stopped (unless
    ``cancel_on_kill`` is off) and a cluster of the task's own deleted, before the step raises.

    :param hook: of the connection.
    :param log: the task's.
    :param cancel_on_kill: stop the job when the task is killed.
    :param retried: the task instance, if another try of it is to come and would take the job over: then the job is
        left to that one where it is the worker's end that ends the task, and not a user.
    """

    def __init__(
        self,
        hook: RayHook,
        log: watching.Log,
        *,
        cancel_on_kill: bool = True,
        retried: _compat.TriggerTask | None = None,
    ) -> None:
        self.hook = hook
        self.log = log
        self.cancel_on_kill = cancel_on_kill
        #: The job goes on, for the next try.
        self.left_to_retry = False
        #: The job that this task answers for: known before it is submitted.
        self.job_id: str | None = None
        self.cluster: ClusterHandle | None = None
        self.dashboard_url: str | None = None
        #: Who the task is, if it made the cluster itself.
        self.cluster_owner: Mapping[str, Any] | None = None
        self.endpoint: RayEndpoint | None = None
        #: The head's session when the job was planned: a job that is missing in another one was lost with its head.
        self.session_name: str | None = None
        #: Files that may be packed without a warning.
        self.allow_in_package: Sequence[str] = ()
        self.ray_version: str | None = None
        #: Seconds that a Ray which does not answer is waited for.
        self.max_unreachable_seconds = 60.0
        #: When (seconds since 1970) a job that somebody else submits has to be there; ``None``: it is ours to submit.
        self.appears_until: float | None = None
        self._retried = retried
        self._failing = False
        self._answered = False
        self._ended = False
        self._sending = False
        self._sent = False
        self._unanswered = False
        self._left = False
        self._steps = Steps(grace=_GRACE_SECONDS, handler=_HANDLER_SECONDS)

    def reach(self, own: own_cluster.OwnCluster | None = None) -> RayEndpoint:
        """Find out where the job runs; make the cluster first, if the task has one of its own.

        :param own: what the task's own cluster is to be; ``None``: it uses one that is there.
        """

        async def reach() -> RayEndpoint:
            if own is not None:
                self.cluster_owner = own.owner
                self.cluster = await own_cluster.set_up(self.hook, own)
            self.endpoint = await self.hook.endpoint(self.cluster, self.dashboard_url)
            return self.endpoint

        return self._do(reach)

    def plan(
        self,
        record: attempts.AttemptRecord | None,
        id_for: Callable[[int], str],
        is_ours: Callable[[int, JobDetails], bool],
        *,
        max_tries: int | None,
        durable: bool,
    ) -> attempts.Plan:
        """Decide what to do, and stop what has to be stopped before.

        :param record: what was kept of the last attempt; unless there is one, Ray is asked.
        :param id_for: gives the id of an attempt.
        :param is_ours: tells whether a job under such an id is this task's.
        :param max_tries: Airflow's.
        :param durable: go on with a job that an earlier try began.
        :raises RayProviderError: the earlier job could not be stopped.
        """

        async def plan(client: RayJobsClient) -> attempts.Plan:
            await self._meet(client)
            known = record
            if known is None:
                found = await attempts.last_known(client, id_for, is_ours)
                known, job = found or (None, None)
            else:
                job = await client.get(known.submission_id)
            if known is not None and job is not None and not job.is_final:
                # From here on it is ours: a kill stops it.
                self.job_id = known.submission_id
            plan = attempts.decide(known, job, max_tries=max_tries, durable=durable)
            if plan.why:
                self.log.info("%s", plan.why)
            if plan.stop_first and not await watching.stop(client, plan.stop_first, log=self.log):
                raise RayProviderError(
                    f"Job {plan.stop_first} of an earlier try of this task still runs and could not be stopped: "
                    "no second one is started beside it.",
                    hint="See the line above. Stop the job by hand, then clear the task.",
                    submission_id=plan.stop_first,
                )
            return plan

        return self._with_client(plan, patient=True)

    def forget_ray(self) -> None:
        """Forget the cluster's address and what was sent to it: it is gone, and another one takes its place."""
        self.endpoint, self.session_name = None, None
        self._answered = self._ended = self._sending = self._sent = self._unanswered = self._left = False

    def meet(self) -> None:
        """Learn which Ray it is: its version, and the session of its head."""
        self._with_client(self._meet, patient=True)

    async def _meet(self, client: RayJobsClient) -> None:
        from ray_provider.jobs.ray_versions import token_warning

        version = await client.version()
        self.session_name, self.ray_version = version.session_name, version.ray_version
        if client.endpoint.token and (warning := token_warning(self.ray_version)):
            self.log.warning("%s", warning)

    def submit(self, spec: JobSpec) -> JobDetails | None:
        """Upload what is local, and submit. Gives the job, if Ray was asked for it.

        :param spec: with its id, which is this object's ``job_id`` already.
        :raises RayProviderError: it was refused, or nobody answers.
        """

        async def submit(client: RayJobsClient) -> JobDetails | None:
            from ray_provider._shared.retry import RetryPolicy
            from ray_provider.jobs.ray_versions import check
            from ray_provider.jobs.submit.once import check_head, lost_answer, submit_once
            from ray_provider.jobs.submit.one_node import refuse_too_large
            from ray_provider.jobs.submit.packaging import needs_packaging, package_runtime_env

            check(self.ray_version, spec)
            if self.cluster is not None and self.cluster.backend == "local":
                await refuse_too_large(client, spec)
            if self._unanswered:
                await check_head(client, self._id, self.session_name)
            ready = spec
            if needs_packaging(spec.runtime_env):
                packed = await package_runtime_env(
                    client, spec.runtime_env, allow=self.allow_in_package, warn=self.log.warning
                )
                ready = replace(spec, runtime_env=packed)
            await own_rayjob.about_to_submit(self.hook, self.cluster, self.session_name)
            self._sending = self._sent = True
            try:
                # Sent once: before it is sent again, it has to be the same head (above, when this step is repeated).
                result = await submit_once(client, ready, retry=RetryPolicy.none())
            except (RayConnectionError, RayApiError) as error:
                self._unanswered = self._unanswered or lost_answer(error)
                raise
            self._sending = False
            return result.details

        try:
            return self._with_client(submit, patient=True)
        except RayProviderError as error:
            # Refused, lost, or taken by somebody else: nothing of ours to stop. Only of a lost answer nothing is known.
            self._ended = not self._sending or not error.retryable or isinstance(error, JobLostError)
            raise

    def adopted(self) -> None:
        """Note that the job of an earlier try is this one's now."""
        self._sent = True

    def look(self) -> JobDetails | None:
        """Ask for the job once."""
        return self._with_client(lambda client: client.get(self._id), patient=True)

    def watch(self, options: WatchOptions) -> JobOutcome:
        """Follow the job to its end.

        :param options: how, and until when.
        """
        told = replace(options, session_name=self.session_name, appears_until=self.appears_until)

        async def watch(client: RayJobsClient) -> JobOutcome:
            async with self.hook.using(self.cluster):
                outcome = await watching.watch(
                    client,
                    self._id,
                    told,
                    log=self.log,
                    hide=_compat.redact,
                    ask=self.hook.asks(self.cluster),
                    interrupted=self.hook.interruptions(self.cluster),
                )
            self._ended = outcome.kind in {"final", "lost"}
            # Nothing can be said of it, and a retry may take it over.
            self._left = outcome.kind == "unreachable"
            return outcome

        return self._with_client(watch)

    def take(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Take a step that needs no Ray: a coroutine, run like the steps here.

        :param make: makes the coroutine.
        """
        return self._do(make)

    def run(self, make: Callable[[RayJobsClient], Coroutine[Any, Any, T]]) -> T:
        """Take a step of a subclass: a coroutine that gets a client, run like the steps here, and safe to repeat.

        :param make: makes the coroutine of an open client.
        """
        return self._with_client(make, patient=True)

    def stop(self) -> bool:
        """Stop the job and wait for its end. Gives whether it has ended."""

        async def stop(client: RayJobsClient) -> bool:
            self._ended = await watching.stop(client, self._id, log=self.log)
            return self._ended

        if self.endpoint is None:
            self.reach()
        return self._with_client(stop)

    def ended(self) -> None:
        """Note that the job has ended: a kill has nothing to stop."""
        self._ended = True

    def abandon(self) -> None:
        """The task fails: stop a job that nobody would watch any more, and delete the task's own cluster."""
        self._failing = True
        if self.killed:
            return
        if self._sent and not self._ended and not self._left:
            self.stop()
        self.delete_cluster()

    def delete_cluster(self) -> None:
        """Delete the cluster, if the task made it."""
        if self.owns_cluster:
            self._do(self._delete_cluster)

    @property
    def is_reachable(self) -> bool:
        """Whether there is a cluster to speak with: that of a RayJob gets its name only when it is made."""
        return self.cluster is None or bool(self.cluster.name)

    @property
    def owns_cluster(self) -> bool:
        """Whether the task made its cluster, in this try or in an earlier one."""
        return (
            self.cluster is not None
            and self.cluster_owner is not None
            and own_cluster.belongs_to(self.cluster, self.cluster_owner)
        )

    # -- the kill ------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End what is going on. Called by ``on_kill``: in a signal handler, in the middle of the main thread."""
        stoppable = not self._ended and (self.job_id or self.owns_cluster)
        self._steps.kill(self._end if stoppable else None)

    @property
    def killed(self) -> bool:
        """Whether :meth:`kill` was called."""
        return self._steps.killed

    async def _end(self) -> None:
        """Stop the job and delete the task's own cluster, unless the next try goes on with them."""
        if await self._is_left_to_retry():
            self.left_to_retry = True
            self.log.info("The worker is ending, nobody ended the task: job %s is left to the next try.", self.job_id)
            return
        if self.cancel_on_kill and self.job_id and self.endpoint is not None and not self._ended:
            self._ended = await watching.stop_at(
                self.endpoint,
                self.job_id,
                log=self.log,
                within=_GRACE_SECONDS - 15.0,
                appear=_APPEAR_SECONDS if self._sending else 0.0,
            )
        if self.owns_cluster and (self.cancel_on_kill or not self._sent):
            await self._delete_cluster()

    async def _is_left_to_retry(self) -> bool:
        """Tell a worker's end from a user who acts on the task, and has changed its state before: both send SIGTERM."""
        if self._retried is None or not self.killed or self._failing or not self.cancel_on_kill:
            return False
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return await _compat.core_state_of(self._retried) == "running"
        except Exception as error:  # noqa: BLE001 - whatever it is: what a user ended has to end
            if isinstance(getattr(error, "cause", None), EOFError | ConnectionError):
                # The process that supervises the task is gone: it was not that one, for a user, who sent the signal.
                return True
            self.log.warning("Airflow does not say who ended the task (%r): job %s is stopped.", error, self.job_id)
            return False

    async def _delete_cluster(self) -> None:
        if self.cluster is None:
            return
        cluster, self.cluster = self.cluster, None
        self.log.info("Deleting the task's own cluster %s.", cluster.name)
        await own_cluster.delete(self.hook, cluster)

    @property
    def _id(self) -> str:
        if self.job_id is None:
            raise RuntimeError("No job is known yet.")
        return self.job_id

    def _with_client(self, make: Callable[[RayJobsClient], Coroutine[Any, Any, T]], *, patient: bool = False) -> T:
        """Take a step with a client. A patient one waits for a Ray that does not answer, and is repeated."""

        async def step() -> T:
            from ray_provider.jobs.client import RayJobsClient
            from ray_provider.jobs.http import patience

            endpoint = self.endpoint or await self.hook.endpoint(self.cluster, self.dashboard_url)
            self.endpoint = endpoint
            if not patient:
                async with RayJobsClient(endpoint) as client:
                    return await make(client)
            async with RayJobsClient(endpoint, retry=patience.REQUESTS) as client:
                known, seconds, tell = self._answered, self.max_unreachable_seconds, self.log.warning
                answer = await patience.patiently(lambda: make(client), seconds=seconds, known=known, tell=tell)
                self._answered = True
                return answer

        return self._do(step)

    def _do(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def guarded() -> T:
            try:
                await asyncio.sleep(0)  # a kill that came before the step's first line ends it here
                return await make()
            except asyncio.CancelledError:
                await self._end()
                raise

        try:
            return self._steps.take(guarded)
        except asyncio.CancelledError:
            raise self._killed_error() from None

    def _killed_error(self) -> JobStoppedError:
        if not self.job_id:
            what = "No job had been submitted."
        elif not self.cancel_on_kill:
            what = f"Job {self.job_id} goes on (cancel_on_kill=False)."
        elif self.left_to_retry:
            what = f"Job {self.job_id} goes on: it was the worker that ended. The next try takes the job over."
        elif self._ended:
            what = f"Job {self.job_id} was stopped."
        else:
            what = f"Job {self.job_id} was told to stop."
        return JobStoppedError(f"The task was ended from outside. {what}", submission_id=self.job_id)
