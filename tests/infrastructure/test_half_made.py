"""What becomes of a set-up that failed, and of infrastructure whose module has changed since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_provider.operators import DeleteRayInfrastructure, SetupRayInfrastructure
from tests.infrastructure.runner_modules import MODULE, Module, make_module
from tests.infrastructure.test_operators import Ti, given

FAILS = '\nresource "terraform_data" "fails" {\n  depends_on = [terraform_data.first]\n  provisioner "local-exec" {\n    command = "exit 7"\n  }\n}\n'


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": Ti()}


@pytest.fixture
def failing(tmp_path: Path) -> Module:
    return make_module(tmp_path, MODULE + FAILS)


def test_a_failed_set_up_can_be_deleted_by_its_handle_or_without(failing: Module, context: dict[str, Any]) -> None:
    arguments = given(failing, variables={"name": "half"})
    for with_handle in (True, False):
        with pytest.raises(Exception, match="exit status 7"):
            SetupRayInfrastructure(**arguments).execute(context)
        handle = context["ti"].xcoms["return_value"]
        assert (handle["complete"], handle["cluster_name"]) == (False, "half")
        delete = DeleteRayInfrastructure(
            **arguments, infrastructure=handle if with_handle else None, confirm="half", trigger_rule="all_done"
        )
        assert delete.execute(context)["destroyed"] >= 1
        assert failing.resources() == []


def test_a_failed_set_up_can_take_back_what_it_made(failing: Module, context: dict[str, Any]) -> None:
    arguments = given(failing, variables={"name": "half"}, on_failure="destroy")
    with pytest.raises(Exception, match="exit status 7") as caught:
        SetupRayInfrastructure(**arguments).execute(context)
    assert "What was made was destroyed." in caught.value.__notes__
    assert failing.resources() == []


def test_what_was_there_before_is_not_taken_back(tmp_path: Path, context: dict[str, Any]) -> None:
    module = make_module(tmp_path)
    arguments = given(module, variables={"name": "half"}, on_failure="destroy")
    SetupRayInfrastructure(**arguments).execute(context)
    (module.folder / "fails.tf").write_text(FAILS)
    with pytest.raises(Exception, match="exit status 7"):
        SetupRayInfrastructure(**arguments).execute(context)
    assert "terraform_data.first" in module.resources()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('variable "pools"', 'variable "groups"'),
        ('variable "slow"', 'variable "added" {\n  type = string\n}\nvariable "slow"'),
        ("terraform_data", "null"),
    ],
    ids=["renamed variable", "new required variable", "renamed resource"],
)
def test_a_module_that_changed_since_does_not_stop_a_destroy(
    tmp_path: Path, context: dict[str, Any], old: str, new: str
) -> None:
    module = make_module(tmp_path)
    arguments = given(module, variables={"name": "mine", "pools": {"a": {"max": 1}}})
    handle = SetupRayInfrastructure(**arguments).execute(context)
    text = MODULE.replace("var.pools", "var.groups") if "groups" in new else MODULE
    if new == "null":
        text = text.replace('"terraform_data" "first"', '"terraform_data" "renamed"').replace(".first", ".renamed")
    else:
        text = text.replace(old, new)
    (module.folder / "main.tf").write_text(text)
    delete = DeleteRayInfrastructure(**arguments, infrastructure=handle, confirm="mine")
    assert delete.execute(context) == {"destroyed": 1}
    assert module.resources() == []
