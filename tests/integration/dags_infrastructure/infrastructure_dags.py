"""Infrastructure from a DAG: a whole life, and one that is stopped in the middle."""

from __future__ import annotations

import os
import tempfile

from airflow.sdk import DAG

from ray_provider.operators import DeleteRayInfrastructure, SetupRayInfrastructure

# Of these tests alone: what is left there is theirs.
tempfile.tempdir = os.environ["TEST_PRIVATE"]

COMMON = {
    "module": os.environ["TEST_MODULE"],
    "terraform_binary": os.environ["TEST_TERRAFORM"],
    "sensitive_variables": {"password": "{{ conn.planted.password }}"},
}


def backend(name: str) -> dict[str, str]:
    return {"type": "local", "path": os.path.join(os.environ["TEST_STATE"], name, "terraform.tfstate")}


with DAG("infrastructure_life", schedule=None):
    made = SetupRayInfrastructure(
        task_id="set_up", backend=backend("life"), variables={"name": "e2e", "number": 2}, **COMMON
    )
    DeleteRayInfrastructure(
        task_id="delete",
        infrastructure=made.output,
        confirm="e2e",
        variables={"name": "e2e", "number": 2},
        **COMMON,
    )

with DAG("infrastructure_killed", schedule=None):
    SetupRayInfrastructure(
        task_id="set_up", backend=backend("killed"), variables={"name": "e2e", "number": 2, "slow": 300}, **COMMON
    )
