"""``@task.ray`` on real Airflow components and a real Ray with a token: what comes back, and what a user reads."""

from __future__ import annotations

import pytest

from ray_provider.testing import AirflowStack
from tests.support.logs import begun_log

DAY = "2026-01-31T06:00:00Z"

pytestmark = pytest.mark.timeout(1200)

#: Tasks of functions_with_data; all others are of functions.
WITH_DATA = ("compute", "pickled", "table", "use")


@pytest.fixture(scope="module")
def stack(shared_stack: AirflowStack) -> AirflowStack:
    return shared_stack


@pytest.fixture(scope="module")
def run(stack, token_ray_head) -> _Run:
    """One run of each of the two DAGs, beside each other, when they have ended."""
    client = stack.client
    runs = {dag: client.trigger_run(dag, logical_date=DAY) for dag in ("functions", "functions_with_data")}
    for dag, run_id in runs.items():
        client.wait_run(dag, run_id, timeout=700)
    return _Run(client, runs, token_ray_head.token)


class _Run:
    """What tasks of one or more DAGs, each with one run, have left."""

    def __init__(self, client, runs, token):
        self.client, self.runs, self.token = client, runs, token

    def of(self, task_id):
        """The DAG and the run of a task."""
        dag = "functions_with_data" if task_id in WITH_DATA else next(iter(self.runs))
        return dag, self.runs[dag]

    def state(self, task_id):
        return self.client.task_instance(*self.of(task_id), task_id)["state"]

    def tries(self, task_id):
        return self.client.task_instance(*self.of(task_id), task_id)["try_number"]

    def xcom(self, task_id, key="return_value", map_index=-1):
        return self.client.xcom(*self.of(task_id), task_id, key=key, map_index=map_index)

    def value(self, task_id, **which):
        """What a task returned that has to have succeeded."""
        assert self.state(task_id) == "success", self.log(task_id)[-4000:]
        return self.xcom(task_id, **which)

    def log(self, task_id):
        return self.client.log_text(*self.of(task_id), task_id)


def test_arguments_go_there_and_the_value_comes_back(run):
    assert run.value("compute") == {
        "numbers": [7, 14, 21],
        "day": "2026-02-01",
        "point": {"x": 1, "y": 2},
        "array": 10.0,
        "frame": 3,
        "who": "compute",
    }
    assert run.xcom("compute", "day") == "2026-02-01", "multiple_outputs"
    assert run.value("use")["computed"] == 42


def test_parameters_that_are_called_like_context_keys_get_their_values(run):
    run_id = run.runs["functions"]
    assert run.value("in_context")["context"] == {"ds": "2026-01-31", "run_id": run_id, "factor": 5}


def test_a_mapped_function_over_carriers_and_one_that_reduces_what_it_returned(run):
    found = [run.xcom("mapped", map_index=index) for index in range(2)]
    assert found == [
        {"carrier": carrier, "value": 20, "index": str(index)} for index, carrier in enumerate(["UA", "B6"])
    ]
    assert run.value("total") == {
        "total": 40,
        "nested": ["B6", "UA"],
        "tripled": [60, 60],
        "zipped": [["0", "0"], ["1", "1"]],
    }


def test_an_argument_larger_than_xcom_goes_through_object_storage(run, stack):
    assert run.value("measure") == {"count": 700_000, "sum": 699_999 * 350_000.0}
    stored = [path for path in (stack.home / "xcom").rglob("*") if path.is_file() and path.stat().st_size > 5_000_000]
    assert stored, "it did not go through the database"


def test_the_form_of_the_predecessor(run):
    """Its simplest form is in functions_at_the_edges."""
    assert run.value("configured") == "configured", "a callable's connection is known after a deferral too"
    assert "instead of an_entrypoint" in run.log("an_entrypoint")
    assert run.value("an_entrypoint").startswith("functions-an-entrypoint-"), "the job's id"


def test_code_of_ones_own_is_joined_with_ours(run):
    assert run.value("in_context")["code"] == {"area": 42, "note": "from the working_dir", "colour": "blue"}


def test_a_pickle_comes_back_where_it_is_allowed(run):
    assert run.state("pickled") == "success", run.log("pickled")
    assert run.value("use")["pickled"] == "2026-01-31 3"


