"""RunRayJob: which RayJob a try makes, takes over or deletes; Kubernetes' side is a store that behaves as KubeRay's."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.kuberay.rayjob import RayJobState
from ray_provider.clusters.lifecycle.rayjob import submitted_in
from ray_provider.clusters.lifecycle.rayjob_start import RayJobOver
from ray_provider.exceptions import (
    ClusterError,
    ClusterFailedError,
    ClusterTimeoutError,
    ConfigurationError,
    JobFailedError,
    JobLostError,
    JobStoppedError,
    RayApiError,
)
from ray_provider.hooks import RayHook, own_cluster, own_rayjob
from ray_provider.jobs.watch.outcome import Interruption
from ray_provider.operators import RunRayJob
from ray_provider.operators._job.run import JobRun

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.timeout(60)]


class KubeRay:
    """The RayJobs of a namespace, each with the cluster that KubeRay would make for it."""

    def __init__(self, dashboard: Any) -> None:
        self.dashboard = dashboard
        self.jobs: dict[str, RayJobState] = {}
        self.made: list[str] = []
        self.specs: list[Any] = []
        self.deleted: list[str] = []
        #: Kept, and no users of a cluster any more.
        self.left: list[str] = []
        self.waits: list[float | None] = []
        self.clusters = 0
        self.error: Exception | None = None
        self.start_error: Exception | None = None
        self.interruptions: list[Interruption] = []
        self.gone = False
        #: Why nothing can be deleted.
        self.stuck: Exception | None = None

    def new_cluster(self, name: str) -> str:
        self.clusters += 1
        cluster = f"{name}-c{self.clusters}"
        self.jobs[name] = replace(self.jobs[name], cluster=cluster, deployment="Running")
        return cluster

    async def find(self, hook, where, namespace, owner):
        return sorted(self.jobs.values(), key=lambda one: one.attempt, reverse=True)

    async def namespace_of(self, hook, where, namespace):
        return namespace or "team"

    async def make(self, hook, where, spec, say):
        if self.error is not None:
            raise self.error
        name, options = spec.cluster.name, spec.options
        self.specs.append(spec)
        self.made.append(name)
        self.jobs[name] = RayJobState(
            name, "uid", job_id=options.job_id, attempt=options.attempt, max_tries=options.max_tries
        )
        return ClusterHandle("kubernetes", "", "", "team", owner=dict(spec.cluster.owner), rayjob=name)

    async def wait(self, hook, handle, options, *, access, since, say):
        self.waits.append(since)
        if self.start_error is not None:
            raise self.start_error
        if handle.rayjob not in self.jobs:
            raise ClusterFailedError("The RayJob was deleted.")
        return replace(handle, name=self.jobs[handle.rayjob].cluster or self.new_cluster(handle.rayjob))

    async def about_to_submit(self, hook, handle, session):
        self.jobs[handle.rayjob] = replace(self.jobs[handle.rayjob], submitted=submitted_in(handle.name, session))

    async def end_use(self, hook, handle):
        self.left.append(handle.rayjob)

    async def has_cluster(self, hook, handle):
        return not self.gone

    async def delete(self, hook, handle):
        if self.stuck is not None:
            raise self.stuck
        self.deleted.append(handle.rayjob)
        return self.jobs.pop(handle.rayjob, None) is not None

    def interruptions_of(self, hook, cluster):
        async def wait():
            while not self.interruptions:
                await asyncio.sleep(0.02)
            return self.interruptions.pop(0)

        return wait


@pytest.fixture
def kuberay(dashboard, connection, monkeypatch):
    connection.pop("address")
    connection["backend"] = "kubernetes"
    found = KubeRay(dashboard)
    for name in ("find", "namespace_of", "make", "wait", "about_to_submit", "has_cluster", "end_use"):
        monkeypatch.setattr(own_rayjob, name, getattr(found, name))
    monkeypatch.setattr(own_cluster, "delete", found.delete)
    monkeypatch.setattr(RayHook, "interruptions", lambda self, cluster: found.interruptions_of(self, cluster))
    monkeypatch.setattr(RayHook, "asks", lambda *_: None)

    async def endpoint(self, cluster=None, dashboard_url=None):
        return dashboard.api.endpoint()

    monkeypatch.setattr(RayHook, "endpoint", endpoint)
    return found


def operator(**arguments: Any) -> RunRayJob:
    return RunRayJob(**{"task_id": "task", "conn_id": "c", "entrypoint": "true", "poll_interval": 0.05, **arguments})


def succeed(job):
    job.run(b"hello\n")
    job.end()


def fail(job):
    job.run(b"oops\n")
    job.end("FAILED", message="oops", exit_code=3, error_type="JOB_ENTRYPOINT_COMMAND_ERROR")


def test_a_job_in_a_cluster_of_its_own(dashboard, context, kuberay):
    dashboard.when_submitted(succeed)
    result = operator().execute(context)
    assert result == dashboard.job.submission_id
    assert kuberay.made == kuberay.deleted
    assert not kuberay.jobs


def test_a_job_that_fails_takes_its_cluster_along_and_a_retry_makes_both_anew(dashboard, context, ti, kuberay):
    dashboard.when_submitted(fail)
    with pytest.raises(JobFailedError, match="oops"):
        operator().execute(context)
    assert not kuberay.jobs
    ti.retry()
    dashboard.when_submitted(succeed, count=2)
    operator().execute(context)
    first, second = kuberay.made
    assert second == f"{first}-2"
    assert [job.request["metadata"]["airflow_attempt"] for job in dashboard.api.jobs.values()] == ["1", "2"]


STUCK = ClusterTimeoutError("The RayJob team/x is not gone after 300 s.", hint="The operator does not run.", name="x")


def test_a_success_whose_cluster_can_not_be_deleted_is_not_run_again(dashboard, context, ti, kuberay):
    """Before: the retry ran a job again that had succeeded, hours of GPUs for a deletion."""
    kuberay.stuck = STUCK
    dashboard.when_submitted(succeed)
    with pytest.raises(ClusterError) as caught:
        operator().execute(context)
    assert "succeeded, and its cluster could not be deleted: The RayJob team/x is not gone" in str(caught.value)
    assert "A retry of the task deletes it, and does not run the job again. The operator does not run." in str(
        caught.value
    )
    ti.retry()
    with pytest.raises(ClusterError, match="does not run the job again"):
        operator().execute(context)
    kuberay.stuck = None
    ti.retry()
    assert operator().execute(context) == dashboard.job.submission_id
    assert kuberay.deleted == kuberay.made
    assert len(dashboard.api.jobs) == 1
    # A person who clears the task later wants it to run.
    ti.clear()
    dashboard.when_submitted(succeed, count=2)
    operator().execute(context)
    assert len(dashboard.api.jobs) == 2


def test_who_clears_a_task_whose_cluster_is_left_gets_a_new_job(dashboard, context, ti, kuberay):
    kuberay.stuck = STUCK
    dashboard.when_submitted(succeed)
    with pytest.raises(ClusterError):
        operator().execute(context)
    kuberay.stuck = None
    ti.clear()
    dashboard.when_submitted(succeed, count=2)
    operator().execute(context)
    assert not kuberay.jobs, "the old one is gone, too"
    assert len(dashboard.api.jobs) == 2


def test_where_airflow_keeps_nothing_a_success_is_not_retried(dashboard, context, kuberay):
    del context["task_state_store"]
    kuberay.stuck = STUCK
    dashboard.when_submitted(succeed)
    with pytest.raises(AirflowFailException, match="not retried, as that would run the job again. Delete the cluster."):
        operator().execute(context)


def test_a_failure_is_told_although_its_cluster_can_not_be_deleted(dashboard, context, kuberay):
    """Before: the task failed with what hindered the deletion."""
    kuberay.stuck = STUCK
    dashboard.when_submitted(fail)
    with pytest.raises(JobFailedError, match="oops") as caught:
        operator().execute(context)
    assert "could not be deleted: The RayJob team/x is not gone" in caught.value.__notes__[0]


def test_what_failed_is_kept_where_that_is_asked_for(dashboard, context, ti, kuberay):
    dashboard.when_submitted(fail)
    with pytest.raises(JobFailedError):
        operator(keep_on_failure=True).execute(context)
    assert not kuberay.deleted
    assert kuberay.left == kuberay.made, "its job has ended: it keeps no cluster that is there"
    kuberay.jobs = {name: replace(one, deployment="Failed", job="FAILED") for name, one in kuberay.jobs.items()}
    ti.retry()
    dashboard.when_submitted(succeed, count=2)
    operator(keep_on_failure=True).execute(context)
    assert kuberay.deleted == [kuberay.made[1]]
    assert list(kuberay.jobs) == [kuberay.made[0]]


def died_while_its_job_ran(dashboard, context, kuberay, *, submitted: bool = True) -> None:
    """Leave what a try leaves whose worker died: a RayJob, and its job if it came that far."""
    task = operator(deferrable=True)
    with pytest.raises(TaskDeferred):
        task.execute(context)
    if submitted:
        [name] = kuberay.jobs
        cluster = kuberay.new_cluster(name)
        event = {"status": "ready", "cluster": {**handle_of(name), "name": cluster}}
        with pytest.raises(TaskDeferred):
            operator(deferrable=True).execute_started(context, event)
        dashboard.job.run(b"hello\n")


def handle_of(name: str) -> dict[str, Any]:
    return ClusterHandle("kubernetes", "", "", "team", rayjob=name).to_dict()


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("submitted", [True, False])
def test_a_retry_after_a_dead_worker_takes_the_rayjob_over(dashboard, context, ti, kuberay, store, submitted):
    if not store:
        del context["task_state_store"]
    died_while_its_job_ran(dashboard, context, kuberay, submitted=submitted)
    ti.retry()
    if submitted:
        threading.Timer(0.5, dashboard.job.end).start()
    else:
        dashboard.when_submitted(succeed)
    assert operator().execute(context) == dashboard.job.submission_id
    assert len(kuberay.made) == 1
    assert len(dashboard.api.jobs) == 1


def test_a_cleared_task_ends_the_old_rayjob_before_it_makes_a_new_one(dashboard, context, ti, kuberay):
    died_while_its_job_ran(dashboard, context, kuberay)
    ti.clear()
    dashboard.when_submitted(succeed, count=2)
    operator().execute(context)
    first, second = kuberay.made
    assert kuberay.deleted == [first, second]
    assert second == f"{first}-2"


def test_what_an_older_attempt_left_goes_before_another_one_is_made(dashboard, context, ti, kuberay):
    """The second attempt's RayJob is gone, with the worker that made it; that of the first was kept to be looked at."""
    dashboard.when_submitted(fail)
    with pytest.raises(JobFailedError):
        operator(keep_on_failure=True).execute(context)
    [first] = kuberay.made
    kuberay.jobs[first] = replace(kuberay.jobs[first], deployment="Failed", job="FAILED")
    ti.retry()
    with pytest.raises(TaskDeferred):
        operator(keep_on_failure=True, deferrable=True).execute(context)
    del kuberay.jobs[kuberay.made[1]]
    ti.retry()
    dashboard.when_submitted(succeed, count=2)
    operator(keep_on_failure=True).execute(context)
    assert kuberay.deleted[0] == first
    assert not kuberay.jobs


