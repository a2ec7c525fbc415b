"""Watch a job until it has ended: its status decides, its log is passed on."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ray_provider.exceptions import ConfigurationError, RayAuthenticationError, RayProviderError
from ray_provider.jobs.watch.cluster_end import ClusterEnd
from ray_provider.jobs.watch.logs import LogFollower
from ray_provider.jobs.watch.outcome import Interruption, JobOutcome, OutcomeKind
from ray_provider.jobs.watch.polling import StatusHub, Subscription, subscribe

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.models import JobDetails
    from ray_provider.jobs.watch.loglines import LogBatch
    from ray_provider.jobs.watch.waiting import Ask

__all__ = ["JobOutcome", "JobWatcher", "WatchOptions"]

#: Shorter silences of the dashboard are not worth a line.
_SILENCE_SECONDS = 2.0
#: So often Ray has to say that it does not know the job before we believe it.
_TIMES_MISSING = 3
#: A job that is PENDING for so long is explained, and again each minute.
_PENDING_SECONDS = 10.0
#: That it waits in vain is told so soon. Ray's autoscaler needs some seconds to see it.
_VAIN_SECONDS = 3.0
_PENDING_AGAIN_SECONDS = 60.0
#: How long Ray may be asked why a job failed.
_CAUSE_SECONDS = 15.0
#: How long a job whose time is over may take to stop.
_STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How to watch.

    :param poll_interval: seconds between two questions for the status.
    :param fetch_logs: pass the log on.
    :param log_offset: bytes of the log that were passed on before.
    :param log_lines: lines that were passed on before: they count against ``log_max_lines``.
    :param deadline: when the job is to be stopped, in seconds since 1970.
    :param max_unreachable_seconds: how long nobody may answer before the watch ends.
    :param log_drain_seconds: how long to wait for the rest of the log after the job's end when nothing comes.
    :param log_max_lines: pass on at most so many lines, and say how many were left out.
    :param session_name: the head's session in which the job was submitted, if it is known: then a head that restarted
        before the watch began is noticed too.
    :param appears_until: when (seconds since 1970) a job that somebody else submits has to be there.
    """

    poll_interval: float = 0.5
    fetch_logs: bool = True
    log_offset: int = 0
    log_lines: int = 0
    deadline: float | None = None
    max_unreachable_seconds: float = 600.0
    log_drain_seconds: float = 60.0
    log_max_lines: int | None = None
    session_name: str | None = None
    appears_until: float | None = None


