"""An event loop beside the task's main thread, so that a signal can end what runs on it in good order.

Airflow ends a task by a signal: SIGTERM calls ``on_kill`` in the middle of whatever the main thread does (and Airflow 2
raises there), SIGALRM raises for ``execution_timeout``. On a loop in the main thread that would hit any line of any
library. Here the main thread only waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from ray_provider.exceptions import RayProviderError

T = TypeVar("T")


class Background(Generic[T]):
    """Runs one coroutine on a loop of its own in a thread of its own.

    :param make: makes the coroutine.
    :param grace: seconds for a cancelled coroutine's own clean-up when the waiting thread is interrupted.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]], *, grace: float) -> None:
        self._make = make
        self._grace = grace
        self._future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[T] | None = None
        self._cancelled = False
        #: Whether its thread was started.
        self.started = False

    def run(self) -> T:
        """Run it to its end. Whatever interrupts this thread cancels the coroutine, and waits for it, bounded.

        :raises asyncio.CancelledError: it was cancelled by :meth:`cancel`.
        """
        if self._cancelled:  # by a signal, before this line
            raise asyncio.CancelledError
        try:
            self.start()
            return self._future.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None
        except BaseException:
            if self.started and not self._future.done():
                self.cancel()
                self.wait(self._grace)
            raise

    def start(self) -> None:
        """Start it, and don't wait."""
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._main,), name="ray-job", daemon=True)
        self.started = True
        thread.start()

    def cancel(self) -> None:
        """Cancel the coroutine. Safe in a signal handler, and more than once.

        One that has been started gets to its first ``await`` all the same: the clean-up that it begins with has to run.
        """
        # Not twice: a second cancellation would end the clean-up that the first one began.
        if self._cancelled:
            return
        self._cancelled = True
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # the loop was closed just now
                self._loop.call_soon_threadsafe(self._task.cancel)

    def wait(self, seconds: float) -> bool:
        """Wait until the coroutine has ended. Gives whether it has.

        :param seconds: at most.
        """
        done, _ = concurrent.futures.wait([self._future], timeout=seconds)
        return bool(done)

    @property
    def was_cancelled(self) -> bool:
        """Whether the coroutine has ended by a cancellation: it may have been over when that came."""
        return self._future.cancelled()

    @property
    def done(self) -> bool:
        """Whether the coroutine has ended."""
        return self._future.done()

    def _main(self) -> None:
        try:
            result = asyncio.run(self._supervised())
        except asyncio.CancelledError:
            self._future.cancel()
            # A future that was not running changes its state at once; waiters are told here.
            self._future.set_running_or_notify_cancel()
        except BaseException as error:  # noqa: BLE001 - handed on to the thread that waits
            self._future.set_exception(error)
        else:
            self._future.set_result(result)

    async def _supervised(self) -> T:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(self._make())
        if self._cancelled:
            # Not at once: a task that is cancelled before its first step never enters the coroutine.
            self._loop.call_soon(self._task.cancel)
        return await self._task


class Steps:
    """Takes a task's steps beside its main thread, one after the other. A kill ends the one that is going on.

    :param grace: seconds for a step's own clean-up when an exception interrupts the main thread.
    :param handler: seconds that a signal handler may wait for that clean-up.
    """

    def __init__(self, *, grace: float, handler: float) -> None:
        self.killed = False
        self._grace = grace
        self._handler = handler
        self._current: Background[Any] | None = None

    def take(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine to its end.

        :param make: makes the coroutine; not called after a kill.
        :raises asyncio.CancelledError: the task was killed, before this step or during it.
        """
        if self.killed:
            raise asyncio.CancelledError
        background: Background[T] = Background(make, grace=self._grace)
        self._current = background
        try:
            return background.run()
        finally:
            self._current = None

    def run(self, make: Callable[[], Coroutine[Any, Any, T]], error: type[RayProviderError]) -> T:
        """Run a coroutine to its end.

        :param make: makes the coroutine; not called after a kill.
        :param error: what is raised of a task that was killed meanwhile.
        :raises RayProviderError: ``error``: the task was killed.
        """
        try:
            return self.take(make)
        except asyncio.CancelledError:
            raise error("The task was ended from outside.", cause="killed") from None

    def kill(self, between: Callable[[], Coroutine[Any, Any, object]] | None = None) -> None:
        """End what is going on. For ``on_kill``: in a signal handler, in the middle of the main thread.

        :param between: makes what is to be done if no step is going on that would do it.
        """
        self.killed = True
        until = time.monotonic() + self._handler
        background = self._current
        if background is not None:
            going_on = background.started and not background.done
            background.cancel()
            # Else it was over just before it could be cancelled, and the next step does not begin.
            if going_on and (not background.wait(self._handler) or background.was_cancelled):
                return
        if between is not None:
            background = Background(between, grace=0.0)
            background.start()
            background.wait(max(0.0, until - time.monotonic()))
