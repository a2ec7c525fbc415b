"""The API server without nodes itself: it serves RayClusters, and leaves no process however it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane
from tests.support.helm import ROOT
from tests.support.kubernetes import KubectlError, Kubernetes, until

CLUSTER = {
    "apiVersion": "ray.io/v1",
    "kind": "RayCluster",
    "metadata": {"name": "sample"},
    "spec": {
        "rayVersion": "2.60.0",
        "headGroupSpec": {
            "rayStartParams": {},
            "template": {"spec": {"containers": [{"name": "ray-head", "image": "rayproject/ray:2.60.0"}]}},
        },
    },
}


def test_the_operator_makes_of_a_cluster_what_can_be_made_without_nodes(
    kubernetes: Kubernetes, namespace: str, operator: None
) -> None:
    kubernetes.apply(CLUSTER, namespace)
    mine = ("-n", namespace, "-l", "ray.io/cluster=sample")
    until(lambda: kubernetes.exists("pods", *mine) and kubernetes.exists("services", *mine), 300, "pod and service")
    (pod,) = kubernetes.get("pods", *mine)["items"]
    assert pod["status"]["phase"] == "Pending"
    until(lambda: "status" in kubernetes.get("raycluster", "sample", "-n", namespace), 300, "status")
    # What a RayCluster owns goes with it: there is a garbage collector.
    kubernetes.kubectl("delete", "raycluster", "sample", "-n", namespace, "--timeout=300s")
    until(lambda: not kubernetes.exists("pods,services", *mine), 300, "end of pod and service")


def test_without_the_operator_nobody_touches_a_cluster(kubernetes: Kubernetes, namespace: str) -> None:
    kubernetes.apply(CLUSTER, namespace)
    assert "status" not in kubernetes.get("raycluster", "sample", "-n", namespace)
    assert not kubernetes.exists("pods", "-n", namespace)


def test_an_account_may_what_its_role_says_and_a_namespace_ends(kubernetes: Kubernetes) -> None:
    role = """
    kind: Role
    apiVersion: rbac.authorization.k8s.io/v1
    metadata: {name: reader}
    rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]
    """
    with kubernetes.namespace() as name:
        config = kubernetes.service_account_kubeconfig(name, role)
        kubernetes.kubectl("get", "pods", "-n", name, kubeconfig=config)
        with pytest.raises(KubectlError, match="forbidden"):
            kubernetes.kubectl("get", "secrets", "-n", name, kubeconfig=config)
    until(lambda: not kubernetes.exists("namespace", name), 300, "end of the namespace")


#: Of the means of tests alone; a restart under our own work is in tests/kubernetes and tests/faults.
@pytest.mark.slow
def test_it_can_be_restarted_with_further_arguments_and_keeps_what_it_has(
    kubernetes: Kubernetes, namespace: str
) -> None:
    kubernetes.apply({**CLUSTER, "metadata": {"name": "kept"}}, namespace)
    kubernetes.restart_api_server("--anonymous-auth=false")
    try:
        assert kubernetes.exists("raycluster", "kept", "-n", namespace)
    finally:
        kubernetes.restart_api_server()


@pytest.mark.parametrize("three", [True, False], ids=["helm3", "helm4"])
def test_helm_sees_it(kubernetes: Kubernetes, three: bool) -> None:
    # Namespaces of earlier tests may still be ending, and releases with them.
    until(
        lambda: json.loads(kubernetes.helm("list", "-A", "-o", "json", three=three)) == [], 300, "empty list", every=1
    )


OWNER = """
import sys, time
from pathlib import Path
from tests.support.control_plane import control_plane
with control_plane(Path(sys.argv[1])) as plane, plane.operator():
    print(*plane.pids(), flush=True)
    time.sleep(600)
"""


#: Of the means of tests alone; tests/lanes.py names and ends what a stage leaves behind.
@pytest.mark.slow
def test_a_killed_run_leaves_no_process(control_plane: ControlPlane, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        pids = process.stdout.readline().split()
        assert len(pids) == 4, "etcd, API server, controllers, operator"
        process.kill()
        process.wait()
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if Path("/proc", pid, "exe").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert len(control_plane.pids()) == 3, "the other one did not notice"
