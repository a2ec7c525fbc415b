"""SubmitRayJob against a dashboard that behaves as Ray's: submit, retry, kill, defer, resume."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import traceback
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from ray_provider import _compat
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import JobFailedError, JobLostError, JobStoppedError, JobTimeoutError, RayProviderError
from ray_provider.jobs.submit import once
from ray_provider.operators import SubmitRayJob
from ray_provider.operators._job import arguments
from ray_provider.operators._job import run as job_run
from tests.support.dashboard import TOKEN
from tests.support.dying import die_while_waiting

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.timeout(60)]


def operator(**arguments) -> SubmitRayJob:
    return SubmitRayJob(**{"task_id": "task", "conn_id": "c", "entrypoint": "true", "poll_interval": 0.05, **arguments})


def succeed(job):
    job.run(b"hello\n")
    job.end()


def fail(job):
    job.run(b"oops\n")
    job.end("FAILED", message="oops", exit_code=3, error_type="JOB_ENTRYPOINT_COMMAND_ERROR")


def test_a_job_that_succeeds(dashboard, context, ti):
    dashboard.when_submitted(succeed)
    result = operator(entrypoint=["echo", "two words"], metadata={"team": "maps"}).execute(context)
    job = dashboard.job
    assert result == job.submission_id
    assert job.entrypoint == "echo 'two words'"
    assert ti.xcoms["task", "ray_dashboard_link"] == f"{dashboard.api.url}/#/jobs/{result}"
    metadata = job.request["metadata"]
    assert metadata["team"] == "maps"
    assert (metadata["airflow_dag_id"], metadata["airflow_task_id"], metadata["airflow_attempt"]) == (
        "dag",
        "task",
        "1",
    )
    assert ti.store["ray_job"]["final"] == "SUCCEEDED"
    assert TOKEN not in repr(ti.xcoms) + repr(ti.store)


@pytest.mark.parametrize(
    ("arguments", "detached"),
    [({}, "False"), ({"cancel_on_kill": False}, "True"), ({"wait_for_completion": False}, "True")],
)
def test_the_job_says_whether_it_was_to_go_on_without_its_task(arguments, detached, dashboard, context):
    dashboard.when_submitted(succeed)
    operator(**arguments).execute(context)
    assert dashboard.job.request["metadata"]["airflow_detached"] == detached


def test_the_id_is_recorded_before_the_request(dashboard, context, ti):
    seen = []
    dashboard.when_submitted(lambda job: (seen.append(dict(ti.store["ray_job"])), succeed(job)))
    operator().execute(context)
    assert seen[0]["submission_id"] == dashboard.job.submission_id


def test_a_lost_answer_does_not_make_a_second_job(dashboard, context):
    dashboard.api.lose_answers = 1
    dashboard.when_submitted(succeed)
    operator().execute(context)
    assert len(dashboard.api.jobs) == 1


def test_a_job_that_fails_then_a_retry_is_a_new_job(dashboard, context, ti):
    dashboard.when_submitted(fail)
    with pytest.raises(JobFailedError, match="oops") as caught:
        operator().execute(context)
    assert "What to do" in str(caught.value)
    ti.retry()
    dashboard.when_submitted(succeed, count=2)
    second = operator().execute(context)
    assert [job.request["metadata"]["airflow_attempt"] for job in dashboard.api.jobs.values()] == ["1", "2"]
    assert second == list(dashboard.api.jobs)[1]


@pytest.fixture
def dead_worker(dashboard, context, connection, tmp_path):
    """Run a try whose worker is killed once it watches its job: nothing of it runs any more, least of all clean-up."""

    def die() -> None:
        arguments = {"task_id": "task", "conn_id": "c", "entrypoint": "true", "poll_interval": 0.05}
        die_while_waiting(dashboard.api, context, connection, tmp_path / "told.json", **arguments)
        dashboard.job.run(b"hello\n")

    return die


@pytest.mark.timeout(180)
@pytest.mark.parametrize("store", [True, False])
def test_a_retry_after_a_dead_worker_takes_the_job_over(dashboard, context, ti, dead_worker, store):
    if not store:
        del context["task_state_store"]
    dead_worker()
    ti.retry()
    threading.Timer(0.5, dashboard.job.end).start()
    assert operator().execute(context) == dashboard.job.submission_id
    assert len(dashboard.api.jobs) == 1


@pytest.mark.timeout(180)
@pytest.mark.parametrize("store", [True, False])
def test_a_success_that_nobody_saw_is_taken_over(dashboard, context, ti, dead_worker, store):
    if not store:
        del context["task_state_store"]
    dead_worker()
    dashboard.job.end()
    ti.retry()
    assert operator().execute(context) == dashboard.job.submission_id


@pytest.mark.timeout(180)
@pytest.mark.parametrize("store", [True, False])
def test_a_cleared_task_stops_the_old_job_before_it_submits_a_new_one(dashboard, context, ti, dead_worker, store):
    if not store:
        del context["task_state_store"]
    dead_worker()
    old = dashboard.job
    old.stop_seconds = 0.5
    ti.clear()
    stopped_first = []
    dashboard.when_submitted(lambda job: (stopped_first.append(old.status), succeed(job)), count=2)
    new = operator().execute(context)
    assert stopped_first == ["STOPPED"]
    assert new != old.submission_id


@pytest.mark.timeout(180)
def test_a_retry_that_is_not_durable_stops_the_old_job(dashboard, context, ti, dead_worker):
    dead_worker()
    ti.retry()
    dashboard.when_submitted(succeed, count=2)
    operator(durable=False).execute(context)
    assert [job.status for job in dashboard.api.jobs.values()] == ["STOPPED", "SUCCEEDED"]


def test_another_run_of_the_same_name_is_another_job(dashboard, context, ti):
    dashboard.when_submitted(succeed)
    first = operator().execute(context)
    ti.store.clear()
    context["dag_run"].start_date = context["dag_run"].start_date + timedelta(days=1)
    dashboard.when_submitted(succeed, count=2)
    assert operator().execute(context) != first


def test_sigterm_stops_the_job_and_waits(dashboard, context, ti):
    """Airflow 3: the handler calls on_kill, and the task goes on."""
    dashboard.when_submitted(lambda job: (job.run(b"up\n"), time.sleep(0.3), os.kill(os.getpid(), signal.SIGTERM)))
    one = operator()
    states = []

    def handler(*_):
        one.on_kill()
        states.append(dashboard.job.status)

    old = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(JobStoppedError, match="was stopped"):
            one.execute(context)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert states == ["STOPPED"], "stopped when on_kill returns"
    assert ti.store["ray_job"]["stopping"] is True
    ti.retry()
    dashboard.when_submitted(succeed, count=2)
    operator().execute(context)


@pytest.mark.parametrize("moment", ["the submit has just ended", "the next step only just begins"])
def test_sigterm_between_two_steps_stops_the_job(dashboard, context, monkeypatch, moment):
    """Before: the job went on, and nobody watched it."""
    run, called, one = asyncio.run, threading.Event(), operator()

    def handler(*_):
        called.set()
        one.on_kill()

    def step(main):
        before = bool(dashboard.api.jobs)
        result = None if before else run(main)
        if dashboard.api.jobs and not called.is_set() and before is (moment != "the submit has just ended"):
            os.kill(os.getpid(), signal.SIGTERM)
            called.wait(20)
            time.sleep(0.1)  # the handler waits for this step's end
        return run(main) if before else result

    monkeypatch.setattr(asyncio, "run", step)
    old = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(JobStoppedError, match="was stopped"):
            one.execute(context)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert dashboard.job.status == "STOPPED"


def test_sigterm_leaves_the_job_if_told_so(dashboard, context, ti):
    dashboard.when_submitted(lambda job: (job.run(b"up\n"), time.sleep(0.3), os.kill(os.getpid(), signal.SIGTERM)))
    one = operator(cancel_on_kill=False)
    old = signal.signal(signal.SIGTERM, lambda *_: one.on_kill())
    try:
        with pytest.raises(JobStoppedError, match="goes on"):
            one.execute(context)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert dashboard.job.status == "RUNNING"


async def _running(task):
    return "running"


async def _cleared(task):
    return "restarting"


async def _supervisor_gone(task):
    raise _compat.AirflowUnansweredError(BrokenPipeError())


async def _no_answer(task):
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("state", "arguments", "left"),
    [
        (_running, {}, True),
        (_supervisor_gone, {}, True),
        (_cleared, {}, False),
        (_no_answer, {}, False),
        (_running, {"durable": False}, False),
        (_running, {"no_more_tries": True}, False),
    ],
)
def test_a_worker_that_ends_leaves_the_job_to_the_next_try(dashboard, context, ti, monkeypatch, state, arguments, left):
    """Before: whatever sent SIGTERM, the job was stopped, and ran anew from its beginning."""
    monkeypatch.setattr(_compat, "core_state_of", state)
    monkeypatch.setattr(job_run, "_ASK_SECONDS", 0.5)
    if arguments.pop("no_more_tries", False):
        ti.try_number = ti.max_tries + 1
    dashboard.when_submitted(lambda job: (job.run(b"up\n"), time.sleep(0.3), os.kill(os.getpid(), signal.SIGTERM)))
    one = operator(**arguments)
    old = signal.signal(signal.SIGTERM, lambda *_: one.on_kill())
    try:
        with pytest.raises(JobStoppedError, match="goes on: it was the worker" if left else "was stopped"):
            one.execute(context)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert dashboard.job.status == ("RUNNING" if left else "STOPPED")
    ti.retry()
    first = dashboard.job
    if left:
        threading.Timer(0.5, first.end).start()
    else:
        dashboard.when_submitted(succeed, count=2)
    assert (operator().execute(context) == first.submission_id) is left
    assert len(dashboard.api.jobs) == (1 if left else 2)


def test_a_timeout_that_raises_in_the_main_thread_stops_the_job(dashboard, context):
    """execution_timeout, and SIGTERM in Airflow 2."""

    class Timeout(BaseException):
        pass

    def handler(*_):
        raise Timeout

    dashboard.when_submitted(lambda job: (job.run(b"up\n"), time.sleep(0.3), os.kill(os.getpid(), signal.SIGALRM)))
    old = signal.signal(signal.SIGALRM, handler)
    one = operator()
    try:
        with pytest.raises(Timeout):
            one.execute(context)
    finally:
        signal.signal(signal.SIGALRM, old)
    assert dashboard.job.status == "STOPPED"
    one.on_kill()  # Airflow calls it afterwards


def test_a_kill_while_the_submit_has_no_answer_stops_the_job_that_appears(dashboard, context):
    dashboard.api.delay = 1.0
    one = operator()
    old = signal.signal(signal.SIGTERM, lambda *_: one.on_kill())

    def kill_soon():
        while ("POST", "/api/jobs/") not in dashboard.api.requests:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=kill_soon, daemon=True).start()
    try:
        with pytest.raises(JobStoppedError):
            one.execute(context)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert [job.status for job in dashboard.api.jobs.values()] in ([], ["STOPPED"])


def test_a_head_that_restarts_before_it_answered_a_submit_may_have_run_the_job(dashboard, context, monkeypatch):
    """Sent again to the new head it would run twice: the task fails, and a retry is somebody's decision."""

    async def restarts(*_):
        dashboard.api.restart()

    monkeypatch.setattr(once, "_look_for", restarts)
    dashboard.api.lose_answers = 1
    with pytest.raises(JobLostError, match="was lost: the Ray head restarted while it was submitted") as lost:
        operator().execute(context)
    assert "under a new id" in lost.value.hint
    assert dashboard.api.count["POST /api/jobs/"] == 1
    assert dashboard.api.jobs == {}


