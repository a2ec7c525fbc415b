"""The fault matrix: what state the task was in, what happened to it, and what has to hold afterwards.

Every row checks the task's state, how many jobs were ever submitted (Ray's own list), that no job runs that nobody
watches, and the lines in the log. The rows run beside each other (``cells.py``): a test tells what came of its row.
"""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from tests.faults.cells import ROWS, Ground, parameters, row

#: How long a dashboard is away: two minutes, or with AIRFLOW_RAY_TESTS=all until shortly before patience ends.
OUTAGE = 210 if os.environ.get("AIRFLOW_RAY_TESTS") == "all" else 120

STATES = ("submitting", "waiting", "deferred", "resuming")
EVENTS = {
    "mark failed": ("submitting", "waiting", "deferred", "resuming", "PENDING"),
    "mark success": ("waiting", "deferred"),
    "clear": (*STATES, "PENDING"),
    "worker SIGKILL": ("submitting", "waiting", "resuming"),
    "triggerer SIGKILL": ("deferred",),
    "triggerer SIGSTOP": ("deferred",),
    "time-out": ("waiting", "deferred", "PENDING"),
    "retry with durable=False": ("PENDING",),
    "503": ("submitting", "waiting", "deferred"),
    "head killed": ("submitting", "waiting", "deferred"),
}
#: What Airflow writes into the log of a task that a person ended while it ran.
ENDED_BY_AIRFLOW = "Server indicated the task shouldn't be running anymore"


# ---------------------------------------------------------------- the dashboard is away; the head is dead


@row(("submitting", "503"), ("waiting", "503"), ("deferred", "503"), long=True)
def dashboard_away(ground: Ground) -> None:
    """503 to everything."""
    gate, gate_of_early = ground.gate(), ground.gate()
    waiting, deferred = ground.start("worker", gate=gate), ground.start("deferred", gate=gate)
    waiting.running()
    deferred.wait("deferred")
    deferred.running()
    deferred.printed("started")
    waiting.printed("started")
    gate.closed = gate_of_early.closed = True
    early = ground.start("worker", gate=gate_of_early)
    early.wait("running")
    early.told("Ray can't be asked")
    time.sleep(OUTAGE)
    for case in (waiting, deferred):
        assert len(case.running()) == 1
    assert not early.jobs()
    gate.closed = gate_of_early.closed = False
    for case in (early, waiting, deferred):
        case.running()
        case.let_end()
    for case in (early, waiting, deferred):
        case.wait("success")
        case.settled("SUCCEEDED")
        case.printed("ended")
        log = case.log()
        assert "503" in log, "the outage is told"
        assert "Ray answers again" in log, "and its end"
        lines = case.lines()
        assert (lines.count("started"), lines.count("ended")) == (1, 1), log


@row(("submitting", "head killed"), ("waiting", "head killed"), ("deferred", "head killed"), long=True)
def head_killed(ground: Ground) -> None:
    """A head that dies takes its jobs along: told apart from one that is slow."""
    head = ground.head()
    gate = ground.gate(head)
    waiting, deferred = ground.start("worker", head=head), ground.start("deferred", head=head)
    waiting.running()
    deferred.wait("deferred")
    deferred.running()
    gate.hold_submits = True
    early = ground.start("worker", gate=gate, head=head)
    early.until("its submit has reached Ray", lambda: gate.submits)
    head.kill()
    head.stop()
    head.start()
    gate.hold_submits = False
    for case in (early, waiting, deferred):
        case.wait("failed")
        case.told("the Ray head restarted")
        case.told("was lost")
        assert not case.jobs(), "the new head knows nothing of it"


# ---------------------------------------------------------------- submitting: Ray has the job, we have no answer yet


def submitting(ground: Ground, dag: str):
    gate = ground.gate()
    gate.hold_submits = True
    case = ground.start(dag, gate=gate)
    case.running()
    return case, gate


