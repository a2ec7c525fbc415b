"""Infrastructure from a DAG on a real Airflow: its whole life, and a task that is marked failed in the middle."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ray_provider.testing import AirflowStack
from tests.infrastructure.runner_modules import Module
from tests.support.logs import begun_log
from tests.support.terraform import need_terraform
from tests.support.waiting import wait_until

SECRET = "planted-in-a-connection-4711"


@pytest.fixture(scope="module")
def stack(shared_stack: AirflowStack) -> AirflowStack:
    need_terraform()
    shared_stack.client.add_connection("planted", "generic", host="h", password=SECRET)
    return shared_stack


def test_a_whole_life(stack: AirflowStack, module: Module, temporary: Path) -> None:
    client = stack.client
    run_id = client.trigger_run("infrastructure_life")
    assert client.wait_run("infrastructure_life", run_id, state="success", timeout=300)["state"] == "success"
    log = client.log_text("infrastructure_life", run_id, "set_up")
    assert "Plan: 2 to create, 0 to change, 0 to replace, 0 to destroy." in log
    assert re.search(r"terraform_data\.first\[0\]: created after \d+ s", log)
    handle = client.xcom("infrastructure_life", run_id, "set_up")
    assert handle["outputs"] == {"cluster_name": "e2e"}
    assert client.xcom("infrastructure_life", run_id, "delete") == {"destroyed": 2}
    log += client.log_text("infrastructure_life", run_id, "delete")
    for task in client.task_instances("infrastructure_life", run_id):
        log += json.dumps(task)
    assert SECRET not in log + json.dumps(handle)
    state = json.loads((module.state.parent / "life" / "terraform.tfstate").read_text())
    assert state["resources"] == []
    assert not list(temporary.glob("airflow-ray-tf-*"))


def test_a_task_that_is_marked_failed_saves_its_state(stack: AirflowStack, module: Module, temporary: Path) -> None:
    client = stack.client
    run_id = client.trigger_run("infrastructure_killed")
    state = module.state.parent / "killed" / "terraform.tfstate"
    lock = state.with_name(".terraform.tfstate.lock.info")
    client.wait_task("infrastructure_killed", run_id, "set_up", state="running", timeout=300)
    client.wait_until(
        "Terraform is in the middle of its apply",
        lambda: "terraform_data.slow[0]: creating" in begun_log(client, "infrastructure_killed", run_id, "set_up"),
        timeout=300,
    )
    assert lock.exists()
    assert list(temporary.glob("airflow-ray-tf-*"))
    client.set_state("infrastructure_killed", run_id, "set_up", "failed")
    wait_until(lambda: not lock.exists() and not list(temporary.glob("airflow-ray-tf-*")))
    data = json.loads(state.read_text())
    assert [item["name"] for item in data["resources"] if item["instances"]][0] == "first"