def test_a_job_that_went_with_its_head_is_not_submitted_again_to_the_next_one(dashboard, context, ti, kuberay):
    died_while_its_job_ran(dashboard, context, kuberay)
    dashboard.api.restart()
    ti.retry()
    with pytest.raises(JobLostError, match="the Ray head of RayJob team/"):
        operator().execute(context)
    assert not dashboard.api.jobs
    assert not kuberay.jobs


def test_a_job_whose_place_was_taken_away_while_nobody_watched_is_submitted_again(dashboard, context, ti, kuberay):
    died_while_its_job_ran(dashboard, context, kuberay)
    before = dashboard.job.submission_id
    dashboard.api.restart()
    kuberay.new_cluster(kuberay.made[0])
    ti.retry()
    dashboard.when_submitted(succeed)
    assert operator().execute(context) == before
    assert len(kuberay.made) == 1


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_preempted_job_waits_for_its_turn_and_is_submitted_again(dashboard, context, ti, kuberay, deferrable):
    if deferrable:
        died_while_its_job_ran(dashboard, context, kuberay)
        outcome = {
            "submission_id": dashboard.job.submission_id,
            "kind": "suspended",
            "message": "Kueue took the place away (Preempted).",
        }
        dashboard.api.restart()
        with pytest.raises(TaskDeferred) as deferred:
            operator(deferrable=True).execute_complete(
                context, {"job_id": outcome["submission_id"], "outcome": outcome}
            )
        assert deferred.value.method_name == "execute_started"
        assert deferred.value.trigger.cluster["name"] == ""
        assert ti.xcoms["task", "ray_log_offset"]["offset"] == 0
    else:

        def preempt(job):
            job.run(b"half\n")
            kuberay.new_cluster(kuberay.made[0])
            # Told before Ray can be asked about a job that it does not know any more.
            kuberay.interruptions.append(Interruption("suspended", "Kueue took the place away (Preempted)."))
            dashboard.api.restart()
            dashboard.when_submitted(succeed)

        dashboard.when_submitted(preempt)
        assert operator().execute(context) == dashboard.job.submission_id
        assert len(kuberay.waits) == 2
    assert len(kuberay.made) == 1


