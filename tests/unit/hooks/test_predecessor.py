"""What DAGs that were written for older releases of astro-provider-ray import, give and ask for."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks import RayHook
from ray_provider.hooks.peer import JobStatus
from ray_provider.jobs.watch.outcome import JobOutcome, peer_outcome


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("operators", ["DeleteRayCluster", "SetupRayCluster", "SubmitRayJob"]),
        ("triggers", ["RayJobTrigger"]),
        ("decorators", ["ray"]),
    ],
)
def test_the_old_module_paths_work_with_one_warning(path, names, monkeypatch):
    package = importlib.import_module(f"ray_provider.{path}")
    new = [getattr(package, name) for name in names]
    monkeypatch.setattr(
        package, "ray", getattr(package, "ray", None), raising=False
    )  # importing binds the module there
    monkeypatch.delitem(sys.modules, f"ray_provider.{path}.ray", raising=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        old = importlib.import_module(f"ray_provider.{path}.ray")
        importlib.import_module(f"ray_provider.{path}.ray")
    assert [getattr(old, name) for name in names] == new
    told = [str(each.message) for each in caught if "ray_provider" in str(each.message)]
    assert told == [f"Import from ray_provider.{path} instead of ray_provider.{path}.ray."]
    assert issubclass(caught[0].category, DeprecationWarning)


def test_the_decorator_works_after_its_old_path_was_imported():
    import ray_provider.decorators.ray as module
    from ray_provider.decorators.namespace import ray

    assert module.task is ray.task
    from ray_provider import decorators

    assert decorators.ray.task is ray.task, "whichever of the two the name is now"


def test_an_argument_of_the_first_release_is_told(tmp_path):
    from ray_provider.operators import DeleteRayCluster, SetupRayCluster

    for operator in (SetupRayCluster, DeleteRayCluster):
        with pytest.warns(
            DeprecationWarning, match=f"{operator.__name__} no longer has use_gpu: give gpu_device_plugin"
        ):
            operator(task_id="t", conn_id="c", ray_cluster_yaml=str(tmp_path / "ray.yaml"), use_gpu=True)


def test_a_status_is_rays_own_and_its_text():
    from ray.job_submission import JobStatus as Rays

    for status in Rays:
        ours = JobStatus(status.value)
        assert ours == status
        assert ours == status.value
        assert str(ours) == str(status)
        assert ours in {status}
        assert ours.is_terminal() == status.is_terminal()
    assert JobStatus("A_NEW_ONE").is_terminal() is False


def test_names_of_the_kubernetes_hook_say_what_replaces_them():
    hook = RayHook("c")
    for name in ("create_custom_object", "core_v1_client", "get_pod"):
        with pytest.raises(
            ConfigurationError, match=rf"RayHook\.{name}[\s\S]*KubernetesHook\(conn_id=\.\.\.\)\.{name}"
        ):
            getattr(hook, name)
        assert not hasattr(hook, name)
    with pytest.raises(ConfigurationError, match="KubernetesHook"):
        hook.get_conn()
    with pytest.raises(AttributeError, match="something"):
        _ = hook.something


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_an_event_of_the_predecessors_trigger_is_understood(status):
    event = {"status": status, "message": f"Job j completed with status {status}", "job_id": "j"}
    outcome = JobOutcome.from_dict(peer_outcome(event))
    assert (outcome.kind, outcome.status, outcome.is_success) == ("final", status, status == "SUCCEEDED")
    assert peer_outcome({"status": "EXCEPTION", "message": "no", "job_id": "j"}) is None
