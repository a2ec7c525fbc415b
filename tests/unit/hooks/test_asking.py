"""Asking Airflow on an event loop, as the triggerers of Airflow 3.0 and 3.1 need it: tests/compat runs the real ones."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import async_to_sync

from ray_provider import _compat

pytestmark = pytest.mark.timeout(60)


async def test_a_request_is_made_on_the_loop_that_asks():
    """Before: on another loop, where the triggerer's lock and stream don't work; that ended the triggerer."""

    async def request(text: str, *, more: str) -> tuple[str, asyncio.AbstractEventLoop]:
        return text + more, asyncio.get_running_loop()

    def call(text: str, *, more: str):
        return async_to_sync(request)(text, more=more)

    asked = [_compat.in_thread(call, str(number), more="!") for number in range(20)]
    for number, (text, loop) in enumerate(await asyncio.gather(*asked)):
        assert text == f"{number}!"
        assert loop is asyncio.get_running_loop()


async def test_a_request_is_not_given_up_half_way():
    """Else its answer is taken for that of the next one."""
    sent, answered = asyncio.Event(), asyncio.Event()
    got = []

    async def request() -> None:
        sent.set()
        await answered.wait()
        got.append("answer")

    waiting = asyncio.create_task(_compat.in_thread(async_to_sync(request)))
    await sent.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert got == []
    answered.set()
    async with asyncio.timeout(10):
        while not got:
            await asyncio.sleep(0.01)


async def test_what_goes_wrong_is_told():
    def call():
        raise ValueError("what goes wrong")

    with pytest.raises(ValueError, match="what goes wrong"):
        await _compat.in_thread(call)
