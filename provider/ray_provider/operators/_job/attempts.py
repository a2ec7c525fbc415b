"""Which job a try of a task has to run: a new one, or one that an earlier try began. No Airflow in here.

A *logical attempt* is one job that the task is to run. A retry after a worker died goes on with the attempt; a task
that is run anew (cleared, or retried after its job ended) begins the next one. The id a job is submitted under follows
from the attempt, and is recorded before the submit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.models import JobDetails

#: Key in the task state store (Airflow 3.3).
STORE_KEY = "ray_job"
#: Job metadata: changes when a task that is not running is cleared.
MAX_TRIES_KEY = "airflow_max_tries"

#: More logical attempts than this can't be told apart on Airflow before 3.3.
_MOST_ATTEMPTS = 1000


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """What is known of the last logical attempt.

    :param submission_id: under which its job was, or was about to be, submitted.
    :param attempt: counts from 1.
    :param max_tries: Airflow's, at that time: clearing a task raises it, a retry does not.
    :param submitted: the submit came through.
    :param final: the status that the task has seen; ``None``: it has not seen the job's end.
    :param stopping: the task was killed, and told Ray to stop the job.
    :param left: the job succeeded, and this is left to do: the ``cluster`` to delete, the ``result`` to return.
    """

    submission_id: str
    attempt: int
    max_tries: int | None = None
    submitted: bool = False
    final: str | None = None
    stopping: bool = False
    left: Mapping[str, Any] | None = None

    def was_cleared(self, max_tries: int | None) -> bool:
        """Whether the task was cleared since.

        :param max_tries: Airflow's, now.
        """
        return self.max_tries is not None and max_tries is not None and self.max_tries != max_tries

    def to_dict(self) -> dict[str, Any]:
        """Give the record as JSON-able data."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, data: Any) -> AttemptRecord | None:
        """Read a record back; ``None`` if this is none.

        :param data: from Airflow's store; keys of a later release are passed over.
        """
        if not isinstance(data, Mapping) or "submission_id" not in data or "attempt" not in data:
            return None
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    :param action: ``submit`` a job, or ``adopt`` the one that is there.
    :param attempt: the logical attempt.
    :param why: for the log; empty for the usual case.
    :param stop_first: a job of an earlier attempt that still runs: it has to have ended before the submit.
    """

    action: Literal["submit", "adopt"]
    attempt: int
    why: str = ""
    stop_first: str | None = None


def decide(record: AttemptRecord | None, job: JobDetails | None, *, max_tries: int | None, durable: bool) -> Plan:
    """Decide what this try does.

    :param record: of the last logical attempt.
    :param job: its job, as Ray knows it.
    :param max_tries: Airflow's, now.
    :param durable: go on with a job that an earlier try began.
    """
    if record is None:
        return Plan("submit", 1)
    again = record.attempt + 1
    name = record.submission_id
    cleared = record.was_cleared(max_tries)
    if job is None:
        if record.submitted:
            return Plan("submit", again, f"Job {name} of an earlier try is unknown to Ray (its head was restarted?).")
        return Plan("submit", record.attempt, f"An earlier try ended before job {name} was submitted.")
    if job.is_final:
        if job.is_success and durable and not cleared and record.final is None:
            return Plan("adopt", record.attempt, f"Job {name} of an earlier try has succeeded in the meantime.")
        return Plan("submit", again, f"Job {name} of an earlier try has ended: {job.status}.")
    if cleared:
        return Plan("submit", again, f"The task was cleared while job {name} ran.", stop_first=name)
    if record.stopping or record.final is not None:
        return Plan("submit", again, f"Job {name} of an earlier try is being stopped.", stop_first=name)
    if not durable:
        return Plan("submit", again, f"Job {name} of an earlier try still runs (durable=False).", stop_first=name)
    return Plan("adopt", record.attempt, f"Taking over job {name}, which an earlier try submitted.")


async def last_known(
    client: RayJobsClient, id_for: Callable[[int], str], is_ours: Callable[[int, JobDetails], bool]
) -> tuple[AttemptRecord, JobDetails] | None:
    """Find the last logical attempt by asking Ray: for Airflow before 3.3, which keeps nothing across tries.

    :param client: an open client.
    :param id_for: gives the id of an attempt.
    :param is_ours: tells whether a job under that id is this task's.
    """
    found: tuple[AttemptRecord, JobDetails] | None = None
    for attempt in range(1, _MOST_ATTEMPTS):
        job = await client.get(id_for(attempt))
        if job is None or not is_ours(attempt, job):
            break
        told = str(job.metadata.get(MAX_TRIES_KEY, ""))
        record = AttemptRecord(
            id_for(attempt), attempt, max_tries=int(told) if told.lstrip("-").isdigit() else None, submitted=True
        )
        found = record, job
    return found


def seen(record: AttemptRecord, status: str | None) -> AttemptRecord:
    """Note that the task has seen how the job ended.

    :param record: of the attempt.
    :param status: Ray's last word; ``None``: the job is lost.
    """
    return replace(record, final=status or "LOST")
