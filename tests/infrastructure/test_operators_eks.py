"""The bundled EKS module from the operators, its state in the S3 of an emulated AWS.

The provider is the stand-in, which makes nothing and takes no time; the real one is in test_eks_apply.py, and from a DAG
in tests/kubernetes/test_mission_clouds.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import AirflowFailException

from ray_provider.infrastructure.errors import BackendError
from ray_provider.infrastructure.module.spec import InfrastructureSpec
from ray_provider.infrastructure.run import InfrastructureRun
from ray_provider.operators import DeleteRayInfrastructure, SetupRayInfrastructure
from tests.infrastructure.lab import stand_in
from tests.infrastructure.lab.aws_server import REGION, AwsServer
from tests.infrastructure.lab.provider import need_schema
from tests.infrastructure.runner_modules import MODULE, make_module, nothing_left_behind
from tests.infrastructure.test_operators import CA, Kubernetes, Ti
from tests.support.terraform import environment, need_terraform

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
def plugin(tmp_path: Path) -> Path:
    """Where the stand-in has what it made."""
    return tmp_path / "plugin"


@pytest.fixture
def cloud(aws: AwsServer, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process' environment is the emulated AWS' and nobody else's."""
    mirror, extra = stand_in.install(plugin, "aws", need_schema("aws"))
    extra |= aws.env
    wanted = environment(tmp_path / "cli", program=need_terraform(), mirrors=[mirror], extra=extra)
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


def groups(plugin: Path) -> set[str]:
    """Name the node groups that were made."""
    things = stand_in.made(plugin, "aws")
    return {thing["values"]["node_group_name"] for thing in things if thing["type"] == "aws_eks_node_group"}


def test_a_cluster_from_nothing_to_nothing(
    aws: AwsServer, kubernetes: Kubernetes, cloud: None, plugin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context: dict[str, Any] = {"ti": Ti()}
    common = {
        "module": "eks",
        "backend": backend(aws),
        "workspace": "blue",
        "terraform_binary": str(need_terraform().path),
    }
    variables = {"name": "raytest", "deletion_protection": False, "bucket_force_destroy": True}
    variables |= {"node_pools": POOLS, "log_drain_seconds": 0}
    with nothing_left_behind():
        handle = SetupRayInfrastructure(task_id="s", variables=variables, **common).execute(context)
        # Who asks whether the cluster is in use asks the cloud where it is.
        role = aws.client("iam").create_role(RoleName="ray", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        aws.client("eks").create_cluster(name="raytest", roleArn=role, resourcesVpcConfig={"subnetIds": ["a", "b"]})
        assert handle["outputs"]["cloud"] == "aws"
        assert handle["outputs"]["location"] == REGION
        assert set(handle["outputs"]["node_pools"]) >= {"a10g", "cpu"}
        assert handle["ray_helm_values"]
        assert "cluster_ca_certificate" not in handle["outputs"]
        assert CA not in json.dumps(handle)
        assert groups(plugin) == {"system", "cpu", "a10g"}

        fewer = {**variables, "node_pools": {"cpu": POOLS["cpu"]}}
        with pytest.raises(
            AirflowFailException, match=r"(?s)destroy module\.node_pools.*a10g.*allow_destroy=True"
        ) as caught:
            SetupRayInfrastructure(task_id="s", variables=fewer, **common).execute(context)
        assert "nothing was changed" in str(caught.value)
        assert groups(plugin) == {"system", "cpu", "a10g"}

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
        assert stand_in.made(plugin, "aws") == []
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
