"""Infrastructure is found where it is, whatever the worker's region: the real AWS provider against an emulated AWS."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from airflow.exceptions import AirflowFailException

from ray_provider.operators import DeleteRayInfrastructure, SetupRayInfrastructure
from ray_provider.sensors import InfrastructureDriftSensor
from tests.infrastructure.lab.aws_server import CREDENTIALS, AwsServer
from tests.infrastructure.runner_modules import make_module
from tests.infrastructure.test_operators import Ti
from tests.support.certificates import make_certificates
from tests.support.terraform import environment, need_aws_provider, need_terraform

HERE, THERE = "us-east-1", "eu-west-1"
BUCKET = "ray-states"
#: A cluster and nothing else, so that the rows take seconds; the bundled module is in the last one.
CLUSTER = """
terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}
variable "name" {
  type = string
}
resource "aws_iam_role" "this" {
  name               = "${var.name}-role"
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = [] })
}
resource "aws_eks_cluster" "this" {
  name                          = var.name
  role_arn                      = aws_iam_role.this.arn
  version                       = "1.33"
  bootstrap_self_managed_addons = false
  vpc_config {
    subnet_ids = ["subnet-a", "subnet-b"]
  }
}
output "cloud" {
  value = "aws"
}
output "cluster_name" {
  value = aws_eks_cluster.this.name
}
output "cluster_endpoint" {
  value = aws_eks_cluster.this.endpoint
}
data "aws_region" "current" {}
output "location" {
  value = data.aws_region.current.id
}
"""
#: As the bundled modules take their tags.
TAGGED = CLUSTER.replace(
    "  bootstrap_self_managed_addons",
    "  tags = merge(var.tags, var.cluster_tags)\n  lifecycle {\n    ignore_changes = [\n"
    '      tags["airflow-ray-run"], tags["airflow-ray-expires"],\n'
    '      tags["airflow-ray-version"], tags["airflow-ray-used"],\n    ]\n  }\n  bootstrap_self_managed_addons',
).replace("  assume_role_policy", "  tags = var.tags\n  assume_role_policy") + "".join(
    f'variable "{name}" {{\n  type    = map(string)\n  default = {{}}\n}}\n' for name in ("tags", "cluster_tags")
)
OWN_REGION = '\nvariable "region" {\n  type = string\n}\nprovider "aws" {\n  region = var.region\n}\n'


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsServer]:
    """Its clusters' API servers can't be reached."""
    authority = make_certificates(tmp_path_factory.mktemp("certificates")).ca_file.read_bytes()
    with AwsServer(
        cluster_endpoint="https://127.0.0.1:9", cluster_ca_data=base64.b64encode(authority).decode()
    ) as server:
        server.client("s3").create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(autouse=True)
def worker(aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose region is not the infrastructure's."""
    env = environment(tmp_path / "cli", program=need_terraform(), mirrors=[need_aws_provider()], extra=aws.env)
    for name, value in env.items():
        if name.startswith(("TF_", "AWS_")):
            monkeypatch.setenv(name, value)


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": Ti(), "run_id": "manual__1"}