def test_a_deadline_stops_the_job_and_says_so(dashboard, context):
    dashboard.when_submitted(lambda job: job.run(b"up\n"))
    with pytest.raises(JobTimeoutError, match="The limit: job_timeout_seconds is 1 s[.]"):
        operator(job_timeout_seconds=1).execute(context)
    assert dashboard.job.status == "STOPPED"


def test_a_limit_is_told_by_its_argument_and_as_the_default():
    assert arguments.limit_of(operator()) == "job_timeout_seconds is 600 s, which is the default"
    assert arguments.limit_of(operator(job_timeout_seconds="90")) == "job_timeout_seconds is 90 s"
    assert arguments.limit_of(operator(execution_timeout=timedelta(seconds=60))) == "execution_timeout is 60 s"
    assert arguments.limit_of(operator(job_timeout_seconds=0)) is None


def defer(dashboard, context, **arguments) -> tuple[SubmitRayJob, TaskDeferred]:
    dashboard.when_submitted(lambda job: job.run(b"up\n"))
    one = operator(deferrable=True, **arguments)
    with pytest.raises(TaskDeferred) as caught:
        one.execute(context)
    return one, caught.value


def test_a_deferral_carries_what_the_trigger_needs_and_no_secret(dashboard, context):
    _, deferred = defer(dashboard, context, job_timeout_seconds=100, execution_timeout=timedelta(seconds=50))
    path, arguments = deferred.trigger.serialize()
    assert path == "ray_provider.triggers.RayJobTrigger"
    assert arguments["job_id"] == dashboard.job.submission_id
    assert TOKEN not in repr(arguments)
    assert 40 < arguments["deadline"] - time.time() <= 50, "the nearer of the two"
    assert 100 < deferred.timeout.total_seconds() <= 110, "the deadline and a minute"
    assert "fetch_logs" not in arguments, "defaults are left out"
    assert type(deferred.trigger)(**arguments).serialize() == (path, arguments)
    assert arguments["session_name"] == dashboard.api.session_name


