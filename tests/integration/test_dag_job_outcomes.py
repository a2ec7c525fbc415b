"""DAGs on real Airflow components and a real Ray; the connection lies in the metadata database."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_provider.jobs.client import RayJobsClient
from ray_provider.testing import AirflowStack
from tests.support.postgres import PostgresServer
from tests.support.ray_head import RayHead

pytestmark = pytest.mark.timeout(400)

#: 1,000 lines, some of them empty, indented or not ASCII.
PRINTS = """python -c "
for n in range(1000):
    print(('    ' if n % 3 == 0 else '') + 'line %04d ' % n + ('\u00e4\u20ac' if n % 7 == 0 else ''))
    if n % 100 == 0: print(flush=True)
" """


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead(token=secrets.token_hex(16)) as head:
        yield head


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request) -> Iterator[str | None]:
    if request.param == "sqlite":
        yield None
        return
    with PostgresServer() as server:
        yield server.sqlalchemy_url


@pytest.fixture(scope="module")
def stack(tmp_path_factory, database, head) -> Iterator[AirflowStack]:
    stack = AirflowStack(
        tmp_path_factory.mktemp("airflow"),
        dags_folder=Path(__file__).parent / "dags",
        sql_alchemy_conn=database,
        config={"core": {"parallelism": "6"}},
    )
    with stack:
        stack.client.add_connection("ray_jobs", "ray", password=head.token, extra={"address": head.url})
        yield stack
    assert not stack.leftovers


@pytest.fixture
def run(stack):
    def run(dag: str, *, state: str | None = "success", **conf) -> str:
        run_id = stack.client.trigger_run(dag, conf=conf)
        if state:
            stack.client.wait_run(dag, run_id, state=state)
        return run_id

    return run


def jobs_of(head: RayHead, run_id: str) -> list:
    async def ask():
        async with RayJobsClient(head.endpoint) as client:
            return [job for job in await client.list_jobs() if job.metadata.get("airflow_run_id") == run_id]

    return asyncio.run(ask())


def numbers(text: str) -> list[str]:
    return [line for line in text.splitlines() if "line 0" in line]


@pytest.mark.parametrize("waiting", ["plain", "deferred"])
def test_a_job_that_succeeds(stack, head, run, waiting):
    run_id = run(waiting, entrypoint=PRINTS)
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


@pytest.mark.parametrize("waiting", ["plain", "deferred"])
def test_a_job_that_fails(stack, head, run, waiting):
    run_id = run(waiting, state="failed", entrypoint="echo the reason; exit 3")
    text = stack.client.log_text(waiting, run_id, "job")
    assert "FAILED" in text
    assert "the reason" in text
    assert "exit code 3" in text.lower() or "exit code: 3" in text.lower() or "code 3" in text
    assert "What to do" in text
    assert len(jobs_of(head, run_id)) == 1


@pytest.mark.parametrize("waiting", ["plain", "deferred"])
def test_a_job_that_somebody_stops(stack, head, run, waiting):
    run_id = run(waiting, state=None, entrypoint="echo up; sleep 300")

    def running():
        return [job for job in jobs_of(head, run_id) if job.status == "RUNNING"]

    [job] = stack.client.wait_until("the job runs", running)

    async def stop():
        async with RayJobsClient(head.endpoint) as client:
            await client.stop_and_wait(job.submission_id)

    asyncio.run(stop())
    stack.client.wait_run(waiting, run_id, state="failed")
    assert "STOPPED" in stack.client.log_text(waiting, run_id, "job")


@pytest.mark.parametrize("waiting", ["plain", "deferred"])
def test_a_job_that_takes_too_long(stack, head, run, waiting):
    run_id = run(waiting, state="failed", entrypoint="echo up; sleep 300", timeout=8)
    [job] = jobs_of(head, run_id)
    assert job.status == "STOPPED"
    assert "up" in stack.client.log_text(waiting, run_id, "job")


def test_a_retry_after_a_failed_job_is_a_new_job(stack, head, run):
    run_id = run("retried", state="failed", entrypoint="exit 1")
    assert sorted(job.metadata["airflow_attempt"] for job in jobs_of(head, run_id)) == ["1", "2"]


@pytest.mark.parametrize("waiting", ["plain", "deferred"])
def test_a_restarted_head_loses_its_jobs_and_a_dead_one_is_told_apart(stack, run, waiting):
    with RayHead(num_cpus=1) as head:
        stack.client.add_connection("ray_doomed", "ray", extra={"address": head.url})
        sleeping = {"conn": "ray_doomed", "entrypoint": "echo up; sleep 300"}
        lost = run(waiting, state=None, **sleeping)
        stack.client.wait_until("the job runs", lambda: [j for j in jobs_of(head, lost) if j.status == "RUNNING"])
        head.kill()
        head.start()
        stack.client.wait_run(waiting, lost, state="failed")
        text = stack.client.log_text(waiting, lost, "job")
        assert "JobLostError" in text
        assert "What to do" in text
        dead = run(waiting, state=None, unreachable=5, **sleeping)
        stack.client.wait_until("the job runs", lambda: [j for j in jobs_of(head, dead) if j.status == "RUNNING"])
        head.kill()
        stack.client.wait_run(waiting, dead, state="failed")
        text = stack.client.log_text(waiting, dead, "job")
        assert "5 s" in text
        assert "What to do" in text


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        ({"address": "127.0.0.1:8265"}, "no scheme"),
        ({"address": "ray://127.0.0.1:10001"}, "Ray Client address"),
        ({"backend": "kubernetes"}, "no Ray address"),
        ({"headers": "{"}, "`headers`"),
        ({"address": "HEAD"}, "401"),
        ({"address": "HEAD", "token": "wrong-token-wrong"}, "403"),
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


def test_an_id_that_is_taken_by_another_job_is_refused(stack, head, run):
    name = f"taken-{secrets.token_hex(4)}"
    run("plain", entrypoint="true", submission_id=name)
    run_id = run("retried", state="failed", entrypoint="true", submission_id=name)
    text = stack.client.log_text("retried", run_id, "job")
    assert "taken by another job" in text
    assert stack.client.task_instance("retried", run_id, "job")["try_number"] == 1


def test_sensors_wait_for_a_job_that_another_task_submitted(stack, run):
    run_id = run("not_waiting", entrypoint="sleep 3")
    submitted = stack.client.xcom("not_waiting", run_id, "job")
    assert stack.client.xcom("not_waiting", run_id, "wait") == submitted


def test_mapped_tasks_have_a_job_each(stack, head, run):
    run_id = run("mapped")
    jobs = jobs_of(head, run_id)
    assert len(jobs) == 12
    assert {job.status for job in jobs} == {"SUCCEEDED"}
    for index in (0, 11):
        assert f"number {index}" in stack.client.log_text("mapped", run_id, "job", map_index=index).splitlines()


def test_task_ray_runs_a_function_and_an_entrypoint(stack, run):
    run_id = run("function")
    assert stack.client.xcom("function", run_id, "answer") == {"answer": 42}
    assert "on the cluster" in stack.client.log_text("function", run_id, "answer")
    assert "the entrypoint form" in stack.client.log_text("function", run_id, "entrypoint_form")


def test_the_connection_form_has_our_fields(stack):
    found = stack.client.hook_metadata("ray")
    assert found is not None
    fields = found["extra_fields"]
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
    import json

    body = {"connection_id": "tested", "conn_type": "ray", "extra": json.dumps(extra)}
    answer = stack.client.request("POST", "/api/v2/connections/test", body)
    assert answer["status"] is ok, answer
    assert says in answer["message"]
