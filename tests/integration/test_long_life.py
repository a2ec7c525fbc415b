"""What happens around jobs that run for days: everybody does something to their DAGs, to Airflow and to its database.

One stack. Twenty jobs, and a few that something of their own happens to, wait for a file while all of that is done.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ray_provider.jobs.client import RayJobsClient
from ray_provider.testing import AirflowStack
from ray_provider.testing.client import AirflowApiError
from tests.support.postgres import PostgresServer
from tests.support.ray_head import RayHead

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

#: On a machine that is busy with twenty jobs at once.
SECONDS = 600
#: DAG -> the tasks that have a job; 20 in the first.
WAITING = {"twenty": 20, "paused": 1, "secret": 1, "goes": 1, "loses": 2}
#: What grows. Not the DAGs themselves: those here were all read before the minute that is cleaned up to.
CLEANED = "callback,dag_run,import_error,job,log,task_instance,task_instance_history,task_reschedule,trigger,xcom"


@pytest.fixture(scope="module")
def head(token_ray_head: RayHead) -> RayHead:
    return token_ray_head


@pytest.fixture(scope="module")
def stack(tmp_path_factory, head) -> Iterator[AirflowStack]:
    folder = tmp_path_factory.mktemp("life")
    dags = folder / "dags"
    shutil.copytree(Path(__file__).parent / "dags_long_life", dags, ignore=shutil.ignore_patterns("__pycache__"))
    connection = {"conn_type": "ray", "password": head.token, "extra": {"address": head.url}}
    (folder / "connections.json").write_text(json.dumps({"ray_secret": connection}))
    secrets_backend = {
        "backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
        "backend_kwargs": json.dumps({"connections_file_path": str(folder / "connections.json")}),
    }
    # Twenty triggers write at once: more than SQLite can take.
    with PostgresServer() as database:
        stack = AirflowStack(
            folder / "airflow",
            dags_folder=dags,
            sql_alchemy_conn=database.sqlalchemy_url,
            config={"core": {"parallelism": "8"}, "secrets": secrets_backend},
        )
        with stack:
            stack.client.add_connection("ray_life", "ray", password=head.token, extra={"address": head.url})
            yield stack
        assert not stack.leftovers


def jobs_of(head: RayHead, dag_id: str, run_id: str | None = None) -> list:
    async def ask():
        async with RayJobsClient(head.endpoint) as client:
            return [
                job
                for job in await client.list_jobs()
                if job.metadata.get("airflow_dag_id") == dag_id and run_id in (None, job.metadata["airflow_run_id"])
            ]

    return asyncio.run(ask())


def job_of(head: RayHead, dag_id: str, task_id: str):
    [job] = [job for job in jobs_of(head, dag_id) if job.metadata["airflow_task_id"] == task_id]
    return job


def states(stack: AirflowStack, dag_id: str, run_id: str) -> list[tuple[str, int, str]]:
    return sorted((e["task_id"], e["map_index"], e["state"]) for e in stack.client.task_instances(dag_id, run_id))


@dataclass
class Life:
    """The runs that wait, and what was seen of them while things were done to them."""

    gate: Path
    runs: dict[str, str] = field(default_factory=dict)
    earlier: str = ""
    job_while_paused: str = ""
    task_while_paused: str | None = ""


@pytest.fixture(scope="module")
def life(stack: AirflowStack, head: RayHead, tmp_path_factory) -> Life:
    client, dags = stack.client, stack.dags_folder
    life = Life(tmp_path_factory.mktemp("gate") / f"open-{secrets.token_hex(4)}")

    life.earlier = client.trigger_run("earlier")
    client.wait_run("earlier", life.earlier, state="success", timeout=SECONDS)
    before = datetime.now(UTC)

    for dag_id in WAITING:
        conf = {} if dag_id == "goes" else {"gate": str(life.gate)}
        life.runs[dag_id] = client.trigger_run(dag_id, conf=conf)

    def all_watched() -> bool:
        for dag_id, count in WAITING.items():
            found = client.task_instances(dag_id, life.runs[dag_id])
            if [each["state"] for each in found] != ["deferred"] * count:
                return False
            if not all(each["triggerer_job"] for each in found):
                return False
            if [job.status for job in jobs_of(head, dag_id, life.runs[dag_id])] != ["RUNNING"] * count:
                return False
        return True

    client.wait_until("all jobs run, and a triggerer has each", all_watched, timeout=SECONDS)

    # A new version of a file, with another task after the jobs, and other jobs for whoever starts one now.
    twenty = (dags / "twenty.py").read_text()
    assert "echo number" in twenty
    new = twenty.replace("echo number", "echo other").replace("import DAG, Param", "import DAG, Param, task")
    new += "\n    task(lambda: None, task_id='after')() << jobs\n"
    (dags / "twenty.py").write_text(new)
    # A task that is taken out of its file.
    loses = (dags / "loses.py").read_text()
    (dags / "loses.py").write_text("".join(line for line in loses.splitlines(True) if '"lost"' not in line))
    # A DAG that is deleted, file and all.
    (dags / "goes.py").unlink()
    client.request("DELETE", "/api/v2/dags/goes")
    client.request("PATCH", "/api/v2/dags/paused", {"is_paused": True})

    client.wait_until(
        "the new version of the file is known",
        lambda: len(client.request("GET", "/api/v2/dags/twenty/dagVersions")["dag_versions"]) > 1,
        timeout=SECONDS,
    )
    # What happens while no triggerer runs, no trigger hears of.
    with suppress(TimeoutError):
        client.wait_until("its job is stopped", lambda: jobs_of(head, "goes")[0].status == "STOPPED", timeout=120)
        client.wait_until("that of the lost task, too", lambda: job_of(head, "loses", "lost").status == "STOPPED")

    stack.stop_component("triggerer")
    stack.start_component("triggerer")
    cleaning = ("db", "clean", "--clean-before-timestamp", before.isoformat(), "--skip-archive", "--yes")
    stack.airflow(*cleaning, "--tables", CLEANED, timeout=300)

    life.gate.touch()
    client.wait_until(
        "the job of the paused DAG has ended",
        lambda: [job.status for job in jobs_of(head, "paused")] == ["SUCCEEDED"],
        timeout=SECONDS,
    )
    for dag_id in ("twenty", "secret", "loses"):
        client.wait_run(dag_id, life.runs[dag_id], timeout=SECONDS)
    life.task_while_paused = client.task_instance("paused", life.runs["paused"], "job")["state"]
    client.unpause("paused")
    return life


def test_twenty_jobs_over_a_restart_and_a_new_version_of_their_file(stack, head, life):
    run_id = life.runs["twenty"]
    client = stack.client
    found = states(stack, "twenty", run_id)
    assert found == [("after", -1, "success"), *(("job", n, "success") for n in range(20))]
    jobs = {job.submission_id: job for job in jobs_of(head, "twenty")}
    assert len(jobs) == 20, "each has one job, and none was submitted again"
    assert {job.status for job in jobs.values()} == {"SUCCEEDED"}
    for index in range(20):
        job = jobs[client.xcom("twenty", run_id, "job", map_index=index)]
        assert job.metadata["airflow_map_index"] == str(index)
        lines = client.log_text("twenty", run_id, "job", map_index=index).splitlines()
        assert lines.count(f"number {index}") == 1, "\n".join(lines)
        assert f"other {index}" not in lines, "the job is that of the version in which it was submitted"


def test_a_dag_that_is_paused_ends_when_it_goes_on(stack, head, life):
    run_id = life.runs["paused"]
    assert life.task_while_paused != "failed"
    stack.client.wait_run("paused", run_id, state="success", timeout=SECONDS)
    [job] = jobs_of(head, "paused")
    assert job.status == "SUCCEEDED"
    assert stack.client.xcom("paused", run_id, "job") == job.submission_id
    assert "through" in stack.client.log_text("paused", run_id, "job").splitlines()


def test_the_job_of_a_dag_that_is_deleted_is_stopped(stack, head, life):
    with pytest.raises(AirflowApiError, match="404"):
        stack.client.run("goes", life.runs["goes"])

    assert [job.status for job in jobs_of(head, "goes")] == ["STOPPED"]


def test_the_job_of_a_task_that_is_taken_out_of_its_dag_is_stopped(stack, head, life):
    """Airflow calls such a task removed, and the run goes on without it."""
    run_id = life.runs["loses"]
    assert states(stack, "loses", run_id) == [("job", -1, "success"), ("lost", -1, "removed")]
    assert stack.client.run("loses", run_id)["state"] == "success"
    assert job_of(head, "loses", "lost").status == "STOPPED"
    assert job_of(head, "loses", "job").status == "SUCCEEDED"


def test_db_clean_takes_what_is_over_and_nothing_else(stack, life):
    with pytest.raises(AirflowApiError, match="404"):
        stack.client.run("earlier", life.earlier)
    assert stack.client.run("twenty", life.runs["twenty"])["state"] == "success"


def test_a_connection_from_a_secrets_backend(stack, head, life):
    with pytest.raises(AirflowApiError, match="404"):
        stack.client.request("GET", "/api/v2/connections/ray_secret")
    run_id = life.runs["secret"]
    stack.client.wait_run("secret", run_id, state="success", timeout=SECONDS)
    [job] = jobs_of(head, "secret")
    assert job.status == "SUCCEEDED"
    text = stack.client.log_text("secret", run_id, "job")
    assert "through" in text.splitlines()
    assert head.token not in text


def test_a_backfill(stack, head, life):
    client = stack.client
    client.unpause("daily", timeout=SECONDS)
    days = ["2026-01-02", "2026-01-03", "2026-01-04"]
    span = {"from_date": f"{days[0]}T00:00:00Z", "to_date": f"{days[-1]}T00:00:00Z"}
    client.request("POST", "/api/v2/backfills", {"dag_id": "daily", **span, "max_active_runs": 2})

    def done() -> dict[str, str] | None:
        runs = client.request("GET", "/api/v2/dags/daily/dagRuns")["dag_runs"]
        ended = [run for run in runs if run["state"] == "success" and run["run_type"] == "backfill"]
        enough = len(ended) == len(runs) == 3 and len(jobs_of(head, "daily")) == 3
        return {run["logical_date"][:10]: run["dag_run_id"] for run in ended} if enough else None

    runs = client.wait_until("the backfill is through", done, timeout=SECONDS)
    assert sorted(runs) == days
    for day, run_id in runs.items():
        [job] = jobs_of(head, "daily", run_id)
        assert job.status == "SUCCEEDED"
        assert f"the day {day}" in client.log_text("daily", run_id, "job").splitlines()


def test_a_backfill_over_a_run_whose_job_goes_on(stack, head, life, tmp_path):
    """Airflow leaves a run alone that has not ended, and begins a run anew that has: with a job of its own."""
    client, gate = stack.client, tmp_path / "open"
    client.unpause("again", timeout=SECONDS)
    day, other = "2026-01-03", "2026-01-04"
    body = {"logical_date": f"{day}T00:00:00Z", "conf": {"gate": str(gate)}}
    run_id = client.request("POST", "/api/v2/dags/again/dagRuns", body, creates=True)["dag_run_id"]
    client.wait_task("again", run_id, "job", state="deferred", timeout=SECONDS)

    def backfill() -> int:
        span = {"from_date": f"{day}T00:00:00Z", "to_date": f"{other}T00:00:00Z"}
        options = {"reprocess_behavior": "completed", "max_active_runs": 2, "dag_run_conf": {"gate": str(gate)}}
        return client.request("POST", "/api/v2/backfills", {"dag_id": "again", **span, **options})["id"]

    def completed(number: int) -> bool:
        return bool(client.request("GET", f"/api/v2/backfills/{number}")["completed_at"])

    def runs() -> dict[str, str]:
        found = client.request("GET", "/api/v2/dags/again/dagRuns")["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in found}

    first = backfill()
    with pytest.raises(AirflowApiError, match=r"409: .*already a running backfill"):
        backfill()
    client.wait_until("the other day waits", lambda: len(jobs_of(head, "again")) == 2, timeout=SECONDS)
    [job] = jobs_of(head, "again", run_id)
    assert (job.status, job.metadata["airflow_attempt"]) == ("RUNNING", "1")
    assert client.task_instance("again", run_id, "job")["state"] == "deferred"

    gate.touch()
    client.wait_until("the backfill is through", lambda: completed(first), timeout=SECONDS)
    client.wait_run("again", run_id, state="success", timeout=SECONDS)
    assert len(jobs_of(head, "again")) == 2, "one for each day: nothing was bought twice"

    second = backfill()
    client.wait_until("the next backfill is through", lambda: completed(second), timeout=SECONDS)
    assert set(runs().values()) == {"success"}
    assert len(runs()) == 2, "the same runs, begun anew"
    for each in runs():
        jobs = jobs_of(head, "again", each)
        assert sorted(job.metadata["airflow_attempt"] for job in jobs) == ["1", "2"]
        assert {job.status for job in jobs} == {"SUCCEEDED"}


def test_a_run_that_an_asset_starts(stack, head, life):
    client = stack.client
    client.unpause("takes", timeout=SECONDS)
    made = client.trigger_run("makes")
    client.wait_run("makes", made, state="success", timeout=SECONDS)

    def started():
        return client.request("GET", "/api/v2/dags/takes/dagRuns")["dag_runs"]

    [run] = client.wait_until("the asset has started a run", started, timeout=SECONDS)
    assert run["run_type"] == "asset_triggered"
    assert run["logical_date"] is None
    client.wait_run("takes", run["dag_run_id"], state="success", timeout=SECONDS)
    [job] = jobs_of(head, "takes")
    assert (job.status, job.metadata["airflow_run_id"]) == ("SUCCEEDED", run["dag_run_id"])
    assert "taken x-life://made" in client.log_text("takes", run["dag_run_id"], "job").splitlines()


def most_at_once(jobs: list) -> int:
    return max(sum(one.start_time <= other.start_time < one.end_time for one in jobs) for other in jobs)


def test_pools_hold_jobs_back_where_they_count_deferred_tasks(stack, head, life):
    client = stack.client
    runs = {}
    for pool, slots, deferred in (("counts_deferred", 2, True), ("counts_running", 1, False)):
        body = {"name": pool, "slots": slots, "include_deferred": deferred}
        client.request("POST", "/api/v2/pools", body, creates=True)
        runs[pool] = client.trigger_run(pool)
    jobs = {}
    for pool, run_id in runs.items():
        client.wait_run(pool, run_id, state="success", timeout=SECONDS)
        jobs[pool] = jobs_of(head, pool)
        assert [job.status for job in jobs[pool]] == ["SUCCEEDED"] * 4
    assert most_at_once(jobs["counts_deferred"]) <= 2
    assert most_at_once(jobs["counts_running"]) > 1, "a task that waits in the triggerer holds no slot"


def test_nothing_is_left(stack, head, life):
    left = {job["submission_id"]: job["status"] for job in head.jobs() if job["status"] in ("PENDING", "RUNNING")}
    assert left == {}
    for dag_id, run_id in life.runs.items():
        if dag_id not in ("goes", "loses"):
            assert {state for *_, state in states(stack, dag_id, run_id)} == {"success"}
