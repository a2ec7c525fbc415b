"""Which jobs no task waits for any more."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ray_provider import cli, job_reaper
from ray_provider.clusters.lifecycle.inventory import FoundCluster
from ray_provider.job_reaper import Airflow, FoundJob, JobReapOptions, find_jobs, judge, rows, stop_all
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.models import JobDetails
from ray_provider.jobs.submit.identity import JobOwner, submission_id_for
from ray_provider.terminal import columns
from tests.support.jobs_api import JobsApi

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HERE = "https://airflow.example.com"
BEGAN = "2026-11-25T11:00:00.123456+00:00"
OWNER = JobOwner("team.train", "manual__1", "fit", 3, 2, 1, "1.0.0", f"{HERE} {BEGAN}", detached=False)
RAY = RayEndpoint("http://ray")
HOUR = timedelta(hours=1)
OLD = JobReapOptions(older_than=HOUR / 2)
DETACHED = JobReapOptions(detached=True)
#: As Airflow 2 and those who did not set it are called.
NAMELESS = "http://localhost:8080"


def job(owner: JobOwner = OWNER, endpoint: RayEndpoint = RAY, **changes: Any) -> FoundJob:
    owner = replace(owner, **changes)
    began = int((NOW - HOUR).timestamp() * 1000)
    return FoundJob(
        "ray", endpoint, JobDetails(submission_id_for(owner), "RUNNING", start_time=began), owner
    )  # fmt: skip


def airflow(state: str | None, *, name: str = HERE, began: str | None = BEGAN, waits_for: str | None = None) -> Airflow:
    """As it knows the run, unless it did not begin; and the task, unless it has no state at all."""
    key = job().key
    return Airflow(
        name,
        frozenset({OWNER.dag_id}),
        {} if began is None else {key[:2]: began},
        {} if state is None else {key: state},
        {key: waits_for} if waits_for else {},
    )


@pytest.mark.parametrize(
    ("found", "told", "options", "stop", "reason"),
    [
        # Nobody waits.
        *((job(), airflow(state), JobReapOptions(), True, "its task has ended")
          for state in ("success", "failed", "skipped", "upstream_failed")),
        (job(), airflow("removed"), JobReapOptions(), True, "its task is no longer in its DAG"),
        (job(), airflow(None), JobReapOptions(), True, "its run no longer has such a task"),
        (job(), airflow(None, began=None), JobReapOptions(), True, "its run was deleted"),
        (job(), airflow("running", waits_for="next"), JobReapOptions(), True, "its task waits for another job now: next"),
        (job(), airflow("deferred", waits_for="next"), JobReapOptions(), True, "waits for another job"),
        # Somebody does, or may.
        (job(), airflow("running"), OLD, False, "its task is running"),
        (job(), airflow("deferred", waits_for=job().name), OLD, False, "its task is deferred"),
        *((job(), airflow(state, waits_for="next"), OLD, False, "the next try of its task goes on with it, or stops it")
          for state in ("", "scheduled", "queued", "up_for_retry", "up_for_reschedule", "restarting")),
        (job(map_index=2), airflow("failed"), JobReapOptions(), True, "its run no longer has such a task"),
        # Begun again: the task's state decides.
        (job(), airflow("failed", began="2026-11-25T11:30:00+00:00"), JobReapOptions(), True, "its task has ended"),
        (job(), airflow("running", began="2026-11-25T11:30:00+00:00"), OLD, False, "its task is running"),
        # Another Airflow's.
        (job(), airflow("failed", name="https://b"), OLD, False, "it belongs to another Airflow (https://airflow.ex"),
        (job(deployment=BEGAN), airflow("failed"), OLD, False, "another Airflow (one without [api] base_url)"),
        (job(), airflow("failed", name=""), OLD, False, "it belongs to another Airflow"),
        # Airflows that are called alike.
        (job(deployment=f"{NAMELESS} {BEGAN}"), airflow("failed", name=NAMELESS), JobReapOptions(), True, "has ended"),
        (job(deployment=BEGAN), airflow("failed", name=""), JobReapOptions(), True, "its task has ended"),
        (job(deployment=BEGAN), airflow("failed", name="", began="2026-11-25T11:00:00+00:00"), OLD, False, "this Airflow has no such run"),
        (job(deployment=BEGAN), airflow(None, name="", began=None), OLD, False, "no [api] base_url of its own"),
        (job(deployment=""), airflow("failed", name=""), OLD, False, "this Airflow has no such run"),
        # A DAG that it does not know.
        (job(dag_id="other"), airflow("failed"), JobReapOptions(), False, "--older-than takes it too"),
        (job(dag_id="other"), airflow("failed"), OLD, True, "it is older than 30m"),
        (job(dag_id="other"), airflow("failed"), JobReapOptions(older_than=2 * HOUR), False, "--older-than takes it"),
        # Jobs that were to go on.
        (job(detached=True), airflow("failed"), OLD, False, "it was to go on then (cancel_on_kill or wait_for_completi"),
        (job(detached=None), airflow("failed"), OLD, False, "nothing tells whether it was to go on then: --detached"),
        (job(detached=True), airflow("success"), DETACHED, True, "its task has ended"),
        (job(detached=None), airflow("failed"), DETACHED, True, "its task has ended"),
        (job(detached=True), airflow("running"), DETACHED, False, "its task is running"),
        (job(detached=True), airflow("failed", name="https://b"), DETACHED, False, "another Airflow"),
    ],
)  # fmt: skip
def test_who_is_stopped_and_who_is_not(found, told, options, stop, reason):
    verdict = judge(found, told, options, NOW)
    assert (verdict.delete, reason in verdict.reason) == (stop, True), verdict


def test_the_table_stands_in_columns_and_does_nothing_to_a_terminal():
    found = [job(), replace(job(task_id="a\x1b[31m\nb", map_index=-1), where="ray/other")]
    told = columns(rows([judge(one, airflow("failed"), JobReapOptions(), NOW) for one in found], NOW))
    head, first, second = told.splitlines()
    assert head.split() == ["WHERE", "JOB", "STATUS", "AGE", "DAG", "RUN", "TASK", "TASK", "IS", "WHY"]
    assert first.split()[1:8] == [job().name, "RUNNING", "1h", "team.train", "manual__1", "fit[3]", "failed"]
    assert first.index(" stop ") == second.index(" stop ")
    assert "a b" in second
    assert "\x1b" not in told


class Hook:
    """A connection with an address."""

    def __init__(self, api: JobsApi) -> None:
        self.api = api

    async def aconfig(self) -> Any:
        return type("Config", (), {"address": self.api.url})

    async def endpoint(self, _cluster: Any) -> RayEndpoint:
        return self.api.endpoint()


async def test_only_jobs_of_tasks_that_have_not_ended_are_looked_at():
    async with JobsApi() as api:
        api.add("mine", request={"metadata": OWNER.to_metadata()}).run()
        api.add("waits", request={"metadata": replace(OWNER, task_id="waits").to_metadata()})
        api.add("ended", request={"metadata": OWNER.to_metadata()}).end("FAILED")
        api.add("somebodys", request={"metadata": {"team": "maps"}}).run()
        api.add("airflow-ray-ends-1").run()
        found, failures = await find_jobs(Hook(api), JobReapOptions(), local=False)
    assert sorted(one.name for one in found) == ["mine", "waits"]
    assert failures == []
    assert next(one.owner for one in found if one.name == "mine") == OWNER


@pytest.mark.parametrize("backend", ["local", "kubernetes"])
async def test_without_an_address_the_clusters_that_tasks_made_are_asked(backend, monkeypatch):
    class WithoutAddress(Hook):
        async def aconfig(self) -> Any:
            return type("Config", (), {"address": None})

        async def endpoint(self, cluster: Any) -> RayEndpoint:
            assert (cluster["backend"], cluster["name"], cluster["namespace"]) == (backend, "one", "ray")
            return await super().endpoint(cluster)

    async def survey(_hook: Any, _options: Any, *, local: bool) -> list[FoundCluster]:
        assert local == (backend == "local")
        made = FoundCluster(backend, "one", NOW, namespace="ray")
        return [made, replace(made, name="two", what="release")]

    monkeypatch.setattr(job_reaper, "survey", survey)
    async with JobsApi() as api:
        api.add("mine", request={"metadata": OWNER.to_metadata()}).run()
        found, failures = await find_jobs(WithoutAddress(api), JobReapOptions(), local=backend == "local")
    assert failures == []
    assert [(one.where, one.name) for one in found] == [("ray/one", "mine")]


async def test_a_dashboard_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setattr(job_reaper, "PATIENCE_SECONDS", 0.0)
    async with JobsApi() as api:
        hook = Hook(api)
    found, failures = await find_jobs(hook, JobReapOptions(), local=False)
    assert found == []
    assert "Can't reach Ray at" in failures[0]


async def test_airflow_is_asked_again_before_each_stop_and_one_failure_is_not_the_end(monkeypatch):
    states = {"gone": "failed", "again": "failed", "taken": "failed"}
    monkeypatch.setattr(
        job_reaper,
        "ask_airflow",
        lambda jobs: Airflow(HERE, frozenset(), {one.key[:2]: BEGAN for one in jobs},
                             {one.key: states[one.owner.task_id] for one in jobs}),
    )  # fmt: skip
    async with JobsApi() as api:
        found = [job(OWNER, api.endpoint(), task_id=task) for task in states]
        for one in found:
            api.add(one.name, request={"metadata": one.owner.to_metadata()}).run()
        told = job_reaper.ask_airflow(found)
        verdicts = [judge(one, told, JobReapOptions(), NOW) for one in found]
        assert [verdict.delete for verdict in verdicts] == [True] * 3
        states["taken"] = "queued"
        del api.jobs[found[0].name]
        said: list[str] = []
        failures = await asyncio.to_thread(stop_all, verdicts, JobReapOptions(), said.append)
        assert api.jobs[found[1].name].status == "STOPPED"
        assert api.jobs[found[2].name].status == "RUNNING"
    assert failures == [f"{found[2].name}: the next try of its task goes on with it, or stops it, by now"]
    assert said == [f"Job {found[0].name}: unknown to Ray by now.", f"Job {found[1].name}: STOPPED."]


@pytest.mark.parametrize(
    ("switches", "status", "ended", "printed"),
    [
        ((), "RUNNING", 0, "1 of 2 would be stopped. Nothing was: --stop does it."),
        (("--stop",), "STOPPED", 0, "1 of 1 stopped."),
        (("--older-than", "1 week"), "RUNNING", 1, ""),
    ],
)
async def test_the_command_line_stops_what_it_lists_only_if_told_to(
    switches, status, ended, printed, monkeypatch, capsys
):
    known = airflow("failed")
    key = job(task_id="goes on").key
    known = replace(known, tasks={**known.tasks, key: "deferred"})
    monkeypatch.setattr(job_reaper, "ask_airflow", lambda _jobs: known)
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    async with JobsApi() as api:
        connection = {"conn_type": "ray", "extra": {"address": api.url}}
        monkeypatch.setenv("AIRFLOW_CONN_RAY_MINE", json.dumps(connection))
        for owner in (OWNER, replace(OWNER, task_id="goes on")):
            api.add(submission_id_for(owner), request={"metadata": owner.to_metadata()}).run()
        arguments = ["reap", "--jobs", "--conn-id", "ray_mine", *switches]
        assert await asyncio.to_thread(cli.main, arguments) == ended
        assert api.jobs[job().name].status == status
        assert api.jobs[job(task_id="goes on").name].status == "RUNNING"
    assert printed in capsys.readouterr().out
