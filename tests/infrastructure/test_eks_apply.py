"""The EKS module with the real AWS provider against an emulated AWS: made, planned again, changed, protected, destroyed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_provider.hooks import RayHook
from ray_provider.infrastructure.idle import IdleCost
from ray_provider.operators import DeleteRayAddons, SetupRayAddons
from tests.infrastructure.lab.aws_server import AwsServer
from tests.support.airflow_task import FakeTask, context_of
from tests.support.control_plane import control_plane
from tests.support.helm import CHART, tool
from tests.support.kubernetes import Kubernetes
from tests.support.terraform import ROOT, Workspace, copy_tree, environment, need_aws_provider, need_terraform

NAME = "raytest"
GPU_POOL = {"machine_type": "g5.12xlarge", "capacity": "spot", "max": 2, "labels": {"team": "vision"}}
VARIABLES: dict[str, Any] = {
    "name": NAME,
    "availability_zones": ["us-east-1a", "us-east-1b"],
    "node_pools": {"cpu": {"machine_type": "m6i.2xlarge", "max": 4}, "a10g": GPU_POOL},
    "service_accounts": {"ray": {"namespace": "ray", "name": "ray", "bucket_access": "write"}},
    "ray_service_account": "ray",
    "log_drain_seconds": 0,
    "access_entries": {
        "ops": {"principal_arn": "arn:aws:iam::123456789012:role/ops", "policy": "view", "namespaces": ["ray"]}
    },
}


def configure(workspace: Workspace, **changes: Any) -> None:
    (workspace.folder / "test.auto.tfvars.json").write_text(json.dumps(VARIABLES | changes))


def leftovers(aws: AwsServer) -> dict[str, list[Any]]:
    """What is there of the kinds that the module makes, moto's own default network aside."""
    ec2, eks = aws.client("ec2"), aws.client("eks")
    return {
        "clusters": eks.list_clusters()["clusters"],
        "vpcs": [vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"] if not vpc["IsDefault"]],
        "nat": [
            gateway["NatGatewayId"]
            for gateway in ec2.describe_nat_gateways()["NatGateways"]
            if gateway["State"] != "deleted"
        ],
        "addresses": ec2.describe_addresses()["Addresses"],
        "launch templates": ec2.describe_launch_templates()["LaunchTemplates"],
        "roles": [role["RoleName"] for role in aws.client("iam").list_roles()["Roles"]],
        "buckets": aws.client("s3").list_buckets()["Buckets"],
        "log groups": aws.client("logs").describe_log_groups()["logGroups"],
        "aliases": [
            alias
            for alias in aws.client("kms").list_aliases()["Aliases"]
            if not alias["AliasName"].startswith("alias/aws/")
        ],
    }


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsServer]:
    with AwsServer(log=tmp_path_factory.mktemp("aws") / "requests.log") as server:
        yield server


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory, aws: AwsServer) -> Workspace:
    """The module as a root module of its own: no provider block, everything from the environment."""
    program = need_terraform()
    folder = tmp_path_factory.mktemp("eks")
    env = environment(folder / "cli", program=program, mirrors=[need_aws_provider()], extra=aws.env)
    workspace = Workspace(copy_tree(folder) / "modules" / "eks", program, env)
    configure(workspace)
    workspace.init()
    workspace.apply()
    return workspace


@pytest.fixture(scope="module")
def outputs(applied: Workspace) -> dict[str, Any]:
    return applied.outputs()


def idle(applied: Workspace, plan: Path) -> IdleCost:
    return IdleCost.of(json.loads(applied.run("show", "-json", str(plan)).stdout))


