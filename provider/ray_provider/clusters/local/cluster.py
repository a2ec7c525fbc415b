"""The local backend: a Ray head of our own on this machine, which outlives the task that starts it.

For a laptop, for tests, and for one machine with everything on it. Tasks that use such a cluster have to run on the
machine that it runs on, as the same user.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.handle import AuthReference, ClusterHandle
from ray_provider.clusters.local.head import (
    end_all,
    find_all,
    find_head,
    has_started,
    installed_ray,
    may_work_next_time,
    spawn,
    why_it_failed,
)
from ray_provider.clusters.local.processes import ProcessIdentity
from ray_provider.clusters.local.spec import LocalClusterSpec
from ray_provider.clusters.local.state import (
    LocalPaths,
    LocalRecord,
    locked,
    this_machine,
)
from ray_provider.exceptions import (
    ClusterError,
    ClusterFailedError,
    ClusterTimeoutError,
    RayApiError,
    RayConnectionError,
)
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint

Say = Callable[[str], None]

#: The first pause between two looks at a head that starts, and the longest: a machine that is busy starting Ray has
#: better things to do than to answer.
_POLL_SECONDS = 0.25
_MAX_POLL_SECONDS = 1.0
#: How long a head that runs may leave us without an answer before it counts as dead.
_ANSWER_SECONDS = 30.0
#: How long a head that answers may take to say that it has started. It gives up after 30 s and a request.
_START_SAID_SECONDS = 120.0
_END_GRACE_SECONDS = 5.0
_START_TRIES = 3
_WHERE = (
    "It was deleted, or this task runs on another machine or as another user: all tasks that use backend: local have "
    "to run where SetupRayCluster ran."
)
_OWNER_KEYS = ("dag_id", "run_id", "task_id", "map_index")


def _quiet(_line: str) -> None:
    """Say nothing."""


async def start_local(spec: LocalClusterSpec, *, update_if_exists: bool = False, say: Say = _quiet) -> ClusterHandle:
    """Give a local Ray of this name whose Jobs API takes jobs: the one that runs, or a new one.

    What is left of an earlier one that died, or whose set-up was killed half-way, is ended first. If this fails or is
    cancelled, what it made is ended and removed before the error goes on.

    :param spec: checked here, before anything is started.
    :param update_if_exists: replace one that runs with other settings than wanted (its jobs end).
    :param say: called with a line when something changes.
    :raises ConfigurationError: it can't work like that; nothing was started.
    :raises ClusterFailedError: it did not start; the message holds Ray's last lines.
    :raises ClusterTimeoutError: its Jobs API did not answer in time, or another set-up holds the name.
    """
    spec.validate()
    ray_version = installed_ray()
    paths = LocalPaths.of(spec.name)
    async with locked(paths, timeout=spec.start_timeout + 30):
        record = LocalRecord.read(paths)
        _check_machine(paths, record)
        if record is not None and await _answers(paths, record):
            if record.settings == spec.settings or not update_if_exists:
                if record.settings != spec.settings:
                    say(f"The local Ray {spec.name!r} runs with other settings: left so (update_if_exists=False).")
                say(f"The local Ray {spec.name!r} runs already: {record.address}")
                return _handle(paths, record, created=_same_owner(record.owner, spec.owner))
            say(f"The local Ray {spec.name!r} runs with other settings: it is replaced.")
            await asyncio.to_thread(end_all, paths, record, grace=_END_GRACE_SECONDS)
        elif paths.folder.exists() or find_all(paths, record):
            ended = await asyncio.to_thread(end_all, paths, record, grace=0)
            say(f"What an earlier local Ray {spec.name!r} left is removed ({len(ended)} processes were still running).")
        paths.remove()
        return await _create(paths, spec, ray_version, say)


async def delete_local(name: str, *, owner: Mapping[str, Any] | None = None, say: Say = _quiet) -> bool:
    """End the local Ray of this name, with everything that it started, and remove its folder.

    :param name: of the cluster.
    :param owner: if given, whose it has to be (``dag_id`` and ``run_id``).
    :param say: called with a line when something changes.
    :returns: whether there was something to end or remove.
    :raises ClusterError: it belongs to somebody else, runs on another machine, or does not end.
    """
    paths = LocalPaths.of(name)
    if not paths.home.exists():
        say(f"There is no local Ray {name!r}: nothing to delete.")
        return False
    async with locked(paths, timeout=300):
        record = LocalRecord.read(paths)
        _check_machine(paths, record)
        if record is not None and owner is not None and not _same_run(record.owner, owner):
            raise ClusterError(
                f"The local Ray {name!r} belongs to {_describe_owner(record.owner)} now, not to "
                f"{_describe_owner(owner)}: not deleted.",
                hint="Give clusters names of their own, or leave the name out: then each run has its own.",
                name=name,
            )
        ended = await asyncio.to_thread(end_all, paths, record, grace=_END_GRACE_SECONDS)
        there = paths.folder.exists()
        await asyncio.to_thread(paths.remove)
    if there or ended:
        say(f"The local Ray {name!r} is deleted: {len(ended)} processes ended, its folder removed.")
        return True
    say(f"There is no local Ray {name!r}: nothing to delete.")
    return False


def local_endpoint(handle: ClusterHandle) -> RayEndpoint:
    """Give the endpoint of a local cluster: address and token as they are recorded on this machine.

    The handle only names the cluster: it has been in XCom, which others may write.

    :param handle: of a local cluster; only its name counts.
    :raises ClusterError: nothing is recorded here: the cluster was deleted, or runs on another machine.
    """
    paths = LocalPaths.of(handle.name)
    record = LocalRecord.read(paths)
    if record is None or not record.address:
        raise ClusterError(
            f"There is no local Ray {handle.name!r} in {paths.home}.",
            hint=_WHERE,
            name=handle.name,
        )
    return _endpoint(paths, record)


def end_all_local(home: Path) -> list[str]:
    """End and remove all local clusters below a folder, without regard for locks: for the end of a test or a demo.

    :param home: the folder, see :func:`~ray_provider.clusters.local.state.local_home`.
    :returns: their names.
    :raises ClusterError: processes of one don't end.
    """
    names = []
    for paths in LocalPaths.below(home):
        end_all(paths, LocalRecord.read(paths), grace=_END_GRACE_SECONDS)
        paths.remove()
        paths.lock.unlink(missing_ok=True)
        names.append(paths.name)
    return names


# -- the start -----------------------------------------------------------------------------------------------------


async def _create(paths: LocalPaths, spec: LocalClusterSpec, ray_version: str, say: Say) -> ClusterHandle:
    began = time.monotonic()
    deadline = began + spec.start_timeout
    record = LocalRecord(
        name=spec.name,
        phase="starting",
        machine=this_machine(),
        owner=dict(spec.owner),
        settings=spec.settings,
        ray_version=ray_version,
    )
    try:
        for attempt in range(1, _START_TRIES + 1):
            paths.make()
            record.write(paths)
            process, address = spawn(paths, options=spec.options, dashboard_port=spec.dashboard_port, env=spec.env)
            identity = await asyncio.to_thread(ProcessIdentity.of, process.pid)
            record = replace(record, address=address, pid=identity.pid, started=identity.started)
            record.write(paths)
            say(f"Ray {ray_version} starts as {spec.name!r} (process {process.pid}); its dashboard will be {address}")
            try:
                await _wait_ready(paths, record, process, deadline, say)
                break
            except ClusterFailedError as error:
                again = may_work_next_time(error.message, port_is_fixed=spec.dashboard_port is not None)
                if attempt == _START_TRIES or time.monotonic() > deadline or not again:
                    raise
                say("Ray did not start: a port was taken meanwhile, or the machine is busy. Once more, on other ports.")
                end_all(paths, record, grace=0)
                paths.remove()
        record = replace(record, phase="ready")
        record.write(paths)
        say(f"The local Ray {spec.name!r} takes jobs after {time.monotonic() - began:.1f} s: {record.address}")
        return _handle(paths, record, created=True)
    except BaseException:
        # Not in a thread: whoever cancels us a second time must not keep us from ending what we started.
        end_all(paths, record, grace=0)
        paths.remove()
        raise


async def _wait_ready(
    paths: LocalPaths, record: LocalRecord, process: subprocess.Popen[bytes], deadline: float, say: Say
) -> None:
    """Wait until jobs are taken: the dashboard answers, and the agent that will run them is known to it.

    Both do while ``ray start`` itself may still give up and end them: it says when it is through.
    """
    said = ""
    pause = _POLL_SECONDS
    answers_since: float | None = None
    async with RayJobsClient(_endpoint(paths, record), timeout=10, retry=RetryPolicy.none()) as client:
        while True:
            if process.poll() is not None:
                raise ClusterFailedError(
                    f"Ray did not start: `ray start` ended with {process.returncode}. Its last lines:\n"
                    f"{why_it_failed(paths)}",
                    hint="A dashboard that is missing needs ray[default]; a port that is in use needs another "
                    "dashboard_port, or none.",
                    name=paths.name,
                )
            state = await _state(client)
            if state is None:
                answers_since = answers_since or time.monotonic()
                if has_started(paths.log) or time.monotonic() > answers_since + _START_SAID_SECONDS:
                    return
                state = "`ray start` has not come to its end yet"
            if state != said:
                said = state
                say(f"Waiting: {state}.")
            if time.monotonic() > deadline:
                raise ClusterTimeoutError(
                    f"The local Ray {paths.name!r} does not take jobs in time: {state}. Its last lines:\n"
                    f"{why_it_failed(paths)}",
                    hint="Give it more start_timeout, or more of the machine.",
                    name=paths.name,
                )
            await asyncio.sleep(pause)
            pause = min(_MAX_POLL_SECONDS, pause * 1.1)


async def _state(client: RayJobsClient) -> str | None:
    """Say what the start waits for; ``None`` if jobs are taken."""
    try:
        nodes = await client.transport.json("GET", "/api/v0/nodes")
    except RayConnectionError:
        return "the dashboard does not answer yet"
    except RayApiError as error:
        return f"the dashboard answers with HTTP {error.status}"
    try:
        node_ids = [node["node_id"] for node in nodes["data"]["result"]["result"]]
        if not node_ids:
            return "the head's node is not registered yet"
        # Only answered through the node's agent, which is also what starts jobs.
        await client.transport.json("GET", f"/api/v0/logs?node_id={node_ids[0]}")
    except (RayConnectionError, RayApiError, KeyError, TypeError):
        return "the node's agent does not answer yet"
    return None


async def _answers(paths: LocalPaths, record: LocalRecord) -> bool:
    """Whether a cluster that is remembered as ready is alive."""
    if record.phase != "ready" or find_head(record) is None:
        return False
    policy = RetryPolicy(deadline_seconds=_ANSWER_SECONDS, max_delay=1.0)
    try:
        async with RayJobsClient(_endpoint(paths, record), timeout=_ANSWER_SECONDS, retry=policy) as client:
            await client.version()
    except (RayConnectionError, RayApiError, ClusterError):
        return False
    return True


def _endpoint(paths: LocalPaths, record: LocalRecord) -> RayEndpoint:
    try:
        token = paths.token.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ClusterError(
            f"The token of the local Ray {record.name!r} can't be read: {error.strerror}: {paths.token}.",
            hint=_WHERE,
            name=record.name,
        ) from error
    return RayEndpoint(url=record.address or "", token=token)


def _handle(paths: LocalPaths, record: LocalRecord, *, created: bool) -> ClusterHandle:
    return ClusterHandle(
        backend="local",
        name=record.name,
        address=record.address or "",
        auth=AuthReference(kind="file", path=str(paths.token)),
        owner=dict(record.owner),
        created=created,
    )


def _check_machine(paths: LocalPaths, record: LocalRecord | None) -> None:
    if record is None or record.machine == this_machine():
        return
    if record.machine.split()[0] == this_machine().split()[0] and not find_all(paths, record):
        return  # the same machine after it, or its container, was started again: nothing of it can run
    raise ClusterError(
        f"The local Ray {record.name!r} was started on {record.machine}; this is {this_machine()}.",
        hint=f"Delete it there. If that machine is gone, remove the folder {paths.folder}.",
        name=record.name,
    )


def _same_owner(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return bool(first) and all(first.get(key) == second.get(key) for key in _OWNER_KEYS)


def _same_run(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return all(first.get(key) == second.get(key) for key in ("dag_id", "run_id"))


def _describe_owner(owner: Mapping[str, Any]) -> str:
    return f"the run {owner['run_id']} of {owner['dag_id']}" if owner.get("dag_id") else "nobody in particular"
