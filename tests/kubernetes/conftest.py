"""Fixtures of the tests that need a Kubernetes: one for all of them, a namespace for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import kubernetes as support


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[support.Kubernetes]:
    """A real Kubernetes with KubeRay's operator; it ends with the tests."""
    with support.kubernetes() as found:
        yield found


@pytest.fixture
def namespace(kubernetes: support.Kubernetes) -> Iterator[str]:
    """A namespace of the test's own, removed with all in it."""
    with kubernetes.namespace() as name:
        yield name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the test that first asks for the node time to build what is missing of it."""
    for item in items:
        if "kubernetes" in getattr(item, "fixturenames", ()):
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(2400))
            break
