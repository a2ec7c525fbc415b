"""What the bundled modules refuse when an operator runs them: before anything is made, and with the field's name."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import AirflowFailException

from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.operators import (
    DeleteRayCluster,
    DeleteRayInfrastructure,
    SetupRayCluster,
    SetupRayInfrastructure,
)
from tests.infrastructure.lab import stand_in
from tests.infrastructure.lab.provider import need_schema
from tests.infrastructure.runner_modules import nothing_left_behind
from tests.infrastructure.test_operators import Ti
from tests.support.terraform import ROOT, environment, need_aws_provider, need_terraform

VARIABLES: dict[str, Any] = {"name": "raytest", "project": "my-project", "location": "europe-west4"}
POOL = {"machine_type": "g2-standard-48"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "TF_")):
            monkeypatch.delenv(name)
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The stand-in for Google's provider: where its things lie, and the environment for it."""
    folder = tmp_path_factory.mktemp("google")
    mirror, extra = stand_in.install(folder / "plugin", "google", need_schema("google"))
    env = environment(folder / "cli", mirrors=[mirror], extra=extra)
    return folder / "plugin", {name: value for name, value in env.items() if name.startswith("TF_")}


def set_up(tmp_path: Path, module: str, variables: dict[str, Any], env: dict[str, str], **more: Any) -> Any:
    operator = SetupRayInfrastructure(
        task_id="t",
        module=module,
        variables=variables,
        backend={"type": "local", "path": str(tmp_path / "state" / "terraform.tfstate")},
        terraform_binary=str(need_terraform().path),
        env=env,
        **more,
    )
    return operator.execute({"ti": Ti()})


def same_way(*given: Any) -> Any:
    """A validation as the first row's; what the modules refuse is in their own tests and in test_gke_apply.py."""
    return pytest.param(*given, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"node_pools": {"l4": {**POOL, "min": 3, "max": 1}}}, "pools.l4: min and max", "min <= max"),
        ({"node_pools": {"l4": {**POOL, "max": "lots"}}}, "node_pools", "a number is required"),
        same_way({"node_pools": {"l4": {**POOL, "capacity": "spot", "reservation_name": "r"}}}, "pools", "reservation"),
        ({"node_pools": {"l4": {**POOL, "accelerator": {"type": "nvidia-h100-80gb"}}}}, "pools.l4.accelerator", ""),
        same_way(
            {"node_pools": {"e2": {"machine_type": "e2-standard-8", "tpu_topology": "2x2"}}}, "pools", "tpu_topology"
        ),
        same_way({"endpoint_public_access": True}, "endpoint_public_access_cidrs", "endpoint_public_access"),
        ({"node_pool": {}}, "variables.node_pool", "node_pools"),
        ({"location": None}, "location", ""),
    ],
)
def test_a_bad_variable(
    tmp_path: Path, google: tuple[Path, dict[str, str]], change: dict[str, Any], field: str, said: str
) -> None:
    plugin, env = google
    with pytest.raises(AirflowFailException) as caught:
        set_up(tmp_path, "gke", {**VARIABLES, **change}, env)
    text = " ".join(str(caught.value).split())
    assert field in text
    assert said in text
    assert stand_in.made(plugin, "google") == []
    state = tmp_path / "state" / "terraform.tfstate"
    assert not state.exists() or json.loads(state.read_text())["resources"] == []


def test_no_credentials(tmp_path: Path) -> None:
    env = environment(tmp_path / "cli", mirrors=[need_aws_provider()])
    given = {name: value for name, value in env.items() if name.startswith(("TF_", "AWS_"))}
    given["AWS_REGION"] = "us-east-1"
    with pytest.raises(AirflowFailException) as caught:
        set_up(tmp_path, "eks", {"name": "raytest"}, given)
    text = str(caught.value)
    assert "No valid credential sources found" in text
    assert "aws_conn_id" in text
    assert not (tmp_path / "state" / "terraform.tfstate").exists()


@pytest.mark.parametrize("operator", [SetupRayCluster, DeleteRayCluster])
@pytest.mark.parametrize(
    ("infrastructure", "said"),
    [
        ("eks", "infrastructure: the value given is not the handle"),
        ({"module": "own", "backend": {}, "outputs": {"cluster_name": "c"}}, "no output cloud, location"),
        (
            {"module": "own", "backend": {}, "outputs": {"cluster_name": "c", "cloud": "azure", "location": "x"}},
            "the output cloud is 'azure'",
        ),
    ],
)
def test_infrastructure_that_names_no_kubernetes(
    monkeypatch: pytest.MonkeyPatch, operator: Any, infrastructure: Any, said: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps({"conn_type": "ray", "extra": {}}))
    with pytest.raises(AirflowFailException, match=said):
        operator(task_id="t", name="n", infrastructure=infrastructure).execute({"ti": Ti()})


def test_infrastructure_and_a_local_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps({"conn_type": "ray", "extra": {"backend": "local"}}))
    handle = {
        "module": "own",
        "backend": {},
        "outputs": {"cluster_name": "c", "cloud": "aws", "location": "x", "ray_helm_values": {}},
    }
    with pytest.raises(AirflowFailException, match="`infrastructure` is given, but the backend is local"):
        SetupRayCluster(task_id="t", infrastructure=handle).execute({"ti": Ti()})


def test_the_gke_dag_of_the_examples_makes_what_it_can_reach(
    tmp_path: Path, google: tuple[Path, dict[str, str]]
) -> None:
    """Its variables, as they stand, by the operators: made, reached by the DNS name, gone."""
    plugin, env = google
    dag = runpy.run_path(str(ROOT / "examples" / "dags" / "ray_infrastructure_gke.py"))
    handle = set_up(tmp_path, "gke", dag["infrastructure"].variables, env)
    assert CloudCluster.of(handle).endpoint == "dns"
    assert handle["outputs"]["cluster_endpoint"] == "https://gke-0123456789ab.europe-west4.gke.goog"
    groups = handle["outputs"]["ray_helm_values"]["additionalWorkerGroups"]
    assert (groups["gpu"]["image"], groups["cpu"]["minReplicas"]) == ({"tag": "2.60.0-gpu"}, 0)
    terraform = str(need_terraform().path)
    DeleteRayInfrastructure(
        task_id="t",
        infrastructure=handle,
        confirm=dag["NAME"],
        env=env,
        live_clusters="ignore",
        terraform_binary=terraform,
    ).execute({"ti": Ti()})
    assert stand_in.made(plugin, "google") == []
