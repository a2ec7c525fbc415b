"""The watcher: the status decides, silences are survived, what is lost is told apart from what is slow."""

from __future__ import annotations

import asyncio
import time

import pytest

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import (
    JobFailedError,
    JobLostError,
    JobStoppedError,
    JobTimeoutError,
    JobUnreachableError,
    RayAuthenticationError,
)
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobDetails
from ray_provider.jobs.watch.outcome import Interruption
from ray_provider.jobs.watch.polling import Observation, Subscription
from ray_provider.jobs.watch.watcher import JobOutcome, JobWatcher, WatchOptions
from tests.support.jobs_api import JobsApi
from tests.support.waiting import until
from tests.unit.jobs.conftest import QUICK

FAST = WatchOptions(poll_interval=0.05)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    quick = RetryPolicy(first_delay=0.02, max_delay=0.1)
    monkeypatch.setattr("ray_provider.jobs.watch.logs._BACKOFF", quick)
    monkeypatch.setattr("ray_provider.jobs.watch.polling._BACKOFF", quick)
    monkeypatch.setattr("ray_provider.jobs.watch.watcher._SILENCE_SECONDS", 0.1)


class Watch:
    """A watcher that runs in the background, and what it told."""

    def __init__(self, client, submission_id="a", options=FAST, *, interrupted=None, **changes):
        from dataclasses import replace

        self.lines: list[str] = []
        self.progress: list[str] = []
        self.watcher = JobWatcher(
            client,
            submission_id,
            replace(options, **changes),
            on_log=lambda batch: self.lines.extend(batch.text.split("\n")),
            on_progress=self.progress.append,
            interrupted=interrupted,
        )
        self.task = asyncio.create_task(self.watcher.watch())

    async def outcome(self, seconds=30.0) -> JobOutcome:
        async with asyncio.timeout(seconds):
            return await self.task


async def test_success_with_its_log(api, client):
    job = api.add("a")
    watch = Watch(client)
    await until(lambda: watch.progress)
    job.run(b"one\n")
    await until(lambda: len(watch.progress) == 2 and watch.lines)
    job.write("two\n")
    job.end()
    outcome = await watch.outcome()
    assert outcome.is_success
    assert outcome.error() is None
    outcome.raise_for_status()
    assert (outcome.kind, outcome.status, outcome.log_offset) == ("final", "SUCCEEDED", 8)
    assert watch.lines == ["one", "two"]
    assert watch.progress == ["Job a is PENDING", "Job a is RUNNING", "Job a is SUCCEEDED"]
    assert JobOutcome.from_dict(outcome.to_dict()) == outcome
    assert client.endpoint.display_url in outcome.url


async def test_the_end_is_known_soon(api, client):
    took = []
    for number in range(5):
        job = api.add(f"job-{number}")
        job.run(b"x\n")
        watch = Watch(client, f"job-{number}", WatchOptions())
        await asyncio.sleep(0.3 + 0.11 * number)
        job.end()
        ended = time.monotonic()
        await watch.outcome()
        took.append(time.monotonic() - ended)
    assert sorted(took)[2] < 1
    assert max(took) < 5


async def test_failure_is_explained(api, client):
    job = api.add("a")
    job.run(b"Traceback\nValueError: x\n")
    job.end(
        "FAILED",
        message="Job entrypoint command failed with exit code 1, last available logs:\nTraceback\nValueError: x\n",
        error_type="JOB_ENTRYPOINT_COMMAND_ERROR",
        exit_code=1,
    )
    outcome = await Watch(client).outcome()
    error = outcome.error()
    assert isinstance(error, JobFailedError)
    assert "exit code 1" in str(error)
    assert "ValueError: x" in str(error)
    assert "What to do" in str(error)
    assert error.data["submission_id"] == "a"
    assert error.data["driver_exit_code"] == 1
    with pytest.raises(JobFailedError):
        outcome.raise_for_status()


