"""Which job a try runs: the table of what may have happened before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ray_provider.jobs.models import JobDetails
from ray_provider.operators._job.attempts import STORE_KEY, AttemptRecord, decide, last_known, seen
from ray_provider.operators._job.memory import TaskMemory

RUNNING, FAILED, SUCCEEDED, STOPPED = (
    JobDetails(submission_id="a", status=status) for status in ("RUNNING", "FAILED", "SUCCEEDED", "STOPPED")
)


def record(**changes):
    return AttemptRecord(**{"submission_id": "a", "attempt": 3, "max_tries": 1, "submitted": True, **changes})


@pytest.mark.parametrize(
    ("what", "earlier", "job", "max_tries", "durable", "expected"),
    [
        ("the first try", None, None, 1, True, ("submit", 1, None)),
        ("died before the submit", record(submitted=False), None, 1, True, ("submit", 3, None)),
        ("died before the answer to the submit", record(submitted=False), RUNNING, 1, True, ("adopt", 3, None)),
        ("the worker died", record(), RUNNING, 1, True, ("adopt", 3, None)),
        ("the worker died, not durable", record(), RUNNING, 1, False, ("submit", 4, "a")),
        ("the worker died, then the job succeeded", record(), SUCCEEDED, 1, True, ("adopt", 3, None)),
        ("the same, not durable", record(), SUCCEEDED, 1, False, ("submit", 4, None)),
        ("a success that was seen, cleared", record(final="SUCCEEDED"), SUCCEEDED, 2, True, ("submit", 4, None)),
        ("a success that was seen, retried", record(final="SUCCEEDED"), SUCCEEDED, 1, True, ("submit", 4, None)),
        ("the job failed", record(final="FAILED"), FAILED, 1, True, ("submit", 4, None)),
        ("the worker died, then the job failed", record(), FAILED, 1, True, ("submit", 4, None)),
        ("somebody stopped it", record(), STOPPED, 1, True, ("submit", 4, None)),
        ("cleared while it ran", record(), RUNNING, 2, True, ("submit", 4, "a")),
        ("cleared in the worker", record(stopping=True), RUNNING, 1, True, ("submit", 4, "a")),
        ("lost with its head", record(), None, 1, True, ("submit", 4, None)),
        ("a success that nobody saw, cleared", record(), SUCCEEDED, 2, True, ("submit", 4, None)),
    ],
)
def test_what_a_try_does(what, earlier, job, max_tries, durable, expected):
    plan = decide(earlier, job, max_tries=max_tries, durable=durable)
    assert (plan.action, plan.attempt, plan.stop_first) == expected
    assert bool(plan.why) == (earlier is not None)


@pytest.mark.parametrize(
    ("earlier", "max_tries", "attempt"),
    [
        (None, 1, 1),
        (record(), 1, 3),
        (record(final="FAILED"), 1, 4),
        (record(), 2, 4),
        (record(final="FAILED"), 2, 4),
    ],
    ids=["first", "its worker died", "its job failed", "cleared while it ran", "cleared"],
)
def test_the_number_that_a_cluster_of_its_own_is_named_by(earlier, max_tries, attempt):
    """A retry that goes on with a job finds the job's cluster, and one with a new job makes another one."""
    store = {} if earlier is None else {STORE_KEY: earlier.to_dict()}
    memory = TaskMemory({"ti": SimpleNamespace(max_tries=max_tries), "task_state_store": store})
    assert memory.next_attempt() == attempt


def test_a_record_survives_the_store():
    kept = record(final=None, stopping=True)
    assert AttemptRecord.from_dict(kept.to_dict()) == kept
    assert AttemptRecord.from_dict({**kept.to_dict(), "of a later version": 1}) == kept
    assert AttemptRecord.from_dict(None) is None
    assert AttemptRecord.from_dict("nonsense") is None
    assert seen(kept, None).final == "LOST"


class Jobs:
    def __init__(self, **jobs):
        self.jobs = jobs

    async def get(self, submission_id):
        return self.jobs.get(submission_id)


async def test_without_a_store_the_last_job_of_ours_is_found_by_asking():
    first = JobDetails(submission_id="j-1", status="FAILED", metadata={"airflow_max_tries": "2"})
    second = JobDetails(submission_id="j-2", status="RUNNING", metadata={"airflow_max_tries": "3"})
    jobs = Jobs(**{"j-1": first, "j-2": second})
    found, job = await last_known(jobs, lambda n: f"j-{n}", lambda n, job: True)
    assert job is second
    assert (found.submission_id, found.attempt, found.max_tries, found.submitted) == ("j-2", 2, 3, True)
    assert await last_known(jobs, lambda n: f"k-{n}", lambda n, job: True) is None
    # A job of somebody else's under our id: not ours to adopt or to stop.
    assert await last_known(jobs, lambda n: f"j-{n}", lambda n, job: False) is None
