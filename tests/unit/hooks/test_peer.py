"""The methods of the predecessor's hook, as its DAGs call them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ray_provider.exceptions import ConfigurationError, JobLostError
from ray_provider.hooks import RayHook
from ray_provider.hooks.peer import JobStatus, run_sync
from tests.support.dashboard import TOKEN

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.timeout(60)]


def end(job, **how):
    job.run(b"one\ntwo\n")
    job.end(**how)


def test_a_job_is_submitted_asked_for_and_read(dashboard):
    hook = RayHook("c")
    job_id = hook.submit_ray_job(
        None,
        "echo hi",
        {"env_vars": {"A": "b"}},
        entrypoint_num_cpus=2,
        entrypoint_resources={"x": 1},
        metadata={"team": "maps"},
    )
    assert job_id.startswith("raysubmit_")
    assert len(job_id) == len("raysubmit_") + 16
    request = dashboard.job.request
    assert (request["entrypoint"], request["submission_id"]) == ("echo hi", job_id)
    assert (request["entrypoint_num_cpus"], request["entrypoint_resources"]) == (2, {"x": 1})
    assert request["runtime_env"]["env_vars"] == {"A": "b"}
    assert request["metadata"]["team"] == "maps"
    assert hook.get_ray_job_status(None, job_id) == "PENDING"
    threading.Timer(0.3, end, [dashboard.job]).start()
    assert hook.get_ray_job_logs(None, job_id) == "one\ntwo"
    assert hook.get_ray_job_status(None, job_id) is not None
    assert hook.get_ray_job_status(None, job_id).is_terminal()


def test_the_old_names_of_the_job_are_taken_and_unknown_ones_refused(dashboard):
    hook = RayHook("c")
    assert hook.submit_ray_job(None, "true", job_id="mine") == "mine"
    assert hook.submit_ray_job(None, "true", submission_id="other", job_id="mine") == "other"
    with pytest.raises(ConfigurationError, match="submit_ray_job does not know num_tpus, wings"):
        hook.submit_ray_job(None, "true", wings=2, num_tpus=1)
    assert set(dashboard.api.jobs) == {"mine", "other"}


def test_the_connections_metadata_is_added_and_the_jobs_own_wins(dashboard, connection):
    connection["metadata"] = {"team": "of the connection", "site": "north"}
    RayHook("c").submit_ray_job(None, "true", metadata={"team": "of the job"})
    assert dashboard.job.request["metadata"] == {"team": "of the job", "site": "north"}


def test_what_the_job_needs_is_uploaded(dashboard, tmp_path):
    (tmp_path / "script.py").write_text("print(1)\n")
    RayHook("c").submit_ray_job(None, "python script.py", {"working_dir": str(tmp_path)})
    assert dashboard.job.request["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_")


def test_a_delete_stops_and_says_whether_there_was_something_to_stop(dashboard):
    hook = RayHook("c")
    job_id = hook.submit_ray_job(None, "true")
    dashboard.job.run()
    assert hook.delete_ray_job(None, job_id) is True
    assert dashboard.job.status == "STOPPED"
    assert hook.delete_ray_job(None, job_id) is False
    assert hook.get_ray_job_status(None, job_id) == JobStatus.STOPPED


@pytest.mark.parametrize("method", ["get_ray_job_status", "delete_ray_job"])
def test_a_job_that_nobody_knows_is_told(dashboard, method):
    with pytest.raises(JobLostError, match="Ray knows no job nothing") as caught:
        getattr(RayHook("c"), method)(None, "nothing")
    assert caught.value.data["submission_id"] == "nothing"


async def test_a_log_is_followed_and_its_reader_may_leave(dashboard):
    hook = RayHook("c")
    job_id = await asyncio.to_thread(hook.submit_ray_job, None, "true")
    dashboard.job.run(b"one\n")
    async for text in hook.get_ray_tail_logs(None, job_id):
        assert text == "one"
        break
    assert dashboard.job.status == "RUNNING"


def test_the_hook_says_what_the_connection_says(connection, dashboard):
    connection |= {"metadata": {"a": "b"}, "headers": {"X-A": "b"}, "cookies": {"c": "d"}}
    hook = RayHook("c")
    assert (hook.metadata, hook.headers, hook.cookies) == ({"a": "b"}, {"X-A": "b"}, {"c": "d"})
    assert (hook.address, hook.namespace, hook.get_namespace()) == (dashboard.api.url, "default", "default")
    assert hook.verify is True
    connection["namespace"] = "mine"
    connection["verify"] = False
    hook = RayHook("c")
    assert (hook.namespace, hook.verify) == ("mine", False)
    assert hook.create_cluster_if_needed is False
    assert hook.ray_client_instance is None


def test_rays_own_client_gets_what_the_connection_says(monkeypatch, connection, dashboard):
    import ray.job_submission

    made = []
    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", lambda **given: made.append(given))
    connection |= {"metadata": {"a": "b"}, "headers": {"X-A": "b"}, "cookies": {"c": "d"}}
    RayHook("c").ray_client()
    assert made == [
        {
            "address": dashboard.api.url,
            "cookies": {"c": "d"},
            "metadata": {"a": "b"},
            "headers": {"X-A": "b", "X-Ray-Authorization": f"Bearer {TOKEN}", "Authorization": f"Bearer {TOKEN}"},
            "verify": True,
        }
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("core_v1_client", r"KubernetesHook\(conn_id=...\).core_v1_client"),
        ("list_namespaced_pod", r"KubernetesHook\(conn_id=...\).list_namespaced_pod"),
        ("check_kueue_deployment_running", "KubernetesHook"),
        ("is_job_complete", "KubernetesHook"),
        ("in_cluster", r"extra_dejson"),
        ("kubeconfig_path", r"extra_dejson"),
        ("disable_tcp_keepalive", r"extra_dejson"),
    ],
)
def test_what_is_gone_says_what_replaces_it(name, words):
    assert not hasattr(RayHook("c"), name)
    with pytest.raises(ConfigurationError, match=words):
        getattr(RayHook("c"), name)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("setup_ray_cluster", "Use the operator SetupRayCluster"),
        ("delete_ray_cluster", "Use the operator DeleteRayCluster"),
        ("install_kuberay_operator", 'kuberay_operator="install"'),
        ("get_conn", "KubernetesHook"),
    ],
)
def test_methods_that_are_gone_say_what_replaces_them(method, words):
    with pytest.raises(ConfigurationError, match=f"RayHook.{method} is not part of this provider") as caught:
        getattr(RayHook("c"), method)()
    assert words in str(caught.value)


def test_yaml_is_read_from_a_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: [1]\n")
    assert RayHook("c").load_yaml_content(str(path)) == {"a": [1]}
    with pytest.raises(ConfigurationError, match=r"none\.yaml can't be read") as caught:
        RayHook("c").load_yaml_content(str(tmp_path / "none.yaml"))
    assert "has to exist on the worker" in str(caught.value)


async def test_a_coroutine_runs_to_its_end_beside_a_loop():
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert run_sync(answer) == 42
    assert await asyncio.to_thread(run_sync, answer) == 42


def test_a_status_of_a_newer_ray_is_its_text():
    status = JobStatus("ON_HOLD")
    assert (status, status.value, status.name, status.is_terminal()) == ("ON_HOLD", "ON_HOLD", "ON_HOLD", False)
    assert [each.is_terminal() for each in JobStatus] == [False, False, True, True, True]
