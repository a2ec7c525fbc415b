"""DAGs on real Airflow components and a real Ray; the connection lies in the metadata database."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_provider.jobs.client import RayJobsClient
from ray_provider.provider_info import CONNECTION_FIELDS
from ray_provider.testing import AirflowStack
from tests.support.gate import Gate
from tests.support.logs import begun_log
from tests.support.postgres import PostgresServer
from tests.support.ray_head import RayHead

pytestmark = pytest.mark.timeout(900)
both_databases = pytest.mark.both_databases

WAYS = ("plain", "deferred")
EVERYTHING = os.environ.get("AIRFLOW_RAY_TESTS") == "all"


def one_of_the_ways(usual: str) -> list:
    """Both; the other one is slow: that both are right is shown by test_a_job_that_succeeds, by what follows also."""
    return [way if way == usual else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]


#: 1,000 lines, some of them empty, indented or not ASCII.
PRINTS = """python -c "
for n in range(1000):
    print(('    ' if n % 3 == 0 else '') + 'line %04d ' % n + ('\u00e4\u20ac' if n % 7 == 0 else ''))
    if n % 100 == 0: print(flush=True)
" """


SLEEPS = "echo up; sleep 1800"
TAKEN = f"taken-{secrets.token_hex(4)}"

#: What tests look at: name -> (DAG, conf).
RUNS: dict[str, tuple[str, dict]] = {
    **{f"prints {way}": (way, {"entrypoint": PRINTS}) for way in WAYS},
    **{f"fails {way}": (way, {"entrypoint": "echo before; echo ERROR:app:the reason; exit 3"}) for way in WAYS},
    **{f"stopped {way}": (way, {"entrypoint": SLEEPS}) for way in WAYS},
    **{f"too long {way}": (way, {"entrypoint": SLEEPS, "timeout": 60}) for way in WAYS},
    "retried": ("retried", {"entrypoint": "exit 1"}),
    "not waiting": ("not_waiting", {"entrypoint": "sleep 3"}),
    "mapped": ("mapped", {}),
    "function": ("function", {}),
    "takes an id": ("plain", {"entrypoint": "true", "submission_id": TAKEN}),
}

#: Those that `make test` looks at need nothing of each other: triggered together, so that their waits are one.
TOGETHER = ("prints plain", "prints deferred", "too long deferred", "fails plain", "retried", "not waiting", "mapped")


