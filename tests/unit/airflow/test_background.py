"""The loop beside the main thread: what interrupts the thread ends the coroutine in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from ray_provider.operators.background import Background, Steps


class Interrupted(BaseException):
    """As Airflow's own: not an Exception."""


async def work(events, seconds=30.0):
    events.append("began")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        await asyncio.sleep(0.2)
        events.append("cleaned up")
        raise
    return "result"


def soon(number, handler):
    old = signal.signal(number, handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
    timer.start()
    return old, timer


def test_results_and_errors_come_back():
    assert Background(lambda: work([], 0.01), grace=1).run() == "result"

    async def fail():
        raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        Background(fail, grace=1).run()


def test_a_signal_handler_that_raises_cancels_and_waits():
    """Airflow's execution_timeout, and SIGTERM in Airflow 2."""
    events = []

    def handler(*_):
        raise Interrupted

    old, timer = soon(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Interrupted):
            Background(lambda: work(events), grace=5).run()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, old)
    assert events == ["began", "cleaned up"]


def test_a_signal_handler_that_cancels_and_returns():
    """SIGTERM in Airflow 3: on_kill is called, and the task goes on."""
    events = []
    background = Background(lambda: work(events), grace=5)
    waited = []

    def handler(*_):
        background.cancel()
        waited.append(background.wait(3))

    old, timer = soon(signal.SIGUSR1, handler)
    try:
        with pytest.raises(asyncio.CancelledError):
            background.run()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, old)
    assert waited == [True]
    assert events == ["began", "cleaned up"]


def test_cancelling_twice_does_not_cut_the_clean_up_short():
    events = []
    background = Background(lambda: work(events), grace=5)
    background.start()
    while not events:
        time.sleep(0.01)
    background.cancel()
    background.cancel()
    assert background.wait(3)
    assert events == ["began", "cleaned up"]


def test_the_grace_is_bounded():
    async def stubborn():
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(4)

    def handler(*_):
        raise Interrupted

    old, timer = soon(signal.SIGUSR1, handler)
    began = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            Background(stubborn, grace=0.3).run()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, old)
    assert time.monotonic() - began < 3


def test_a_kill_ends_the_step_that_is_going_on_and_no_other_begins():
    events = []
    steps = Steps(grace=5, handler=5)
    timer = threading.Timer(0.3, steps.kill, (lambda: work(events),))
    timer.start()
    with pytest.raises(asyncio.CancelledError):
        steps.take(lambda: work(events))
    timer.join()
    assert events == ["began", "cleaned up"], "the step cleans up by itself: nothing is done beside it"
    with pytest.raises(asyncio.CancelledError):
        steps.take(lambda: work(events))
    assert len(events) == 2


def test_a_kill_between_two_steps_does_what_a_step_would_have_done():
    events = []
    steps = Steps(grace=5, handler=5)
    assert steps.take(lambda: work([], 0.01)) == "result"
    steps.kill(lambda: work(events, 0.1))
    assert events == ["began"]
    assert steps.killed