def test_a_job_that_has_ended_is_not_deferred(dashboard, context):
    dashboard.api.delay = 0.3
    dashboard.when_submitted(succeed)
    assert operator(deferrable=True).execute(context) == dashboard.job.submission_id


def resume(context, event, **arguments):
    return operator(deferrable=True, **arguments).resume_execution("execute_complete", {"event": event}, context)


async def fired(dashboard, deferred, end):
    threading.Timer(0.2, end, [dashboard.job]).start()
    deferred.trigger.deferred_at = None
    [event] = [event async for event in deferred.trigger.run()]
    return event.payload


@pytest.mark.parametrize(("end", "error"), [(succeed, None), (fail, JobFailedError)])
async def test_the_event_says_how_it_ended(dashboard, context, ti, end, error):
    _, deferred = defer(dashboard, context)
    event = await fired(dashboard, deferred, end)
    if error is None:
        assert resume(context, event) == dashboard.job.submission_id
    else:
        with pytest.raises(error, match="oops"):
            resume(context, event)
    assert ti.store["ray_job"]["final"] == dashboard.job.status


async def test_a_trigger_that_cannot_watch_says_why_and_the_job_is_stopped(dashboard, context, connection):
    _, deferred = defer(dashboard, context)
    good = connection["address"]
    connection["address"] = "nonsense"
    deferred.trigger.not_before = None
    [event] = [event.payload async for event in deferred.trigger.run()]
    assert "no scheme" in event["message"]
    connection["address"] = good
    with pytest.raises(AirflowFailException, match="no scheme"):
        resume(context, event)
    assert dashboard.job.status == "STOPPED"