def test_the_plan_warns_of_what_is_kept_for_nobody_and_of_what_can_not_change(
    applied: Workspace, tmp_path: Path
) -> None:
    kept = {**VARIABLES["node_pools"], "a10g": {**GPU_POOL, "min": 1}}
    configure(applied, node_pools=kept, creator_is_admin=False)
    _, text = applied.plan("-refresh=false", "-out", str(tmp_path / "plan"))
    configure(applied)
    # The pool. Who made the cluster is asked once: it is not made anew.
    assert "0 to add, 1 to change, 0 to destroy" in text
    assert "creator_is_admin counts when the cluster is made" in " ".join(text.replace("\u2502", " ").split())
    line, warning = idle(applied, tmp_path / "plan").lines()
    assert "1 \u00d7 g5.12xlarge" in line
    assert "4 GPUs" in line
    assert "node_pools.a10g keeps 1 machine with accelerators" in warning


def test_cluster_is_private_encrypted_and_logged(applied: Workspace, aws: AwsServer) -> None:
    cluster = aws.client("eks").describe_cluster(name=NAME)["cluster"]
    assert cluster["resourcesVpcConfig"]["endpointPublicAccess"] is False
    assert cluster["resourcesVpcConfig"]["endpointPrivateAccess"] is True
    assert len(cluster["resourcesVpcConfig"]["subnetIds"]) == 2
    assert cluster["encryptionConfig"][0]["resources"] == ["secrets"]
    enabled = [entry["types"] for entry in cluster["logging"]["clusterLogging"] if entry["enabled"]]
    assert sorted(enabled[0]) == ["api", "audit", "authenticator", "controllerManager", "scheduler"]
    assert cluster["accessConfig"]["authenticationMode"] == "API"
    groups = {group["logGroupName"]: group for group in aws.client("logs").describe_log_groups()["logGroups"]}
    for name in (f"/aws/eks/{NAME}/cluster", f"/aws/vpc/{NAME}/flow"):
        assert groups[name]["retentionInDays"] == 365
        assert ":key/" in groups[name]["kmsKeyId"]
    assert aws.client("ec2").describe_flow_logs()["FlowLogs"][0]["TrafficType"] == "ALL"


def test_nodes_have_no_public_address_and_leave_by_nat(applied: Workspace, aws: AwsServer) -> None:
    ec2 = aws.client("ec2")
    group = aws.client("eks").describe_nodegroup(clusterName=NAME, nodegroupName="cpu")["nodegroup"]
    subnets = ec2.describe_subnets(SubnetIds=group["subnets"])["Subnets"]
    assert {subnet["AvailabilityZone"] for subnet in subnets} == {"us-east-1a", "us-east-1b"}
    assert not any(subnet["MapPublicIpOnLaunch"] for subnet in subnets)
    for subnet in subnets:
        (table,) = ec2.describe_route_tables(
            Filters=[{"Name": "association.subnet-id", "Values": [subnet["SubnetId"]]}]
        )["RouteTables"]
        (default,) = [route for route in table["Routes"] if route.get("DestinationCidrBlock") == "0.0.0.0/0"]
        assert default["NatGatewayId"]


