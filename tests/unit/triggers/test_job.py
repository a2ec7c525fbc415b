"""RayJobTrigger: what it passes on, and whom it stops a job for."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from ray_provider import _compat
from ray_provider.triggers import RayJobTrigger, coming_back
from tests.support.dashboard import TOKEN
from tests.support.waiting import until

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.timeout(60)]


@pytest.fixture
def airflow(monkeypatch):
    """What a trigger may ask Airflow: its task's state and XComs."""
    told = SimpleNamespace(state="deferred", xcoms={}, writes=0, broken=0)
    told.error = _compat.AirflowUnansweredError(ConnectionError("the API server restarts"))

    async def state(task):
        if told.broken:
            told.broken -= 1
            raise told.error
        return told.state

    async def get(task, key):
        return told.xcoms.get(key)

    async def put(task, key, value):
        told.writes += 1
        told.xcoms[key] = value

    monkeypatch.setattr(_compat, "core_state_of", state)
    monkeypatch.setattr(_compat, "get_xcom", get)
    monkeypatch.setattr(_compat, "set_xcom", put)
    return told


@pytest.fixture
def trigger(dashboard):
    dashboard.api.add("mine", "true").run(b"first\n")
    made = RayJobTrigger("mine", "c", poll_interval=0.05)
    made.task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)
    return made


class Log:
    """A task's log: as text, and its records with their levels."""

    def __init__(self) -> None:
        self.text = ""
        self.records = []

    def __getattr__(self, level):
        if level not in {"debug", "info", "warning", "error", "critical", "exception"}:
            raise AttributeError(level)

        def record(message, *arguments) -> None:
            self.records.append((level, message % arguments))
            self.text += message % arguments + "\n"

        return record


@pytest.fixture
def log(monkeypatch) -> Log:
    found = Log()
    monkeypatch.setattr(RayJobTrigger, "log", found)
    return found


async def start(trigger) -> asyncio.Task:
    """Run it as a triggerer does, and wait until it watches."""

    async def collect():
        return [event.payload async for event in trigger.run()]

    task = asyncio.create_task(collect())
    while trigger._endpoint is None:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    return task


async def cancel(task) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_it_passes_the_log_on_and_fires_once(trigger, dashboard, airflow, log):
    task = await start(trigger)
    dashboard.job.write("    second\nthird\n")
    dashboard.job.end()
    [event] = await task
    assert (event["status"], event["job_id"], event["outcome"]["kind"]) == ("SUCCEEDED", "mine", "final")
    lines = [line for line in log.text.splitlines() if line in {"first", "    second", "third"}]
    assert lines == ["first", "    second", "third"]
    assert TOKEN not in log.text + repr(event) + repr(trigger)


async def test_a_line_that_shows_a_level_is_logged_at_it(trigger, dashboard, airflow, log):
    """A filter for errors in Airflow finds it, with its traceback."""
    error = 'ERROR:app:no room\nTraceback (most recent call last):\n  File "x.py", line 1\nMemoryError'
    task = await start(trigger)
    dashboard.job.write(f"one\ntwo\n{error}\n2026-11-29 05:31:50,123 WARNING hot\nthree\nfour\n")
    dashboard.job.end()
    [event] = await task
    assert event["status"] == "SUCCEEDED"
    lines = [(level, line) for level, text in log.records for line in text.split("\n")]
    at = lines.index(("info", "one"))
    expected = [("info", "two"), *(("error", line) for line in error.split("\n"))]
    expected += [("warning", "2026-11-29 05:31:50,123 WARNING hot"), ("info", "three"), ("info", "four")]
    assert lines[at + 1 : at + 1 + len(expected)] == expected


async def test_the_event_waits_until_airflow_has_read_the_log(trigger, dashboard, airflow, log, monkeypatch):
    """An answer is a turn of the supervisor, which reads 4 KiB of it: the event must not overtake the last lines."""
    task = await start(trigger)
    asked, free = [], asyncio.Event()

    async def answer(task, key):
        asked.append("line 999" in log.text)
        await free.wait()

    monkeypatch.setattr(_compat, "get_xcom", answer)
    dashboard.job.write("".join(f"line {number}\n" for number in range(1000)))
    dashboard.job.end()
    await until(lambda: asked)
    await asyncio.sleep(0.3)
    assert not task.done()
    free.set()
    [event] = await task
    assert event["status"] == "SUCCEEDED"
    assert all(asked)
    assert len(asked) >= 2 + 8890 // 4096


async def test_an_airflow_that_does_not_answer_loses_no_event(trigger, dashboard, airflow, log, monkeypatch):
    task = await start(trigger)

    async def broken(task, key):
        raise _compat.AirflowUnansweredError(ConnectionError("the API server is away"))

    monkeypatch.setattr(_compat, "get_xcom", broken)
    dashboard.job.end()
    [event] = await task
    assert event["status"] == "SUCCEEDED"
    assert "The last lines of the log may be missing here" in log.text
    assert "the API server is away" in log.text


