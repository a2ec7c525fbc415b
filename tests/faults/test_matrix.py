"""The fault matrix: what state the task was in, what happened to it, and what has to hold afterwards.

Every row checks the task's state, how many jobs were ever submitted (Ray's own list), that no job runs that nobody
watches, and the lines in the log. ``AIRFLOW_RAY_FAULTS=long`` makes the outages as long as they are in life.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.support.gate import Gate
from tests.support.ray_head import RayHead

LONG = os.environ.get("AIRFLOW_RAY_FAULTS") == "long"
OUTAGE = 120 if LONG else 20

pytestmark = pytest.mark.timeout(400)


def mark(case, state: str) -> None:
    case.stack.client.set_state(case.dag, case.run_id, "job", state)


def clear(case) -> None:
    case.stack.client.clear(case.dag, case.run_id, ["job"])


# ---------------------------------------------------------------- submitting: Ray has the job, we have no answer yet


@pytest.fixture
def gate(ray):
    with Gate(ray.url) as gate:
        yield gate


def submitting(start, gate, dag):
    gate.hold_submits = True
    case = start(dag, gate=gate)
    case.running()
    return case


def test_submitting_mark_failed(start, gate):
    case = submitting(start, gate, "worker")
    mark(case, "failed")
    jobs = case.settled(1)
    assert jobs[0]["status"] == "STOPPED"
    assert case.wait("failed")


def test_submitting_clear(start, gate):
    case = submitting(start, gate, "worker")
    clear(case)
    case.until("the first job is stopped", lambda: [job for job in case.jobs() if job["status"] == "STOPPED"])
    gate.hold_submits = False
    case.running(2)
    case.let_end()
    case.wait("success")
    assert sorted(job["status"] for job in case.settled(2)) == ["STOPPED", "SUCCEEDED"]


def test_submitting_worker_killed(start, gate):
    case = submitting(start, gate, "worker_retry")
    case.kill_worker()
    gate.hold_submits = False
    case.wait("running", try_number=2)
    case.let_end()
    case.wait("success")
    jobs = case.settled(1)
    assert jobs[0]["submission_id"] in case.log(2)
    assert "ended" in case.log(2)


# ---------------------------------------------------------------- waiting in the worker


@pytest.mark.parametrize("state", ["failed", "success"])
def test_waiting_marked(start, state):
    case = start("worker")
    case.running()
    mark(case, state)
    assert case.settled(1)[0]["status"] == "STOPPED"
    assert case.wait(state)
    assert "started" in case.log()


def test_waiting_clear(start):
    case = start("worker")
    case.running()
    clear(case)
    case.running(2)
    case.let_end()
    case.wait("success")
    assert sorted(job["status"] for job in case.settled(2)) == ["STOPPED", "SUCCEEDED"]


def test_waiting_worker_killed(start):
    case = start("worker_retry")
    [job] = case.running()
    case.kill_worker()
    case.wait("running", try_number=2)
    assert len(case.running()) == 1, "the job goes on"
    case.let_end()
    case.wait("success")
    case.settled(1)
    assert job["submission_id"] in case.log(2)
    assert "ended" in case.log(2)


def test_waiting_timeout(start):
    case = start("worker", timeout=8)
    case.wait("failed")
    assert case.settled(1)[0]["status"] == "STOPPED"
    assert "did not end before its deadline and was stopped" in case.log()
    assert "job_timeout_seconds" in case.log(), "what to do"


# ---------------------------------------------------------------- deferred


@pytest.mark.parametrize("state", ["failed", "success"])
def test_deferred_marked(start, state):
    case = start("deferred")
    case.wait("deferred")
    case.running()
    mark(case, state)
    assert case.settled(1)[0]["status"] == "STOPPED"
    assert case.wait(state)


def test_deferred_clear(start):
    case = start("deferred")
    case.wait("deferred")
    case.running()
    clear(case)
    case.running(2)
    case.let_end()
    case.wait("success")
    assert sorted(job["status"] for job in case.settled(2)) == ["STOPPED", "SUCCEEDED"]


def test_deferred_timeout(start):
    case = start("deferred", timeout=10)
    case.wait("failed")
    assert case.settled(1)[0]["status"] == "STOPPED"
    assert "did not end before its deadline and was stopped" in case.log()
    assert "job_timeout_seconds" in case.log(), "what to do"


def test_deferred_triggerer_killed_and_a_new_one(start, stack):
    case = start("deferred")
    case.wait("deferred")
    case.running()
    case.until("its log came through the trigger", lambda: "started" in case.log())
    stack.kill_component("triggerer", signal.SIGKILL)
    stack.start_component("triggerer")
    time.sleep(3)
    assert len(case.running()) == 1, "the death of a triggerer stops nothing"
    case.let_end()
    case.wait("success", timeout=120)
    case.settled(1)
    lines = [line.strip() for line in case.log().splitlines()]
    assert lines.count("ended") == 1
    assert lines.count("started") == 1


def test_deferred_triggerer_stalls_and_another_takes_over(start, stack):
    case = start("deferred")
    case.wait("deferred")
    case.running()
    second = stack.add_triggerer()
    try:
        stack.kill_component("triggerer", signal.SIGSTOP)
        try:
            time.sleep(45)
        finally:
            stack.kill_component("triggerer", signal.SIGCONT)
        time.sleep(5)
        assert len(case.running()) == 1, "the triggerer that came back stopped a job that another one watches"
        case.let_end()
        case.wait("success", timeout=120)
        case.settled(1)
    finally:
        stack.stop_component(second)


# ---------------------------------------------------------------- resuming after the event


def resuming(start):
    case = start("resuming")
    case.wait("deferred")
    case.running()
    case.let_end()
    case.until("the task resumes", case.marker.exists)
    return case


def test_resuming_mark_failed(start):
    case = resuming(start)
    mark(case, "failed")
    assert case.settled(1)[0]["status"] == "SUCCEEDED"
    assert case.wait("failed")


def test_resuming_clear(start):
    case = resuming(start)
    clear(case)
    case.wait("success", timeout=120)
    # The job had succeeded, and the task had not told anybody yet: its success is taken over, not bought again.
    case.settled(1)


def test_resuming_worker_killed(start):
    case = resuming(start)
    case.kill_worker()
    case.wait("success", timeout=120)
    case.settled(1)


# ---------------------------------------------------------------- the dashboard is away; the head is dead


def test_dashboard_away(start, ray):
    """503 to everything: submitting, waiting in the worker, deferred."""
    with Gate(ray.url) as submit_gate, Gate(ray.url) as gate:
        waiting, deferred = start("worker", gate=gate), start("deferred", gate=gate)
        waiting.running()
        deferred.wait("deferred")
        deferred.running()
        gate.closed = submit_gate.closed = True
        early = start("worker", gate=submit_gate)
        early.wait("running")
        time.sleep(OUTAGE)
        for case in (waiting, deferred):
            assert len(case.running()) == 1
        gate.closed = submit_gate.closed = False
        for case in (early, waiting, deferred):
            case.running()
            case.let_end()
        for case in (early, waiting, deferred):
            case.wait("success", timeout=120)
            assert case.settled(1)[0]["status"] == "SUCCEEDED"
        for case in (waiting, deferred):
            log = case.log()
            assert "503" in log, "the outage is told"
            assert [line.strip() for line in log.splitlines()].count("ended") == 1


@pytest.mark.slow
def test_head_killed(start):
    """A head that dies takes its jobs along: told apart from one that is slow."""
    with RayHead() as head, Gate(head.url) as gate:
        waiting, deferred = start("worker", address=head.url), start("deferred", address=head.url)
        waiting.running()
        deferred.wait("deferred")
        deferred.running()
        gate.hold_submits = True
        early = start("worker", gate=gate, address=head.url)
        early.until("its submit has reached Ray", lambda: gate.submits)
        head.kill()
        head.stop()
        head.start()
        gate.hold_submits = False
        for case in (waiting, deferred):
            case.wait("failed", timeout=150)
            log = case.log()
            assert "lost" in log
            assert "head" in log
            assert not case.jobs(), "the new head knows nothing of it"
        early.wait({"failed", "success", "running"}, timeout=150)
        early.let_end()
        early.wait({"failed", "success"}, timeout=150)
        left = [job for job in early.jobs() if job["status"] == "RUNNING"]
        assert not left
