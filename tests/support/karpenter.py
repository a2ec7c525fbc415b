"""A real Karpenter beside an API server without nodes (:mod:`tests.support.control_plane`): a process.

It is built from Karpenter's Go module, with the provider that the module has for tests: its machines are Node objects, made
as soon as they are asked for, of types that a test names. What decides which machine a pending pod gets, and how many a
NodePool may have, is the same as on a cloud.

``python -m tests.support.karpenter`` builds it (some minutes, once).
"""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ray_provider.clusters.local.head import free_ports
from tests.kubernetes.node import parts
from tests.support.control_plane import ControlPlane
from tests.support.kubernetes import Kubernetes
from tests.support.requirements import need

BUILD_HOW = "Run 'python -m tests.support.karpenter' (needs the network and Go; some minutes from nothing)."
#: What a NodePool names to have machines of the provider for tests.
NODE_CLASS = {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default"}
ZONE = "us-east-1a"


def build() -> None:
    """Build what is missing of it, into the cache."""
    for part in (parts.karpenter_definitions(), parts.karpenter()):
        part.ensure()


def need_definitions() -> list[dict[str, Any]]:
    """Give Karpenter's CRDs, or skip (fail where CI is set)."""
    part = parts.karpenter_definitions()
    need("Karpenter's CRDs", present=part.built(), how=BUILD_HOW)
    return [yaml.load(file.read_text(), Loader=yaml.CSafeLoader) for file in sorted(part.ensure().glob("*.yaml"))]


@contextlib.contextmanager
def karpenter(plane: ControlPlane, kubernetes: Kubernetes, machines: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Have Karpenter at work.

    :param plane: where.
    :param kubernetes: the same.
    :param machines: what each type of machine has, by resource: ``{"g5.12xlarge": {"cpu": "48", …}}``.
    """
    need("Karpenter", present=parts.karpenter().built(), how=BUILD_HOW)
    kubernetes.apply(need_definitions())
    names = [one["metadata"]["name"] for one in need_definitions()]
    kubernetes.kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in names))
    kubernetes.apply(
        {"apiVersion": "karpenter.kwok.sh/v1alpha1", "kind": "KWOKNodeClass", "metadata": {"name": "default"}}
    )
    types = plane.state / "machines.json"
    types.write_text(json.dumps([_machine(name, resources) for name, resources in machines.items()]))
    metrics, health = free_ports(2)
    plane.start(
        "karpenter",
        *("env", f"KUBECONFIG={plane.kubeconfig}"),
        parts.karpenter().ensure() / "karpenter",
        f"--instance-types-file-path={types}",
        f"--metrics-port={metrics}",
        f"--health-probe-port={health}",
        "--disable-leader-election=true",
        "--batch-idle-duration=500ms",
    )
    try:
        plane.until("Karpenter ready", lambda: _answers(f"http://127.0.0.1:{health}/readyz"), part="karpenter")
        yield
    finally:
        plane.stop("karpenter")


def _machine(name: str, resources: Mapping[str, str]) -> dict[str, Any]:
    """Give a type of machine as the provider reads it: priced by its CPUs, and for a third of that on spot."""
    cpus = float(resources["cpu"])
    offerings = [
        {
            "Price": price,
            "Available": True,
            "Requirements": [
                {"key": "karpenter.sh/capacity-type", "operator": "In", "values": [kind]},
                {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [ZONE]},
            ],
        }
        for kind, price in (("on-demand", 3 * cpus), ("spot", cpus))
    ]
    return {
        "name": name,
        "offerings": offerings,
        "architecture": "amd64",
        "operatingSystems": ["linux"],
        "resources": {"ephemeral-storage": "200Gi", **resources},
    }


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    try:
        build()
    except parts.BuildError as failure:
        sys.exit(str(failure))
    print(f"Karpenter at {Path(parts.karpenter().ensure())}")