@pytest.mark.parametrize(
    ("exit_code", "error_type", "says"),
    [
        (137, "JOB_ENTRYPOINT_COMMAND_ERROR", "137 (killed, probably out of memory)"),
        (-9, "JOB_ENTRYPOINT_COMMAND_ERROR", "killed, probably out of memory"),
        (127, "JOB_ENTRYPOINT_COMMAND_ERROR", "127 (command not found)"),
        (139, "JOB_ENTRYPOINT_COMMAND_ERROR", "SIGSEGV"),
        (143, "JOB_ENTRYPOINT_COMMAND_ERROR", "SIGTERM"),
        (None, "RUNTIME_ENV_SETUP_FAILURE", "check runtime_env"),
        (None, "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE", "No node of the cluster"),
        (None, "JOB_SUPERVISOR_ACTOR_DIED", "spot node"),
        (None, "JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "RAY_JOB_START_TIMEOUT_SECONDS"),
        (7, "SOMETHING_NEW", "exit code 7"),
    ],
)
def test_exit_codes_and_error_types_say_what_to_do(exit_code, error_type, says):
    outcome = JobOutcome("a", "final", "FAILED", "m", error_type, exit_code)
    assert says in str(outcome.error())


def test_a_long_message_is_cut_to_its_end():
    message = "Job failed:\n" + "\n".join(f"line {n}" for n in range(3000))
    text = str(JobOutcome("a", "final", "FAILED", message).error())
    assert "Job failed:" in text
    assert "line 2999" in text
    assert len(text) < 6000


async def test_stopped_is_no_success(api, client):
    api.add("a").run()
    watch = Watch(client)
    await asyncio.sleep(0.2)
    await client.stop("a")
    outcome = await watch.outcome()
    assert outcome.status == "STOPPED"
    assert isinstance(outcome.error(), JobStoppedError)


async def test_an_unknown_status_is_no_end(api, client):
    job = api.add("a")
    job.run()
    job.status = "HIBERNATING"
    watch = Watch(client)
    await asyncio.sleep(0.3)
    assert not watch.task.done()
    job.end()
    assert (await watch.outcome()).is_success


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_dashboard_that_is_away_for_a_while(api, client, status):
    job = api.add("a")
    job.run(b"one\n")
    watch = Watch(client)
    await until(lambda: watch.progress and watch.lines)
    api.unavailable, api.unavailable_status = True, status
    await until(lambda: "can't be asked" in watch.progress[-1])
    job.write("two\n")
    api.unavailable = False
    await until(lambda: "answers again" in watch.progress[-1])
    job.end()
    assert (await watch.outcome()).is_success
    assert watch.lines == ["one", "two"]
    told = [line for line in watch.progress if "can't be asked" in line or "answers again" in line]
    assert len(told) == 2, watch.progress
    assert str(status) in told[0]


async def test_a_dashboard_that_is_away_from_the_beginning_is_told_of_too(api, client):
    api.add("a").run()
    api.unavailable = True
    watch = Watch(client)
    await until(lambda: watch.progress)
    assert "Ray can't be asked for job a" in watch.progress[0]
    api.unavailable = False
    await until(lambda: "answers again" in "".join(watch.progress))
    api.jobs["a"].end()
    assert (await watch.outcome()).is_success


async def test_a_dashboard_that_is_away_for_too_long(api, client):
    api.add("a").run()
    watch = Watch(client, max_unreachable_seconds=0.5)
    await until(lambda: watch.progress)
    api.unavailable = True
    outcome = await watch.outcome()
    assert outcome.kind == "unreachable"
    assert outcome.status == "RUNNING"
    error = outcome.error()
    assert isinstance(error, JobUnreachableError)
    assert "may still run" in str(error)
    assert "503" in str(error)


async def test_one_blip_is_not_worth_a_line(api, client, monkeypatch):
    monkeypatch.setattr("ray_provider.jobs.watch.watcher._SILENCE_SECONDS", 2.0)
    job = api.add("a")
    job.run()
    watch = Watch(client, fetch_logs=False)
    await until(lambda: watch.progress)
    api.fail_next = [503]
    await until(lambda: not api.fail_next)
    job.end()
    await watch.outcome()
    assert watch.progress == ["Job a is RUNNING", "Job a is SUCCEEDED"]


async def test_a_head_that_restarted_is_told_apart(api, client):
    api.add("a").run()
    watch = Watch(client)
    await until(lambda: watch.watcher._session)
    api.unavailable = True
    await asyncio.sleep(0.6)  # as no head restarts sooner, what it said of itself counts for half a second
    api.restart()
    api.unavailable = False
    outcome = await watch.outcome()
    assert outcome.kind == "lost"
    assert "head restarted" in outcome.message
    assert isinstance(outcome.error(), JobLostError)


async def test_a_head_that_restarted_while_nobody_watched(api, client):
    outcome = await Watch(client, session_name="session_0").outcome()
    assert outcome.kind == "lost"
    assert "head restarted" in outcome.message


async def test_a_job_that_vanished(api, client):
    api.add("a").run()
    watch = Watch(client)
    await until(lambda: watch.watcher._session)
    del api.jobs["a"]
    outcome = await watch.outcome()
    assert outcome.kind == "lost"
    assert "deleted" in outcome.message
    assert "RUNNING when last seen" in outcome.message


async def test_a_job_that_was_deleted_and_of_which_ray_writes_a_new_record_did_not_fail(api, client):
    job = api.add("a")
    job.entrypoint = "Entrypoint not found."
    job.end("FAILED", message="Unexpected error occurred: failed to get job supervisor.")
    outcome = await Watch(client).outcome()
    assert outcome.kind == "lost"
    assert "Somebody deleted it" in outcome.message


async def test_a_proxy_that_answers_404_for_a_while_loses_nothing(api, client):
    job = api.add("a")
    job.run()
    watch = Watch(client, fetch_logs=False)
    await until(lambda: watch.progress)
    api.unavailable, api.unavailable_status = True, 404
    await asyncio.sleep(0.5)
    api.unavailable = False
    job.end()
    assert (await watch.outcome()).is_success


async def test_a_deadline_stops_the_job_and_takes_its_log(api, client):
    job = api.add("a", stop_seconds=0.3)
    job.run(b"working\n")
    watch = Watch(client, deadline=time.time() + 0.4)
    await asyncio.sleep(0.5)
    job.write("bye\n")
    outcome = await watch.outcome()
    assert (outcome.kind, outcome.status) == ("deadline", "STOPPED")
    assert watch.lines == ["working", "bye"]
    assert isinstance(outcome.error(), JobTimeoutError)
    assert not outcome.is_success


async def test_a_deadline_that_had_passed(api, client):
    api.add("a").run()
    outcome = await Watch(client, deadline=time.time() - 100).outcome()
    assert (outcome.kind, outcome.status) == ("deadline", "STOPPED")


async def test_a_deadline_that_had_passed_for_a_job_that_waited_for_resources(api, client, monkeypatch):
    # No triggerer ran when its time was over: the one that comes says what it was, as one that had watched.
    monkeypatch.setattr("ray_provider.jobs.client._PENDING_SECONDS", 0.1)
    api.add("a")
    outcome = await Watch(client, deadline=time.time() - 100).outcome()
    assert (outcome.kind, outcome.status) == ("deadline", "STOPPED")
    assert "waited for resources until its deadline" in outcome.message


async def test_a_deadline_that_had_passed_for_a_job_that_went_with_its_head(api, client):
    outcome = await Watch(client, deadline=time.time() - 100, session_name="session_0").outcome()
    assert outcome.kind == "lost"
    assert "head restarted" in outcome.message
    assert isinstance(outcome.error(), JobLostError)


async def test_a_deadline_that_had_passed_for_a_job_that_somebody_deleted(api, client):
    outcome = await Watch(client, deadline=time.time() - 100).outcome()
    assert outcome.kind == "lost"
    assert "does not know it" in outcome.message


async def test_a_job_that_ends_just_before_its_deadline(api, client):
    job = api.add("a")
    job.run()
    watch = Watch(client, poll_interval=5, deadline=time.time() + 0.5)
    await asyncio.sleep(0.3)
    job.end()
    assert (await watch.outcome()).is_success


async def test_a_deadline_while_nobody_answers(api, client, monkeypatch):
    monkeypatch.setattr("ray_provider.jobs.watch.watcher._STOP_SECONDS", 0.3)
    api.add("a").run()
    watch = Watch(client, deadline=time.time() + 0.5, log_drain_seconds=0.2)
    await asyncio.sleep(0.3)
    api.unavailable = True
    outcome = await watch.outcome()
    assert outcome.kind == "deadline"
    assert "may still run" in outcome.message


async def test_wrong_credentials_are_told_at_once_but_survived_later():
    async with JobsApi(token="right") as api:
        job = api.add("a")
        job.run()
        async with RayJobsClient(api.endpoint(token="wrong"), retry=QUICK) as client:
            with pytest.raises(RayAuthenticationError):
                await Watch(client).outcome()
        async with RayJobsClient(api.endpoint(), retry=QUICK) as client:
            watch = Watch(client)
            await until(lambda: watch.progress)
            api.token = "renewed"
            await asyncio.sleep(0.3)
            api.token = "right"
            job.end()
            assert (await watch.outcome()).is_success


async def test_a_logger_that_fails_does_not_decide(api, client):
    job = api.add("a")
    job.run(b"x\n")
    progress = []

    def broken(_batch):
        raise OSError("disk full")

    task = asyncio.create_task(JobWatcher(client, "a", FAST, on_log=broken, on_progress=progress.append).watch())
    await asyncio.sleep(0.3)
    job.end()
    outcome = await task
    assert outcome.is_success
    assert "disk full" in outcome.log_incomplete
    assert any("disk full" in line for line in progress)


async def test_a_budget_is_told_of_honestly(api, client):
    job = api.add("a")
    job.run(b"x\n" * 500)
    watch = Watch(client, log_max_lines=100)
    await asyncio.sleep(0.3)
    job.end()
    outcome = await watch.outcome()
    assert outcome.lines_left_out == 400
    assert len(watch.lines) == 100
    assert sum("400 lines left out" in line for line in watch.progress) == 1


async def test_being_cancelled_stops_nothing_and_leaves_nothing(api, client):
    api.add("a").run(b"x\n")
    watch = Watch(client)
    await until(lambda: watch.lines)
    watch.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch.task
    await until(lambda: api.streams_open == 0)
    assert api.jobs["a"].status == "RUNNING"
    from ray_provider.jobs.watch.polling import _hubs

    assert not _hubs[asyncio.get_running_loop()]


async def test_an_interrupted_watch_goes_on_at_its_offset(api, client):
    job = api.add("a")
    job.run(b"one\ntwo\n")
    first = Watch(client)
    await until(lambda: len(first.lines) == 2)
    first.task.cancel()
    await asyncio.gather(first.task, return_exceptions=True)  # until then it may pass on what comes
    offset = first.watcher.log_offset
    assert offset == 8
    job.write("three\n")
    second = Watch(client, log_offset=offset)
    await asyncio.sleep(0.2)
    job.end()
    await second.outcome()
    assert first.lines + second.lines == ["one", "two", "three"]


# -- the cluster ends by other means -----------------------------------------------------------------------------------


class Cluster:
    """Tells a watch when its cluster is taken away."""

    def __init__(self):
        self.taken = asyncio.Event()
        self.why = Interruption("suspended", "Kueue took the place away: the cluster is gone.")
        self.listening = False

    async def __call__(self):
        self.listening = True
        try:
            await self.taken.wait()
        finally:
            self.listening = False
        if isinstance(self.why, Exception):
            raise self.why
        return self.why


@pytest.mark.parametrize("kind", ["suspended", "lost"])
async def test_a_cluster_that_is_taken_away_ends_the_watch(api, client, kind):
    job, cluster = api.add("a"), Cluster()
    cluster.why = Interruption(kind, "Somebody took it.")
    job.run(b"one\ntwo\n")
    watch = Watch(client, interrupted=cluster)
    await until(lambda: len(watch.lines) == 2)
    api.unavailable = True  # with the cluster, its dashboard is gone
    cluster.taken.set()
    outcome = await watch.outcome()
    assert (outcome.kind, outcome.status, outcome.message) == (kind, "RUNNING", "Somebody took it.")
    assert outcome.log_offset == 8, "what was passed on is known"
    assert watch.lines == ["one", "two"]
    error = JobOutcome.from_dict(outcome.to_dict()).error()
    assert isinstance(error, JobLostError)
    assert "Somebody took it." in str(error)
    assert "waits in the queue anew" in str(error) or kind == "lost"
    assert api.count["POST /api/jobs/a/stop"] == 0


async def test_a_job_whose_cluster_was_taken_away_is_not_lost_though_ray_forgot_it_first(api, client):
    """The news of the cluster comes by another way, and may come later."""
    job, cluster = api.add("a"), Cluster()
    cluster.why = Interruption("suspended", "Kueue took it.")
    job.run()
    watch = Watch(client, interrupted=cluster)
    await until(lambda: cluster.listening and watch.progress)
    api.restart()
    asyncio.get_running_loop().call_later(0.5, cluster.taken.set)
    outcome = await watch.outcome()
    assert (outcome.kind, outcome.message) == ("suspended", "Kueue took it.")


async def test_a_job_that_went_with_its_head_is_lost_where_nothing_is_known_of_its_cluster(api, client, monkeypatch):
    monkeypatch.setattr("ray_provider.jobs.watch.cluster_end._SETTLE_SECONDS", 0.1)
    api.add("a").run()
    watch = Watch(client, interrupted=Cluster())
    await until(lambda: watch.progress)
    api.restart()
    assert (await watch.outcome()).kind == "lost"


async def test_a_batch_of_the_log_that_is_being_written_is_written(api, client):
    """A logger may hold the other end of a connection: nothing of it is cancelled half-way."""
    job, cluster, begun, written = api.add("a"), Cluster(), asyncio.Event(), []

    async def slow(batch):
        begun.set()
        await asyncio.sleep(0.3)
        written.append(batch.text)

    job.run(b"one\n")
    task = asyncio.create_task(JobWatcher(client, "a", FAST, on_log=slow, interrupted=cluster).watch())
    await begun.wait()
    cluster.taken.set()
    async with asyncio.timeout(30):
        assert (await task).kind == "suspended"
    assert written == ["one"]


@pytest.mark.parametrize(("error", "kind"), [(KeyError("status"), KeyError), (OSError("broken pipe"), None)])
async def test_a_mistake_in_the_code_ends_the_watch_and_is_not_waited_out(api, client, monkeypatch, error, kind):
    async def mistaken(*_, **__):
        raise error

    monkeypatch.setattr(RayJobsClient, "get", mistaken)
    watch = JobWatcher(client, "a", WatchOptions(poll_interval=0.05, max_unreachable_seconds=0.3)).watch()
    if kind is None:
        outcome = await watch
        assert outcome.kind == "unreachable"
        assert "broken pipe" in outcome.message
    else:
        with pytest.raises(kind, match="status"):
            await watch


async def test_an_end_that_ray_has_told_counts_more_than_what_became_of_the_cluster(client):
    """Both are known at the same moment: the job had ended before."""
    watcher, news = JobWatcher(client, "a", FAST), Subscription("a", 0.05)
    watcher._cluster.interruption = Interruption("lost", "Somebody deleted it.")
    news.put(Observation(details=JobDetails(submission_id="a", status="SUCCEEDED")))
    news.wake()
    assert (await watcher._watch_status(news, None)).is_success
    news.put(Observation(details=JobDetails(submission_id="a", status="RUNNING")))
    assert (await watcher._watch_status(news, None)).kind == "lost"


async def test_a_cluster_that_goes_before_ray_has_answered_ends_the_watch(api, client):
    cluster = Cluster()
    api.unavailable = True
    watch = Watch(client, interrupted=cluster, poll_interval=60)
    cluster.taken.set()
    assert (await watch.outcome()).kind == "suspended"
    assert not watch.lines


async def test_a_cluster_that_can_not_be_watched_leaves_ray_to_be_asked(api, client):
    job, cluster = api.add("a"), Cluster()
    cluster.why = OSError("the API server is away")
    job.run()
    watch = Watch(client, interrupted=cluster)
    cluster.taken.set()
    await until(lambda: any("can't be watched: the API server is away" in line for line in watch.progress))
    assert not watch.task.done()
    job.end()
    assert (await watch.outcome()).is_success


async def test_nobody_listens_any_more_when_the_job_has_ended(api, client):
    job, cluster = api.add("a"), Cluster()
    job.run()
    watch = Watch(client, interrupted=cluster)
    await until(lambda: cluster.listening)
    job.end()
    assert (await watch.outcome()).is_success
    assert not cluster.listening


# -- a job that somebody else submits ----------------------------------------------------------------------------------


async def test_a_job_that_is_to_come_is_waited_for(api, client):
    watch = Watch(client, appears_until=time.time() + 20)
    await asyncio.sleep(0.5)
    assert api.count["GET /api/jobs/a"] + api.count["GET /api/jobs/"] > 3
    assert not watch.task.done()
    job = api.add("a")
    job.run(b"one\n")
    await until(lambda: watch.lines)
    job.end()
    assert (await watch.outcome()).is_success


async def test_a_job_that_does_not_come_is_lost(api, client):
    began = time.monotonic()
    outcome = await Watch(client, appears_until=time.time() + 0.7).outcome()
    assert time.monotonic() - began > 0.6
    assert outcome.kind == "lost"
    assert "does not know it." in outcome.message
    assert outcome.status is None


async def test_a_job_that_came_and_went_is_lost_at_once(api, client):
    api.add("a").run()
    watch = Watch(client, appears_until=time.time() + 20)
    await until(lambda: watch.progress)
    del api.jobs["a"]
    assert (await watch.outcome(15)).kind == "lost"


async def test_many_watchers_share_one_poll(api, client):
    jobs = [api.add(f"job-{number}") for number in range(60)]
    for job in jobs:
        job.run()
    watches = [Watch(client, job.submission_id, WatchOptions(fetch_logs=False)) for job in jobs]
    await until(lambda: all(watch.watcher._session for watch in watches))
    await asyncio.sleep(1)
    api.requests.clear()
    await asyncio.sleep(2.5)
    assert 1 <= len(api.requests) <= 6, "two lists a second for all"
    for job in jobs:
        job.end()
    outcomes = await asyncio.gather(*(watch.outcome() for watch in watches))
    assert all(outcome.is_success for outcome in outcomes)


async def test_many_watchers_and_a_head_that_restarts(api, client):
    watches = []
    for number in range(40):
        api.add(f"job-{number}").run()
        watches.append(Watch(client, f"job-{number}", WatchOptions(fetch_logs=False)))
    await until(lambda: all(watch.watcher._session for watch in watches))
    api.restart()
    outcomes = await asyncio.gather(*(watch.outcome(20) for watch in watches))
    assert {outcome.kind for outcome in outcomes} == {"lost"}
    assert all("head restarted" in outcome.message for outcome in outcomes)
    assert api.count["GET /api/version"] <= 6


async def test_a_missing_auth_provider_is_told_to_the_watchers(api):
    calls = []

    async def auth(_renew):
        calls.append(1)
        if len(calls) > 4:
            raise ConnectionError("token service is away")
        return {}

    api.add("a").run()
    async with RayJobsClient(api.endpoint(auth=auth), retry=QUICK) as client:
        watch = Watch(client, fetch_logs=False, max_unreachable_seconds=0.5)
        outcome = await watch.outcome()
    assert outcome.kind == "unreachable"
    assert "token service is away" in outcome.message


def test_an_outcome_of_a_later_version_is_read():
    data = JobOutcome("a", "final", "SUCCEEDED").to_dict() | {"new_field": 1}
    assert JobOutcome.from_dict(data).is_success
    with pytest.raises(ValueError, match="no outcome"):
        JobOutcome.from_dict({"submission_id": "a", "kind": "strange"})