# In make test: waiting_mark_failed, and submitting_worker_killed for the state.
@row(("submitting", "mark failed"), slow=True)
def submitting_mark_failed(ground: Ground) -> None:
    case, _ = submitting(ground, "worker")
    case.mark("failed")
    case.settled("STOPPED")
    case.wait("failed")
    case.told(ENDED_BY_AIRFLOW)
    assert "Submitting job" in case.log()


@row(("submitting", "clear"))
def submitting_clear(ground: Ground) -> None:
    case, gate = submitting(ground, "worker")
    case.clear()
    case.until("the first job is stopped", lambda: [job for job in case.jobs() if job["status"] == "STOPPED"])
    gate.hold_submits = False
    case.running(2)
    case.let_end()
    case.wait("success")
    case.settled("STOPPED", "SUCCEEDED")
    number = case.instance()["try_number"]
    case.printed("ended", number)
    assert "started" in case.lines(number)


@row(("submitting", "worker SIGKILL"))
def submitting_worker_killed(ground: Ground) -> None:
    case, gate = submitting(ground, "worker_retry")
    case.kill_worker()
    gate.hold_submits = False
    case.wait("running", try_number=2)
    [job] = case.jobs()
    case.told(f"Taking over job {job['submission_id']}", 2)
    case.let_end()
    case.wait("success")
    case.settled("SUCCEEDED")
    case.printed("ended", 2)


# ---------------------------------------------------------------- waiting in the worker


def waiting_marked(ground: Ground, state: str) -> None:
    case = ground.start("worker")
    case.running()
    case.printed("started")
    case.mark(state)
    case.settled("STOPPED")
    case.wait(state)
    case.told(ENDED_BY_AIRFLOW)
    assert case.lines().count("started") == 1


@row(("waiting", "mark failed"))
def waiting_mark_failed(ground: Ground) -> None:
    waiting_marked(ground, "failed")


# In make test: waiting_mark_failed, and deferred_mark_success for the state.
@row(("waiting", "mark success"), slow=True)
def waiting_mark_success(ground: Ground) -> None:
    waiting_marked(ground, "success")


# In make test: submitting_clear and deferred_clear.
@row(("waiting", "clear"), slow=True)
def waiting_clear(ground: Ground) -> None:
    case = ground.start("worker")
    case.running()
    case.printed("started")
    case.clear()
    case.running(2)
    case.let_end()
    case.wait("success")
    case.settled("STOPPED", "SUCCEEDED")
    case.printed("ended", case.instance()["try_number"])


@row(("waiting", "worker SIGKILL"))
def waiting_worker_killed(ground: Ground) -> None:
    case = ground.start("worker_retry")
    [job] = case.running()
    case.kill_worker()
    case.wait("running", try_number=2)
    case.told(f"Taking over job {job['submission_id']}", 2)
    assert len(case.running()) == 1, "the job goes on"
    case.let_end()
    case.wait("success")
    case.settled("SUCCEEDED")
    case.printed("ended", 2)
    assert case.lines(2).count("started") == 1, "the whole log is in the try that ends"


@row(("waiting", "time-out"))
def waiting_timeout(ground: Ground) -> None:
    case = ground.start("worker", timeout=60)  # beside other rows a job needs its time to begin
    case.wait("failed")
    case.settled("STOPPED")
    case.told("did not end before its deadline and was stopped")
    assert "job_timeout_seconds" in case.log(), "what to do"
    assert "started" in case.lines(), "its log was taken"


# ---------------------------------------------------------------- deferred


def deferred(ground: Ground, dag: str = "deferred", **conf):
    """Start a task and wait until its trigger watches the job: until it has begun, no code of ours hears of a kill."""
    case = ground.start(dag, **conf)
    case.wait("deferred")
    case.running()
    case.printed("started")  # by the trigger: the worker passes no log on of a task that is deferred
    return case


def deferred_marked(ground: Ground, state: str) -> None:
    case = deferred(ground)
    case.mark(state)
    case.settled("STOPPED")
    case.wait(state)
    assert case.lines().count("started") == 1


