"""What can't work is told once, by one exception: in a task's log, two texts with the frames of both hide the reason."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.exceptions import ConfigurationError, KubernetesError
from ray_provider.operators import (
    DeleteRayCluster,
    DeleteRayInfrastructure,
    DeleteRayService,
    DeleteServeApplication,
    DeployRayService,
    DeployServeApplication,
    SetupRayCluster,
    SetupRayInfrastructure,
)
from ray_provider.sensors import InfrastructureDriftSensor, RayClusterSensor, RayJobSensor, RayServeSensor


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (SetupRayCluster(task_id="t", conn_id="c", ray_cluster_yaml="", backend="moon"), "no such backend"),
        (DeleteRayCluster(task_id="t", conn_id="c", name="x", backend="moon"), "no such backend"),
        (SetupRayInfrastructure(task_id="t", module="no-such-module"), "no-such-module"),
        (DeleteRayInfrastructure(task_id="t", module="eks", confirm=""), "confirm: give the name"),
        (RayClusterSensor(task_id="t", conn_id="c", cluster="text"), "not the handle"),
        (RayClusterSensor(task_id="t", conn_id="c", cluster="text", deferrable=True), "not the handle"),
        (RayJobSensor(task_id="t", conn_id="c", submission_id="a"), "has no Ray address"),
        (DeployServeApplication(task_id="t", conn_id="c", name="a", import_path="m:app"), "has no Ray address"),
        (DeleteServeApplication(task_id="t", conn_id="c", name="a"), "has no Ray address"),
        (RayServeSensor(task_id="t", conn_id="c", name="a"), "has no Ray address"),
        (DeployRayService(task_id="t", conn_id="c"), "No applications are given"),
        (DeleteRayService(task_id="t", conn_id="c"), "No RayService is named"),
        (InfrastructureDriftSensor(task_id="t", module="no-such-module"), "no-such-module"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_configuration_error_prints_one_exception(context: Any, connection: dict[str, Any], task: Any, says: str):
    connection.clear()
    act = task.poke if isinstance(task, InfrastructureDriftSensor) else task.execute
    with pytest.raises(AirflowFailException, match=says) as raised:
        act(context)
    printed = "".join(traceback.format_exception(raised.value))
    assert printed.count("Traceback (most recent call last)") == 1
    assert printed.count(says) == 1, printed


def test_what_may_be_tried_again_keeps_what_caused_it_and_notes_are_told():
    def fail(error: Exception) -> None:
        try:
            raise OSError("refused")
        except OSError as cause:
            raise error from cause

    with pytest.raises(KubernetesError) as kept, errors_for_airflow():
        fail(KubernetesError("it can't be reached"))
    assert isinstance(kept.value.__cause__, OSError)
    error = ConfigurationError("it can't work", hint="change it")
    error.add_note("and what was made stays")
    with (
        pytest.raises(AirflowFailException, match=r"it can't work\nWhat to do: change it\nand what was made stays"),
        errors_for_airflow(),
    ):
        fail(error)
