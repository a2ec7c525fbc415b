"""Ask for the status of jobs, together: all watchers of an endpoint in an event loop share one poll.

A few jobs are asked for one by one. Many are read from one list of all jobs, at most twice a second, less often where
the dashboard would be busy with it for more than a fifth of its time. So the load on a dashboard has a bound.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import RayProviderError
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.http.incoming import LIST_BYTES, AnswerTooLongError
from ray_provider.jobs.http.session import endpoint_key
from ray_provider.jobs.parsing import parse_jobs

if TYPE_CHECKING:
    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.jobs.models import JobDetails

#: So many jobs are asked for one by one.
FEW = 8
#: The list of all jobs is asked for at most this often.
LIST_SECONDS = 0.5
#: ... and takes at most this part of the time.
LIST_SHARE = 0.2
#: ... but not less often than this.
LIST_LONGEST = 5.0
#: A list that is too long to be read is not asked for again for so long; then so many jobs a second are asked for.
_EACH_SECONDS = 300.0
_EACH_PER_SECOND = 20.0
#: One poll may take so long.
POLL_TIMEOUT = 15.0
#: The answer for one watcher is good for the others for so long.
_SESSION_SECONDS = 0.5
#: So many watchers are told of a poll before others get their turn.
_AT_ONCE = 50
_ONCE = RetryPolicy.none()
_BACKOFF = RetryPolicy(first_delay=0.5, max_delay=5.0)
#: Raised by a mistake in a program: another try meets it again.
_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
)


@dataclass(frozen=True, slots=True)
class Observation:
    """What one poll told of a job: its details, nothing (Ray does not know it), or an error.

    :param details: of the job.
    :param error: a :class:`RayProviderError` may pass; anything else is a mistake in a program.
    """

    details: JobDetails | None = None
    error: Exception | None = None


class Subscription:
    """One watcher's view of the poll.

    :param submission_id: the job's.
    :param interval: seconds between two looks at its status.
    """

    def __init__(self, submission_id: str, interval: float) -> None:
        self.submission_id = submission_id
        self.interval = interval
        self.due = 0.0
        self._latest: Observation | None = None
        self._news = asyncio.Event()

    def put(self, observation: Observation) -> None:
        """Hand the watcher what was seen; only the latest counts, and only if it says something new.

        :param observation: the latest.
        """
        if self._says_the_same(observation):
            return
        self._latest = observation
        self._news.set()

    def wake(self) -> None:
        """Wake the watcher though nothing new was seen: it has to look at something else."""
        self._news.set()

    def _says_the_same(self, observation: Observation) -> bool:
        # A thousand watchers that are woken every second to hear nothing new would be a load of its own.
        before, now = self._latest.details if self._latest else None, observation.details
        if before is None or now is None:
            return False
        return before.status == now.status and before.driver_node_id == now.driver_node_id

    async def next(self, timeout: float | None = None) -> Observation | None:
        """Wait for the next observation; None when the time is over, or when it was woken before there was one.

        :param timeout: seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return None
        self._news.clear()
        return self._latest


