"""The loop beside the main thread: what interrupts the thread ends the coroutine in good order."""

from __future__ import annotations

import asyncio
import contextlib
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


def begun(events) -> None:
    while not events:
        time.sleep(0.01)


def soon(number, handler, events):
    """Send a signal once the coroutine has begun."""

    def send() -> None:
        begun(events)
        os.kill(os.getpid(), number)

    old = signal.signal(number, handler)
    thread = threading.Thread(target=send)
    thread.start()
    return old, thread


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

    old, thread = soon(signal.SIGUSR1, handler, events)
    try:
        with pytest.raises(Interrupted):
            Background(lambda: work(events), grace=20).run()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, old)
    assert events == ["began", "cleaned up"]


def test_a_signal_handler_that_cancels_and_returns():
    """SIGTERM in Airflow 3: on_kill is called, and the task goes on."""
    events = []
    background = Background(lambda: work(events), grace=20)
    waited = []

    def handler(*_):
        background.cancel()
        waited.append(background.wait(20))

    old, thread = soon(signal.SIGUSR1, handler, events)
    try:
        with pytest.raises(asyncio.CancelledError):
            background.run()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, old)
    assert waited == [True]
    assert events == ["began", "cleaned up"]


def test_cancelling_twice_does_not_cut_the_clean_up_short():
    events = []
    background = Background(lambda: work(events), grace=20)
    background.start()
    begun(events)
    background.cancel()
    background.cancel()
    assert background.wait(20)
    assert events == ["began", "cleaned up"]


def test_the_grace_is_bounded():
    async def stubborn():
        events.append("began")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.to_thread(let_go.wait, 30)

    def handler(*_):
        raise Interrupted

    events, let_go = [], threading.Event()
    old, thread = soon(signal.SIGUSR1, handler, events)
    began = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            Background(stubborn, grace=0.3).run()
        assert time.monotonic() - began < 20
    finally:
        let_go.set()
        thread.join()
        signal.signal(signal.SIGUSR1, old)


def test_a_kill_ends_the_step_that_is_going_on_and_no_other_begins():
    events = []
    steps = Steps(grace=20, handler=20)
    thread = threading.Thread(target=lambda: (begun(events), steps.kill(lambda: work(events))))
    thread.start()
    with pytest.raises(asyncio.CancelledError):
        steps.take(lambda: work(events))
    thread.join()
    assert events == ["began", "cleaned up"], "the step cleans up by itself: nothing is done beside it"
    with pytest.raises(asyncio.CancelledError):
        steps.take(lambda: work(events))
    assert len(events) == 2


def test_a_kill_between_two_steps_does_what_a_step_would_have_done():
    events = []
    steps = Steps(grace=20, handler=20)
    assert steps.take(lambda: work([], 0.01)) == "result"
    steps.kill(lambda: work(events, 0.1))
    assert events == ["began"]
    assert steps.killed


@pytest.mark.parametrize("moment", ["before its first line", "after its last line"])
def test_a_kill_at_the_edge_of_a_step_is_not_lost(moment, monkeypatch):
    """Before: a loop that was only just starting, or already ending, did nothing of what a kill has to do."""
    events = []
    run, there, go = asyncio.run, threading.Event(), threading.Event()

    def slow(main):
        if moment == "after its last line":
            result = run(main)
        there.set()
        go.wait(20)
        return run(main) if moment == "before its first line" else result

    steps = Steps(grace=20, handler=20)
    seconds = 30.0 if moment == "before its first line" else 0.01

    def kill() -> None:
        there.wait(20)
        monkeypatch.setattr(asyncio, "run", run)
        threading.Timer(0.2, go.set).start()
        steps.kill(lambda: work(events, 0.01))

    monkeypatch.setattr(asyncio, "run", slow)
    thread = threading.Thread(target=kill)
    thread.start()
    with contextlib.suppress(asyncio.CancelledError):
        steps.take(lambda: work([] if moment == "after its last line" else events, seconds))
    thread.join()
    assert events[0] == "began"
    assert steps.killed