def pytest_generate_tests(metafunc):
    """The metadata database is told by a mark: what does not depend on it runs on SQLite only."""
    if "database" in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("both_databases")
        names = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)] if both else ["sqlite"]
        metafunc.parametrize("database", names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def head(token_ray_head: RayHead) -> RayHead:
    return token_ray_head


@pytest.fixture(scope="module")
def database(request) -> Iterator[str | None]:
    if request.param == "sqlite":
        yield None
        return
    with PostgresServer() as server:
        yield server.sqlalchemy_url


@pytest.fixture(scope="module")
def stack(request, tmp_path_factory, database, head) -> Iterator[AirflowStack]:
    if database is None:
        yield request.getfixturevalue("shared_stack")
        return
    stack = AirflowStack(
        tmp_path_factory.mktemp("airflow"),
        dags_folder=Path(__file__).parent / "dags",
        sql_alchemy_conn=database,
        config={"core": {"parallelism": "5"}},
    )
    with stack:
        stack.client.add_connection("ray_jobs", "ray", password=head.token, extra={"address": head.url})
        yield stack
    assert not stack.leftovers


@pytest.fixture(scope="module")
def begun(stack):
    """``begun("fails plain")`` gives the id of that run, and starts it unless it was; it goes on meanwhile."""
    ids: dict[str, str] = {}

    def begun(name: str) -> str:
        if name not in ids:
            dag, conf = RUNS[name]
            ids[name] = stack.client.trigger_run(dag, conf=conf)
        return ids[name]

    for name in TOGETHER:
        begun(name)
    return begun


@pytest.fixture
def ended(stack, begun):
    """Wait until one of them has ended: ``ended("fails plain", "failed")`` gives its id."""

    def ended(name: str, state: str = "success") -> str:
        run_id = begun(name)
        stack.client.wait_run(RUNS[name][0], run_id, state=state, timeout=600)
        return run_id

    return ended


@pytest.fixture
def run(stack, begun):
    """Start one more run, and wait for it."""

    def run(dag: str, *, state: str | None = "success", **conf) -> str:
        run_id = stack.client.trigger_run(dag, conf=conf)
        if state:
            stack.client.wait_run(dag, run_id, state=state, timeout=400)
        return run_id

    return run


def jobs_of(head: RayHead, run_id: str) -> list:
    async def ask():
        async with RayJobsClient(head.endpoint) as client:
            return [job for job in await client.list_jobs() if job.metadata.get("airflow_run_id") == run_id]

    return asyncio.run(ask())


def wait_watched(stack: AirflowStack, head: RayHead, runs: dict[str, str]) -> list:
    """Wait until the job of each run (DAG -> run) runs, and its task's log says so: then somebody watches it."""

    def look():
        jobs = [job for run_id in runs.values() for job in jobs_of(head, run_id)]
        if [job.status for job in jobs] != ["RUNNING"] * len(runs):
            return None
        told = [begun_log(stack.client, dag, run_id, "job") for dag, run_id in runs.items()]
        return jobs if all("is RUNNING" in text for text in told) else None

    return stack.client.wait_until("the jobs run and are watched", look, timeout=400)


def numbers(text: str) -> list[str]:
    return [line for line in text.splitlines() if "line 0" in line]


@both_databases
@pytest.mark.parametrize("waiting", WAYS)
def test_a_job_that_succeeds(stack, head, ended, waiting):
    run_id = ended(f"prints {waiting}")
    [job] = jobs_of(head, run_id)
    client = stack.client
    assert client.xcom(waiting, run_id, "job") == job.submission_id
    assert client.extra_links(waiting, run_id, "job")["Ray dashboard"] == f"{head.url}/#/jobs/{job.submission_id}"
    told = numbers(client.log_text(waiting, run_id, "job"))
    assert len(told) == 1000
    assert [line.strip()[:9] for line in told] == [f"line {n:04d}" for n in range(1000)]
    assert told[3].startswith("    line 0003")
    assert told[7].rstrip().endswith("\u00e4\u20ac")
    assert job.metadata["airflow_dag_id"] == waiting
    assert job.metadata["airflow_task_id"] == "job"
    assert head.token not in client.log_text(waiting, run_id, "job")


@both_databases
@pytest.mark.parametrize("waiting", one_of_the_ways("plain"))
def test_a_job_that_fails(stack, head, ended, waiting):
    run_id = ended(f"fails {waiting}", "failed")
    text = stack.client.log_text(waiting, run_id, "job")
    assert "FAILED" in text
    assert "ERROR:app:the reason" in text.splitlines(), "the job's own line, beside the entrypoint's text"
    entries = stack.client.log_entries(waiting, run_id, "job")
    levels = {line: entry.get("level") for entry in entries for line in str(entry["event"]).splitlines()}
    assert (levels["ERROR:app:the reason"], levels["before"]) == ("error", "info"), "Airflow's filter finds it"
    assert "exit code 3" in text.lower() or "exit code: 3" in text.lower() or "code 3" in text
    assert "What to do" in text
    assert len(jobs_of(head, run_id)) == 1


@pytest.mark.parametrize("waiting", one_of_the_ways("deferred"))
def test_a_job_that_somebody_stops(stack, head, begun, ended, waiting):
    run_id = begun(f"stopped {waiting}")

    def running():
        return [job for job in jobs_of(head, run_id) if job.status == "RUNNING"]

    [job] = stack.client.wait_until("the job runs", running, timeout=400)

    async def stop():
        async with RayJobsClient(head.endpoint) as client:
            await client.stop_and_wait(job.submission_id)

    asyncio.run(stop())
    ended(f"stopped {waiting}", "failed")
    text = stack.client.log_text(waiting, run_id, "job")
    assert "JobStoppedError" in text
    assert "STOPPED" in text
    assert "What to do" in text


@pytest.mark.parametrize("waiting", one_of_the_ways("deferred"))
def test_a_job_that_takes_too_long(stack, head, ended, waiting):
    run_id = ended(f"too long {waiting}", "failed")
    [job] = jobs_of(head, run_id)
    assert job.status == "STOPPED"
    text = stack.client.log_text(waiting, run_id, "job")
    assert "up" in text.splitlines()
    assert "JobTimeoutError" in text
    assert "What to do" in text


@both_databases
def test_a_retry_after_a_failed_job_is_a_new_job(stack, head, ended):
    run_id = ended("retried", "failed")
    assert sorted(job.metadata["airflow_attempt"] for job in jobs_of(head, run_id)) == ["1", "2"]


def test_a_job_that_vanished_while_nobody_could_look(stack, head, run):
    """The dashboard is away; meanwhile the job is stopped and deleted."""
    ways = WAYS if EVERYTHING else ("deferred",)
    with Gate(head.url) as gate:
        stack.client.add_connection("ray_gate", "ray", password=head.token, extra={"address": gate.url})
        runs = {waiting: run(waiting, state=None, conn="ray_gate", entrypoint=SLEEPS) for waiting in ways}
        jobs = wait_watched(stack, head, runs)
        gate.closed = True

        async def remove():
            async with RayJobsClient(head.endpoint) as client:
                for job in jobs:
                    await client.stop_and_wait(job.submission_id)
                absent = 0
                while absent < 10:  # Ray may write down how the job's process ended after we deleted the job
                    left = [job.submission_id for job in jobs if await client.get(job.submission_id)]
                    absent = 0 if left else absent + 1
                    for submission_id in left:
                        assert await client.delete(submission_id)
                    await asyncio.sleep(0.3)

        asyncio.run(remove())
        gate.closed = False
        for waiting, run_id in runs.items():
            stack.client.wait_run(waiting, run_id, state="failed", timeout=400)
            text = stack.client.log_text(waiting, run_id, "job")
            assert "JobLostError" in text
            assert "deleted" in text
            assert "What to do" in text


def test_a_restarted_head_loses_its_jobs_and_a_dead_one_is_told_apart(stack, run):
    """A job that the worker watches is lost, one that a trigger watches can't be asked any more; or each of them both."""
    losing, dying = (WAYS, WAYS) if EVERYTHING else (("plain",), ("deferred",))
    with RayHead(num_cpus=2) as head:
        stack.client.add_connection("ray_doomed", "ray", extra={"address": head.url})
        lost = {waiting: run(waiting, state=None, conn="ray_doomed", entrypoint=SLEEPS) for waiting in losing}
        wait_watched(stack, head, lost)
        head.kill()
        head.start()
        for waiting, run_id in lost.items():
            stack.client.wait_run(waiting, run_id, state="failed", timeout=400)
            text = stack.client.log_text(waiting, run_id, "job")
            assert "JobLostError" in text
            assert "What to do" in text
        sleeping = {"conn": "ray_doomed", "entrypoint": SLEEPS, "unreachable": 5}
        dead = {waiting: run(waiting, state=None, **sleeping) for waiting in dying}
        wait_watched(stack, head, dead)
        head.kill()
        for waiting, run_id in dead.items():
            stack.client.wait_run(waiting, run_id, state="failed", timeout=400)
            text = stack.client.log_text(waiting, run_id, "job")
            assert "JobUnreachableError" in text
            assert "5 s" in text
            assert "What to do" in text


#: Each on the connection's own name. One that we refuse and one that Ray refuses are enough for what Airflow makes of it:
#: the operator itself is given all of them, and more, in test_bad_input.py.
BAD_CONNECTIONS = [
    ({"address": "127.0.0.1:8265"}, "no scheme"),
    ({"address": "HEAD", "token": "wrong-token-wrong"}, "403"),
    ({"address": "ray://127.0.0.1:10001"}, "Ray Client address"),
    ({"backend": "kubernetes"}, "no Ray address"),
    ({"backend": "docker"}, "one of: local, kubernetes"),
    ({"headers": "{"}, "`headers`"),
    ({"address": "HEAD"}, "401"),
]


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        pytest.param(connection, says, id=says, marks=pytest.mark.slow if number > 1 else ())
        for number, (connection, says) in enumerate(BAD_CONNECTIONS)
    ],
)
def test_a_connection_that_cannot_work_fails_the_task_once_and_says_why(stack, head, run, connection, says):
    extra = {key: head.url if value == "HEAD" else value for key, value in connection.items()}
    stack.client.add_connection("ray_bad", "ray", extra=extra)
    run_id = run("retried", state="failed", conn="ray_bad")
    text = stack.client.log_text("retried", run_id, "job")
    assert says in text
    assert "What to do" in text
    assert stack.client.task_instance("retried", run_id, "job")["try_number"] == 1, "no retry was burnt"
    assert not jobs_of(head, run_id)


