"""A dashboard double on a loop of its own, for what is synchronous."""

from __future__ import annotations

import asyncio
import threading

from tests.support.jobs_api import JobsApi

TOKEN = "the-token-of-the-test"  # noqa: S105


class Dashboard:
    """The double on a loop of its own: operators are synchronous."""

    def __init__(self) -> None:
        self.api = JobsApi(token=TOKEN)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def start(self) -> None:
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.api.__aenter__(), self.loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.api.__aexit__(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    @property
    def job(self):
        [job] = self.api.jobs.values()
        return job

    def when_submitted(self, act, *, count: int = 1) -> threading.Thread:
        """Do something as soon as there are so many jobs, while the operator waits."""

        def wait() -> None:
            while len(self.api.jobs) < count:
                threading.Event().wait(0.01)
            act(list(self.api.jobs.values())[-1])

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread
