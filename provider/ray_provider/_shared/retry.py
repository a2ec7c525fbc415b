"""How long, and how often, a request is tried again."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

#: What a proxy says of a server behind it that is not there now: nobody knows whether the request came through.
GATEWAY = frozenset({502, 503, 504})
TOO_MANY_REQUESTS = 429
_NOT_IMPLEMENTED = 501


def may_pass(status: int) -> bool:
    """Whether an HTTP status may be another one at a later try: too many requests, and failures of the server.

    :param status: of the answer.
    """
    return status == TOO_MANY_REQUESTS or (status >= 500 and status != _NOT_IMPLEMENTED)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter, inside a deadline.

    :param deadline_seconds: how long to go on trying, counted from the first try. 0: one try only.
    :param first_delay: seconds before the second try.
    :param factor: by how much the next delay is longer.
    :param max_delay: seconds; no delay is longer.
    """

    deadline_seconds: float = 60.0
    first_delay: float = 0.2
    factor: float = 2.0
    max_delay: float = 10.0

    @classmethod
    def none(cls) -> RetryPolicy:
        """One try only: for callers with a patience of their own."""
        return cls(deadline_seconds=0.0)

    def delay(self, attempt: int) -> float:
        """How long to wait after this many tries.

        :param attempt: 1 after the first.
        """
        longest = min(self.max_delay, self.first_delay * self.factor ** min(attempt - 1, 30))
        # Full jitter would allow 0: half of it spreads the clients and still backs off.
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load, hides nothing)


class Attempts:
    """Counts tries against a policy.

    :param policy: says how long to go on.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self.number = 1
        self._until = time.monotonic() + policy.deadline_seconds

    @property
    def seconds_left(self) -> float:
        """What is left until the deadline; never negative."""
        return max(0.0, self._until - time.monotonic())

    async def wait(self, at_least: float = 0.0) -> bool:
        """Wait before the next try. False: the deadline does not allow another one.

        :param at_least: seconds that the server asked for.
        """
        delay = max(at_least, self.policy.delay(self.number))
        if delay >= self.seconds_left:
            return False
        await asyncio.sleep(delay)
        self.number += 1
        return True
