"""What the matrix leaves out: other ways to end a task, other settings, many jobs at once."""

from __future__ import annotations

import re
import signal
import time

import pytest

from tests.faults.cells import ROWS, Ground, parameters, row, until
from tests.faults.test_matrix import ENDED_BY_AIRFLOW, MATRIX, deferred
from tests.support.reaping import reap

SECRET = "s3cret-of-the-fault-rows"  # noqa: S105


# ---------------------------------------------------------------- other ways to end a task


# In make test: run_stopped_while_deferred, and waiting_mark_failed.
@row(slow=True)
def run_stopped_while_waiting(ground: Ground) -> None:
    case = ground.start("worker")
    case.running()
    case.mark_run("failed")
    case.settled("STOPPED")
    case.wait("failed", "skipped")
    case.told(ENDED_BY_AIRFLOW)


@row()
def run_stopped_while_deferred(ground: Ground) -> None:
    case = deferred(ground)
    case.mark_run("failed")
    case.settled("STOPPED")
    case.wait("failed", "skipped")


@row()
def worker_sigterm(ground: Ground) -> None:
    """An orderly end of the worker, such as a pod's: the supervisor gets SIGTERM."""
    case = ground.start("worker")
    [job] = case.running()
    _, supervisor = case.worker()
    supervisor.terminate()
    case.wait("failed")
    case.settled("STOPPED")
    case.told(f"Job {job['submission_id']} was stopped")


@row()
def worker_sigterm_before_a_retry(ground: Ground) -> None:
    """The whole process tree gets SIGTERM, as in a rollout: the next try goes on with the same job."""
    case = ground.start("worker_retry")
    [job] = case.running()
    for process in reversed(case.worker()):
        process.terminate()
    case.told(f"job {job['submission_id']} is left to the next try")
    case.wait("running", try_number=2)
    case.told("Taking over job", try_number=2)
    case.let_end()
    case.wait("success")
    case.settled("SUCCEEDED")


# In make test: waiting_mark_failed; worker_sigterm_before_a_retry for the other end.
@row(slow=True)
def mark_failed_before_a_retry(ground: Ground) -> None:
    """A user's act is told apart from a worker's end although another try could come."""
    case = ground.start("worker_retry")
    case.running()
    case.mark("failed")
    case.settled("STOPPED")
    case.wait("failed")


# In make test: submitting_clear.
@row(slow=True)
def clear_before_a_retry(ground: Ground) -> None:
    case = ground.start("worker_retry")
    case.running()
    case.clear()
    case.until("the first job is stopped", lambda: [job for job in case.jobs() if job["status"] == "STOPPED"])
    case.running(2)
    case.let_end()
    case.wait("success")
    case.settled("STOPPED", "SUCCEEDED")


# In make test: execution_timeout_while_deferred, and waiting_timeout.
@row(slow=True)
def execution_timeout_while_waiting(ground: Ground) -> None:
    case = ground.start("worker_brief")
    case.wait("failed")
    case.settled("STOPPED")
    case.told("timed out")


@row()
def execution_timeout_while_deferred(ground: Ground) -> None:
    """Airflow does not enforce it there: the trigger does."""
    case = ground.start("deferred_brief")
    case.wait("failed")
    case.settled("STOPPED")
    case.told("did not end before its deadline and was stopped")


# ---------------------------------------------------------------- other settings


# In make test: cancel_on_kill_off_while_deferred.
@row(slow=True)
def cancel_on_kill_off_while_waiting(ground: Ground) -> None:
    case = ground.start("worker_own")
    case.running()
    case.mark("failed")
    case.wait("failed")
    case.told(ENDED_BY_AIRFLOW)
    case.stays_running()
    case.let_end()
    case.settled("SUCCEEDED")


@row()
def cancel_on_kill_off_while_deferred(ground: Ground) -> None:
    case = deferred(ground, "deferred_own")
    case.mark("failed")
    case.wait("failed")
    case.stays_running()
    case.let_end()
    case.settled("SUCCEEDED")


@row()
def durable_off(ground: Ground) -> None:
    """The retry stops the job of the try that died, and only then submits its own."""
    case = ground.start("worker_anew")
    case.running()
    case.kill_worker()
    case.running(2)
    first, second = sorted(case.jobs(), key=lambda job: job["start_time"])
    assert first["end_time"] <= second["start_time"]
    case.let_end()
    case.wait("success")
    case.settled("STOPPED", "SUCCEEDED")
    case.told("durable=False", 2)


@row()
def log_budget(ground: Ground) -> None:
    case = ground.start("deferred_terse", entrypoint="seq 1 1000; sleep 12; seq 1001 1500")
    case.wait("success")
    case.told("1402 lines left out")  # Ray itself writes two lines before the job's
    numbers = [int(line) for line in case.lines() if line.isdigit()]
    assert len(numbers) in {98, 99}, "it may write the second one later"
    assert numbers == list(range(1, len(numbers) + 1))