@pytest.mark.parametrize("kind", ["suspended", "lost"])
def test_a_cluster_that_is_taken_away_while_its_job_is_submitted(dashboard, context, ti, kuberay, kind, monkeypatch):
    def gone(run):
        monkeypatch.setattr(JobRun, "look", look)
        raise RayApiError("The Kubernetes API server answered 404: services x not found", status=404)

    look = JobRun.look
    monkeypatch.setattr(JobRun, "look", gone)

    async def interruption(hook, handle):
        kuberay.new_cluster(handle.rayjob)
        return Interruption(kind, "The RayJob team/x is not what it was.")

    monkeypatch.setattr(own_rayjob, "interruption", interruption)
    dashboard.when_submitted(succeed)
    if kind == "suspended":
        assert operator().execute(context) == dashboard.job.submission_id
        assert len(kuberay.waits) == 2
    else:
        with pytest.raises(JobLostError, match="not what it was"):
            operator().execute(context)
    assert kuberay.made == kuberay.deleted


def test_a_rayjob_that_somebody_deletes_is_a_lost_job(dashboard, context, kuberay):
    def delete(job):
        job.run()
        kuberay.jobs.clear()
        kuberay.interruptions.append(Interruption("lost", "The RayJob team/x was deleted by somebody."))

    dashboard.when_submitted(delete)
    with pytest.raises(JobLostError, match="deleted by somebody"):
        operator().execute(context)