@pytest.mark.slow  # that an id is taken: test_submit_is_safe_to_repeat; that no retry is burnt: the one before
def test_an_id_that_is_taken_by_another_job_is_refused(stack, head, ended, run):
    ended("takes an id")
    run_id = run("retried", state="failed", entrypoint="true", submission_id=TAKEN)
    text = stack.client.log_text("retried", run_id, "job")
    assert "taken by another job" in text
    assert stack.client.task_instance("retried", run_id, "job")["try_number"] == 1


@both_databases
def test_sensors_wait_for_a_job_that_another_task_submitted(stack, ended):
    run_id = ended("not waiting")
    submitted = stack.client.xcom("not_waiting", run_id, "job")
    assert stack.client.xcom("not_waiting", run_id, "wait") == submitted


@both_databases
def test_mapped_tasks_have_a_job_each(stack, head, ended):
    run_id = ended("mapped")
    jobs = jobs_of(head, run_id)
    assert len(jobs) == 3
    assert {job.status for job in jobs} == {"SUCCEEDED"}
    for index in (0, 2):
        assert f"number {index}" in stack.client.log_text("mapped", run_id, "job", map_index=index).splitlines()


@both_databases
@pytest.mark.slow  # test_dag_functions.py, but for PostgreSQL
def test_task_ray_runs_a_function_and_an_entrypoint(stack, ended):
    run_id = ended("function")
    assert stack.client.xcom("function", run_id, "answer") == {"answer": 42}
    assert "on the cluster" in stack.client.log_text("function", run_id, "answer")
    assert "the entrypoint form" in stack.client.log_text("function", run_id, "entrypoint_form").splitlines()


