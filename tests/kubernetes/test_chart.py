"""The chart helm/ray-cluster on a real API server, and one cluster of it with everything that is on by default."""

from __future__ import annotations

import subprocess

import pytest

from tests.kubernetes.releases import helm, replicas, suited
from tests.support.helm import CHART, ROOT
from tests.support.kubernetes import until

ROLE = ROOT / "helm" / "roles" / "provider-role.yaml"
DASHBOARD = "http://127.0.0.1:8265/api/version"
SMALL = {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
HEAD = {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "3Gi"}}


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
    wait = ("wait", "--for=condition=RayClusterProvisioned", "raycluster/closed", "-n", namespace, "--timeout=300s")
    kubernetes.kubectl(*wait)
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
    task = "import ray\nray.init(address='auto')\nprint('answer', ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=300))"
    assert "answer 42" in inside("ray-head", "python", "-c", task)
    worker = kubernetes.get("pods", "-n", namespace, "-l", "ray.io/node-type=worker")["items"]
    assert [p["spec"]["restartPolicy"] for p in worker] == ["Never"]
    # Idle, it goes again: the autoscaler writes the RayCluster.
    until(lambda: replicas(kubernetes, namespace, "closed") == {"workergroup": 0}, 300, "scaling down", every=1)

    helm_env = kubernetes.env(KUBECONFIG=str(access))
    subprocess.run([kubernetes.helm4, "uninstall", "closed", "-n", namespace], env=helm_env, check=True, timeout=300)
    until(lambda: not kubernetes.exists("pods", "-n", namespace, "-l", "ray.io/cluster=closed"), 300, "end of the pods")
    assert not kubernetes.exists("networkpolicies", "-n", namespace)