@pytest.mark.parametrize("state", ["failed", "success", None, "removed", "queued"])
async def test_a_user_who_acts_on_the_task_stops_the_job(trigger, dashboard, airflow, state):
    task = await start(trigger)
    airflow.state = state
    await cancel(task)
    await trigger.on_kill()
    assert dashboard.job.status == "STOPPED"


async def test_on_kill_finishes_although_airflow_gives_it_no_time(trigger, dashboard, airflow):
    dashboard.job.stop_seconds = 1.0
    task = await start(trigger)
    airflow.state, airflow.broken = "failed", 2
    await cancel(task)
    kill = asyncio.create_task(trigger.on_kill())
    for _ in range(3):
        await asyncio.sleep(0.05)
        kill.cancel()
    with pytest.raises(asyncio.CancelledError):
        await kill
    await until(lambda: dashboard.job.status == "STOPPED")


async def test_a_triggerer_that_stalled_stops_nothing(trigger, dashboard, airflow):
    """The task is deferred, for this very job: another trigger watches it."""
    airflow.xcoms["ray_job"] = {"submission_id": "mine"}
    task = await start(trigger)
    await cancel(task)
    await trigger.on_kill()
    assert dashboard.job.status == "RUNNING"


async def test_a_cleared_task_that_is_deferred_again_stops_the_old_job(trigger, dashboard, airflow):
    airflow.xcoms["ray_job"] = {"submission_id": "the next one"}
    task = await start(trigger)
    await cancel(task)
    await trigger.on_kill()
    assert dashboard.job.status == "STOPPED"


async def test_the_answer_is_waited_for_when_airflow_restarts(trigger, dashboard, airflow):
    airflow.state, airflow.broken = "failed", 1
    task = await start(trigger)
    await cancel(task)
    await trigger.on_kill()
    assert dashboard.job.status == "STOPPED"


async def test_a_mistake_in_the_code_is_told_and_not_tried_again(trigger, dashboard, airflow, log):
    airflow.state, airflow.broken = "failed", 3
    airflow.error = AttributeError("'NoneType' object has no attribute 'task_states'")
    task = await start(trigger)
    await cancel(task)
    await trigger.on_kill()
    assert airflow.broken == 2, "tried again"
    assert ("exception", "Job mine could not be stopped. It may still run.") in log.records


async def test_what_airflow_raises_while_it_has_no_answer_is_waited_out(trigger, dashboard, airflow, monkeypatch):
    """Its own code meets an error of the API server that it takes for the answer."""
    found, asked = trigger.hook.endpoint, 0

    async def endpoint(*given):
        nonlocal asked
        asked += 1
        if asked == 1:
            raise AttributeError("'ErrorResponse' object has no attribute 'conn_id'")
        return await found(*given)

    monkeypatch.setattr(trigger.hook, "endpoint", endpoint)
    dashboard.job.end()
    event = await anext(trigger.run())
    assert event.payload["status"] == "SUCCEEDED"


async def test_what_airflow_raises_where_it_does_not_answer_is_one_kind_of_error():
    """This process has no triggerer above it that could be asked."""
    task = _compat.TriggerTask(SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1))
    for ask in (_compat.get_xcom(task, "k"), _compat.set_xcom(task, "k", 1), _compat.core_state_of(task)):
        with pytest.raises(_compat.AirflowUnansweredError):
            await ask


async def test_cancel_on_kill_false_leaves_the_job(trigger, dashboard, airflow):
    trigger.cancel_on_kill = False
    task = await start(trigger)
    airflow.state = "failed"
    await cancel(task)
    await trigger.on_kill()
    assert dashboard.job.status == "RUNNING"


@pytest.mark.parametrize("state", ["deferred", "failed"])
async def test_cleanup_stops_nothing_where_airflow_has_on_kill(trigger, dashboard, airflow, state, monkeypatch):
    monkeypatch.setattr(_compat, "trigger_has_on_kill", lambda: True)
    task = await start(trigger)
    airflow.state = state
    await cancel(task)
    await trigger.cleanup()
    assert dashboard.job.status == "RUNNING"


@pytest.mark.parametrize(("state", "status"), [("deferred", "RUNNING"), ("failed", "STOPPED"), (None, "STOPPED")])
async def test_cleanup_is_guarded_where_it_has_not(trigger, dashboard, airflow, state, status, monkeypatch):
    monkeypatch.setattr(_compat, "trigger_has_on_kill", lambda: False)
    airflow.xcoms["ray_job"] = {"submission_id": "mine"}
    task = await start(trigger)
    airflow.state = state
    await cancel(task)
    await trigger.cleanup()
    assert dashboard.job.status == status


async def test_a_successor_goes_on_where_the_log_was(trigger, dashboard, airflow, log):
    task = await start(trigger)
    await until(lambda: "first" in log.text)
    dashboard.job.write("second\n")
    await until(lambda: "second" in log.text)
    await cancel(task)
    await trigger.cleanup()
    assert airflow.xcoms["ray_log_offset"] == {
        "submission_id": "mine",
        "offset": len("first\nsecond\n"),
        "lines": 2,
    }
    path, arguments = trigger.serialize()
    successor = RayJobTrigger(**arguments)
    successor.task_instance = trigger.task_instance
    log.text = ""
    task = await start(successor)
    dashboard.job.write("third\n")
    dashboard.job.end()
    await task
    assert "third" in log.text
    assert "second" not in log.text
    assert airflow.writes < 8


