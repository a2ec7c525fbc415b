"""What a worker and a trigger do alike: follow a job into Airflow's log, stop it, wait for it."""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ray_provider.exceptions import JobError, RayApiError, RayConnectionError

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.jobs.watch.logs import LogBatch
    from ray_provider.jobs.watch.outcome import Interruption
    from ray_provider.jobs.watch.waiting import Ask
    from ray_provider.jobs.watch.watcher import JobOutcome, WatchOptions


#: How long a job that was told to stop may take. Ray sends SIGTERM, and SIGKILL 3 s later.
STOP_SECONDS = 60.0


class Log(Protocol):
    """The part of a logger that is used here."""

    def info(self, msg: str, /, *args: Any) -> Any:
        """Log a line.

        :param msg: with ``%s`` for each argument.
        :param args: put into it.
        """

    def warning(self, msg: str, /, *args: Any) -> Any:
        """Log a line that should be noticed.

        :param msg: with ``%s`` for each argument.
        :param args: put into it.
        """

    def error(self, msg: str, /, *args: Any) -> Any:
        """Log what a job calls an error.

        :param msg: with ``%s`` for each argument.
        :param args: put into it.
        """

    def critical(self, msg: str, /, *args: Any) -> Any:
        """Log what a job calls critical, or fatal.

        :param msg: with ``%s`` for each argument.
        :param args: put into it.
        """


def tell(log: Log, line: str) -> None:
    """Log a line of progress; one that begins with ``WARNING:`` as a warning.

    :param log: the task's.
    :param line: one line, for people.
    """
    if line.startswith("WARNING: "):
        log.warning("%s", line.removeprefix("WARNING: "))
    else:
        log.info("%s", line)


#: What watching needs and is imported late. aiohttp alone takes a third of a second.
_MODULES = ("aiohttp", "ray_provider.jobs.client", "ray_provider.jobs.watch.watcher")
_loaded = False
_importing = threading.Lock()


async def load() -> None:
    """Import what watching needs, outside the event loop's thread: the first trigger would hold up all others."""
    # Not by a look into sys.modules: it holds a module before that is ready.
    if not _loaded:
        await asyncio.to_thread(_import_all)


def _import_all() -> None:
    global _loaded  # noqa: PLW0603
    with _importing:
        if _loaded:
            return
        # So many new objects make Python look for garbage among all of Airflow's: 150 ms in which no thread of the
        # triggerer runs, now and whenever many jobs begin. Modules stay as long as the process: they are taken out of
        # that search. Airflow's executors do the same.
        collecting = gc.isenabled()
        gc.disable()
        try:
            for name in _MODULES:
                importlib.import_module(name)
            gc.freeze()
        finally:
            if collecting:
                gc.enable()
        _loaded = True


async def watch(
    client: RayJobsClient,
    submission_id: str,
    options: WatchOptions,
    *,
    log: Log,
    passed_on: Callable[[LogBatch], Awaitable[None] | None] | None = None,
    hide: Callable[[str], str] = str,
    ask: Ask | None = None,
    interrupted: Callable[[], Awaitable[Interruption | None]] | None = None,
) -> JobOutcome:
    """Follow a job until its end, its log going to ours at the levels that its lines show.

    A job whose deadline passes is stopped, its log taken.

    :param client: an open client.
    :param submission_id: of the job.
    :param options: how.
    :param log: the task's.
    :param passed_on: told after each piece of log.
    :param hide: takes out of a text what must not be seen.
    :param ask: knows what the cluster can still get, for a job that waits.
    :param interrupted: returns when the cluster ends by other means than Ray would tell.
    """
    from ray_provider.jobs.watch.levels import LevelCutter
    from ray_provider.jobs.watch.watcher import JobWatcher

    levels = LevelCutter()

    async def on_log(batch: LogBatch) -> None:
        # One record for many lines: each record is a blocking write that all triggers of a process share.
        parts = levels.parts(hide(batch.text)) if batch.text or batch.lines else []
        for level, text in parts:
            getattr(log, level)("%s", text)
        if passed_on is not None:
            told = passed_on(replace(batch, records=len(parts)))
            if inspect.isawaitable(told):
                await told
        await asyncio.sleep(0)

    def on_progress(text: str) -> None:
        log.info("%s", hide(text))

    def on_warning(text: str) -> None:
        log.warning("%s", hide(text))

    watcher = JobWatcher(
        client,
        submission_id,
        options,
        on_log=on_log,
        on_progress=on_progress,
        on_warning=on_warning,
        ask=ask,
        interrupted=interrupted,
    )
    return await watcher.watch()


async def stop(
    client: RayJobsClient, submission_id: str, *, log: Log | None, within: float = STOP_SECONDS, appear: float = 0.0
) -> bool:
    """Stop a job and wait until Ray says that it has ended.

    :param client: an open client.
    :param submission_id: of the job.
    :param log: told how it went; ``None`` where logging is not safe.
    :param within: seconds for all of it.
    :param appear: seconds to wait for a job that Ray does not know: its submit may be on the way.
    :return: whether no such job runs any more.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within
    appears_until = loop.time() + min(appear, within)
    try:
        while True:
            details = await client.stop_and_wait(submission_id, max(0.5, until - loop.time()))
            if details is not None or loop.time() >= appears_until:
                break
            await asyncio.sleep(0.2)
    except (JobError, RayApiError, RayConnectionError) as error:
        if log is not None:
            log.warning("Job %s could not be stopped: %s", submission_id, error)
        return False
    if log is not None:
        if details is None:
            log.info("Ray knows no job %s: nothing to stop.", submission_id)
        else:
            log.info("Job %s has ended: %s.", submission_id, details.status)
    return True


async def stop_at(endpoint: RayEndpoint, submission_id: str, *, log: Log | None, within: float, appear: float) -> bool:
    """Stop a job, as :func:`stop` does, with a client of its own.

    :param endpoint: where the job runs.
    :param submission_id: of the job.
    :param log: is told what becomes of it; ``None``: nobody is.
    :param within: how long (seconds) Ray has to stop it.
    :param appear: how long (seconds) a job that Ray does not know yet is waited for.
    """
    from ray_provider.jobs.client import RayJobsClient

    async with RayJobsClient(endpoint, timeout=min(30.0, within)) as client:
        return await stop(client, submission_id, log=log, within=within, appear=appear)
