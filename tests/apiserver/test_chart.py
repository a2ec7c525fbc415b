"""The chart helm/ray-cluster on a real API server: what it renders is taken strictly, and upgrades keep what others own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helm.test_definition import EVERYTHING
from tests.kubernetes.releases import helm, replicas, suited
from tests.support.helm import CHART, PROFILES, ROOT, Helm, HelmError
from tests.support.kubernetes import KubectlError, Kubernetes

ROLE = ROOT / "helm" / "roles" / "provider-role.yaml"
OFFICIAL = sorted(
    p for p in (ROOT / "tests" / "helm" / "official-values").glob("*.yaml") if not p.name.endswith(".expect.yaml")
)
BESIDE = {
    "podDisruptionBudget": {"head": {"enabled": True}, "workers": {"enabled": True}},
    "ingress": {"enabled": True, "hosts": [{"host": "ray.example.com"}]},
    "networkPolicy": {"apiServer": {"cidrs": ["10.0.0.0/28"]}, "egress": {"restricted": True}},
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}],
    "commonLabels": {"airflow-dag": "train"},
}


def render(kubernetes: Kubernetes, tmp_path: Path, values: dict, files: list[Path]) -> str:
    """Render as the user of this operator would: Helm 3 and Helm 4 make the same of it."""
    objects, same = (Helm(one, tmp_path).template(values, files=files) for one in (kubernetes.helm4, kubernetes.helm3))
    assert objects == same
    return yaml.safe_dump_all(list(objects))


def cases() -> dict[str, tuple[dict, list[Path]]]:
    profiles = {f"profile {p.stem}": ({}, [p]) for p in sorted(PROFILES.glob("*.yaml"))}
    official = {f"official values {p.stem}": ({}, [p]) for p in OFFICIAL}
    layered = [PROFILES / f"{name}.yaml" for name in ("cpu", "gpu-gke", "spot", "autoscaling", "fault-tolerant")]
    return {
        **profiles,
        **official,
        "layers": ({}, layered),
        "everything": (EVERYTHING, []),
        "objects beside": (BESIDE, []),
    }


@pytest.fixture(scope="module")
def dry_namespace(kubernetes) -> Iterator[str]:
    """One namespace for all dry runs: nothing is made in it."""
    with kubernetes.namespace("dry") as name:
        yield name


@pytest.mark.parametrize("name", cases())
def test_the_api_server_accepts_every_render_strictly(kubernetes, dry_namespace, tmp_path, name):
    """With an operator that does not know a value, the chart says so instead."""
    values, files = cases()[name]
    text, refusal = "", ""
    try:
        text = render(kubernetes, tmp_path, suited(kubernetes, values), files)
    except HelmError as error:
        refusal = str(error)
    if refusal:
        assert kubernetes.kuberay_version != "1.6.1", refusal
        assert "KubeRay knows this from" in refusal
        return
    text = text.replace("namespace: ray\n", f"namespace: {dry_namespace}\n")
    said = kubernetes.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-n", dry_namespace, "-f", "-", stdin=text
    )
    assert "raycluster.ray.io/" in said
    assert "Warning" not in said


def test_strict_means_something(kubernetes, dry_namespace, tmp_path):
    text = render(kubernetes, tmp_path, {"kuberayVersion": "1.7.0", "tlsOptions": {"enabled": True}}, [])
    text = text.replace("namespace: ray\n", f"namespace: {dry_namespace}\n")
    with pytest.raises(KubectlError, match=r"unknown field.*tlsOptions"):
        kubernetes.kubectl("apply", "--dry-run=server", "--validate=strict", "-n", dry_namespace, "-f", "-", stdin=text)


#: The other Helm gets the same arguments from us: `make test` has the one that is newer.
@pytest.mark.parametrize("three", [pytest.param(True, marks=pytest.mark.slow), False], ids=["helm3", "helm4"])
def test_an_upgrade_leaves_the_autoscalers_replicas_alone(kubernetes, namespace, three):
    """The autoscaler is played by kubectl; the cluster is suspended, so that no pod is needed for it."""
    values = {
        "fullnameOverride": "kept",
        "suspend": True,
        "head": {"enableInTreeAutoscaling": True},
        "worker": {"replicas": 0, "minReplicas": 0, "maxReplicas": 5},
        "additionalWorkerGroups": {"other": {"maxReplicas": 5}},
    }
    access = kubernetes.service_account_kubeconfig(namespace, ROLE)
    command = ["upgrade", "--install", "kept", CHART, "-n", namespace]
    values = suited(kubernetes, values)
    helm(kubernetes, three, *command, kubeconfig=access, values=values)
    assert replicas(kubernetes, namespace, "kept") == {"workergroup": 0, "other": 0}
    patch = [
        {"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 4},
        {"op": "add", "path": "/spec/workerGroupSpecs/0/scaleStrategy", "value": {"workersToDelete": ["kept-1"]}},
        {"op": "replace", "path": "/spec/workerGroupSpecs/1/replicas", "value": 2},
    ]
    # A controller that writes at the same moment is a conflict; the autoscaler tries again, too.
    kubernetes.kubectl("patch", "raycluster", "kept", "-n", namespace, "--type=json", "-p", json.dumps(patch))
    values["worker"]["labels"] = {"changed": "yes"}
    values["additionalWorkerGroups"]["other"]["maxReplicas"] = 1
    force = [] if three else ["--force-conflicts"]
    helm(kubernetes, three, *command, *force, kubeconfig=access, values=values)
    cluster = kubernetes.get("raycluster", "kept", "-n", namespace)
    group = cluster["spec"]["workerGroupSpecs"][0]
    assert group["template"]["metadata"]["labels"]["changed"] == "yes"
    assert group["scaleStrategy"] == {"workersToDelete": ["kept-1"]}
    assert replicas(kubernetes, namespace, "kept") == {"workergroup": 4, "other": 1}, "kept, inside the new bounds"
    # Where the values own the number, they are obeyed.
    helm(kubernetes, three, *command, *force, kubeconfig=access, values={**values, "keepReplicas": False})
    assert replicas(kubernetes, namespace, "kept") == {"workergroup": 0, "other": 0}