def test_what_kubernetes_refuses_is_not_deleted(context, kuberay):
    kuberay.error = ConfigurationError("The RayJob team/x is there, and is not this task's.")
    with pytest.raises(AirflowFailException, match="not this task's"):
        operator(name="x").execute(context)
    assert not kuberay.deleted


@pytest.mark.parametrize("keep", [False, True])
def test_a_cluster_that_can_not_start_goes_unless_it_is_to_be_kept(context, kuberay, keep):
    kuberay.start_error = ClusterFailedError("The Ray cluster can't become ready: no node.")
    with pytest.raises(ClusterFailedError, match="no node"):
        operator(keep_on_failure=keep).execute(context)
    assert bool(kuberay.jobs) is keep


def test_a_trigger_that_saw_the_start_fail_tells_why_and_it_is_taken_back(context, kuberay):
    with pytest.raises(TaskDeferred) as deferred:
        operator(deferrable=True).execute(context)
    path, arguments = deferred.value.trigger.serialize()
    assert path == "ray_provider.triggers.RayJobStartTrigger"
    error = {"kind": "ConfigurationError", "message": "KubeRay refuses the RayJob: x.", "hint": "Correct it."}
    with pytest.raises(AirflowFailException, match="KubeRay refuses the RayJob"):
        operator(deferrable=True).execute_started(
            context, {"status": "failed", "cluster": arguments["cluster"], "error": error}
        )
    assert kuberay.deleted == kuberay.made


def test_a_kill_while_it_starts_deletes_it(context, kuberay, monkeypatch):
    task = operator()

    async def wait(*_, **__):
        threading.Timer(0.1, task.on_kill).start()
        await asyncio.sleep(30)

    monkeypatch.setattr(own_rayjob, "wait", wait)
    with pytest.raises(JobStoppedError):
        task.execute(context)
    assert kuberay.deleted == kuberay.made