async def test_what_came_before_a_silence_is_kept_although_no_more_comes(trigger, dashboard, airflow, log, monkeypatch):
    """A triggerer that is killed has no orderly end. Before: lines came again that had been there for hours."""
    monkeypatch.setattr(trigger._offset, "_EVERY", 0.3)
    task = await start(trigger)
    await until(lambda: "ray_log_offset" in airflow.xcoms)
    dashboard.job.write("second\n")
    await until(lambda: airflow.xcoms["ray_log_offset"]["lines"] == 2)
    assert airflow.xcoms["ray_log_offset"]["offset"] == len("first\nsecond\n")
    await cancel(task)


async def test_a_budget_of_lines_is_one_for_all_triggerers(trigger, dashboard, airflow, log):
    trigger.log_max_lines = 3
    task = await start(trigger)
    dashboard.job.write("second\n")
    await until(lambda: "second" in log.text)
    await cancel(task)
    await trigger.cleanup()
    successor = RayJobTrigger(**trigger.serialize()[1])
    successor.task_instance = trigger.task_instance
    dashboard.job.write("third\nfourth\nfifth\n")
    dashboard.job.end()
    await (await start(successor))
    assert "third" in log.text
    assert "fourth" not in log.text
    assert "2 lines left out" in log.text


async def test_a_head_that_restarted_while_no_triggerer_ran_is_told(trigger, dashboard, airflow, log):
    """The trigger was moved, and the head restarted meanwhile: only the session tells that the job was lost with it."""
    trigger.session_name = dashboard.api.session_name
    path, arguments = trigger.serialize()
    dashboard.api.restart()
    successor = RayJobTrigger(**arguments)
    successor.task_instance = trigger.task_instance
    [event] = await (await start(successor))
    assert event["outcome"]["kind"] == "lost"
    assert "the Ray head restarted" in event["message"]


async def test_an_offset_of_another_job_is_not_taken(trigger, dashboard, airflow, log):
    airflow.xcoms["ray_log_offset"] = {"submission_id": "the one before", "offset": 100}
    task = await start(trigger)
    await until(lambda: "first" in log.text)
    await cancel(task)


async def test_a_connection_that_is_not_there_yet_is_waited_for(trigger, dashboard, airflow, monkeypatch):
    """A triggerer that starts with the machine may be up before what it asks."""
    hook = type(trigger.hook)
    good, calls = hook.get_connection, []

    def flaky(conn_id):
        calls.append(conn_id)
        if len(calls) < 2:
            raise _compat.AirflowNotFoundException("The conn_id `c` isn't defined")
        return good(conn_id)

    monkeypatch.setattr(hook, "get_connection", staticmethod(flaky))
    task = await start(trigger)
    dashboard.job.end()
    assert (await task)[0]["status"] == "SUCCEEDED"


async def test_the_arguments_of_the_predecessor_are_taken(dashboard):
    made = RayJobTrigger(
        job_id="a",
        conn_id="c",
        xcom_dashboard_url="http://h:1",
        ray_cluster_yaml=None,
        gpu_device_plugin_yaml="",
        poll_interval=30,
        fetch_logs=False,
    )
    path, arguments = made.serialize()
    assert arguments == {
        "job_id": "a",
        "conn_id": "c",
        "xcom_dashboard_url": "http://h:1",
        "poll_interval": 30,
        "fetch_logs": False,
    }
    assert RayJobTrigger(**arguments).serialize() == (path, arguments)


@pytest.mark.parametrize(
    ("heartbeat", "deferred", "began", "seconds"),
    [
        ("5", 1.0, 1.0, 9.0),  # the usual: ten seconds after the deferral
        ("5", 11.0, 11.0, 0.0),
        ("5", 4.0, 1.0, 16.0),  # a slow Airflow: the trigger began three seconds late
        ("5", 1000.0, 1.0, 0.0),  # a triggerer that took the trigger over much later
        ("5", 12.0, 0.1, 18.0),  # bounded
        ("1", 1.0, 1.0, 5.0),  # an Airflow whose supervisors look more often
        ("20", 1.0, 1.0, 24.0),  # less often
    ],
)
def test_a_task_does_not_come_back_before_airflow_has_seen_it_go(monkeypatch, heartbeat, deferred, began, seconds):
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", heartbeat)
    now = time.time()
    assert coming_back.seconds(now - deferred, now - began) == pytest.approx(seconds, abs=0.5)


async def test_a_message_of_any_length_makes_a_short_event(trigger, dashboard, airflow, log):
    """Before: 50 MB went into the event, and into Airflow's database."""
    task = await start(trigger)
    dashboard.job.end("FAILED", message="x" * 50_000_000 + "\nthe reason")
    [event] = await task
    assert event["status"] == "FAILED"
    assert event["outcome"]["message"].endswith("the reason")
    assert len(json.dumps(event)) < 200_000
