"""Submit a job exactly once, however often the submit is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_provider._shared.retry import GATEWAY, RetryPolicy
from ray_provider.exceptions import ConfigurationError, JobConflictError, JobLostError, RayApiError, RayConnectionError
from ray_provider.jobs.http.errors import JobAlreadyExistsError
from ray_provider.jobs.submit.identity import IDENTITY_KEYS

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.models import JobDetails, JobSpec

#: How long a submit that got no answer is looked for. The dashboard may hold it back 10 s while it waits for an agent.
_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """What became of a submit.

    :param submission_id: of the job.
    :param adopted: the job was there before: an earlier submit had come through. It may already have ended.
    :param details: the job, if Ray was asked.
    """

    submission_id: str
    adopted: bool
    details: JobDetails | None = None


async def submit_once(client: RayJobsClient, spec: JobSpec, *, retry: RetryPolicy | None = None) -> SubmitResult:
    """Submit a job under its known id. Safe to repeat: the same job is never started twice.

    A job that exists under the id is adopted if entrypoint and owner are the same, whatever its status.
    An answer that got lost is made up for by asking.

    :param client: of the cluster.
    :param spec: with a ``submission_id``.
    :param retry: how long to go on, instead of the client's own policy.
    :raises ConfigurationError: the specification can't work; Ray may be the one that refuses it.
    :raises JobConflictError: the id is taken by another job.
    :raises RayApiError: it was refused.
    :raises RayConnectionError: nobody answered, and Ray does not know the job.
    """
    if spec.submission_id is None:
        raise ConfigurationError(
            "A submit that is safe to repeat needs a submission_id.",
            hint="Make one with submission_id_for(owner).",
            field="submission_id",
        )
    spec.validate()
    try:
        submission_id = await client.submit_request(spec, retry=retry)
    except JobAlreadyExistsError as error:
        details = await client.get(spec.submission_id, retry=retry)
        if details is None:
            raise JobConflictError(
                f"The submission id {spec.submission_id} was used before, and its job was deleted since. "
                "Ray never frees an id.",
                hint="Clear the task, so that it gets a new logical attempt and a new id.",
                submission_id=spec.submission_id,
            ) from error
        _check_same(client, spec, details)
        # At a later try of this very call the job may be the one that an earlier try made.
        return SubmitResult(spec.submission_id, adopted=error.data.get("attempts", 1) == 1, details=details)
    except (RayConnectionError, RayApiError) as error:
        if isinstance(error, RayApiError) and (error.status or 0) < 500:
            raise
        # Of what was refused one look tells; a request without an answer may still be on its way.
        details = await _look_for(client, spec.submission_id, _LOOK_SECONDS if lost_answer(error) else 0.0)
        if details is None:
            raise
        _check_same(client, spec, details)
        return SubmitResult(spec.submission_id, adopted=False, details=details)
    return SubmitResult(submission_id, adopted=False)


def lost_answer(error: RayConnectionError | RayApiError) -> bool:
    """Whether a submit that failed may have reached Ray all the same.

    :param error: of the submit.
    """
    return isinstance(error, RayConnectionError) or error.status in GATEWAY


async def check_head(client: RayJobsClient, submission_id: str, session_name: str | None) -> None:
    """Before a submit whose answer was lost is repeated: a head that is another one now may have run the job.

    :param client: of the cluster.
    :param submission_id: the job's.
    :param session_name: of the head that got the first one.
    :raises JobLostError: the head restarted since, and does not know the job.
    """
    now = (await client.version()).session_name
    if not session_name or not now or now == session_name or await client.get(submission_id) is not None:
        return
    raise JobLostError(
        f"Job {submission_id} was lost: the Ray head restarted while it was submitted (its session was {session_name} "
        f"and is {now} now). The job may have begun, and a head without fault tolerance forgets its jobs.",
        hint="Clear or retry the task: the job is submitted anew, under a new id.",
        submission_id=submission_id,
    )


async def _look_for(client: RayJobsClient, submission_id: str, seconds: float) -> JobDetails | None:
    """Look for a job whose submit failed: the request may have come through all the same."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        try:
            details = await client.get(submission_id, retry=RetryPolicy.none())
        except (RayConnectionError, RayApiError):
            details = None  # the submit's own error tells more
        if details is not None or loop.time() >= until:
            return details
        await asyncio.sleep(0.5)


def _check_same(client: RayJobsClient, spec: JobSpec, details: JobDetails) -> None:
    """Make sure that the job under our id is ours.

    :raises JobConflictError: it is not.
    """
    differences = _differences(spec, details)
    if not differences:
        return
    raise JobConflictError(
        f"The submission id {spec.submission_id} is taken by another job: {'; '.join(differences)}.",
        hint="Give another submission_id, or none: then the task makes one that nobody else has. "
        f"The other job: {client.job_url(str(spec.submission_id))}",
        submission_id=spec.submission_id,
        status=details.status,
    )


def _differences(spec: JobSpec, details: JobDetails) -> list[str]:
    found = []
    if details.entrypoint != spec.entrypoint:
        found.append(f"its entrypoint is {_short(details.entrypoint)}, ours is {_short(spec.entrypoint)}")
    theirs: Mapping[str, Any] = details.metadata
    keys = [key for key in IDENTITY_KEYS if key in spec.metadata or key in theirs] or sorted(spec.metadata)
    found += [
        f"its {key} is {_short(theirs.get(key))}, ours is {_short(spec.metadata.get(key))}"
        for key in keys
        if theirs.get(key) != spec.metadata.get(key)
    ]
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}…"
