"""What tasks of the release before left behind while they wait (``in_flight.json``, made by it) is read by this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_provider import triggers
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import JobFailedError
from ray_provider.operators import SetupRayCluster, SubmitRayJob

LEFT: dict[str, Any] = json.loads((Path(__file__).parent / "in_flight.json").read_text())


@pytest.mark.parametrize("backend", LEFT["handles"])
def test_handles(backend: str) -> None:
    given = LEFT["handles"][backend]
    read = ClusterHandle.from_dict(given)
    assert read.address == given["address"]
    assert {key: value for key, value in read.to_dict().items() if key in given} == given


@pytest.mark.parametrize(("path", "arguments"), LEFT["triggers"])
def test_triggers(path: str, arguments: dict[str, Any]) -> None:
    trigger = getattr(triggers, path.rpartition(".")[2])(**arguments)
    again_path, again = trigger.serialize()
    assert again_path == path
    # When it may fire is said by the time of the deferral now: the argument is taken, and not needed.
    kept = {key: value for key, value in arguments.items() if key != "not_before"}
    assert {key: value for key, value in again.items() if key in kept} == kept


def test_a_set_up_that_waited_goes_on(context: Any) -> None:
    task = SetupRayCluster(task_id="setup", conn_id="c")
    event = LEFT["events"]["cluster"]
    handle = task.execute_complete(context, event)
    assert handle["address"] == event["cluster"]["address"]
    assert handle["owner"] == event["cluster"]["owner"]


def test_a_job_that_waited_ends_as_it_did(context: Any) -> None:
    task = SubmitRayJob(task_id="job", conn_id="c", entrypoint="true")
    with pytest.raises(JobFailedError, match="exit code 3"):
        task.execute_complete(context, LEFT["events"]["job"])
