"""What the plan says of what EKS would refuse, word for word: on the schema of the AWS provider's version 6."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping
from typing import Any

import pytest

from tests.infrastructure.lab.provider import workspace
from tests.support.terraform import ROOT, Workspace

GPU = {"machine_type": "g5.12xlarge", "max": 2}
#: Pools that EKS or Kubernetes would refuse, or whose pods would never be scheduled, and what the plan says of each.
REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "value": (
        {**GPU, "labels": {"purpose": "ml training/large"}},
        'pools: Kubernetes refuses value.labels["purpose"]: keys and values are up to 63 letters',
    ),
    "key": (
        {**GPU, "labels": {"my label": "x"}},
        'pools: Kubernetes refuses key.labels["my label"]: keys and values are up to 63 letters',
    ),
    "prefix": (
        {**GPU, "labels": {"node-role.kubernetes.io/gpu": "true"}},
        'pools: a node may not give itself prefix.labels["node-role.kubernetes.io/gpu"]: of the domains',
    ),
    "taint": (
        {**GPU, "taints": [{"key": "dedicated team", "value": "true"}]},
        'pools: Kubernetes refuses taint.taints["dedicated team"]: keys and values of taints',
    ),
    "twice": (
        {**GPU, "taints": [{"key": "team", "value": "a"}, {"key": "team", "value": "b", "effect": "NO_SCHEDULE"}]},
        "pools.twice.taints: two have the same key and effect, and different values",
    ),
    "effect": (
        {**GPU, "taints": [{"key": "team", "effect": "Never"}]},
        "pools.effect.taints: effect must be NoSchedule, PreferNoSchedule or NoExecute",
    ),
    "old": ({**GPU, "ami": "AL2_x86_64_GPU"}, "pools.old.ami must be an AL2023_* or BOTTLEROCKET_* AMI type of EKS."),
    "driver": (
        {**GPU, "ami": "AL2023_x86_64_STANDARD"},
        "pools.driver.ami: AL2023_x86_64_STANDARD has no driver for this machine's accelerator.",
    ),
    "efa": (
        {**GPU, "efa": True, "zones": ["us-east-1a"]},
        "pools.efa.efa: g5.12xlarge has no Elastic Fabric Adapter.",
    ),
    "disks": (
        {"machine_type": "m6i.2xlarge", "local_disks": True},
        "pools.disks.local_disks: m6i.2xlarge has no disks of its own.",
    ),
    "zone": ({**GPU, "zones": ["us-east-1f"]}, "pools.zone.zones: g5.12xlarge is not had in us-east-1f."),
    "types": (
        {**GPU, "other_machine_types": ["p5.48xlarge", "m6i.2xlarge"]},
        (
            "pools.types.other_machine_types: a worker asks for what g5.12xlarge has (an x86 CPU and 4 nvidia.com/gpu),"
            " and would never start on these: p5.48xlarge has an x86 CPU and 8 nvidia.com/gpu, m6i.2xlarge has an x86 CPU"
            " and no accelerator. Make them a pool of their own."
        ),
    ),
    "count": ({**GPU, "accelerator": {"count": 8}}, "pools.count.accelerator.count: g5.12xlarge has 4."),
    "google": (
        {**GPU, "capacity": "flex_start"},
        "pools.google.capacity must be on_demand, spot, reservation or capacity_block on AWS",
    ),
}


@pytest.fixture(scope="module")
def eks(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two zones of another kind: named, they are refused; the others are taken unasked."""
    answers = {"aws_availability_zone": {"zone_id": "use1-az3", "zone_type": "local-zone"}}
    target = workspace(tmp_path_factory.mktemp("eks"), "aws", "modules/eks", answers=answers)
    target.init()
    return target


def planned(target: Workspace, variables: Mapping[str, Any], *, refused: bool = False) -> str:
    """Plan, and give what Terraform says as one line: its errors, if it has to refuse; else its output."""
    (target.folder / "test.auto.tfvars.json").write_text(json.dumps(variables))
    done = target.run("plan", "-input=false", "-no-color", check=not refused)
    assert bool(done.returncode) is refused, done.stdout
    return " ".join((done.stderr if refused else done.stdout).replace("\u2502", " ").split())


def test_what_eks_does_not_have_is_refused_in_the_plan_by_name(eks: Workspace) -> None:
    text = planned(
        eks, {"name": "ray", "node_pools": {name: pool for name, (pool, _) in REFUSED.items()}}, refused=True
    )
    assert [message for _, message in REFUSED.values() if message not in text] == []


def test_what_no_cluster_may_be_is_refused_by_name(eks: Workspace) -> None:
    text = planned(eks, {"name": "r" * 33, "availability_zones": ["us-east-1a", "us-east-1-bos-1a"]}, refused=True)
    for message in (
        "name has 33 characters, and may have 32: AWS adds to it, and has limits of its own.",
        "availability_zones: EKS makes no cluster in cac1-az3, use1-az3, usw1-az2, and in this account ",
        "us-east-1-bos-1a is use1-az3, us-east-1a is use1-az3. Take other zones.",
        "us-east-1-bos-1a is a local-zone, us-east-1a is a local-zone. EKS wants availability zones of the region.",
    ):
        assert message in text


def test_the_eks_dag_of_the_examples_is_in_reach_once_it_is_told_from_where(
    eks: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its variables, as they stand."""

    def variables() -> dict[str, Any]:
        dag = runpy.run_path(str(ROOT / "examples" / "dags" / "ray_infrastructure_eks.py"))
        return dict(dag["infrastructure"].variables)

    warning = "the Kubernetes API will be private, in a network that nothing outside can reach"
    assert warning in planned(eks, variables())
    monkeypatch.setenv("RAY_EXAMPLE_AIRFLOW_CIDRS", "203.0.113.7/32, 198.51.100.0/24")
    told = variables()
    assert told["endpoint_public_access_cidrs"] == ["203.0.113.7/32", "198.51.100.0/24"]
    text = planned(eks, told)
    assert warning not in text
    assert "Warning" not in text
