"""Why a job failed, as Ray's State API tells it: asked as long as the cluster is there.

Of a failed job Ray's message has the last ten lines of its log, in which the cause often is not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_provider.jobs.explain import last_lines, what_to_do
from ray_provider.jobs.watch.waiting import environment_in_the_making, rows

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.models import JobDetails

_MEMORY = "give tasks memory=… so that fewer run at a time, process less at once, or take larger nodes."
_AGAIN = (
    "let Ray try the tasks again (max_retries, max_restarts), keep checkpoints, or place the work on nodes that stay."
)
_ENTRYPOINT_AGAIN = (
    "a retry of the task runs the entrypoint anew. It runs on the head, which stays as long as the cluster, unless it "
    "asks for resources of its own (num_cpus=…)."
)
_INDEX = "Can the cluster reach the package index? A slow or unreachable one takes all of the time "
_IMAGE = "Put large packages into the image."
_PIP_ADVICE = (
    "Check names and versions in runtime_env['pip'], and the access of the cluster to the package index (a private one "
    "is named by --index-url in pip_install_options); or put the packages into the image."
)
#: Ray's error types of a task whose system failed, not its code.
_NODE = "NODE_DIED"
_ACTOR = "ACTOR_DIED"
_UNREACHABLE = "ACTOR_UNAVAILABLE"
_WORKER = "WORKER_DIED"
_OUT_OF_MEMORY = "OUT_OF_MEMORY"
_RUNTIME_ENV = "RUNTIME_ENV_SETUP_FAILED"
#: What Ray says of an actor whose process ended by itself. Others were ended by somebody's code, or never came up.
_CRASHED = "SYSTEM_ERROR"
#: Where Ray begins to guess.
_GUESS = "Some common causes"
#: Seconds until Ray notes that a node is dead: its tasks fail at once, but it is given up after missed health checks.
_NODE_SECONDS = 8.0
_MEMORY_LINE = re.compile(r"Memory on the node \(IP: (?P<ip>[^,)]+)[^)]*\)(?P<rest>[^\n]*)")
_OWN_MEMORY = re.compile(r"(?:actual )?memory used=(?P<used>[\d.]+\s?[KMGT]?B)")
_PROCESS = re.compile(r"^\d+\t(?P<used>[\d.]+)\t(?P<command>\S+)", re.MULTILINE)
#: What pip prints in the end, and the last line of a Python stack. Ray puts lines of its own behind both.
_PIP = re.compile(r"^\s*ERROR: (\S.*)$", re.MULTILINE)
_ERROR = re.compile(r"^((?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Timeout)\b.*)$", re.MULTILINE)
_SETUP_TIMEOUT = re.compile(r"within the timeout of (?P<seconds>[\d.]+) seconds")
#: What Ray notes on tasks that were still running when their driver ended: an effect, no cause.
_DRIVER_ENDED = "as driver exits"
_SHOWN = 400


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a job failed.

    :param text: what happened, in a sentence or two.
    :param advice: what to do about it.
    """

    text: str
    advice: str


async def find(client: RayJobsClient, job: JobDetails) -> Cause | None:
    """Find out why a job failed; ``None``: nothing is known that its message does not say.

    :param client: an open client.
    :param job: as Ray tells of it, after its end.
    """
    if job.status != "FAILED":
        return None
    if job.error_type == "JOB_SUPERVISOR_ACTOR_START_TIMEOUT":
        return await _never_started(client, job)
    message = job.message or ""
    if job.error_type == "RUNTIME_ENV_SETUP_FAILURE":
        return _setup_timeout(message) or _not_made(message)
    if job.error_type == "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE" and "low on memory" in message:
        return Cause(
            f"Ray's memory monitor killed the entrypoint: {_memory(message, 'entrypoint')}",
            "Reserve memory for the entrypoint (memory=…), let Ray tasks do its work, or take a larger node (the head, "
            "unless the entrypoint asks for resources of its own).",
        )
    if job.error_type == "JOB_SUPERVISOR_ACTOR_DIED":
        node = await _dead_node(client, job, job.driver_node_id, patient=False)
        return None if node is None else _node_cause(node, "The entrypoint's node", _ENTRYPOINT_AGAIN)
    code = job.driver_exit_code
    if job.job_id is None or code is None or not 0 < code < 126:
        return None
    query = {"filter_keys": "job_id", "filter_predicates": "=", "filter_values": job.job_id}
    failed = first_failure(await rows(client, "tasks", **query))
    if failed is None:
        return None
    return await _task_cause(client, job, failed)


