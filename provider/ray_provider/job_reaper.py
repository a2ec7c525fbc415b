"""Finding Ray jobs that no task waits for any more, and stopping them: ``ray-provider reap --jobs``.

A task stops its job however it ends, except where no code of ours runs: a deferred task that is ended, or whose run is
deleted, while no triggerer runs or before one has begun with its trigger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ray_provider import _compat
from ray_provider._compat import database
from ray_provider._shared import xcom_keys
from ray_provider._shared.plain_text import colourless
from ray_provider.exceptions import RayProviderError
from ray_provider.reaper import ReapOptions, age_text, survey

if TYPE_CHECKING:
    from ray_provider.hooks.ray import RayHook
    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.jobs.models import JobDetails
    from ray_provider.jobs.submit.identity import JobOwner

Key = tuple[str, str, str, int]

#: States in which it has said which job is its own.
_AT_WORK = frozenset({"running", "deferred"})
#: Hosts in the address of a web interface that many Airflows have.
_ANYBODYS = frozenset({"", "localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - compared, not bound  # nosec B104
_DETACHED = "--detached takes it too"
#: How long a dashboard that does not answer is tried.
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class JobReapOptions:
    """Which jobs are looked for, and what counts as not needed.

    :param clusters: where clusters are looked for, if the connection has no address.
    :param older_than: also jobs of DAGs that this Airflow does not know, if they are older than this.
    :param detached: also jobs that were meant to go on without their task, or of which that is not recorded.
    :param timeout: seconds that the stop of one may take.
    """

    clusters: ReapOptions = field(default_factory=ReapOptions)
    older_than: timedelta | None = None
    detached: bool = False
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job of a task's, which has not ended.

    :param where: the Ray cluster, or its dashboard, for people.
    :param endpoint: its dashboard.
    :param details: as Ray tells of it.
    :param owner: as its metadata say.
    """

    where: str
    endpoint: RayEndpoint
    details: JobDetails
    owner: JobOwner

    @property
    def name(self) -> str:
        """The submission id."""
        return str(self.details.submission_id)

    @property
    def key(self) -> Key:
        """Which task instance it belongs to."""
        return (self.owner.dag_id, self.owner.run_id, self.owner.task_id, self.owner.map_index)

    @property
    def created(self) -> datetime | None:
        """When it was submitted."""
        began = self.details.start_time
        return datetime.fromtimestamp(began / 1000, tz=UTC) if began else None


@dataclass(frozen=True, slots=True)
class Airflow:
    """What this Airflow knows of the owners of jobs.

    :param name: of the deployment, as jobs are marked with it.
    :param dags: ids of the DAGs that it knows.
    :param runs: when each run began, as text.
    :param tasks: state of each task instance.
    :param jobs: which job each task instance has said to be its own.
    """

    name: str = ""
    dags: frozenset[str] = frozenset()
    runs: Mapping[tuple[str, str], str] = field(default_factory=dict)
    tasks: Mapping[Key, str] = field(default_factory=dict)
    jobs: Mapping[Key, str] = field(default_factory=dict)

    @property
    def is_told_apart(self) -> bool:
        """Whether its name is no other Airflow's: not the default, nor an address of a machine's own."""
        return (urlsplit(self.name).hostname or "") not in _ANYBODYS


@dataclass(frozen=True, slots=True)
class JobVerdict:
    """What is to become of a job.

    :param job: which.
    :param delete: whether no task waits for it any more: it is to be stopped.
    :param task: what became of its task, in a word.
    :param reason: in words.
    """

    job: FoundJob
    delete: bool
    task: str
    reason: str


def judge(job: FoundJob, airflow: Airflow, options: JobReapOptions, now: datetime) -> JobVerdict:
    """Decide whether a task may still wait for a job. In doubt it is left alone.

    :param job: that has not ended.
    :param airflow: what it knows of the job's owner.
    :param options: which jobs may be stopped.
    :param now: with a time zone.
    """
    task, reason, delete = _of_task(job, airflow, options, now)
    if delete and not options.detached and job.owner.detached is not False:
        delete = False
        if job.owner.detached:
            reason += f", but it was to go on then (cancel_on_kill or wait_for_completion is False): {_DETACHED}"
        else:
            reason += f", but nothing tells whether it was to go on then: {_DETACHED}"
    return JobVerdict(job, delete, task, reason)


def _of_task(job: FoundJob, airflow: Airflow, options: JobReapOptions, now: datetime) -> tuple[str, str, bool]:
    """Give what became of the task, why that decides, and whether the job is to be stopped by that."""
    name, began = _deployment(job.owner)
    if name != airflow.name:
        return "?", f"it belongs to another Airflow ({name or 'one without [api] base_url'})", False
    here = airflow.runs.get(job.key[:2])
    if not airflow.is_told_apart and (here is None or here != began):
        # Of two such Airflows both may have a run of this name. When it began is the same in one of them only.
        return "?", "this Airflow has no such run, and no [api] base_url of its own that tells it from others", False
    if here is None:
        if job.owner.dag_id in airflow.dags:
            return "gone", "its run was deleted", True
        age = now - job.created if job.created else timedelta(0)
        if options.older_than is not None and age > options.older_than:
            return "unknown", f"this Airflow has no such DAG, and it is older than {age_text(options.older_than)}", True
        return "unknown", "this Airflow has no such DAG: --older-than takes it too, by its age", False
    state = airflow.tasks.get(job.key)
    if state is None:
        return "gone", "its run no longer has such a task", True
    if state in _compat.ENDED:
        return state, "its task has ended" if state != "removed" else "its task is no longer in its DAG", True
    own = airflow.jobs.get(job.key)
    if state in _AT_WORK and own and own != job.name:
        return state, f"its task waits for another job now: {own}", True
    if state in _AT_WORK:
        return state, f"its task is {state}", False
    return state or "none", "the next try of its task goes on with it, or stops it", False


