"""Fixtures of the tests on an API server without nodes: see README.md."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.support import kubernetes as support
from tests.support.control_plane import ControlPlane
from tests.support.control_plane import control_plane as started


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server and etcd; they end with the tests."""
    with started(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture(scope="session")
def kubernetes(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> support.Kubernetes:
    """The same, with kubectl, Helm and means to set scenes."""
    scratch = tmp_path_factory.mktemp("kubernetes")
    return support.Kubernetes(control_plane.kubeconfig, scratch, control_plane.kuberay_version, control_plane)


@pytest.fixture
def namespace(kubernetes: support.Kubernetes) -> Iterator[str]:
    """A namespace of the test's own. It is deleted after it; nobody waits for that."""
    name = f"test-{secrets.token_hex(4)}"
    kubernetes.kubectl("create", "namespace", name)
    support.until(lambda: kubernetes.exists("serviceaccount", "default", "-n", name), 30, "default service account")
    yield name
    kubernetes.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def operator(control_plane: ControlPlane) -> Iterator[None]:
    """KubeRay's operator, at work while the test runs."""
    with control_plane.operator():
        yield