class StatusHub:
    """Polls one endpoint for all watchers of one event loop. Runs while anybody watches.

    :param endpoint: where Ray is.
    """

    def __init__(self, endpoint: RayEndpoint) -> None:
        self._client = RayJobsClient(endpoint, timeout=POLL_TIMEOUT, retry=_ONCE)
        self._watched: set[Subscription] = set()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._each_until = 0.0
        self._session: str | None = None
        self._session_at = 0.0
        self._session_lock = asyncio.Lock()

    def add(self, subscription: Subscription) -> None:
        """Begin to poll for a watcher.

        :param subscription: the watcher's.
        """
        self._watched.add(subscription)
        self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="ray job status")

    async def remove(self, subscription: Subscription) -> bool:
        """End to poll for a watcher. True: it was the last one.

        :param subscription: the watcher's.
        """
        self._watched.discard(subscription)
        if self._watched:
            return False
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return not self._watched

    async def session_name(self, *, renew: bool = False) -> str | None:
        """Ask for the head's session, once for all watchers. It changes when the head restarts.

        :param renew: do not take what was known before.
        :raises RayProviderError: no answer.
        """
        async with self._session_lock:
            age = time.monotonic() - self._session_at
            if self._session is None or (renew and age > _SESSION_SECONDS):
                async with self._client as client:
                    self._session = (await client.version()).session_name
                self._session_at = time.monotonic()
            return self._session

    async def _run(self) -> None:
        while True:
            try:
                async with self._client:
                    while True:
                        await self._wait(await self._poll())
            except Exception as error:  # noqa: BLE001 (whatever it is, the watchers have to hear of it)
                self._failures += 1
                # Watchers wait out what may pass, and end by a mistake in a program.
                told = isinstance(error, (RayProviderError, *_MISTAKES))
                failure = error if told else RayProviderError(f"{error!r}")
                for each in list(self._watched):
                    each.put(Observation(error=failure))
                await asyncio.sleep(_BACKOFF.delay(self._failures))

    async def _poll(self) -> float:
        """Ask once, and give the time until the next question."""
        self._changed.clear()
        each = len(self._watched) <= FEW or time.monotonic() < self._each_until
        pause = await (self._poll_each() if each else self._poll_list())
        return max(pause, _BACKOFF.delay(self._failures)) if self._failures else max(pause, 0.01)

    async def _wait(self, seconds: float) -> None:
        # A newcomer among a few is asked for at once; many, or a dashboard in trouble, wait for their time.
        patient = len(self._watched) > FEW or self._failures > 0
        try:
            async with asyncio.timeout(seconds):
                await (asyncio.sleep(seconds + 1) if patient else self._changed.wait())
        except TimeoutError:
            return

    async def _poll_each(self) -> float:
        now = time.monotonic()
        due = [each for each in self._watched if each.due <= now + 0.005]
        observations = await asyncio.gather(*(self._observe(each.submission_id) for each in due))
        # As seldom as it has to be where many are asked for one by one.
        pause = len(self._watched) / _EACH_PER_SECOND if len(self._watched) > FEW else 0.0
        for each, observation in zip(due, observations, strict=True):
            each.due = now + max(each.interval, pause)
            each.put(observation)
        if due:
            self._failures = self._failures + 1 if all(seen.error for seen in observations) else 0
        return min((each.due for each in self._watched), default=now) - time.monotonic()

    async def _observe(self, submission_id: str) -> Observation:
        try:
            return Observation(await self._client.get(submission_id))
        except RayProviderError as error:
            return Observation(error=error)

    async def _poll_list(self) -> float:
        started = time.monotonic()
        watched = {each.submission_id: each for each in self._watched}
        everybody = list(self._watched)
        found: dict[str, JobDetails] = {}
        failure: RayProviderError | None = None
        try:
            answer = await self._client.transport.request("GET", "/api/jobs/", limit=LIST_BYTES)
            async for details in parse_jobs(answer.body, only=watched):
                found[str(details.submission_id)] = details
        except AnswerTooLongError:
            # A cluster whose jobs say much. One by one it takes longer, and each may be read.
            self._each_until = started + _EACH_SECONDS
            return 0.0
        except RayProviderError as error:
            failure = error
        except ValueError as error:
            failure = RayProviderError(f"The list of jobs can't be read: {error}.")
        took = time.monotonic() - started
        self._failures = self._failures + 1 if failure else 0
        for number, each in enumerate(everybody):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            if failure:
                each.put(Observation(error=failure))
            else:
                # Not in the list: submitted after it was made, or gone. The watcher believes it the third time.
                each.put(Observation(found.get(each.submission_id)))
        shortest = min((each.interval for each in everybody), default=LIST_SECONDS)
        pause = max(LIST_SECONDS, shortest, min(took / LIST_SHARE, LIST_LONGEST)) - (time.monotonic() - started)
        # A little jitter: triggerers that started together shall not ask together for days.
        return max(0.05, pause) * random.uniform(0.95, 1.05)  # noqa: S311


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, StatusHub]] = WeakKeyDictionary()


@asynccontextmanager
async def subscribe(
    endpoint: RayEndpoint, submission_id: str, interval: float
) -> AsyncIterator[tuple[Subscription, StatusHub]]:
    """Watch a job's status along with everybody else who watches this endpoint from this event loop.

    :param endpoint: where Ray is.
    :param submission_id: of the job.
    :param interval: seconds between two polls, if the dashboard has only a few jobs to tell of.
    """
    hubs = _hubs.setdefault(asyncio.get_running_loop(), {})
    key = endpoint_key(endpoint)
    if key not in hubs:
        hubs[key] = StatusHub(endpoint)
    hub = hubs[key]
    subscription = Subscription(submission_id, interval)
    hub.add(subscription)
    try:
        yield subscription, hub
    finally:
        if await hub.remove(subscription) and hubs.get(key) is hub:
            del hubs[key]
