"""What tasks of the release before left behind while they wait (``in_flight.json``, made by it) is read by this one.

``tests/support/in_flight.py``, run with that release's code, writes it.
"""

from __future__ import annotations

import base64
import inspect
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_provider import triggers
from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.local.spec import LocalClusterSpec
from ray_provider.clusters.local.state import LocalPaths, LocalRecord
from ray_provider.clusters.naming import same_owner, was_named
from ray_provider.exceptions import (
    ClusterFailedError,
    ClusterTimeoutError,
    JobFailedError,
    JobLostError,
    JobStoppedError,
    JobTimeoutError,
    JobUnreachableError,
    RayProviderError,
)
from ray_provider.functions.results import decode
from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.infrastructure.handle import InfrastructureHandle
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.submit.identity import JobOwner, submission_id_for
from ray_provider.jobs.submit.once import submit_once
from ray_provider.operators import SetupRayCluster, SubmitRayJob
from ray_provider.operators._cluster.common import where_is
from ray_provider.operators._job import memory as task_memory
from tests.support.jobs_api import JobsApi

LEFT: dict[str, Any] = json.loads((Path(__file__).parent / "in_flight.json").read_text())
#: When a trigger may fire is said by the time of the deferral now: the argument is taken, and not needed.
NOT_NEEDED = {"not_before"}
#: What that release did not know: arguments of its triggers, and triggers.
SINCE = {"deferred_at", "appears_until"}
NEW_TRIGGERS = {"RayJobStartTrigger", "RayJobEndTrigger", "RayServeTrigger", "RayServiceTrigger"}


@pytest.mark.parametrize("which", LEFT["handles"])
def test_handles(which: str) -> None:
    given = LEFT["handles"][which]
    read = ClusterHandle.from_dict(given)
    assert read.address == given["address"]
    assert {key: value for key, value in read.to_dict().items() if key in given} == given
    if which == "cloud":
        assert CloudCluster.from_dict(given["kubernetes"]).gcp_conn_id == "google"


def test_the_handle_of_infrastructure() -> None:
    """Google Cloud's; that of EKS is in ``tests/unit/infrastructure/test_handle.py``."""
    given = LEFT["infrastructure"]
    read = InfrastructureHandle.from_dict(given)
    assert read.complete, "it was handed on when all was made"
    assert {key: value for key, value in read.to_dict().items() if key in given} == given
    assert where_is(given) == LEFT["handles"]["cloud"]["kubernetes"]


def test_each_trigger_of_that_release_is_here_with_each_argument() -> None:
    for path in {path for path, _ in LEFT["triggers"]}:
        kind = getattr(triggers, path.rpartition(".")[2])
        shown = {name for other, arguments in LEFT["triggers"] if other == path for name in arguments}
        assert set(inspect.signature(kind).parameters) - SINCE <= shown, path
    assert {path.rpartition(".")[2] for path, _ in LEFT["triggers"]} | NEW_TRIGGERS == set(triggers.__all__)


@pytest.mark.parametrize(("path", "arguments"), LEFT["triggers"])
def test_triggers(path: str, arguments: dict[str, Any]) -> None:
    trigger = getattr(triggers, path.rpartition(".")[2])(**arguments)
    again_path, again = trigger.serialize()
    assert again_path == path
    kept = {key: value for key, value in arguments.items() if key not in NOT_NEEDED}
    assert {key: value for key, value in again.items() if key in kept} == kept


def test_a_set_up_that_waited_goes_on(context: Any) -> None:
    task = SetupRayCluster(task_id="setup", conn_id="c")
    event = LEFT["events"]["cluster"]
    handle = task.execute_complete(context, event)
    assert handle["address"] == event["cluster"]["address"]
    assert handle["owner"] == event["cluster"]["owner"]


@pytest.mark.parametrize(
    ("event", "error"), [("cluster failed", ClusterFailedError), ("cluster late", ClusterTimeoutError)]
)
def test_a_set_up_that_waited_in_vain_takes_back_what_it_made(context: Any, event: str, error: type, monkeypatch):
    taken: list[ClusterHandle] = []
    monkeypatch.setattr(SetupRayCluster, "_take_back", lambda _, handle, error: taken.append(handle))
    with pytest.raises(error, match="so it is"):
        SetupRayCluster(task_id="setup", conn_id="c").execute_complete(context, LEFT["events"][event])
    assert [one.to_dict()["owner"] for one in taken] == [LEFT["handles"]["kubernetes"]["owner"]]


