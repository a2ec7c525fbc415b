"""``@task.ray`` on real Airflow components and a real Ray with a token: what comes back, and what a user reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_provider.testing import AirflowStack

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples" / "dags"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def run(tmp_path_factory, token_ray_head):
    """The DAG's one run, when it has ended."""
    home = tmp_path_factory.mktemp("airflow")
    with AirflowStack(home, dags_folder=HERE / "function_dags") as stack:
        stack.client.add_connection(
            "ray_functions", "ray", password=token_ray_head.token, extra={"address": token_ray_head.url}
        )
        run_id = stack.client.trigger_run("functions")
        stack.client.wait_run("functions", run_id, timeout=600)
        yield _Run(stack.client, run_id, token_ray_head.token)
    assert not stack.leftovers


class _Run:
    def __init__(self, client, run_id, token):
        self.client, self.run_id, self.token = client, run_id, token

    def state(self, task_id):
        return self.client.task_instance("functions", self.run_id, task_id)["state"]

    def tries(self, task_id):
        return self.client.task_instance("functions", self.run_id, task_id)["try_number"]

    def xcom(self, task_id, key="return_value"):
        return self.client.xcom("functions", self.run_id, task_id, key=key)

    def log(self, task_id):
        return self.client.log_text("functions", self.run_id, task_id)


def test_arguments_go_there_and_the_value_comes_back(run):
    assert run.state("compute") == "success", run.log("compute")
    value = run.xcom("compute")
    assert value == {"numbers": [7, 14, 21], "day": "2026-02-01", "point": {"x": 1, "y": 2}, "who": "compute"}
    assert run.xcom("compute", "day") == "2026-02-01", "multiple_outputs"
    assert run.xcom("use") == 42


def test_the_form_of_the_predecessor(run):
    assert run.xcom("peers_form") == 42
    assert run.xcom("configured") == "configured"


def test_an_error_shows_the_users_own_line(run):
    assert run.state("raises") == "failed"
    log = run.log("raises")
    assert "ZeroDivisionError" in log
    assert "return 1 / divisor" in log


def test_skip_and_fail_mean_what_they_mean(run):
    assert run.state("skips") == "skipped"
    assert run.state("fails") == "failed"
    assert run.tries("fails") == 1, "a retry would have been in vain"


def test_prints_and_a_large_value(run):
    assert run.state("chatty") == "success", run.log("chatty")[-2000:]
    assert run.xcom("chatty") == "x" * 1_000_000


@pytest.mark.slow
def test_all_that_was_printed_is_in_the_log(run):
    lines = [line.strip() for line in run.log("chatty").splitlines()]
    numbers = [int(line[5:]) for line in lines if line.startswith("line ")]
    assert numbers == list(range(50_000)), "once, and in order"


def test_a_process_that_dies_and_a_value_that_cannot_travel(run):
    assert run.state("dies") == "failed"
    assert "exit code 3" in run.log("dies")
    assert run.state("unserialisable") == "failed"
    assert "can't be sent as JSON" in run.log("unserialisable")
    assert "allow_pickle_results=True" in run.log("unserialisable")


def test_the_token_is_in_no_log(run):
    for task_id in ("compute", "raises", "chatty", "dies"):
        assert run.token not in run.log(task_id)


@pytest.mark.slow
def test_the_examples_run_on_the_local_backend(tmp_path_factory, tmp_path):
    """Ray Tune, mapped functions and a table by reference, each on a cluster of its own."""
    home, rays = tmp_path_factory.mktemp("airflow"), tmp_path / "r"
    env = {"AIRFLOW_RAY_LOCAL_HOME": str(rays), "RAY_EXAMPLE_STORE": f"file://{tmp_path}/store"}
    with AirflowStack(home, dags_folder=EXAMPLES, env=env) as stack:
        client = stack.client
        client.add_connection("ray_default", "ray", extra={"backend": "local"})
        run_id = client.trigger_run("ray_taskflow")
        client.wait_run("ray_taskflow", run_id, state="success", timeout=500)
        best = client.xcom("ray_taskflow", run_id, "tune")
        assert best["trials"] == 3
        assert 5 < best["error_minutes"] < 60
        carriers = {client.xcom("ray_taskflow", run_id, "summarise", map_index=index)["carrier"] for index in range(5)}
        assert carriers == {"UA", "B6", "EV", "DL", "AA"}
        run_id = client.trigger_run("ray_large_result")
        client.wait_run("ray_large_result", run_id, state="success", timeout=300)
        assert client.xcom("ray_large_result", run_id, "build")["bytes"] > 5_000_000
        assert client.xcom("ray_large_result", run_id, "use")["rows"] == 700_000
        left = [path for path in rays.iterdir() if path.is_dir()] if rays.exists() else []
        assert not left, "each run's cluster is deleted"
    assert not stack.leftovers
