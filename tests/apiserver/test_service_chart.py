"""The chart ray-service, and what both charts make for Ray Serve's port, on a real API server with KubeRay's operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helm.test_serve import GATEWAY, INGRESS, SHOP
from tests.helm.test_service import EVERYTHING, LABEL, SERVED, applications_for
from tests.kubernetes.node import parts
from tests.kubernetes.releases import helm, suited
from tests.support.helm import CHART, ROOT, SERVICE_CHART, Helm
from tests.support.kubernetes import KubectlError, Kubernetes, until

ROLE = ROOT / "helm" / "roles" / "provider-role.yaml"
OPEN_DOORS = {"serve": {"allowFrom": [SHOP], "ingress": INGRESS, "gateway": GATEWAY}}
GATEWAY_API = "gateway.networking.k8s.io"


@pytest.fixture(scope="module")
def gateway_api(kubernetes: Kubernetes) -> Iterator[None]:
    """The Gateway API's definitions, while these tests run. Nobody serves them: there is no controller."""
    folder = str(parts.gateway_definitions().ensure())
    kubernetes.kubectl("apply", "--server-side", "-f", folder)
    kubernetes.kubectl("wait", "--for=condition=Established", "-f", folder, "--timeout=300s")
    yield
    kubernetes.kubectl("delete", "-f", folder, "--wait=false")


@pytest.fixture(scope="module")
def dry_namespace(kubernetes: Kubernetes) -> Iterator[str]:
    with kubernetes.namespace("dry") as name:
        yield name


def dry_run(kubernetes: Kubernetes, tmp_path: Path, namespace: str, chart: Path, values: dict) -> str:
    """What a strict API server says of a render; Helm 3 and Helm 4 make the same."""
    given = suited(kubernetes, {**applications_for(chart), **values})
    made, same = (
        Helm(one, tmp_path).template(given, chart=chart, namespace=namespace)
        for one in (kubernetes.helm4, kubernetes.helm3)
    )
    assert made == same
    text = yaml.safe_dump_all(list(made))
    return kubernetes.kubectl("apply", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", stdin=text)


def test_what_the_chart_renders_is_taken_strictly(kubernetes, dry_namespace, tmp_path):
    for values in ({}, EVERYTHING):
        said = dry_run(kubernetes, tmp_path, dry_namespace, SERVICE_CHART, values)
        assert "rayservice.ray.io/demo-kuberay" in said
        assert "Warning" not in said


@pytest.mark.parametrize("chart", [CHART, SERVICE_CHART], ids=lambda path: path.name)
def test_ingress_gateway_and_route_are_taken_strictly(kubernetes, gateway_api, dry_namespace, tmp_path, chart):
    said = dry_run(kubernetes, tmp_path, dry_namespace, chart, OPEN_DOORS)
    for kind in ("ingress.networking.k8s.io", f"gateway.{GATEWAY_API}", f"httproute.{GATEWAY_API}"):
        assert f"{kind}/demo-kuberay-serve created (server dry run)" in said
    assert "Warning" not in said
    wrong = {"serve": {"gateway": {**GATEWAY, "hosts": ["no host"]}}}
    with pytest.raises(KubectlError, match="hostname"):
        dry_run(kubernetes, tmp_path, dry_namespace, chart, wrong)


#: The other Helm gets the same arguments from us: `make test` has the one that is newer.
@pytest.mark.parametrize("three", [pytest.param(True, marks=pytest.mark.slow), False], ids=["helm3", "helm4"])
def test_kuberay_makes_pods_that_the_policy_finds(kubernetes, namespace, operator, three):
    """By whoever has the provider's role; KubeRay chooses the cluster's name."""
    values = suited(kubernetes, {**SERVED, "fullnameOverride": "shop", "authOptions": {"mode": "disabled"}})
    access = kubernetes.service_account_kubeconfig(namespace, ROLE)
    command = ["upgrade", "--install", "shop", SERVICE_CHART, "-n", namespace]
    helm(kubernetes, three, *command, kubeconfig=access, values=values)
    policy = kubernetes.get("networkpolicy", "shop-ray-head", "-n", namespace)
    labels = ",".join(f"{key}={value}" for key, value in policy["spec"]["podSelector"]["matchLabels"].items())
    assert LABEL in labels

    def heads():
        return kubernetes.get("pods", "-n", namespace, "-l", labels)["items"]

    until(heads, 300, "a head that the policy finds")
    (head,) = heads()
    assert head["metadata"]["labels"]["ray.io/cluster"].startswith("shop-")
    # What is served changes: the cluster, and its pods, stay.
    values["serveConfigV2"] = {"applications": [{"name": "a", "import_path": "model:other"}]}
    helm(kubernetes, three, *command, kubeconfig=access, values=values)
    service = kubernetes.get("rayservice", "shop", "-n", namespace)
    assert "model:other" in service["spec"]["serveConfigV2"]
    assert [one["metadata"]["uid"] for one in heads()] == [head["metadata"]["uid"]]