# In make test: deferred_mark_success.
@row(("deferred", "mark failed"), slow=True)
def deferred_mark_failed(ground: Ground) -> None:
    deferred_marked(ground, "failed")


@row(("deferred", "mark success"))
def deferred_mark_success(ground: Ground) -> None:
    deferred_marked(ground, "success")


@row(("deferred", "clear"))
def deferred_clear(ground: Ground) -> None:
    case = deferred(ground)
    case.clear()
    case.running(2)
    case.let_end()
    case.wait("success")
    case.settled("STOPPED", "SUCCEEDED")
    case.printed("ended", case.instance()["try_number"])


@row(("deferred", "time-out"))
def deferred_timeout(ground: Ground) -> None:
    case = ground.start("deferred", timeout=60)
    case.wait("failed")
    case.settled("STOPPED")
    case.told("did not end before its deadline and was stopped")
    assert "job_timeout_seconds" in case.log(), "what to do"
    assert "started" in case.lines(), "its log was taken"


@row(("deferred", "triggerer SIGKILL"), alone=True)
def deferred_triggerer_killed_and_a_new_one(ground: Ground) -> None:
    timeout = 75
    case, ending = deferred(ground), deferred(ground, timeout=timeout)
    time.sleep(3)  # how far a log has come is kept every two seconds: the stated loss after a SIGKILL
    ground.stack.kill_component("triggerer", signal.SIGKILL)
    ground.stack.start_component("triggerer")
    again = time.time()
    case.stays_running(seconds=3)
    case.let_end()
    case.wait("success")
    case.settled("SUCCEEDED")
    case.printed("ended")
    lines = case.lines()
    assert (lines.count("started"), lines.count("ended")) == (1, 1), case.log()
    # The deadline is absolute: the new triggerer's watch does not begin it again.
    ending.wait("failed")
    [job] = ending.settled("STOPPED")
    ending.told("did not end before its deadline and was stopped")
    assert job["end_time"] / 1000 < again + timeout


@row(("deferred", "triggerer SIGSTOP"), alone=True)
def deferred_triggerer_stalls_and_another_takes_over(ground: Ground) -> None:
    stack = ground.stack
    case, later = deferred(ground), deferred(ground)
    with ground.second_triggerer() as second:
        stack.kill_component("triggerer", signal.SIGSTOP)
        try:
            time.sleep(45)
        finally:
            stack.kill_component("triggerer", signal.SIGCONT)
        case.stays_running()  # the triggerer that came back stops nothing that another one watches
        later.stays_running(seconds=0)
        case.let_end()
        case.wait("success")
        case.settled("SUCCEEDED")
        case.printed("ended")  # "started" may be gone: see below
        # And once more in good order, as in a rollout: SIGTERM to the one that has it. It says how far the log has come.
        # The second one, unless that was too slow for Airflow and the first one has got it back.
        job = later.until("a triggerer watches it", later.watched_by)
        newest = max(one["id"] for one in stack.client.jobs(job_type="TriggererJob"))
        watching = second if job == newest else "triggerer"
        time.sleep(3)
        stack.stop_component(watching)
        later.stays_running()
        later.let_end()
        later.wait("success")
        if watching != second:
            stack.start_component(watching)
        later.settled("SUCCEEDED")
        later.printed("ended")
        # Airflow begins the file anew of a triggerer that gets a trigger back: "started" may have stood there. (3.3)
        lines = later.lines()
        assert lines.count("started") <= 1, later.log()
        assert lines.count("ended") == 1, later.log()


# ---------------------------------------------------------------- PENDING: the job waits for resources


def pending(ground: Ground, dag: str):
    case = ground.start(dag, resources={"nowhere": 1})
    case.pending()
    case.told("is PENDING")  # by whoever watches it: until a trigger has started, no code of ours hears of a kill
    return case