class JobWatcher:
    """Watches one job.

    :param client: an open client.
    :param submission_id: of the job.
    :param options: how to watch.
    :param on_log: gets the log, batch by batch.
    :param on_progress: gets a line for people when something changes.
    :param on_warning: gets a line that people have to act upon.
    :param ask: knows what the cluster can still get, for a job that waits.
    :param interrupted: returns when the cluster ends by other means: then the watch ends.
    """

    def __init__(
        self,
        client: RayJobsClient,
        submission_id: str,
        options: WatchOptions | None = None,
        *,
        on_log: Callable[[LogBatch], Awaitable[None] | None] | None = None,
        on_progress: Callable[[str], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
        ask: Ask | None = None,
        interrupted: Callable[[], Awaitable[Interruption | None]] | None = None,
    ) -> None:
        self.client = client
        self.submission_id = submission_id
        self.options = options or WatchOptions()
        self._on_log = on_log
        self._on_progress = on_progress or (lambda _line: None)
        self._on_warning = on_warning or self._on_progress
        self._ask = ask
        self._cluster = ClusterEnd(interrupted, self._tell_unwatched)
        self._follower: LogFollower | None = None
        self._session = self.options.session_name
        self._seen: JobDetails | None = None
        self._log_error: str | None = None
        self._silent_since: float | None = None
        self._silence_told = False
        self._missing = 0
        self._explaining: asyncio.Task[None] | None = None

    @property
    def log_offset(self) -> int:
        """Bytes of the log that were passed on so far."""
        return self._follower.offset if self._follower else self.options.log_offset

    async def watch(self) -> JobOutcome:
        """Watch until the job has ended, is lost, is out of time, or nobody answers for too long.

        :raises RayAuthenticationError: Ray denied access, and always had.
        :raises ConfigurationError: the endpoint can't work.
        """
        log_task: asyncio.Task[None] | None = None
        if self.options.fetch_logs and self._on_log is not None:
            self._follower = LogFollower(
                self.client,
                self.submission_id,
                offset=self.options.log_offset,
                lines_passed=self.options.log_lines,
                max_lines=self.options.log_max_lines,
                drain_seconds=self.options.log_drain_seconds,
            )
            log_task = asyncio.create_task(self._pass_log(self._follower), name=f"log to task {self.submission_id}")
        try:
            interval = self.options.poll_interval
            async with (
                subscribe(self.client.endpoint, self.submission_id, interval) as (news, hub),
                self._cluster.listening(news),
            ):
                outcome = await self._watch_status(news, hub)
                # That the cluster was taken away may come after that its job is gone.
                if outcome.kind == "lost" and (found := await self._cluster.settled()):
                    outcome = self._outcome(found.kind, message=found.message)
            if log_task is not None and self._follower is not None:
                self._follower.finish(drain=outcome.kind in {"final", "deadline"})
                await log_task
            return self._with_log(outcome)
        finally:
            self._explain_no_more()
            if log_task is not None:
                log_task.cancel()
                await asyncio.gather(log_task, return_exceptions=True)

    # Status -----------------------------------------------------------------------------------------------------

    async def _watch_status(self, news: Subscription, hub: StatusHub) -> JobOutcome:
        while True:
            seen = await news.next(self._seconds_left())
            # An end that Ray has told counts, whatever became of the cluster then.
            has_ended = seen is not None and seen.details is not None and seen.details.is_final
            if (found := self._cluster.interruption) is not None and not has_ended:
                return self._outcome(found.kind, message=found.message)
            if seen is None:
                return await self._stop_in_time(hub)
            if seen.error is not None:
                if not isinstance(seen.error, RayProviderError):
                    raise seen.error
                if outcome := self._on_silence(seen.error):
                    return outcome
            elif seen.details is not None and seen.details.is_deleted:
                self._on_answer()
                return self._gone()
            elif seen.details is not None:
                self._on_answer()
                self._missing = 0
                self._tell_status(seen.details)
                if seen.details.is_final:
                    return await self._final(seen.details)
                await self._learn_session(hub)
            elif outcome := await self._on_missing(hub):
                return outcome

    def _tell_unwatched(self, error: Exception) -> None:
        self._on_progress(f"What becomes of the cluster of job {self.submission_id} can't be watched: {error}")

    def _seconds_left(self) -> float | None:
        return None if self.options.deadline is None else max(0.0, self.options.deadline - time.time())

    def _tell_status(self, details: JobDetails) -> None:
        before, self._seen = self._seen, details
        if self._follower is not None:
            self._follower.locate(details.driver_node_id)
        if before is None or before.status != details.status:
            self._on_progress(f"Job {self.submission_id} is {details.status}")
        if details.status != "PENDING":
            self._explain_no_more()
        elif self._explaining is None:
            self._explaining = asyncio.create_task(self._explain_pending(), name=f"why {self.submission_id} waits")

    async def _explain_pending(self) -> None:
        from ray_provider.jobs.watch.waiting import Prospects, explain

        began = time.monotonic()
        pause, first = _VAIN_SECONDS, True
        while True:
            await asyncio.sleep(pause)
            message = self._seen.message if self._seen else None
            try:
                why = await explain(self.client, self.submission_id, message, self._ask)
            except Exception as error:  # noqa: BLE001 (it is for people only: the watch must not end by it)
                why = Prospects(f"Why can't be told: {error!r}")
            if why.never or not first:
                tell = self._on_warning if why.never else self._on_progress
                tell(f"Job {self.submission_id} is PENDING for {time.monotonic() - began:.0f} s. {why.text}")
            pause = _PENDING_SECONDS - _VAIN_SECONDS if first and not why.never else _PENDING_AGAIN_SECONDS
            first = False

    def _explain_no_more(self) -> None:
        task, self._explaining = self._explaining, None
        if task is not None:
            task.cancel()

    async def _learn_session(self, hub: StatusHub) -> None:
        if self._session is None:
            try:
                self._session = await hub.session_name()
            except RayProviderError:
                self._session = None  # asked again with the next answer

    async def _on_missing(self, hub: StatusHub) -> JobOutcome | None:
        """Ray answers that it does not know the job: find out whether the head is another one."""
        self._missing += 1
        try:
            lost = await self._lost_with_its_head(hub)
        except RayProviderError as error:
            return self._on_silence(error)
        self._on_answer()
        if lost is not None:
            return lost
        to_come = self._seen is None and time.time() < (self.options.appears_until or 0.0)
        return None if to_come or self._missing < _TIMES_MISSING else self._gone()

    async def _lost_with_its_head(self, hub: StatusHub) -> JobOutcome | None:
        """Say that the head is another one than the job ran on. None: it is not, as far as can be told."""
        session = await hub.session_name(renew=True)
        if self._session is None or session is None or session == self._session:
            return None
        return self._outcome(
            "lost",
            message=(
                f"Job {self.submission_id} was lost: the Ray head restarted while it ran (its session was "
                f"{self._session} and is {session} now), and a head without fault tolerance forgets its jobs."
            ),
        )

    def _gone(self) -> JobOutcome:
        last = f" It was {self._seen.status} when last seen." if self._seen else ""
        return self._outcome(
            "lost",
            message=(
                f"Job {self.submission_id} is gone: Ray at {self.client.endpoint.display_url} does not know it "
                f"{'any more' if self._seen else ''}".rstrip()
                + f".{last} Somebody deleted it, or this is another cluster than the one it was submitted to."
            ),
        )

    def _on_silence(self, error: RayProviderError) -> JobOutcome | None:
        if self._seen is None and isinstance(error, RayAuthenticationError | ConfigurationError):
            raise error
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        silent = now - self._silent_since
        limit = self.options.max_unreachable_seconds
        if silent >= limit:
            return self._outcome(
                "unreachable",
                message=(
                    f"Nobody could be asked for job {self.submission_id} for {silent:.0f} s "
                    f"(max_unreachable_seconds={limit:.0f}). The last try: {error.message}"
                ),
            )
        if silent >= min(_SILENCE_SECONDS, limit / 2) and not self._silence_told:
            self._silence_told = True
            self._on_progress(
                f"Ray can't be asked for job {self.submission_id}: {error.message} Going on for {limit:.0f} s."
            )
        return None

    def _on_answer(self) -> None:
        if self._silent_since is not None and self._silence_told:
            silent = time.monotonic() - self._silent_since
            self._on_progress(f"Ray answers again for job {self.submission_id}, after {silent:.0f} s.")
        self._silent_since = None
        self._silence_told = False

    async def _stop_in_time(self, hub: StatusHub) -> JobOutcome:
        """The time is over: stop the job, and wait until it has ended."""
        self._on_progress(f"The time of job {self.submission_id} is over: stopping it.")
        lost = None
        try:
            if self._seen is None:  # a watch that began past the deadline: was it running at all?
                self._seen = await self.client.get(self.submission_id)
            details = await self.client.stop_and_wait(self.submission_id, _STOP_SECONDS)
            waited = self._seen is not None and self._seen.status == "PENDING"
            waited = waited and (details is None or details.driver_node_id is None)
            if details is None and not waited:
                lost = await self._lost_with_its_head(hub) or self._gone()
        except RayProviderError as error:
            return self._outcome(
                "deadline",
                message=(
                    f"Job {self.submission_id} did not end before its deadline, and could not be stopped: "
                    f"{error.message} It may still run."
                ),
            )
        if lost is not None:
            return lost
        if details is not None:
            self._tell_status(details)
            if details.status in {"SUCCEEDED", "FAILED"}:
                return await self._final(details)  # it ended by itself while we were at it
        return self._outcome(
            "deadline",
            details,
            message=f"Job {self.submission_id} waited for resources until its deadline and was ended: it never ran."
            if waited
            else f"Job {self.submission_id} did not end before its deadline and was stopped.",
        )

    async def _final(self, details: JobDetails) -> JobOutcome:
        """Give how it ended, and why it failed: what Ray knows of that goes with the cluster."""
        from ray_provider.jobs.watch.cause import find

        outcome = self._outcome("final", details)
        try:
            async with asyncio.timeout(_CAUSE_SECONDS):
                cause = await find(self.client, details)
        except Exception as error:  # noqa: BLE001 (it is for people only: how the job ended is known)
            self._on_progress(f"Why job {self.submission_id} failed could not be asked: {error!r}")
            return outcome
        return outcome if cause is None else replace(outcome, cause=cause.text, advice=cause.advice)

    def _outcome(
        self, kind: OutcomeKind, details: JobDetails | None = None, *, message: str | None = None
    ) -> JobOutcome:  # fmt: skip
        known = details or self._seen
        return JobOutcome(
            submission_id=self.submission_id,
            kind=kind,
            status=known.status if known else None,
            message=message or (known.message if known else None),
            error_type=known.error_type if known else None,
            driver_exit_code=known.driver_exit_code if known else None,
            start_time=known.start_time if known else None,
            end_time=known.end_time if known else None,
            url=self.client.job_url(self.submission_id),
        )

    # Log --------------------------------------------------------------------------------------------------------

    async def _pass_log(self, follower: LogFollower) -> None:
        told = False
        try:
            async for batch in follower.batches():
                result = self._on_log(batch) if self._on_log else None
                if inspect.isawaitable(result):
                    await result
                if follower.max_lines is not None and follower.lines_passed >= follower.max_lines and not told:
                    told = True
                    self._on_progress(
                        f"The log has more than {follower.max_lines} lines: the rest is left out here, see "
                        f"{self.client.job_url(self.submission_id)}"
                    )
        except Exception as error:  # noqa: BLE001 (the log must not decide what becomes of the job; it is told)
            self._log_error = f"{type(error).__name__}: {error}"
            self._on_progress(f"The log of job {self.submission_id} can't be passed on: {self._log_error}")

    def _with_log(self, outcome: JobOutcome) -> JobOutcome:
        """Add what became of the log, and tell what is missing of it."""
        follower = self._follower
        if follower is None:
            return replace(outcome, log_offset=self.options.log_offset)
        where = self.client.job_url(self.submission_id)
        if follower.lines_left_out:
            self._on_progress(f"{follower.lines_left_out} lines left out, see {where}")
        incomplete = self._log_error or follower.incomplete
        if follower.incomplete:
            self._on_progress(f"The end of the log is missing ({follower.incomplete}), see {where}")
        return replace(
            outcome,
            log_offset=follower.offset,
            lines_left_out=follower.lines_left_out,
            log_incomplete=incomplete,
        )
