"""The bundled EKS module from the operators, with the real AWS provider, against an emulated AWS, its state in S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import AirflowFailException

from ray_provider.infrastructure.errors import BackendError
from ray_provider.infrastructure.session import InfrastructureRun, InfrastructureSpec
from ray_provider.operators import DeleteRayInfrastructure, SetupRayInfrastructure
from tests.infrastructure.lab.aws_server import REGION, AwsServer
from tests.infrastructure.runner_modules import MODULE, make_module, nothing_left_behind
from tests.infrastructure.test_operators import CA, Kubernetes, Ti
from tests.support.terraform import environment, need_aws_provider, need_terraform

BUCKET = "ray-states"
POOLS = {
    "cpu": {"machine_type": "m6i.2xlarge", "max": 4},
    "a10g": {"machine_type": "g5.12xlarge", "capacity": "spot", "max": 2},
}


@pytest.fixture(scope="module")
def kubernetes() -> Iterator[Kubernetes]:
    server = Kubernetes()
    yield server
    server.close()


@pytest.fixture(scope="module")
def aws(kubernetes: Kubernetes) -> Iterator[AwsServer]:
    with AwsServer(cluster_endpoint=kubernetes.url, cluster_ca_data=CA) as server:
        server.client("s3").create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture
def cloud(aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process' environment is the emulated AWS' and nobody else's."""
    wanted = environment(tmp_path / "cli", program=need_terraform(), mirrors=[need_aws_provider()], extra=aws.env)
    for name, value in wanted.items():
        if name.startswith(("TF_", "AWS_")):
            monkeypatch.setenv(name, value)


def backend(aws: AwsServer, bucket: str = BUCKET) -> dict[str, Any]:
    return {
        "type": "s3",
        "bucket": bucket,
        "key": "ray/terraform.tfstate",
        "region": REGION,
        "use_path_style": True,
        "use_lockfile": True,
        "skip_requesting_account_id": True,
    }


def test_a_cluster_from_nothing_to_nothing(
    aws: AwsServer, kubernetes: Kubernetes, cloud: None, capsys: pytest.CaptureFixture[str]
) -> None:
    context: dict[str, Any] = {"ti": Ti()}
    common = {
        "module": "eks",
        "backend": backend(aws),
        "workspace": "blue",
        "terraform_binary": str(need_terraform().path),
    }
    variables = {"name": "raytest", "deletion_protection": False, "bucket_force_destroy": True, "node_pools": POOLS}
    with nothing_left_behind():
        handle = SetupRayInfrastructure(task_id="s", variables=variables, **common).execute(context)
        assert handle["outputs"]["cloud"] == "aws"
        assert handle["outputs"]["location"] == REGION
        assert set(handle["outputs"]["node_pools"]) >= {"a10g", "cpu"}
        assert handle["ray_helm_values"]
        assert "cluster_ca_certificate" not in handle["outputs"]
        assert CA not in json.dumps(handle)
        assert aws.client("eks").describe_nodegroup(clusterName="raytest", nodegroupName="a10g")

        fewer = {**variables, "node_pools": {"cpu": POOLS["cpu"]}}
        with pytest.raises(
            AirflowFailException, match=r"(?s)destroy module\.node_pools.*a10g.*allow_destroy=True"
        ) as caught:
            SetupRayInfrastructure(task_id="s", variables=fewer, **common).execute(context)
        assert "nothing was changed" in str(caught.value)
        assert aws.client("eks").describe_nodegroup(clusterName="raytest", nodegroupName="a10g")

        unset = {**variables, "endpoint_public_access": True}
        with pytest.raises(AirflowFailException, match="endpoint_public_access_cidrs"):
            SetupRayInfrastructure(task_id="s", variables=unset, **common).execute(context)

        delete = DeleteRayInfrastructure(
            task_id="d", infrastructure=handle, confirm="raytest", terraform_binary=common["terraform_binary"]
        )
        kubernetes.ray_clusters = ["busy"]
        with pytest.raises(Exception, match="in use: Ray cluster ray/busy"):
            delete.execute(context)
        kubernetes.ray_clusters = []
        assert delete.execute(context)["destroyed"] > 20
        assert aws.client("eks").list_clusters()["clusters"] == []
        assert delete.execute(context) == {"destroyed": 0}
    said = capsys.readouterr().out
    assert "Plan: 0 to create" in said
    # What the cloud fills in by itself after an apply is not drift.
    assert "Changed outside of Terraform" not in said
    objects = aws.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [item["Key"] for item in objects] == ["env:/blue/ray/terraform.tfstate"]


def test_a_bucket_that_is_not_there(aws: AwsServer, cloud: None, tmp_path: Path) -> None:
    module = make_module(tmp_path, MODULE)
    spec = InfrastructureSpec(
        module=str(module.folder), backend=backend(aws, "nowhere"), binary=str(need_terraform().path)
    )
    with pytest.raises(BackendError, match=r"field `backend`.*nowhere"), InfrastructureRun(spec) as run:
        run.plan()