def test_a_table_of_ten_megabytes_by_reference(run):
    reference = run.value("table")
    assert reference["bytes"] > 5_000_000
    assert reference["rows"] == 700_000
    assert run.runs["functions_with_data"] in reference["path"], "the path is a template"
    assert "_conn" not in repr(reference)
    assert run.value("use")["rows"] == 700_000


def test_an_error_shows_the_users_own_lines(run):
    assert run.state("raises") == "failed"
    log = run.log("raises")
    for line in ("return 1 / divisor", "in deeper", "ZeroDivisionError: division by zero"):
        assert line in log
    assert "RuntimeError: no quotient today" in log
    assert "runner.py" not in log
    assert "airflow_ray_call" not in log.partition("Traceback")[2].partition("RuntimeError")[0], (
        "the user's frames only"
    )
    assert "The cluster has no module" not in log, "an exception of the user's own gets no advice about modules"
    assert "can't be unpickled" not in log


def test_a_module_that_the_cluster_lacks_is_told_with_the_way_out(run):
    assert run.state("lacks_a_module") == "failed"
    log = run.log("lacks_a_module")
    assert "The cluster has no module 'a_module_that_is_nowhere'" in log
    assert "py_modules" in log


def test_skip_and_fail_mean_what_they_mean(run):
    assert run.state("skips") == "skipped"
    assert "nothing to do today" in run.log("skips")
    assert run.state("fails") == "failed"
    assert run.tries("fails") == 1, "a retry would have been in vain"


def test_prints_and_a_large_value(run):
    assert run.value("chatty") == "x" * 1_000_000
    lines = [line.strip() for line in run.log("chatty").splitlines()]
    numbers = [int(line[5:]) for line in lines if line.startswith("line ")]
    assert numbers == list(range(50_000)), "once, and in order"


def test_a_process_that_dies_and_a_value_that_cannot_travel(run):
    assert run.state("exits") == "failed"
    assert "exit code 3" in run.log("exits")
    assert run.state("unserialisable") == "failed"
    log = run.log("unserialisable")
    assert "the return value['deep'][0]['lock'] is of type builtins.object" in log
    assert "allow_pickle_results=True" in log


def test_setup_and_teardown(run):
    assert run.value("prepare") == "prepared"
    assert run.state("raises") == "failed"
    assert run.value("clean_up") == "prepared, cleaned up", "in spite of the failure"


@pytest.fixture(scope="module")
def edges(stack, token_ray_head) -> _Run:
    """Functions at the edges of what can be sent and told."""
    dag = "functions_at_the_edges"
    run_id = stack.client.trigger_run(dag)
    stack.client.wait_run(dag, run_id, timeout=700)
    return _Run(stack.client, {dag: run_id}, token_ray_head.token)


# Of what follows, the functions above show how it is with one of its kind: a value, an error, an exit.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task_id", "value"),
    [
        ("total", 14),
        ("nested", 14),
        ("uses_a_cache", 5),
        ("in_processes", [1, 4]),
        ("closes_its_output", 1),
        ("peers_form", 42),
        ("bare", None),
        ("exits_content", None),
    ],
)
def test_functions_at_the_edges_return(edges, task_id, value):
    assert edges.value(task_id) == value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task_id", "words"),
    [
        ("exits_with_256", "SystemExit: 256"),  # the operating system sees 0 here
        ("raises", "my own error"),
        ("raises_without_text", "BadText"),
        ("is_killed", "exit code 137"),
        ("is_killed", "The entrypoint was killed"),
        ("raises_far_away", "lost in a Ray task"),
        ("raises_far_away", "beside_the_driver"),
        ("cannot_be_unpickled", "The function could not be loaded on the cluster: builtins.ValueError"),
        ("cannot_be_unpickled", "can't be unpickled there"),
    ],
)
def test_functions_at_the_edges_fail(edges, task_id, words):
    assert edges.state(task_id) == "failed", "not skipped, not a success"
    assert words in edges.log(task_id)
    assert "The cluster has no module" not in edges.log(task_id)
    if task_id == "raises":
        assert "What to do" not in edges.log(task_id)


