"""One Ray head with a token for all security tests, started when the first test asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.scan import RAY_TOKEN
from tests.support.ray_head import RayHead


@pytest.fixture(scope="session")
def ray() -> Iterator[RayHead]:
    """A Ray head that wants a token."""
    with RayHead(token=RAY_TOKEN) as head:
        yield head