def test_the_connection_form_has_our_fields(stack):
    found = stack.client.hook_metadata("ray")
    assert found is not None
    fields = found["extra_fields"]
    assert set(fields) == set(CONNECTION_FIELDS)
    assert {"address", "backend", "token", "verify", "kube_config"} <= set(fields)
    assert fields["verify"]["value"] is True
    assert fields["token"]["schema"]["format"] == "password"
    assert found["standard_fields"]["host"]["hidden"] is True


@pytest.mark.parametrize(
    ("connection", "ok", "says"),
    [
        ({"address": "HEAD", "token": "TOKEN"}, True, "Ray 2."),
        ({"address": "HEAD"}, False, "401"),
        ({"address": "HEAD", "token": "wrong-token-wrong"}, False, "403"),
        ({"address": "http://127.0.0.1:9"}, False, "127.0.0.1:9"),
        ({"address": "AIRFLOW"}, False, "not a Ray dashboard"),
        ({"address": "head"}, False, "no scheme"),
        ({"backend": "local"}, True, "local"),
    ],
)
def test_the_test_button_says_what_is_wrong(stack, head, connection, ok, says):
    names = {"HEAD": head.url, "TOKEN": head.token, "AIRFLOW": stack.url}
    extra = {key: names.get(value, value) for key, value in connection.items()}
    body = {"connection_id": "tested", "conn_type": "ray", "extra": json.dumps(extra)}
    answer = stack.client.request("POST", "/api/v2/connections/test", body)
    assert answer["status"] is ok, answer
    assert says in answer["message"]
