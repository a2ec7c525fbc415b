"""What goes between a task and its cluster: the function there, its result back."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_provider.exceptions import JobError, RayApiError, RayConnectionError

if TYPE_CHECKING:
    from ray_provider.functions.payload import PackedCall
    from ray_provider.jobs.client import RayJobsClient

#: A result that can't be read for so long (seconds) is given up.
_RESULT_PATIENCE = 30.0


async def read_result(client: RayJobsClient, submission_id: str, max_bytes: int) -> bytes:
    """Read what the function left. A dashboard or a node's agent that is busy is asked again for a while.

    :param client: of the cluster.
    :param submission_id: of the job that ran the function.
    :param max_bytes: the largest that is read.
    :raises JobError: there is nothing, or nobody knows where.
    :raises RayProviderError: Ray does not give it.
    """
    from ray_provider._shared.retry import Attempts, RetryPolicy
    from ray_provider.functions.results import result_file

    attempts = Attempts(RetryPolicy(deadline_seconds=_RESULT_PATIENCE))
    while True:
        details = await client.get(submission_id)
        if details is None or not details.driver_node_id:
            raise JobError(
                f"The result of job {submission_id} can't be found: Ray does not say where it ran.",
                submission_id=submission_id,
            )
        try:
            content = await client.read_log_file(
                details.driver_node_id, result_file(submission_id), max_bytes=max_bytes
            )
        except (RayApiError, RayConnectionError) as error:
            passing = not isinstance(error, RayApiError) or (error.status or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR
            if passing and await attempts.wait():
                continue
            raise
        if not content:
            raise JobError(
                f"Job {submission_id} left no result: its process ended before the function did.",
                submission_id=submission_id,
            )
        return content


async def send(client: RayJobsClient, packed: PackedCall) -> None:
    """Upload a call, unless the cluster has it.

    :param client: of the cluster.
    :param packed: the function with its arguments.
    :raises RayProviderError: Ray does not take it.
    """
    if await client.package_exists(packed.uri):
        return
    with tempfile.TemporaryDirectory(prefix="ray_") as folder:
        path = Path(folder) / "call.zip"
        await asyncio.to_thread(path.write_bytes, packed.content)
        await client.upload_package(packed.uri, path)


async def other_python(client: RayJobsClient) -> str | None:
    """Give the minor version of the cluster's Python where it is not this one's; ``None``: it is, or Ray is too old.

    :param client: of the cluster.
    :raises RayApiError: Ray does not say.
    """
    try:
        answer = await client.transport.json("GET", "/api/v0/cluster_metadata")
    except RayApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return None
    version = str((answer.get("data") or {}).get("pythonVersion") or "") if isinstance(answer, dict) else ""
    theirs = _text(version.split(".")[:2])
    return theirs if version and theirs != _text(sys.version_info[:2]) else None


def _text(version: Sequence[Any]) -> str:
    return ".".join(map(str, version))