def first_failure(tasks: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Give the task that failed first and for good, whatever came after it. An earlier try of it does not count.

    :param tasks: as the State API lists them.
    """
    last: dict[Any, Mapping[str, Any]] = {}
    for task in tasks:
        known = last.get(task.get("task_id"))
        if known is None or _number(task.get("attempt_number")) >= _number(known.get("attempt_number")):
            last[task.get("task_id")] = task
    failed = [
        task
        for task in last.values()
        if task.get("state") == "FAILED" and _DRIVER_ENDED not in str(task.get("error_message") or "")
    ]
    return min(failed, key=lambda task: _number(task.get("end_time_ms")) or float("inf"), default=None)


async def _task_cause(client: RayJobsClient, job: JobDetails, task: Mapping[str, Any]) -> Cause | None:
    kind = str(task.get("error_type"))
    name = f"Ray task {task.get('name') or task.get('func_or_class_name')!r}"
    message = str(task.get("error_message") or "")
    if kind == _OUT_OF_MEMORY:
        return Cause(
            f"Ray's memory monitor killed {name}: {_memory(message, 'task')}", f"The node had no memory left: {_MEMORY}"
        )
    if kind == _WORKER:
        return _process_cause(name, task)
    if kind == _RUNTIME_ENV:
        return _setup_timeout(message, f" of {name}") or _not_made(message, f" of {name}")
    if kind in {_NODE, _ACTOR, _UNREACHABLE}:
        node = await _dead_node(client, job, task.get("node_id"), patient=kind != _ACTOR)
        if node is None and kind == _NODE:
            node = {}  # Ray knows that it is gone, and not yet why
        if node is not None:
            return _node_cause(node, f"The node of {name}", _AGAIN)
        if kind == _ACTOR and _CRASHED in message:
            return _process_cause(name, task)
        if kind == _UNREACHABLE:
            return Cause(
                f"The actor of {name} could not be reached any more: {_shown(task)}",
                f"Its process crashed or was killed, or its node or the network went; Ray did not know which: {_AGAIN}",
            )
    return None


def _process_cause(name: str, task: Mapping[str, Any]) -> Cause:
    return Cause(
        f"The process of {name} was ended from outside, or crashed: {_shown(task)}",
        "Ray can't tell which: a kernel that had no memory left for the container does that, and so does a crash "
        f"in native code (its stack is in the log then). For memory: {_MEMORY}",
    )


def _node_cause(node: Mapping[str, Any], what: str, again: str) -> Cause:
    said = str(node.get("state_message") or "").strip()
    text = f"{what} is gone{f': {_cut(said)}' if said else ''}".rstrip(".") + "."
    if any(word in said.lower() for word in ("preempt", "sigterm", "drain")):
        return Cause(text, f"The node was taken away (a spot node, a drained or scaled-down one): {again}")
    return Cause(
        text,
        "Ray does not know why it went. Kubernetes may: `kubectl get events` tells of evictions, for an hour. "
        f"See that the node stays; {again}",
    )


async def _dead_node(
    client: RayJobsClient, job: JobDetails, node_id: Any, *, patient: bool
) -> Mapping[str, Any] | None:
    """Give a node that went while the job was there; ``None``: as far as Ray knows it is there.

    :param patient: something on it was lost: wait until Ray knows of the node, too.
    """
    clock = asyncio.get_running_loop().time
    ends = clock() + (_NODE_SECONDS if patient else 0)
    while True:
        nodes = [node for node in await rows(client, "nodes") if str(node.get("node_id")) == str(node_id)]
        for node in nodes:
            if node.get("state") == "DEAD" and _number(node.get("end_time_ms")) >= (job.start_time or 0):
                return node
        if not nodes or clock() >= ends:
            return None
        await asyncio.sleep(1)


async def _never_started(client: RayJobsClient, job: JobDetails) -> Cause | None:
    advice = f"{_INDEX}(RAY_JOB_START_TIMEOUT_SECONDS on the head, 15 minutes by default). {_IMAGE}"
    if making := await environment_in_the_making(client, str(job.submission_id)):
        return Cause(
            f"The entrypoint had its place on a node; what took all of the time is making its runtime_env[{making!r}].",
            advice,
        )
    if "entrypoint_num" in (job.message or "") or "entrypoint_memory" in (job.message or ""):
        return None  # it waited for resources, which the message says
    slow = [name for name in ("pip", "uv", "conda") if job.runtime_env.get(name)]
    if not slow:
        return None
    return Cause(
        f"The entrypoint asked for no resources; what takes time before it starts is runtime_env[{slow[0]!r}].", advice
    )


def _setup_timeout(message: str, of: str = "") -> Cause | None:
    found = _SETUP_TIMEOUT.search(message)
    if found is None:
        return None
    return Cause(
        f"Making the runtime_env{of} took longer than {found['seconds']} s.",
        f"{_INDEX}(runtime_env['config']['setup_timeout_seconds'], 600 by default). {_IMAGE}",
    )


def _not_made(message: str, of: str = "") -> Cause | None:
    """Give what the program said that was to make a ``runtime_env``, out of Ray's own stack."""
    what = f"The runtime_env{of or ' of the entrypoint'}"
    if pip := _PIP.findall(message):
        # The last of several is about the whole.
        return Cause(f"{what} could not be made, pip says: {_cut(pip[-1])}", _PIP_ADVICE)
    errors = _ERROR.findall(message)
    if not errors:
        return None
    return Cause(f"{what} could not be made: {_cut(errors[-1])}", what_to_do("RUNTIME_ENV_SETUP_FAILURE", None, None))


def _memory(message: str, whose: str) -> str:
    """Give what Ray's memory monitor says of a node: how full it was, what the killed one had, and who had most."""
    line = _MEMORY_LINE.search(message)
    if line is None:
        return _cut(message.strip().partition("\n")[0] or "its node was running out of memory.")
    told = f"Memory on the node (IP: {line['ip']}) {_cut(line['rest'].rstrip('. '))}"
    # Of an entrypoint Ray counts the process beside it only.
    own = _OWN_MEMORY.search(message) if whose == "task" else None
    if own is not None:
        told += f"; the {whose} itself had {own['used']}"
    users = [f"{one['command'].rpartition('/')[2]} {one['used']} GB" for one in _PROCESS.finditer(message)]
    return f"{told}." + (f" Most memory: {', '.join(users[:3])}." if users else "")


def _shown(task: Mapping[str, Any]) -> str:
    return _cut(str(task.get("error_message") or "Ray does not say more.").partition(_GUESS)[0])


def _cut(text: str) -> str:
    line = " ".join(last_lines(text).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