def clusters(aws: AwsServer, region: str) -> list[str]:
    eks = boto3.client(
        "eks",
        endpoint_url=aws.url,
        region_name=region,
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    return sorted(eks.list_clusters()["clusters"])


def backend(name: str) -> dict[str, Any]:
    return {
        "type": "s3",
        "bucket": BUCKET,
        "key": f"{name}/terraform.tfstate",
        "use_path_style": True,
        "use_lockfile": True,
        "skip_requesting_account_id": True,
    }


def given(tmp_path: Path, name: str, text: str = CLUSTER, **more: Any) -> dict[str, Any]:
    folder = tmp_path / "module"
    if not folder.exists():
        make_module(tmp_path, text)
    return {
        "task_id": name,
        "module": str(folder),
        "variables": {"name": name},
        "backend": backend(name),
        "terraform_binary": str(need_terraform().path),
        **more,
    }


def there(**more: Any) -> dict[str, Any]:
    return {"providers": {"aws": {"region": THERE}}, **more}


def deleting(arguments: dict[str, Any], **more: Any) -> DeleteRayInfrastructure:
    return DeleteRayInfrastructure(**{**arguments, "confirm": arguments["task_id"], "live_clusters": "ignore", **more})


def test_a_delete_on_a_worker_of_another_region_finds_what_was_made(
    aws: AwsServer, tmp_path: Path, context: dict[str, Any]
) -> None:
    arguments = given(tmp_path, "far", TAGGED)
    handle = SetupRayInfrastructure(**arguments, **there()).execute(context)
    assert clusters(aws, THERE) == ["far"]
    assert handle["place"] == {"region": THERE, "account": "123456789012"}
    # Its API server can't be reached, and its tag says that nobody ever had a Ray cluster there.
    delete = deleting(arguments, infrastructure=handle, live_clusters="refuse")
    assert delete.execute(context) == {"destroyed": 2}
    assert clusters(aws, THERE) == []


@pytest.mark.slow
def test_a_handle_of_the_release_before_and_none_at_all(
    aws: AwsServer, tmp_path: Path, context: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = given(tmp_path, "old")
    handle = SetupRayInfrastructure(**arguments, **there()).execute(context)
    for new in ("providers", "place", "made_by", "complete"):
        del handle[new]
    # The second run of the DAG, on this worker, with no settings: neither a second cluster, nor a change.
    SetupRayInfrastructure(**arguments).execute(context)
    assert "Nothing is to be changed." in capsys.readouterr().out
    sensor = InfrastructureDriftSensor(**{**arguments, "task_id": "s"}, infrastructure=handle)
    assert sensor.poke(context).is_done is False
    assert (clusters(aws, HERE), clusters(aws, THERE)) == ([], ["old"])
    assert deleting(arguments).execute(context) == {"destroyed": 2}
    assert clusters(aws, THERE) == []


@pytest.mark.slow
def test_settings_of_another_region_are_refused_by_name(
    aws: AwsServer, tmp_path: Path, context: dict[str, Any]
) -> None:
    arguments = given(tmp_path, "named")
    handle = SetupRayInfrastructure(**arguments, **there()).execute(context)
    elsewhere = {"providers": {"aws": {"region": HERE}}}
    for task in (
        SetupRayInfrastructure(**arguments, **elsewhere),
        deleting({**arguments, **elsewhere}),
        deleting({**arguments, **elsewhere}, infrastructure=handle),
    ):
        with pytest.raises(AirflowFailException, match=rf"(?s)providers\.aws\.region.*{THERE}"):
            task.execute(context)
    with pytest.raises(AirflowFailException, match=r"env\.AWS_REGION"):
        SetupRayInfrastructure(**arguments, env={"AWS_REGION": HERE}).execute(context)
    assert (clusters(aws, HERE), clusters(aws, THERE)) == ([], ["named"])
    deleting(arguments).execute(context)


@pytest.mark.slow
def test_what_the_refresh_does_not_find_is_not_taken_for_gone(
    aws: AwsServer, tmp_path: Path, context: dict[str, Any]
) -> None:
    """A module that chooses its region itself looks for everything elsewhere."""
    arguments = given(tmp_path, "lost", CLUSTER + OWN_REGION, variables={"name": "lost", "region": THERE})
    SetupRayInfrastructure(**arguments).execute(context)
    wrong = {**arguments, "variables": {"name": "lost", "region": HERE}}
    said = r"(?s)is refused, and nothing was changed.*the cloud says that they are there: aws_eks_cluster\.this"
    for task in (SetupRayInfrastructure(**wrong), deleting(wrong)):
        with pytest.raises(AirflowFailException, match=said):
            task.execute(context)
    sensor = InfrastructureDriftSensor(**{**wrong, "task_id": "s"})
    with pytest.raises(AirflowFailException, match=said):
        sensor.poke(context)
    assert (clusters(aws, HERE), clusters(aws, THERE)) == ([], ["lost"])
    assert deleting(arguments).execute(context) == {"destroyed": 2}


@pytest.mark.slow
def test_what_the_cloud_calls_gone_is_gone(aws: AwsServer, tmp_path: Path, context: dict[str, Any]) -> None:
    arguments = given(tmp_path, "byhand")
    SetupRayInfrastructure(**arguments).execute(context)
    aws.client("eks").delete_cluster(name="byhand")
    # Made anew: the cloud agrees that it was deleted.
    SetupRayInfrastructure(**arguments).execute(context)
    assert clusters(aws, HERE) == ["byhand"]
    aws.client("eks").delete_cluster(name="byhand")
    assert deleting(arguments).execute(context) == {"destroyed": 1}


@pytest.mark.slow
def test_after_a_delete_the_cloud_is_asked(aws: AwsServer, tmp_path: Path, context: dict[str, Any]) -> None:
    """An empty state does not make a cluster go: it was thrown away, say."""
    arguments = given(tmp_path, "alive")
    handle = SetupRayInfrastructure(**arguments, **there()).execute(context)
    aws.client("s3").delete_object(Bucket=BUCKET, Key="alive/terraform.tfstate")
    with pytest.raises(Exception, match=rf"alive is still there .* still in {THERE}"):
        deleting(arguments, infrastructure=handle).execute(context)


@pytest.mark.slow
def test_the_bundled_module_in_two_regions_and_a_delete_that_gets_nothing_but_the_handle(
    aws: AwsServer, context: dict[str, Any]
) -> None:
    binary = str(need_terraform().path)
    handles = {}
    for region in (HERE, THERE):
        handles[region] = SetupRayInfrastructure(
            task_id="infrastructure",
            module="eks",
            variables={
                "name": f"ray-{region}",
                "availability_zones": [f"{region}a", f"{region}b"],
                "log_drain_seconds": 0,
            },
            providers={"aws": {"region": region}},
            backend=backend(f"mission-{region}"),
            terraform_binary=binary,
        ).execute(context)
    assert all(f"ray-{region}" in clusters(aws, region) for region in handles)
    for region, handle in handles.items():
        delete = DeleteRayInfrastructure(
            task_id="d",
            infrastructure=handle,
            confirm=f"ray-{region}",
            live_clusters="ignore",
            terraform_binary=binary,
        )
        assert delete.execute(context)["destroyed"] > 30
        assert f"ray-{region}" not in clusters(aws, region)
