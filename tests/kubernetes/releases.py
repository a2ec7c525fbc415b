"""Releases of the chart on a real API server, by Helm 3 or 4 and by whoever a kubeconfig says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from tests.support.helm import HelmError
from tests.support.kubernetes import Kubernetes


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


def replicas(kubernetes: Kubernetes, namespace: str, name: str) -> dict[str, int]:
    spec = kubernetes.get("raycluster", name, "-n", namespace)["spec"]
    return {g["groupName"]: g["replicas"] for g in spec["workerGroupSpecs"]}