def test_a_success_whose_cluster_is_gone_is_a_success(dashboard, context, ti, kuberay, capsys):
    died_while_its_job_ran(dashboard, context, kuberay)
    [name] = kuberay.jobs
    kuberay.jobs[name] = replace(kuberay.jobs[name], deployment="Complete", job="SUCCEEDED")
    kuberay.gone = True
    ti.retry()
    assert operator().execute(context) == kuberay.jobs.get(name, dashboard.job).submission_id
    assert "its log is gone" in capsys.readouterr().out


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_a_job_that_was_over_before_its_start_was_seen_ends_as_it_did(context, kuberay, deferrable, status, capsys):
    """Before: a time-out of its start."""
    task = operator(deferrable=deferrable)
    job_id = task.id_of_attempt(context, 1)
    if deferrable:
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(context)
        cluster = deferred.value.trigger.serialize()[1]["cluster"]
        event = {"status": "over", "cluster": cluster, "job": {"job_id": job_id, "status": status, "message": "boom"}}

        def end():
            return operator(deferrable=True).execute_started(context, event)
    else:
        kuberay.start_error = RayJobOver(
            RayJobState("x", job_id=job_id, deployment="Complete", job=status, message="boom")
        )

        def end():
            return task.execute(context)

    if status == "SUCCEEDED":
        assert end() == job_id
    else:
        with pytest.raises(JobFailedError if status == "FAILED" else JobStoppedError, match="boom"):
            end()
    assert "its log is gone" in capsys.readouterr().out
    assert kuberay.deleted == kuberay.made


ON_SHARED = {"clusterSelector": {"ray.io/cluster": "shared"}}


def selecting(**spec: Any) -> dict[str, Any]:
    given = manifest(**{**ON_SHARED, **spec})
    del given["spec"]["rayClusterSpec"]
    return given


def test_a_job_runs_on_the_cluster_that_its_manifest_selects(dashboard, context, kuberay):
    dashboard.when_submitted(succeed)
    assert operator(entrypoint=None, ray_job_yaml=selecting()).execute(context) == dashboard.job.submission_id
    [spec] = kuberay.specs
    assert spec.options.selector.cluster == "shared"
    assert spec.cluster.manifest is None
    assert dashboard.job.request["entrypoint"] == "python theirs.py"
    assert kuberay.deleted == ["train"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("values", {"a": 1}), ("profile", "cpu"), ("local_queue", "q"), ("create_namespace", True), ("chart", "other")],
)
def test_what_would_say_something_of_the_selected_cluster_is_refused(context, kuberay, name, value):
    with pytest.raises(AirflowFailException, match=f"{name} has no effect on the Ray cluster 'shared'"):
        operator(ray_job_yaml=selecting(), **{name: value}).execute(context)
    assert not kuberay.made


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"wait_for_completion": False}, "wait_for_completion is off"),
        ({"entrypoint": None}, "No entrypoint is given"),
        ({"ttl_seconds": 10}, "ttl_seconds has to be a number of at least 60"),
        ({"start_timeout_seconds": 0}, "start_timeout_seconds has to be a number above 0"),
        ({"name": "a" * 48}, "KubeRay allows 47 for a RayJob"),
        ({"ray_job_yaml": {"kind": "RayCluster"}}, "has no apiVersion"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(context, kuberay, arguments, says):
    with pytest.raises(AirflowFailException, match=says):
        operator(**arguments).execute(context)
    assert not kuberay.made


def test_a_cluster_of_somebody_else_is_no_argument():
    with pytest.raises(ConfigurationError, match="SubmitRayJob runs a job on one that is there"):
        operator(cluster={})


# -- a ready manifest --------------------------------------------------------------------------------------------------


def manifest(**spec: Any) -> dict[str, Any]:
    head = {
        "rayStartParams": {},
        "template": {"spec": {"containers": [{"name": "h", "image": "rayproject/ray:2.60.0"}]}},
    }
    cluster = {"rayVersion": "2.60.0", "headGroupSpec": head}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "train"},
        "spec": {"entrypoint": "python theirs.py", "rayClusterSpec": cluster, **spec},
    }


