"""The chart helm/ray-cluster on a real API server, and one cluster of it with everything that is on by default."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helm.test_definition import EVERYTHING
from tests.support.helm import CHART, PROFILES, ROOT, Helm, HelmError
from tests.support.kubernetes import KubectlError, Kubernetes, until

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
DASHBOARD = "http://127.0.0.1:8265/api/version"
SMALL = {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
HEAD = {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "3Gi"}}


def helm(kubernetes: Kubernetes, three: bool, *arguments: str | Path, kubeconfig: Path, values: dict) -> str:
    """Run helm as whoever the kubeconfig says, with values on standard input."""
    program = kubernetes.helm3 if three else kubernetes.helm4
    done = subprocess.run(
        [program, *arguments, "-f", "-"],
        env=kubernetes.env(KUBECONFIG=str(kubeconfig)),
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout


def suited(kubernetes: Kubernetes, values: dict) -> dict:
    """Say which operator runs, and that there is no token authentication where it knows none."""
    old = tuple(map(int, kubernetes.kuberay_version.split("."))) < (1, 5, 1)
    further = {"authOptions": {"mode": "disabled"}} if old else {}
    return {**values, "kuberayVersion": kubernetes.kuberay_version, **further}


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


def replicas(kubernetes: Kubernetes, namespace: str, name: str) -> dict[str, int]:
    spec = kubernetes.get("raycluster", name, "-n", namespace)["spec"]
    return {g["groupName"]: g["replicas"] for g in spec["workerGroupSpecs"]}


@pytest.mark.parametrize("three", [True, False], ids=["helm3", "helm4"])
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


@pytest.mark.slow  # the missions scale from none, too
def test_a_cluster_with_all_that_is_on_by_default_runs_and_scales(kubernetes, namespace):
    """Restricted pods, token authentication, a network policy, the autoscaler's token in its own container only.

    All by an account with the provider's Role and nothing else, in a namespace that admits restricted pods only.
    """
    level = "pod-security.kubernetes.io/enforce=restricted"
    kubernetes.kubectl("label", "namespace", namespace, level, "pod-security.kubernetes.io/enforce-version=latest")
    access = kubernetes.service_account_kubeconfig(namespace, ROLE)
    image, _, tag = kubernetes.ray_image.rpartition(":")
    values = {
        "strict": True,
        "fullnameOverride": "closed",
        "image": {"repository": image, "tag": tag},
        "head": {
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {
                "idleTimeoutSeconds": 5,
                "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
            },
            "rayStartParams": {"num-cpus": 0, "object-store-memory": 100000000},
            "resources": HEAD,
        },
        "worker": {
            "replicas": 0,
            "minReplicas": 0,
            "maxReplicas": 1,
            "rayStartParams": {"num-cpus": 1, "object-store-memory": 80000000},
            "resources": SMALL,
        },
    }
    values = suited(kubernetes, values)
    helm(kubernetes, False, "install", "closed", CHART, "-n", namespace, kubeconfig=access, values=values)
    wait = ("wait", "--for=condition=RayClusterProvisioned", "raycluster/closed", "-n", namespace, "--timeout=120s")
    kubernetes.kubectl(*wait, timeout=130)
    (head,) = kubernetes.get("pods", "-n", namespace, "-l", "ray.io/node-type=head")["items"]
    name = head["metadata"]["name"]

    def inside(container: str, *command: str) -> str:
        return kubernetes.kubectl("exec", name, "-n", namespace, "-c", container, "--", *command)

    assert inside("ray-head", "id", "-u").strip() == "1000"
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert inside("ray-head", "sh", "-c", f"ls {folder} 2>/dev/null || echo none").strip() == "none"
    assert "token" in inside("autoscaler", "ls", folder)

    # Ray asks for the operator's token, and a task makes the autoscaler, with its token, bring a worker.
    asked = f"import urllib.request as u\nprint(u.urlopen({DASHBOARD!r}).status)"
    if "authOptions" in kubernetes.get("raycluster", "closed", "-n", namespace)["spec"]:
        with pytest.raises(AssertionError, match="HTTP Error 401"):
            inside("ray-head", "python", "-c", asked)
    else:
        assert values["authOptions"] == {"mode": "disabled"}
    task = (
        "import ray\nray.init(address='auto')\nprint('answer', ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=90))"
    )
    assert "answer 42" in inside("ray-head", "python", "-c", task)
    worker = kubernetes.get("pods", "-n", namespace, "-l", "ray.io/node-type=worker")["items"]
    assert [p["spec"]["restartPolicy"] for p in worker] == ["Never"]
    # Idle, it goes again: the autoscaler writes the RayCluster.
    until(lambda: replicas(kubernetes, namespace, "closed") == {"workergroup": 0}, 90, "scaling down", every=1)

    helm_env = kubernetes.env(KUBECONFIG=str(access))
    subprocess.run([kubernetes.helm4, "uninstall", "closed", "-n", namespace], env=helm_env, check=True, timeout=60)
    until(lambda: not kubernetes.exists("pods", "-n", namespace, "-l", "ray.io/cluster=closed"), 60, "end of the pods")
    assert not kubernetes.exists("networkpolicies", "-n", namespace)