def log_of_a_triggerer_behind(ground: Ground, jobs: int, count: int) -> None:
    """Its supervisor reads 4 KiB of log a turn, and closes a task's log when it learns that the trigger has ended."""
    flag = ground.folder / "print"
    waits = f"echo started; while [ ! -e {flag} ]; do echo waits; sleep 0.2; done"
    cases = [ground.start("deferred", entrypoint=f"{waits}; seq -f 'line %g' 1 {count}") for _ in range(jobs)]
    for case in cases:
        case.wait("deferred")
        case.printed("started")
    ground.stack.kill_component("triggerer", signal.SIGSTOP, group=False)
    try:
        flag.touch()
        for case in cases:
            case.settled("SUCCEEDED")
        time.sleep(5)  # the logs and the triggers' ends are on their way
    finally:
        ground.stack.kill_component("triggerer", signal.SIGCONT, group=False)
    for case in cases:
        case.wait("success")
        last = [line for line in case.lines() if line.startswith("line ")]
        assert last == [f"line {number}" for number in range(1, count + 1)]


@row(alone=True)
def log_of_a_triggerer_that_was_held_up(ground: Ground) -> None:
    log_of_a_triggerer_behind(ground, jobs=1, count=150)


# In make test: log_of_a_triggerer_that_was_held_up.
@row(alone=True, slow=True)
def log_of_a_triggerer_with_too_much_to_do(ground: Ground) -> None:
    log_of_a_triggerer_behind(ground, jobs=3, count=800)


@row(alone=True)
def jobs_that_nobody_watches(ground: Ground) -> None:
    """What happens to a deferred task while no triggerer runs, no code of ours hears of: the reaper finds its job."""
    stack = ground.stack
    marked, own, waits = cases = [ground.start(dag) for dag in ("deferred", "deferred_own", "deferred")]
    for case in cases:
        case.wait("deferred")
        case.printed("started")
    stack.kill_component("triggerer", signal.SIGKILL)
    try:
        for case in (marked, own):
            case.mark("failed")
            case.wait("failed")
            case.stays_running(seconds=0)
        told = reap(stack, "--jobs", "--conn-id", "ray_faults", "--stop")
        marked.settled("STOPPED")
        own.stays_running(seconds=0)
        waits.stays_running(seconds=0)
    finally:
        stack.start_component("triggerer")
    detached = "its task has ended, but it was to go on then (cancel_on_kill or wait_for_completion is False)"
    expected = (
        ("failed", "stop", "its task has ended"),
        ("failed", "keep", f"{detached}: --detached takes it too"),
        ("deferred", "keep", "its task is deferred"),
    )
    for case, row_of_table in zip(cases, expected, strict=True):
        [job] = case.jobs()
        [line] = [line for line in told.splitlines() if f"  {job['submission_id']}  " in line]
        assert tuple(re.split(r"  +", line)[7:]) == row_of_table
    for case in (own, waits):
        case.let_end()
        case.settled("SUCCEEDED")
    waits.wait("success")


@row()
def secrets_stay_masked(ground: Ground) -> None:
    """What the job prints goes through Airflow's own masking, in the worker and in the trigger."""
    for dag in ("worker", "deferred"):
        command = f"echo before {SECRET} after; sleep 10; echo again {SECRET} after"
        case = ground.start(dag, entrypoint=command, extra={"token": SECRET})
        case.wait("success")
        case.printed("again *** after")
        log = case.log()
        assert "before *** after" in case.lines()
        assert SECRET not in log


# ---------------------------------------------------------------- short jobs, and many


@row()
def short_jobs(ground: Ground) -> None:
    """They end before, while, or right after the task is deferred."""
    cases = [ground.start("deferred", entrypoint=f"sleep {pause}; echo done") for pause in (0, 2, 5)]
    for case in cases:
        case.wait("success")
        case.settled("SUCCEEDED")
        case.printed("done")


def mapped_jobs_in_a_task_group(ground: Ground, dag: str, count: int) -> None:
    case = ground.start(dag, task="shard.job")
    client = ground.stack.client

    def ended() -> list[dict] | None:
        found = client.task_instances(case.dag, case.run_id)
        assert not [each for each in found if each["state"] in {"failed", "upstream_failed"}], case.jobs()
        return found if len(found) == count and all(each["state"] == "success" for each in found) else None

    instances = until(f"{count} mapped tasks have succeeded", ended, timeout=1200)
    by_index = {each["map_index"]: each for each in instances}
    jobs = case.settled(*["SUCCEEDED"] * count)  # one job for each, whatever Airflow had to do twice
    owners = {int(job["metadata"]["airflow_map_index"]): job["submission_id"] for job in jobs}
    assert sorted(owners) == list(range(count))
    for number in (0, count // 2, count - 1):
        text = client.log_text(
            case.dag, case.run_id, case.task, map_index=number, try_number=by_index[number]["try_number"]
        )
        assert f"shard {number} ended" in text
        assert client.xcom(case.dag, case.run_id, case.task, map_index=number) == owners[number]


@row(long=True)
def five_mapped_jobs(ground: Ground) -> None:
    mapped_jobs_in_a_task_group(ground, "mapped_5", 5)


# In make test: five_mapped_jobs. They take both CPUs for minutes.
@row(long=True, slow=True)
def fifty_mapped_jobs(ground: Ground) -> None:
    mapped_jobs_in_a_task_group(ground, "mapped_50", 50)


BEYOND = {name: each for name, each in ROWS.items() if name not in MATRIX}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("row", parameters(BEYOND.values()))
def test_row(rows, row):
    rows.result(row)