@pytest.mark.slow
def test_an_empty_working_dir_takes_nothing_along(edges):
    found = edges.value("empty_working_dir")
    assert not {"airflow.cfg", "pyproject.toml", "dags", "provider"} & set(found), found


@pytest.mark.slow
def test_a_dag_with_the_oldest_import_paths_runs(stack):
    run_id = stack.client.trigger_run("old_paths")
    stack.client.wait_run("old_paths", run_id, state="success", timeout=500)
    assert "sum of squares: 14" in stack.client.log_text("old_paths", run_id, "SubmitRayJob")


def test_the_token_is_in_no_log(run):
    for task_id in ("compute", "raises", "chatty", "exits", "table"):
        assert run.token not in run.log(task_id)


def test_a_function_that_is_killed_stops_on_ray(stack, token_ray_head):
    client = stack.client
    run_id = client.trigger_run("functions_stuck")
    client.wait_task("functions_stuck", run_id, "never_ends", state="running", timeout=300)
    client.wait_until(
        "the function runs",
        lambda: "it has begun" in begun_log(client, "functions_stuck", run_id, "never_ends"),
        timeout=300,
    )
    jobs = [job for job in token_ray_head.jobs() if (job["metadata"] or {}).get("airflow_dag_id") == "functions_stuck"]
    assert [job["status"] for job in jobs] == ["RUNNING"]
    client.set_state("functions_stuck", run_id, "never_ends", "failed")
    [job] = jobs
    client.wait_until(
        "Ray says so",
        lambda: token_ray_head.job(job["submission_id"])["status"] == "STOPPED",
        timeout=300,
    )


# The other one has a Ray of its own for its function, as the README's snippet in test_local_dag.py does.
@pytest.mark.parametrize("dag", [pytest.param("peer_taskflow", marks=pytest.mark.slow), "peer_setup_teardown"])
def test_the_predecessors_dags_run_unchanged(stack, dag):
    client = stack.client
    run_id = client.trigger_run(dag)
    client.wait_run(dag, run_id, state="success", timeout=500)
    if dag == "peer_taskflow":
        assert client.xcom(dag, run_id, "process_data_with_ray")["squares"] == [1, 4, 9, 16]
        assert client.xcom(dag, run_id, "use") == 33
    else:
        assert "sum of squares: 14" in client.log_text(dag, run_id, "SubmitRayJob")
        assert client.xcom(dag, run_id, "on_the_same_cluster")["sum"] == 42


@pytest.mark.slow  # RayJobs: tests/kubernetes; a task with a Ray of its own on this machine: test_local_dag.py
def test_a_job_and_a_function_of_rayjobs_run_on_the_local_backend(stack):
    """The same DAG as on Kubernetes; a queue has no effect, and is told."""
    client = stack.client
    run_id = client.trigger_run("ray_job_of_its_own")
    client.wait_run("ray_job_of_its_own", run_id, state="success", timeout=500)
    log = client.log_text("ray_job_of_its_own", run_id, "estimate")
    assert "pi is about 3." in log
    assert log.count("No effect of `local_queue`: the backend is local") == 1
    assert client.xcom("ray_job_of_its_own", run_id, "square") == 144


@pytest.mark.slow
def test_the_examples_run_on_the_local_backend(stack):
    """Ray Tune, mapped functions and a table by reference, each on a cluster of its own."""
    client = stack.client
    run_id = client.trigger_run("ray_taskflow")
    client.wait_run("ray_taskflow", run_id, state="success", timeout=500)
    best = client.xcom("ray_taskflow", run_id, "tune")
    assert best["trials"] == 3
    assert 5 < best["error_minutes"] < 60
    assert f"off by {best['error_minutes']} minutes" in client.xcom("ray_taskflow", run_id, "report")
    carriers = {client.xcom("ray_taskflow", run_id, "summarise", map_index=index)["carrier"] for index in range(5)}
    assert carriers == {"UA", "B6", "EV", "DL", "AA"}
    run_id = client.trigger_run("ray_large_result")
    client.wait_run("ray_large_result", run_id, state="success", timeout=500)
    assert client.xcom("ray_large_result", run_id, "build")["bytes"] > 5_000_000
    assert client.xcom("ray_large_result", run_id, "use")["rows"] == 700_000
