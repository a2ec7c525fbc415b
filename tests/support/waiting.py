"""Waiting for something good: a bound that only ends a test that hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator


async def until(look: Callable[[], object], what: str = "it did not come to that", *, seconds: float = 300.0) -> None:
    """Wait until ``look`` gives something true, and let the event loop go on meanwhile.

    :param look: asked again and again.
    :param what: is told when it never came.
    :param seconds: how long at most.
    """
    for _ in _looks(look, what, seconds):
        await asyncio.sleep(0.01)


def wait_until(look: Callable[[], object], what: str = "it did not come to that", *, seconds: float = 300.0) -> None:
    """Do the same in a test without an event loop.

    :param look: asked again and again.
    :param what: is told when it never came.
    :param seconds: how long at most.
    """
    for _ in _looks(look, what, seconds):
        time.sleep(0.02)


def _looks(look: Callable[[], object], what: str, seconds: float) -> Iterator[None]:
    """Give one turn after each look that was in vain."""
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"{what} (within {seconds:.0f} s)"
        yield
