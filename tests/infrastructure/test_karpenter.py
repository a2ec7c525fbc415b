"""Auto Mode's node pools, and those of the example with Karpenter, read by a real Karpenter on a real API server.

EKS Auto Mode runs Karpenter itself. Real are the module's plan (with the real AWS provider), the objects and the values that
it hands out, the chart, and Karpenter's decisions. Its machines are Node objects: no cloud is asked.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ray_provider.exceptions import ClusterTimeoutError
from ray_provider.hooks import RayHook
from ray_provider.operators import DeleteRayAddons, SetupRayAddons
from tests.infrastructure.lab.aws_server import AwsServer
from tests.support.airflow_task import FakeTask, context_of
from tests.support.control_plane import ControlPlane, control_plane
from tests.support.helm import CHART, tool
from tests.support.karpenter import NODE_CLASS, karpenter
from tests.support.kubernetes import Kubernetes, until
from tests.support.terraform import Workspace, copy_tree, environment, need_aws_provider, need_terraform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MACHINES = {
    "m6i.xlarge": {"cpu": "4", "memory": "16Gi"},
    "m6i.2xlarge": {"cpu": "8", "memory": "32Gi"},
    "g5.12xlarge": {"cpu": "48", "memory": "192Gi", "nvidia.com/gpu": "4"},
    "g5.24xlarge": {"cpu": "96", "memory": "384Gi", "nvidia.com/gpu": "4"},
}
VARIABLES = {
    "name": "raytest",
    "auto_mode": True,
    "availability_zones": ["us-east-1a", "us-east-1b"],
    "node_pools": {
        "cpu": {"machine_type": "m6i.2xlarge", "max": 2},
        "a10g": {"machine_type": "g5.12xlarge", "capacity": "spot", "max": 1, "zones": ["us-east-1a"]},
    },
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """The outputs of both roots, as their plans know them."""
    program, folder = need_terraform(), tmp_path_factory.mktemp("planned")
    tree = copy_tree(folder)
    (tree / "modules" / "eks" / "test.auto.tfvars.json").write_text(json.dumps(VARIABLES))
    with AwsServer(log=folder / "requests.log") as aws:
        env = environment(folder / "cli", program=program, mirrors=[need_aws_provider()], extra=aws.env)
        found = {}
        for root in ("modules/eks", "examples/eks-karpenter"):
            workspace = Workspace(tree / root, program, env)
            workspace.init()
            workspace.plan("-out", str(folder / "plan"))
            plan = json.loads(workspace.run("show", "-json", str(folder / "plan")).stdout)
            found[root] = {name: change.get("after") for name, change in plan["output_changes"].items()}
        yield found


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    (tmp_path / "plane").mkdir(mode=0o700)
    with control_plane(tmp_path / "plane") as found:
        yield found


@pytest.fixture
def kubernetes(plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubernetes:
    extra = {"backend": "kubernetes", "kube_config_path": str(plane.kubeconfig)}
    own = {"host": None, "port": None, "schema": None, "password": None, "login": None}
    found = SimpleNamespace(extra=json.dumps(extra), extra_dejson=extra, **own)
    monkeypatch.setattr(RayHook, "get_connection", staticmethod(lambda _: found))
    return Kubernetes(plane.kubeconfig, tmp_path, plane.kuberay_version, plane)


def worker_of(values: dict[str, Any], group: str, folder: Path) -> dict[str, Any]:
    """Give a pod of a worker group, as the chart has it with these values."""
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    done = subprocess.run(
        [str(tool("helm3")), "template", "ray", str(CHART), "--namespace", "default", "-f", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (cluster,) = [one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] == "RayCluster"]
    (found,) = [one for one in cluster["spec"]["workerGroupSpecs"] if one["groupName"] == group]
    spec = {**found["template"]["spec"], "serviceAccountName": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": f"{group}-"}, "spec": spec}


def pending(kubernetes: Kubernetes, pod: dict[str, Any]) -> str:
    """Make a pod for which the scheduler found no node."""
    name = kubernetes.kubectl("create", "-f", "-", "-o", "name", stdin=json.dumps(pod)).strip()
    why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
    status = json.dumps({"status": {"conditions": [why]}})
    kubernetes.kubectl("patch", name, "--subresource=status", "--type=merge", "-p", status)
    return name


def nodes(kubernetes: Kubernetes, pool: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = kubernetes.get("nodes", "-l", f"ray-pool={pool}")["items"]
    return items


def manifests_of(outputs: dict[str, Any]) -> dict[str, Any]:
    """The module's NodePools, with machines of the provider for tests; nothing else of them is changed."""
    items = [one for one in outputs["kubernetes_manifests"]["items"] if one and one["kind"] == "NodePool"]
    for one in items:
        one["spec"]["template"]["spec"]["nodeClassRef"] = NODE_CLASS
    return {"apiVersion": "v1", "kind": "List", "items": items}