def ended_waiting(case, count: int = 1) -> None:
    """Wait until so many jobs have ended that never ran: Ray calls them FAILED, and forgets their demand."""
    case.until(
        f"{count} job(s) ended",
        lambda: [job["error_type"] for job in case.jobs()].count("JOB_SUPERVISOR_ACTOR_DIED") == count,
    )


@row(("PENDING", "mark failed"))
def pending_mark_failed(ground: Ground) -> None:
    cases = [pending(ground, "worker"), pending(ground, "deferred")]
    for case in cases:
        case.mark("failed")
    for case in cases:
        ended_waiting(case)
        case.settled("FAILED")
        case.wait("failed")
        assert "started" not in case.lines()


# In make test: pending_mark_failed and pending_retry_anew.
@row(("PENDING", "clear"), slow=True)
def pending_clear(ground: Ground) -> None:
    case = pending(ground, "deferred")
    case.clear()
    case.pending(2)
    ended_waiting(case)
    case.told("is PENDING", case.instance()["try_number"])
    case.mark("failed")
    ended_waiting(case, 2)
    case.settled("FAILED", "FAILED")


@row(("PENDING", "time-out"))
def pending_timeout(ground: Ground) -> None:
    cases = [ground.start(dag, resources={"nowhere": 1}, timeout=20) for dag in ("worker", "deferred")]
    for case in cases:
        case.wait("failed")
        case.settled("FAILED")
        case.told("waited for resources until its deadline")
        assert "may still run" not in case.log()
        assert "out of memory" not in case.log(), "no advice about a process that died"


@row(("PENDING", "retry with durable=False"))
def pending_retry_anew(ground: Ground) -> None:
    case = pending(ground, "worker_anew")
    case.kill_worker()
    case.wait("running", try_number=2)
    ended_waiting(case)
    case.pending(2)
    assert "could not be stopped" not in case.log(2)
    case.mark("failed")
    ended_waiting(case, 2)
    case.settled("FAILED", "FAILED")


# ---------------------------------------------------------------- resuming after the event


def resuming(ground: Ground):
    case = ground.start("resuming")
    case.wait("deferred")
    case.running()
    case.let_end()
    case.until("the task resumes", case.marker.exists)
    return case


def taken_over(case, submission_id: str) -> None:
    """The last try ends with the job's success: Airflow gave it the event once more, or it asked Ray itself."""
    job, number = re.escape(submission_id), case.instance()["try_number"]
    told = re.compile(rf"Job {job}(: SUCCEEDED| of an earlier try has succeeded)")
    case.until("the job's success in the log", lambda: told.search(case.log(number)))
    assert "Submitting job" not in case.log(number)


# In make test: resuming_clear.
@row(("resuming", "mark failed"), slow=True)
def resuming_mark_failed(ground: Ground) -> None:
    case = resuming(ground)
    case.mark("failed")
    case.wait("failed")
    case.settled("SUCCEEDED")
    case.told(ENDED_BY_AIRFLOW)
    assert case.lines().count("ended") == 1


@row(("resuming", "clear"))
def resuming_clear(ground: Ground) -> None:
    case = resuming(ground)
    case.clear()
    case.wait("success")
    # The job had succeeded, and the task had not told anybody yet: its success is taken over, not bought again.
    [job] = case.settled("SUCCEEDED")
    taken_over(case, job["submission_id"])


@row(("resuming", "worker SIGKILL"))
def resuming_worker_killed(ground: Ground) -> None:
    case = resuming(ground)
    case.kill_worker()
    case.wait("success")
    [job] = case.settled("SUCCEEDED")
    taken_over(case, job["submission_id"])


# ---------------------------------------------------------------- the tests

MATRIX = dict(ROWS)


def test_every_cell_has_a_row():
    shown = [cell for each in MATRIX.values() for cell in each.cells]
    assert sorted(shown) == sorted((state, event) for event, states in EVENTS.items() for state in states)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("row", parameters(MATRIX.values()))
def test_row(rows, row):
    rows.result(row)