@pytest.mark.parametrize("cancel", [True, False])
def test_a_trigger_that_died_stops_the_job(dashboard, context, cancel):
    defer(dashboard, context)
    with pytest.raises(Exception, match="boom"):
        operator(cancel_on_kill=cancel).resume_execution("__fail__", {"error": "boom"}, context)
    assert dashboard.job.status in ({"STOPPED"} if cancel else {"PENDING", "RUNNING"})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"entrypoint": ""}, "entrypoint"),
        ({"entrypoint": {"a": 1}}, "entrypoint"),
        ({"num_cpus": -1}, "num_cpus"),
        ({"num_gpus": "many"}, "num_gpus"),
        ({"resources": {"TPU": "x"}}, "resources"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"runtime_env": "nonsense"}, "runtime_env"),
        ({"runtime_env": {"env_vars": {"A": 1}}}, "env_vars"),
        ({"job_timeout_seconds": "soon"}, "job_timeout_seconds"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"submission_id": "has spaces"}, "submission_id"),
        ({"cluster": 3}, "cluster"),
        ({"ray_cluster_yaml": "a.yaml", "wait_for_completion": False}, "wait_for_completion"),
        ({"ray_cluster_yaml": "a.yaml", "cluster": {"backend": "local"}}, "cluster"),
        ({"xcom_task_key": "setup.dashboard", "conn_id": ""}, "conn_id"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent_and_burns_no_retry(dashboard, context, arguments, says):
    with pytest.raises(AirflowFailException, match=says):
        operator(**arguments).execute(context)
    assert not [method for method, _ in dashboard.api.requests if method == "POST"]


def test_a_configuration_error_prints_one_exception(context, connection):
    """Before: two of them, with 29 frames."""
    connection.clear()
    with pytest.raises(AirflowFailException) as raised:
        operator().execute(context)
    printed = "".join(traceback.format_exception(raised.value))
    assert printed.count("Traceback (most recent call last)") == 1
    assert printed.count("has no Ray address") == 1
    assert "`local`" in printed, "a newcomer's connection is empty"


def test_templates_give_text_where_numbers_are_meant(dashboard, context):
    dashboard.when_submitted(succeed)
    operator(num_cpus="2", memory="1e9", job_timeout_seconds="60", metadata='{"a": "b"}').execute(context)
    request = dashboard.job.request
    assert (request["entrypoint_num_cpus"], request["entrypoint_memory"]) == (2, 10**9)
    assert request["metadata"]["a"] == "b"


def test_zero_reserves_nothing(dashboard, context):
    dashboard.when_submitted(succeed)
    operator(num_cpus=0).execute(context)
    assert "entrypoint_num_cpus" not in dashboard.job.request


def test_the_dashboard_may_come_from_xcom(dashboard, context, ti, connection):
    url, connection["address"] = connection["address"], "http://127.0.0.1:9"
    ti.xcoms["group.setup", "dashboard"] = url
    dashboard.when_submitted(succeed)
    operator(xcom_task_key="group.setup.dashboard").execute(context)
    assert dashboard.job.status == "SUCCEEDED"


def test_a_handle_that_came_with_the_url_is_used(context, ti, connection):
    connection.pop("address")
    handle = ClusterHandle(backend="local", name="nobody", address="http://127.0.0.1:9")
    ti.xcoms["setup", "dashboard"] = handle.address
    ti.xcoms["setup", "return_value"] = handle.to_dict()
    one = operator(xcom_task_key="setup.dashboard")
    with pytest.raises((RayProviderError, AirflowFailException)):
        one.execute(context)
    assert one._job_run.cluster == handle


def test_an_xcom_that_is_not_there_is_said_so(context, connection):
    connection.pop("address")
    with pytest.raises(AirflowFailException, match="left no XCom 'dashboard'"):
        operator(xcom_task_key="setup.dashboard").execute(context)


def test_an_id_of_ones_own_gets_a_number_on_the_next_attempt(dashboard, context, ti):
    dashboard.when_submitted(fail)
    with pytest.raises(JobFailedError):
        operator(submission_id="mine").execute(context)
    ti.retry()
    dashboard.when_submitted(succeed, count=2)
    assert operator(submission_id="mine").execute(context) == "mine-2"


def test_not_waiting(dashboard, context):
    assert operator(wait_for_completion=False).execute(context) == dashboard.job.submission_id
    assert dashboard.job.status == "PENDING"


def test_an_error_after_the_submit_does_not_leave_the_job_alone(dashboard, context, ti):
    push = ti.xcom_push

    def broken(key, value):
        if key == "ray_dashboard_link":
            raise RuntimeError("the API server is gone")
        push(key, value)

    ti.xcom_push = broken
    with pytest.raises(RuntimeError, match="API server"):
        operator().execute(context)
    assert dashboard.job.status == "STOPPED"


def test_all_arguments_of_the_predecessor_are_taken(dashboard, context, ti, connection):
    url, connection["address"] = connection["address"], "http://127.0.0.1:9"
    ti.xcoms["setup", "dashboard"] = url
    dashboard.when_submitted(succeed)
    task = operator(
        runtime_env={"env_vars": {"A": "1"}}, num_cpus=1, num_gpus=0.5, memory=10**9, resources={"TPU": 4},
        ray_cluster_yaml=None, kuberay_version="1.0.0", update_if_exists=True, gpu_device_plugin_yaml="", fetch_logs=True,
        wait_for_completion=True, job_timeout_seconds=600, poll_interval=1, xcom_task_key="setup.dashboard",
    )  # fmt: skip
    assert task.execute(context) == dashboard.job.submission_id
    request = dashboard.job.request
    assert request["runtime_env"]["env_vars"] == {"A": "1"}
    assert [request[f"entrypoint_{name}"] for name in ("num_cpus", "num_gpus", "memory")] == [1, 0.5, 10**9]
    assert request["entrypoint_resources"] == {"TPU": 4}