@pytest.mark.parametrize(
    ("event", "error", "says"),
    [
        ("job", JobFailedError, "exit code 3"),
        ("job stopped", JobStoppedError, "stopped by a user"),
        ("job lost", JobLostError, "the Ray head restarted"),
        ("job late", JobTimeoutError, "its time is over"),
        ("job unreachable", JobUnreachableError, "nobody answered for 600 s"),
        ("job not watched", RayProviderError, "nobody answers"),
    ],
)
def test_a_job_that_waited_ends_as_it_did(context: Any, connection: Any, event: str, error: type, says: str) -> None:
    task = SubmitRayJob(task_id="job", conn_id="c", entrypoint="true")
    with pytest.raises(error, match=says):
        task.execute_complete(context, LEFT["events"][event])


def test_a_job_that_succeeded_gives_its_id(context: Any) -> None:
    task = SubmitRayJob(task_id="job", conn_id="c", entrypoint="true")
    event = LEFT["events"]["job succeeded"]
    assert task.execute_complete(context, event) == event["job_id"]


def test_what_a_task_left_in_xcom_of_its_job(context: Any, ti: Any) -> None:
    for key, value in LEFT["xcoms"].items():
        ti.xcom_push(key, value)
    run: Any = SimpleNamespace(job_id=None, dashboard_url=None, cluster=None, cluster_owner=None)
    task_memory.recall(context, run)
    assert run.job_id == LEFT["xcoms"]["ray_job"]["submission_id"]
    assert run.cluster.address == LEFT["handles"]["kubernetes"]["address"]
    assert run.cluster_owner, "its cluster is the task's own, and goes with it"


async def test_a_job_that_runs_is_taken_over_by_the_next_try() -> None:
    owner = JobOwner(**LEFT["job"]["owner"])
    name = LEFT["job"]["submission_id"]
    assert submission_id_for(owner) == name
    async with JobsApi() as api:
        api.add(name, "true").request["metadata"] = LEFT["job"]["metadata"]
        async with RayJobsClient(api.endpoint(), retry=RetryPolicy.none()) as client:
            spec = JobSpec("true", submission_id=name, metadata=owner.to_metadata())
            assert (await submit_once(client, spec)).adopted
        assert len(api.jobs) == 1


def test_what_functions_left_on_the_cluster() -> None:
    files = {name: base64.b64decode(content) for name, content in LEFT["results"].items()}
    assert decode(files["json"], allow_pickle=False).value == {"accuracy": 0.9, "epochs": [1, 2]}
    failed = decode(files["error"], allow_pickle=False)
    assert failed.meaning == "error"
    assert "ValueError: no data" in str(failed.exception(submission_id="a", url="http://ray"))


def test_a_local_ray_that_runs_is_found_and_left_as_it_is(tmp_path: Path) -> None:
    left = LEFT["local"]
    name = left["record"]["name"]
    path = tmp_path / left["path"]
    path.parent.mkdir()
    path.write_text(json.dumps(left["record"]))
    read = LocalRecord.read(LocalPaths.of(name, tmp_path))
    assert read is not None
    assert asdict(read) == left["record"]
    # With other settings it would be replaced, and its jobs would end.
    assert read.settings == LocalClusterSpec(name, num_cpus=2, resources={"fpga": 1}).settings


def test_whose_a_cluster_is_that_runs() -> None:
    left, owner = LEFT["raycluster"], LEFT["handles"]["kubernetes"]["owner"]
    assert same_owner(left["labels"], owner)
    recorded = {key.removeprefix("airflow-ray/"): text for key, text in left["annotations"].items()}
    assert not was_named(left["name"], recorded)
    assert was_named("nightly", recorded)
    assert not same_owner(left["labels"], {**owner, "dag_id": "other"}, run=False)
