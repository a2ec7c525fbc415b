"""Fixtures of the tests on an API server without nodes: see README.md."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ray_provider.hooks import RayHook
from tests.support import kubernetes as support
from tests.support.control_plane import ControlPlane
from tests.support.control_plane import control_plane as started
from tests.support.dashboard import TOKEN, Dashboard


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
    support.until(lambda: kubernetes.exists("serviceaccount", "default", "-n", name), 300, "default service account")
    yield name
    kubernetes.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def operator(control_plane: ControlPlane) -> Iterator[None]:
    """KubeRay's operator, at work while the test runs."""
    with control_plane.operator():
        yield


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    """A double of Ray's dashboard, at an address of the connection's own."""
    found = Dashboard()
    found.start()
    yield found
    found.stop()


@pytest.fixture
def connection(monkeypatch, kubernetes, namespace, dashboard) -> dict[str, Any]:
    """The connection that every hook reads; its extra may be changed."""
    extra = {
        "kube_config_path": str(kubernetes.kubeconfig),
        "namespace": namespace,
        "access": "url",
        "address": dashboard.api.url,
        "token": TOKEN,
    }

    def get(_conn_id):
        own = {"host": None, "port": None, "schema": None, "password": None, "login": None}
        return SimpleNamespace(extra=json.dumps(extra), extra_dejson=extra, **own)

    monkeypatch.setattr(RayHook, "get_connection", staticmethod(get))
    return extra
