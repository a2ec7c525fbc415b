"""Read the list of all jobs without holding up the event loop: a cluster remembers thousands."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Container

from ray_provider.jobs.models import JobDetails

#: How long to parse before others get their turn.
_SLICE_SECONDS = 0.004


async def parse_jobs(body: bytes, only: Container[str] | None = None) -> AsyncIterator[JobDetails]:
    """Parse the answer of ``GET /api/jobs/`` one job at a time.

    ``json.loads`` of a few megabytes would block the event loop for tens of milliseconds, in a thread as well, since it
    keeps the interpreter's lock.

    :param body: a JSON list of objects.
    :param only: give these submission ids only.
    :raises ValueError: it is something else.
    """
    text = body.decode("utf-8", "replace")
    decode = json.JSONDecoder().raw_decode
    position = _skip_space(text, 0)
    if text[position : position + 1] != "[":
        raise ValueError("not a list")
    position = _skip_space(text, position + 1)
    until = time.perf_counter() + _SLICE_SECONDS
    while text[position : position + 1] != "]":
        try:
            data, position = decode(text, position)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(data, dict):
            raise ValueError("not a list of objects")  # noqa: TRY004 (of the answer, not of an argument)
        if only is None or data.get("submission_id") in only:
            yield JobDetails.from_json(data)
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise ValueError("the list has no end")
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + _SLICE_SECONDS


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position