@pytest.mark.parametrize("root", ["modules/eks", "examples/eks-karpenter"])
def test_a_pending_gpu_pod_brings_a_machine_of_its_pool_and_no_more_than_max(
    planned: dict[str, dict[str, Any]], plane: ControlPlane, kubernetes: Kubernetes, tmp_path: Path, root: str
) -> None:
    outputs = planned[root]
    assert (outputs["cloud"], outputs["location"]) == ("aws", "us-east-1"), "the tasks after a set-up find it by these"
    limit = {"modules/eks": 1, "examples/eks-karpenter": 4}[root]
    manifests = manifests_of(json.loads(json.dumps(outputs)))
    gpu, cpu = (worker_of(outputs["ray_helm_values"], group, tmp_path) for group in ("a10g", "cpu"))
    what = {"manifests": manifests, "kuberay_operator": "require"}
    with karpenter(plane, kubernetes, MACHINES):
        made = SetupRayAddons(task_id="addons", **what).execute(context_of(FakeTask()))
        assert sorted(made["installed"]) == ["NodePool a10g", "NodePool cpu"]
        for pool in ("a10g", "cpu"):
            kubernetes.kubectl("wait", "--for=condition=Ready", "--timeout=30s", f"nodepool/{pool}")
        assert nodes(kubernetes, "a10g") == nodes(kubernetes, "cpu") == []

        pods = [pending(kubernetes, gpu) for _ in range(limit + 1)]
        until(lambda: len(nodes(kubernetes, "a10g")) == limit, 60, f"{limit} machines with GPUs")
        for node in nodes(kubernetes, "a10g"):
            labels = node["metadata"]["labels"]
            assert labels["node.kubernetes.io/instance-type"] == "g5.12xlarge"
            assert labels["karpenter.sh/capacity-type"] == "spot"
            assert node["status"]["allocatable"]["nvidia.com/gpu"] == "4"
        taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
        until(lambda: all(taint in node["spec"]["taints"] for node in nodes(kubernetes, "a10g")), 30, "the taint")
        assert nodes(kubernetes, "cpu") == []

        pods.append(pending(kubernetes, cpu))
        until(lambda: nodes(kubernetes, "cpu"), 60, "a machine without GPUs")
        assert nodes(kubernetes, "cpu")[0]["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "m6i.2xlarge"
        # Karpenter has looked at all pods by then: one is left over, as `max` says.
        assert len(nodes(kubernetes, "a10g")) == limit

        # Machines that still carry a pod are not left behind: the pools stay until they have ended.
        kubernetes.kubectl("delete", "--wait=false", *pods)
        removed = DeleteRayAddons(task_id="delete_addons", timeout_seconds=120, **what).execute(context_of(FakeTask()))
        assert sorted(removed["removed"]) == ["NodePool a10g", "NodePool cpu"]
        assert nodes(kubernetes, "a10g") == nodes(kubernetes, "cpu") == []
        assert kubernetes.get("nodeclaims")["items"] == []


def test_pools_whose_machines_do_not_end_are_named(
    planned: dict[str, dict[str, Any]], plane: ControlPlane, kubernetes: Kubernetes, tmp_path: Path
) -> None:
    """Karpenter is gone, and its machines are there: Terraform must not take the network from under them."""
    outputs = planned["modules/eks"]
    what = {"manifests": manifests_of(json.loads(json.dumps(outputs))), "kuberay_operator": "require"}
    with karpenter(plane, kubernetes, MACHINES):
        SetupRayAddons(task_id="addons", **what).execute(context_of(FakeTask()))
        pending(kubernetes, worker_of(outputs["ray_helm_values"], "cpu", tmp_path))
        until(lambda: nodes(kubernetes, "cpu"), 60, "a machine")
    with pytest.raises(ClusterTimeoutError, match="NodePool cpu"):
        DeleteRayAddons(task_id="delete_addons", timeout_seconds=3, **what).execute(context_of(FakeTask()))
    assert nodes(kubernetes, "cpu")