def _deployment(owner: JobOwner) -> tuple[str, str]:
    """Split an owner's deployment: the Airflow's name, and when the run began."""
    name, _, began = owner.deployment.rpartition(" ")
    try:
        datetime.fromisoformat(began)
    except ValueError:
        return owner.deployment, ""
    return name, began


async def find_jobs(hook: RayHook, options: JobReapOptions, *, local: bool) -> tuple[list[FoundJob], list[str]]:
    """Find jobs that tasks submitted and that have not ended: at the connection's address, or on all clusters there.

    :param hook: of the connection.
    :param options: where to look.
    :param local: without an address, the clusters of this machine; else those of the connection's Kubernetes.
    :return: the jobs; and which dashboards could not be asked, and why.
    :raises RayProviderError: it can't be found out which clusters there are.
    """
    from ray_provider._shared.retry import RetryPolicy
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.submit.identity import JobOwner

    found: list[FoundJob] = []
    failures: list[str] = []
    for where, cluster in await _dashboards(hook, options, local=local):
        try:
            endpoint = await hook.endpoint(cluster)
            async with RayJobsClient(endpoint, retry=RetryPolicy(deadline_seconds=PATIENCE_SECONDS)) as client:
                jobs = await client.list_jobs()
        except RayProviderError as error:
            failures.append(f"{where or 'the connection'}: {error}")
            continue
        for job in jobs:
            owner = JobOwner.from_metadata(job.metadata)
            if owner is not None and job.submission_id and not job.is_final:
                found.append(FoundJob(where or endpoint.display_url, endpoint, job, owner))
    return sorted(found, key=lambda one: (one.where, one.details.start_time or 0)), failures


async def _dashboards(
    hook: RayHook, options: JobReapOptions, *, local: bool
) -> list[tuple[str, Mapping[str, Any] | None]]:  # fmt: skip
    """Give the Ray clusters to ask, as handles; no handle: the connection's address."""
    from ray_provider.clusters.handle import ClusterHandle

    if (await hook.aconfig()).address:
        return [("", None)]
    backend: Literal["local", "kubernetes"] = "local" if local else "kubernetes"
    clusters = [one for one in await survey(hook, options.clusters, local=local) if one.what == "cluster"]
    return [
        (f"{one.where}/{one.name}", ClusterHandle(backend, one.name, "", namespace=one.namespace).to_dict())
        for one in clusters
    ]


def ask_airflow(jobs: Iterable[FoundJob]) -> Airflow:
    """Ask the metadata database about the owners of jobs. Blocking.

    :param jobs: whose owners it is asked for.
    """
    owners = [job.owner for job in jobs]
    runs = {owner.run_id for owner in owners}
    dags = database.known_dags() & {owner.dag_id for owner in owners}
    told = database.stored_xcoms(xcom_keys.JOB, dags, runs)
    return Airflow(
        _compat.deployment_name(),
        frozenset(dags),
        database.run_starts(dags, runs),
        database.task_states(dags, runs),
        {
            key: str(one["submission_id"])
            for key, one in told.items()
            if isinstance(one, Mapping) and "submission_id" in one
        },
    )


def stop_all(verdicts: Iterable[JobVerdict], options: JobReapOptions, say: Callable[[str], None]) -> list[str]:
    """Stop the jobs that no task waits for, one after the other, each until Ray says so. Goes on after a failure.

    Airflow is asked again right before: what was listed may have been decided minutes ago.

    :param verdicts: those that keep a job are passed over.
    :param options: which jobs may be stopped, and how many seconds the stop of one may take.
    :param say: is told what became of each.
    :return: what was not stopped, and why.
    """
    from ray_provider.hooks.peer import run_sync

    failures = []
    for verdict in verdicts:
        job = verdict.job
        if not verdict.delete:
            continue
        again = judge(job, ask_airflow([job]), options, datetime.now(tz=UTC))
        if not again.delete:
            failures.append(f"{job.name}: {again.reason}, by now")
            continue
        try:
            details = run_sync(partial(_stop, job, options.timeout))
        except RayProviderError as error:
            failures.append(f"{job.name} on {job.where}: {error}")
        else:
            say(f"Job {job.name}: {details.status if details else 'unknown to Ray by now'}.")
    return failures


async def _stop(job: FoundJob, timeout: float) -> JobDetails | None:
    from ray_provider.jobs.client import RayJobsClient

    async with RayJobsClient(job.endpoint) as client:
        return await client.stop_and_wait(job.name, timeout)


def rows(verdicts: Sequence[JobVerdict], now: datetime | None = None) -> list[tuple[str, ...]]:
    """Give the rows of a table that shows what was found and what is to become of it, its head first.

    :param verdicts: in the order in which they are shown.
    :param now: with a time zone; unless given, the present.
    """
    now = now or datetime.now(tz=UTC)
    made: list[tuple[str, ...]] = [("WHERE", "JOB", "STATUS", "AGE", "DAG", "RUN", "TASK", "TASK IS", "", "WHY")]
    for verdict in verdicts:
        job, owner = verdict.job, verdict.job.owner
        task = owner.task_id if owner.map_index < 0 else f"{owner.task_id}[{owner.map_index}]"
        age = age_text(now - job.created) if job.created else "?"
        told = (job.where, job.name, job.details.status, age, owner.dag_id, owner.run_id, task, verdict.task)
        what = "stop" if verdict.delete else "keep"
        # Metadata are whatever somebody wrote: one line, and nothing that a terminal would do.
        made.append(tuple(" ".join(colourless(cell).split()) for cell in (*told, what, verdict.reason)))
    return made
