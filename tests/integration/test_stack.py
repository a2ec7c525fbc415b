"""The Airflow that tests and the demonstration run on: whole, on loopback only, and gone without a trace."""

from __future__ import annotations

import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from ray_provider.clusters.local.processes import family
from ray_provider.testing import AirflowApiError, AirflowStack, StackError
from ray_provider.testing.stack import MARK
from tests.support.postgres import PostgresServer

DAGS = Path(__file__).parent / "dags_stack"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request) -> Iterator[str | None]:
    if request.param == "sqlite":
        yield None
        return
    with PostgresServer() as server:
        yield server.sqlalchemy_url


def listening(stack: AirflowStack) -> set[tuple[str, int]]:
    found = set()
    for process in stack.processes():
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN or connection.type == 2:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


@pytest.mark.slow  # all stages run on one
def test_a_stack_from_its_start_to_its_end(database, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "the-callers-own")
    monkeypatch.setenv("AIRFLOW_CONN_OF_THE_TEST", "generic://the-callers-own")
    # Nothing may go to a proxy: this one does not exist.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    flag = tmp_path / "flag"
    home = tmp_path / "home"
    given = {"GIVEN": str(flag)}
    with AirflowStack(home, sql_alchemy_conn=database, dags_folder=DAGS, env=given) as stack:
        client = stack.client
        assert stack.components == ("api-server", "scheduler", "dag-processor", "triggerer")
        assert listening(stack) == {("127.0.0.1", stack.port)}
        assert stat.S_IMODE((home / "airflow.cfg").stat().st_mode) == 0o600
        assert stat.S_IMODE(home.stat().st_mode) == 0o700

        client.add_connection("of_the_test", "generic", host="first")
        client.add_connection("of_the_test", "generic", host="second", extra={"a": 1})
        run_id = client.trigger_run("stack_small", conf={"x": "%7"})
        assert client.wait_run("stack_small", run_id, state="success")["state"] == "success"
        seen = client.xcom("stack_small", run_id, "look")
        assert (seen["host"], seen["x"], seen["given"]) == ("second", "%7", str(flag))
        assert not [name for name in seen["variables"] if name.startswith("AIRFLOW_CONN") or "FERNET" in name]
        assert client.xcom("stack_small", run_id, "double", map_index=1) == 4
        assert client.xcom("stack_small", run_id, "double", key="nothing") is None
        lines = client.log_text("stack_small", run_id, "look").splitlines()
        assert [line for line in lines if "ünïcode" in line] == [f"    line {n} ünïcode" for n in range(300)]
        assert "double of 2" in client.log_text("stack_small", run_id, "double", map_index=1)

        client.clear("stack_small", run_id, ["look", ("double", 0)])
        assert client.wait_task("stack_small", run_id, "look", try_number=2, state="success")
        client.wait_task("stack_small", run_id, "double", map_index=0, try_number=2, state="success")
        assert client.task_instance("stack_small", run_id, "double", map_index=1)["try_number"] == 1
        assert client.xcom("stack_small", run_id, "look")["try"] == 2
        with pytest.raises(TimeoutError, match="ended as success"):
            client.wait_run("stack_small", run_id, state="failed", timeout=5)
        with pytest.raises(AirflowApiError) as missing:
            client.run("stack_small", "no-such-run")
        assert missing.value.status == 404

        form = client.hook_metadata("ray")
        assert "backend" in form["extra_fields"]
        assert client.hook_metadata("no-such-type") is None

        second = stack.add_triggerer()
        assert second == "triggerer-2"
        stack.kill_component(second)
        stack.stop_component("triggerer")
        assert stack.components == ("api-server", "scheduler", "dag-processor")
        stack.start_component("triggerer")

        run_id = client.trigger_run("stack_waits")
        client.wait_until("the task runs", flag.exists)
        client.set_state("stack_waits", run_id, "waits", "failed")
        client.wait_run("stack_waits", run_id, state="failed")
        flag.unlink()
        # One that is in the middle of a task when the stack stops.
        client.trigger_run("stack_waits")
        client.wait_until("the task runs", flag.exists)
        processes = stack.processes()
        assert len(processes) > 5
    assert stack.components == ()
    assert stack.processes() == []
    assert stack.leftovers == []
    assert not [process for process in processes if process.is_running()]


@pytest.mark.slow
def test_runs_that_are_triggered_at_once_do_not_stop_the_api_server(tmp_path):
    """On SQLite two such requests can wait for each other's turn to write: until one gives up."""

    def trigger(number: int) -> float:
        began = time.monotonic()
        stack.client.trigger_run("stack_small", run_id=f"run-{number}")
        return time.monotonic() - began

    with AirflowStack(tmp_path / "home", dags_folder=DAGS, env={"GIVEN": "x"}) as stack:
        stack.client.add_connection("of_the_test", "generic", host="h")
        with ThreadPoolExecutor(4) as pool:
            took = list(pool.map(trigger, range(6)))
        assert max(took) < 45, took
        for number in range(6):
            stack.client.wait_run("stack_small", f"run-{number}", state="success", timeout=400)


def test_a_component_that_can_not_start_is_told_with_its_last_lines(tmp_path):
    with pytest.raises(StackError, match="db migrate failed") as told, AirflowStack(
        tmp_path / "home", sql_alchemy_conn="postgresql+psycopg2://nobody@127.0.0.1:1/nothing"
    ):  # fmt: skip
        pytest.fail("it started")
    assert "127.0.0.1" in str(told.value)
    assert family(MARK, str(tmp_path / "home")) == []


def test_what_a_killed_stack_left_is_ended_by_the_next_one(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    # As after SIGKILL of whoever held the stack: a component, and a child of it that lost the mark.
    left = subprocess.Popen(
        ["bash", "-c", f"env -u {MARK} sleep 600 & wait"], env={"PATH": "/usr/bin:/bin", MARK: str(home)},
        start_new_session=True,
    )  # fmt: skip
    try:
        stack = AirflowStack(home)
        stack.client.wait_until("it runs", lambda: len(psutil.Process(left.pid).children()) == 1, timeout=120)
        child = psutil.Process(left.pid).children()[0]
        stack.stop()
        left.wait(120)  # killed, or its child was killed before it: then it ended by itself
        assert len(stack.leftovers) == 2
        psutil.wait_procs([child], timeout=120)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    finally:
        left.kill()
        left.wait(120)