def test_gpu_pool_as_the_api_has_it(applied: Workspace, aws: AwsServer) -> None:
    group = aws.client("eks").describe_nodegroup(clusterName=NAME, nodegroupName="a10g")["nodegroup"]
    assert group["taints"] == [{"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"}]
    assert group["labels"] == {
        "ray-pool": "a10g",
        "team": "vision",
        "k8s.amazonaws.com/accelerator": "nvidia-a10g",
    }
    assert group["nodeRepairConfig"]["enabled"] is True
    name = group["resources"]["autoScalingGroups"][0]["name"]
    tags = aws.client("autoscaling").describe_tags(Filters=[{"Name": "auto-scaling-group", "Values": [name]}])["Tags"]
    told = {tag["Key"].removeprefix("k8s.io/cluster-autoscaler/node-template/"): tag["Value"] for tag in tags}
    assert told["label/ray-pool"] == "a10g"
    assert told["taint/nvidia.com/gpu"] == "present:NoSchedule"
    assert told["resources/nvidia.com/gpu"] == "4"
    assert group["capacityType"] == "SPOT"
    assert group["amiType"] == "AL2023_x86_64_NVIDIA"
    assert group["instanceTypes"] == ["g5.12xlarge"]
    assert group["scalingConfig"] == {"minSize": 0, "maxSize": 2, "desiredSize": 0}
    versions = aws.client("ec2").describe_launch_template_versions(LaunchTemplateId=group["launchTemplate"]["id"])[
        "LaunchTemplateVersions"
    ]
    data = versions[-1]["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert data["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


def test_identities_of_service_accounts(outputs: dict[str, Any], aws: AwsServer) -> None:
    eks, iam = aws.client("eks"), aws.client("iam")
    found = {
        item["serviceAccount"]: item for item in eks.list_pod_identity_associations(clusterName=NAME)["associations"]
    }
    assert set(found) == {"ray", "cluster-autoscaler"}
    role = outputs["service_accounts"]["ray"]["identity"].rpartition("/")[2]
    trust = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
    assert trust["Statement"][0]["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    policy = iam.get_role_policy(RoleName=role, PolicyName="bucket")["PolicyDocument"]
    actions = {
        action
        for statement in policy["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "kms:Decrypt"} <= actions
    resources = json.dumps([statement["Resource"] for statement in policy["Statement"]])
    assert outputs["bucket_uri"].removeprefix("s3://") in resources
    assert '"*"' not in resources


def test_bucket_is_closed(outputs: dict[str, Any], aws: AwsServer) -> None:
    s3, bucket = aws.client("s3"), outputs["bucket_uri"].removeprefix("s3://")
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    rule = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert "aws:SecureTransport" in s3.get_bucket_policy(Bucket=bucket)["Policy"]


def test_access_entry_is_limited_to_its_namespace(applied: Workspace, aws: AwsServer) -> None:
    answer = aws.client("eks").list_associated_access_policies(
        clusterName=NAME, principalArn="arn:aws:iam::123456789012:role/ops"
    )
    (policy,) = answer["associatedAccessPolicies"]
    assert policy["policyArn"].endswith("AmazonEKSViewPolicy")
    assert policy["accessScope"] == {"type": "namespace", "namespaces": ["ray"]}


def test_outputs_describe_the_pools(outputs: dict[str, Any]) -> None:
    assert outputs["cloud"] == "aws"
    assert outputs["location"] == "us-east-1"
    pool = outputs["node_pools"]["a10g"]
    assert pool["accelerator"] == {"resource": "nvidia.com/gpu", "type": "A10G", "count": 4}
    assert pool["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}
    ]
    assert 40 <= pool["allocatable"]["cpu"] < 48
    assert 160 <= pool["allocatable"]["memory_gib"] < 192
    assert outputs["nvidia_device_plugin_required"] is True
    assert outputs["ray_operator_managed"] is False


def test_no_token_in_state_or_outputs(applied: Workspace) -> None:
    text = (applied.folder / "terraform.tfstate").read_text()
    assert "k8s-aws-v1." not in text
    assert "kubeconfig" not in text.lower()
    state = applied.state()
    assert not [resource["type"] for resource in state["resources"] if resource["type"] == "aws_eks_cluster_auth"]
    assert state["outputs"]["cluster_ca_certificate"]["sensitive"] is True


@pytest.mark.parametrize("version", ["helm3", "helm4"])
def test_values_go_to_the_chart_as_they_are(outputs: dict[str, Any], tmp_path: Path, version: str) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps(outputs["ray_helm_values"]))
    done = subprocess.run(
        [str(tool(version)), "template", "ray", str(CHART), "--namespace", "ray", "-f", str(values)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    import yaml

    (cluster,) = [
        document for document in yaml.safe_load_all(done.stdout) if document and document["kind"] == "RayCluster"
    ]
    spec = cluster["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    head = spec["headGroupSpec"]["template"]["spec"]
    assert head["nodeSelector"] == {"ray-pool": "system"}
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == {"a10g", "cpu"}
    gpu = groups["a10g"]
    assert (gpu["minReplicas"], gpu["maxReplicas"]) == (0, 2)
    pod = gpu["template"]["spec"]
    assert pod["nodeSelector"] == {"ray-pool": "a10g"}
    assert {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"} in pod[
        "tolerations"
    ]
    assert int(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) == 4


#: What the cluster autoscaler does, and what it has no business with.
AUTOSCALER = "--as=system:serviceaccount:kube-system:cluster-autoscaler"
RIGHTS = {
    ("list", "pods"): True,
    ("create", "pods --subresource=eviction"): True,
    ("delete", "nodes"): True,
    ("update", "leases.coordination.k8s.io/cluster-autoscaler"): True,
    ("update", "leases.coordination.k8s.io/another"): False,
    ("get", "secrets"): False,
    ("create", "pods"): False,
}


def test_what_gpu_pods_need_goes_to_a_real_api_server_and_away_again(
    outputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SetupRayAddons and DeleteRayAddons: the module's own objects, with the pods that they would make."""
    manifests = outputs["kubernetes_manifests"]
    (tmp_path / "plane").mkdir(mode=0o700)
    with control_plane(tmp_path / "plane") as plane:
        kubernetes = Kubernetes(plane.kubeconfig, tmp_path, plane.kuberay_version, plane)
        extra = {"backend": "kubernetes", "kube_config_path": str(plane.kubeconfig)}
        own = {"host": None, "port": None, "schema": None, "password": None, "login": None}
        found = SimpleNamespace(extra=json.dumps(extra), extra_dejson=extra, **own)
        monkeypatch.setattr(RayHook, "get_connection", staticmethod(lambda _: found))
        what = {"manifests": manifests, "kuberay_operator": "require"}
        made = SetupRayAddons(task_id="addons", **what).execute(context_of(FakeTask()))["installed"]
        assert len(made) == len(manifests["items"]) == 7
        for workload in ("daemonset/nvidia-device-plugin-daemonset", "deployment/cluster-autoscaler"):
            spec = kubernetes.get(workload, "-n", "kube-system")["spec"]["template"]["spec"]
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": "kube-system"}}
            kubernetes.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps({**pod, "spec": spec}))
        for (verb, thing), may in RIGHTS.items():
            command = (kubernetes.kubectl_path, "auth", "can-i", verb, *thing.split(), "-n", "kube-system", AUTOSCALER)
            done = subprocess.run(command, env=kubernetes.env(), capture_output=True, text=True, check=False)
            assert done.stdout.strip() == ("yes" if may else "no"), (verb, thing, done.stderr)
        removed = DeleteRayAddons(task_id="delete_addons", **what).execute(context_of(FakeTask()))["removed"]
        assert sorted(removed) == sorted(made)
        kinds = "daemonsets,deployments,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
        assert kubernetes.kubectl("get", kinds, "-A", "-l", "airflow-ray/managed=true", "-o", "name") == ""


#: What the rows from here on have: a pool more, another one's limit, and a cluster that nobody destroys by mistake.
CHANGED: dict[str, Any] = {
    "node_pools": {
        "cpu": {"machine_type": "m6i.2xlarge", "max": 8},
        "a10g": GPU_POOL,
        "h100": {
            "machine_type": "p5.48xlarge",
            "capacity": "reservation",
            "reservation_id": "cr-0123456789abcdef0",
            "max": 1,
            "zones": ["us-east-1a"],
        },
    },
    "deletion_protection": True,
}


def test_a_pool_is_added_and_another_resized(applied: Workspace, aws: AwsServer, tmp_path: Path) -> None:
    configure(applied, **CHANGED)
    status, text = applied.plan("-refresh=false", "-out", str(tmp_path / "plan"))
    assert status == 2
    # The launch template, the group, its place, and five tags for the autoscaler; the other pool, and the protection.
    assert "8 to add, 2 to change, 0 to destroy" in text
    applied.apply(str(tmp_path / "plan"))
    eks = aws.client("eks")
    assert set(eks.list_nodegroups(clusterName=NAME)["nodegroups"]) == {"system", "cpu", "a10g", "h100"}
    assert eks.describe_nodegroup(clusterName=NAME, nodegroupName="cpu")["nodegroup"]["scalingConfig"]["maxSize"] == 8
    added = eks.describe_nodegroup(clusterName=NAME, nodegroupName="h100")["nodegroup"]
    versions = aws.client("ec2").describe_launch_template_versions(LaunchTemplateId=added["launchTemplate"]["id"])[
        "LaunchTemplateVersions"
    ]
    reservation = versions[-1]["LaunchTemplateData"]["CapacityReservationSpecification"]["CapacityReservationTarget"]
    assert reservation["CapacityReservationId"] == "cr-0123456789abcdef0"
    assert applied.outputs()["node_pools"]["h100"]["accelerator"]["count"] == 8


def test_a_plan_after_it_finds_nothing_to_do_and_says_what_runs_with_nobody_using_it(
    applied: Workspace, tmp_path: Path
) -> None:
    """After all that was made: the one plan that asks AWS about each thing."""
    status, text = applied.plan("-out", str(tmp_path / "plan"))
    assert status == 0, text
    assert "No changes" in text
    things = "control plane, NAT gateway, 1 \u00d7 m6i.2xlarge, 1 \u00d7 m6i.xlarge"
    assert idle(applied, tmp_path / "plan").lines() == [f"With nobody using it, this runs: {things}, 0 GPUs."]


def test_a_machine_without_that_accelerator_is_refused_before_anything_changes(applied: Workspace) -> None:
    serial = applied.state()["serial"]
    kind = {**GPU_POOL, "accelerator": {"type": "H100"}}
    number = {**GPU_POOL, "accelerator": {"count": 8}}
    configure(applied, node_pools={"kind": kind, "number": number})
    done = applied.run("plan", "-input=false", "-no-color", "-refresh=false", check=False)
    configure(applied, **CHANGED)
    assert done.returncode == 1
    for field in ("kind.accelerator.type", "number.accelerator.count"):
        assert f"pools.{field}" in " ".join(done.stderr.split())
    assert applied.state()["serial"] == serial


def test_protection_refuses_to_destroy_and_keeps_everything(applied: Workspace, aws: AwsServer) -> None:
    asked = ["-input=false", "-no-color", "-auto-approve", "-refresh=false"]
    for command in (["destroy", *asked], ["apply", *asked, "-replace=aws_eks_cluster.this"]):
        done = applied.run(*command, check=False)
        assert done.returncode == 1
        assert "deletion_protection is on" in done.stdout + done.stderr
        assert aws.client("eks").list_clusters()["clusters"] == [NAME]
        pools = aws.client("eks").list_nodegroups(clusterName=NAME)["nodegroups"]
        assert set(pools) == {"system", "cpu", "a10g", "h100"}
    configure(applied, **{**CHANGED, "deletion_protection": False})
    applied.apply("-refresh=false")


def test_destroy_leaves_nothing(applied: Workspace, aws: AwsServer) -> None:
    applied.destroy("-refresh=false")  # a plan above has read it all
    assert applied.state()["resources"] == []
    assert leftovers(aws) == dict.fromkeys(leftovers(aws), [])
    keys = [
        aws.client("kms").describe_key(KeyId=key["KeyId"])["KeyMetadata"]
        for key in aws.client("kms").list_keys()["Keys"]
    ]
    assert not [key["KeyId"] for key in keys if key["KeyState"] == "Enabled" and key["KeyManager"] == "CUSTOMER"]
    print("\n".join(f"{name}: {seconds:.1f} s" for name, seconds in applied.times))


def test_the_documented_rights_are_those_that_terraform_uses(applied: Workspace, aws: AwsServer) -> None:
    """All that it asked in this file, from the first plan to the destroy. S3 aside, which is named as a whole."""
    text = (ROOT / "docs" / "infrastructure.md").read_text()
    section = text.partition("Terraform's identity needs, for this module:")[2].partition("What Terraform asks")[0]
    rights = re.findall(r"`([a-z0-9]+:[A-Za-z*]+)`", section)
    asked = aws.terraform_calls()
    assert asked >= {"eks:DeleteCluster", "iam:DeleteRole", "kms:ScheduleKeyDeletion", "logs:DeleteLogGroup"}
    assert sorted(call for call in asked if not any(fnmatchcase(call, right) for right in rights)) == []
