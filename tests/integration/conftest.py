"""One Ray head without and one with a token for all integration tests, started when the first test asks."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.support.ray_head import RayHead


@pytest.fixture(scope="session")
def open_ray_head() -> Iterator[RayHead]:
    """A Ray head that wants no token."""
    with RayHead() as head:
        yield head


@pytest.fixture(scope="session")
def token_ray_head() -> Iterator[RayHead]:
    """A Ray head that wants a token."""
    with RayHead(token=secrets.token_hex(16)) as head:
        yield head


@pytest.fixture(params=["open", "token"])
def ray_head(request: pytest.FixtureRequest) -> RayHead:
    """A real Ray head: every test that asks for it runs without and with a token."""
    head: RayHead = request.getfixturevalue(f"{request.param}_ray_head")
    return head