def test_the_job_of_a_manifest_is_submitted_where_the_task_says_nothing(dashboard, context, kuberay):
    given = manifest(
        runtimeEnvYAML="env_vars: {A: b}",
        metadata={"team": "a"},
        entrypointNumCpus=1,
        entrypointNumGpus=2,
        entrypointResources='{"c": 3}',
    )
    dashboard.when_submitted(succeed)
    operator(entrypoint=None, ray_job_yaml=given, num_gpus=4).execute(context)
    assert kuberay.made == ["train"]
    request = dashboard.job.request
    assert request["entrypoint"] == "python theirs.py"
    assert request["runtime_env"]["env_vars"] == {"A": "b"}
    assert request["metadata"]["team"] == "a"
    assert (request["entrypoint_num_cpus"], request["entrypoint_num_gpus"]) == (1, 4)
    assert request["entrypoint_resources"] == {"c": 3}


def test_a_manifest_without_a_name_makes_one_that_is_unique_for_the_run(dashboard, context, kuberay):
    given = {**manifest(), "metadata": {"generateName": "train-"}}
    dashboard.when_submitted(succeed)
    operator(ray_job_yaml=given).execute(context)
    [name] = kuberay.made
    assert name.startswith("ray-")


def test_a_long_name_is_no_obstacle_to_a_retry(dashboard, context, ti, kuberay):
    dashboard.when_submitted(fail)
    with pytest.raises(JobFailedError):
        operator(name="a" * 47).execute(context)
    ti.retry()
    dashboard.when_submitted(succeed, count=2)
    operator(name="a" * 47).execute(context)
    assert kuberay.made == ["a" * 47, "a" * 45 + "-2"]


def test_a_job_without_a_command_is_refused(context, kuberay):
    with pytest.raises(AirflowFailException, match=r"`ray_job_yaml` has none in spec\.entrypoint"):
        operator(entrypoint=None, ray_job_yaml=manifest(entrypoint="")).execute(context)
    assert not kuberay.made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("entrypoint", "python mine.py"),
        ("runtime_env", {"pip": ["a"]}),
        ("metadata", {"a": "b"}),
        ("num_cpus", 1),
        ("num_gpus", 1),
        ("memory", 1),
        ("resources", {"a": 1}),
        ("label_selector", {"a": "b"}),
    ],
)
def test_what_kuberay_would_not_submit_is_refused(context, kuberay, name, value):
    """KubeRay submits what the manifest says: the task's argument would have no effect."""
    task = operator(**{"entrypoint": None, "ray_job_yaml": manifest(submissionMode="HTTPMode"), name: value})
    with pytest.raises(AirflowFailException, match=f"{name} is given, and KubeRay submits the job as"):
        task.execute(context)
    assert not kuberay.made


@pytest.mark.parametrize(
    "given",
    [
        manifest(submissionMode="HTTPMode"),
        manifest(submissionMode="K8sJobMode", entrypoint="", submitterPodTemplate={"spec": {"containers": []}}),
    ],
)
def test_a_job_that_kuberay_submits_is_followed(dashboard, context, kuberay, capsys, given):
    task = operator(entrypoint=None, ray_job_yaml=given)
    submitted = task.id_of_attempt(context, 1)

    def submit():
        succeed(dashboard.api.add(submitted))

    threading.Timer(0.5, submit).start()
    assert task.execute(context) == submitted
    assert dashboard.api.count["POST /api/jobs/"] == 0
    out = capsys.readouterr().out
    assert "it may run twice" in out
    assert "hello" in out


@pytest.mark.parametrize("late", [False, True])
def test_a_submitter_in_the_heads_pod_that_fails_is_told_at_once(dashboard, context, kuberay, monkeypatch, late):
    """KubeRay calls a RayJob Initializing for good whose submitter has ended before its head was ready."""
    task = operator(entrypoint=None, ray_job_yaml=manifest(submissionMode="SidecarMode"))

    async def failed_submitter(hook, handle):
        if late:  # the job came between the two looks
            succeed(dashboard.api.add(task.id_of_attempt(context, 1)))
        return "exit status 1. Its last lines:\n  Error: no such runtime_env key"

    monkeypatch.setattr(own_rayjob, "failed_submitter", failed_submitter)
    if late:
        assert task.execute(context) == task.id_of_attempt(context, 1)
    else:
        with pytest.raises(JobFailedError, match="was not submitted: .* exit status 1.*\n  Error: no such runtime_env"):
            task.execute(context)
    assert kuberay.deleted == kuberay.made
