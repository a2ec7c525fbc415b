"""Why a job failed, as Ray's State API tells it: asked as long as the cluster is there.

Of a failed job Ray's message has the last ten lines of its log, in which the cause often is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_provider.jobs.explain import last_lines
from ray_provider.jobs.waiting import rows

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.models import JobDetails

_MEMORY = "give tasks memory=… so that fewer run at a time, process less at once, or take larger nodes."
_SPOT = (
    "The node was taken away (a spot node, a drained or scaled-down one): let Ray try the tasks again (max_retries, "
    "max_restarts), keep checkpoints, or place the work on nodes that stay."
)
#: Ray's error types of a task whose system failed, not its code.
_NODE = frozenset({"NODE_DIED"})
_ACTOR = frozenset({"ACTOR_DIED", "ACTOR_UNAVAILABLE"})
_WORKER = "WORKER_DIED"
_OUT_OF_MEMORY = "OUT_OF_MEMORY"
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
        return _never_started(job)
    message = job.message or ""
    if job.error_type == "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE" and "low on memory" in message:
        return Cause(
            "Ray's memory monitor killed the entrypoint: its node was running out of memory.",
            "Reserve memory for the entrypoint (memory=…), let Ray tasks do its work, or take a larger head.",
        )
    if job.error_type == "JOB_SUPERVISOR_ACTOR_DIED":
        return _node_cause(await _dead_nodes(client, job), job.driver_node_id, "The entrypoint's node")
    code = job.driver_exit_code
    if job.job_id is None or code is None or not 0 < code < 126:
        return None
    query = {"filter_keys": "job_id", "filter_predicates": "=", "filter_values": job.job_id}
    failed = first_failure(await rows(client, "tasks", **query))
    if failed is None:
        return None
    return await _task_cause(client, job, failed)


def first_failure(tasks: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Give the task that failed first and for good, whatever came after it. An earlier try of it does not count."""
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
    if kind == _OUT_OF_MEMORY:
        return Cause(f"Ray's memory monitor killed {name}: {_shown(task)}", f"The node had no memory left: {_MEMORY}")
    if kind == _WORKER:
        return Cause(
            f"The process of {name} was ended from outside, or crashed: {_shown(task)}",
            "Ray can't tell which: a kernel that had no memory left for the container does that, and so does a crash "
            f"in native code (its stack is in the log then). For memory: {_MEMORY}",
        )
    if kind in _NODE | _ACTOR:
        return _node_cause(await _dead_nodes(client, job), task.get("node_id"), f"The node of {name}")
    return None


def _node_cause(nodes: Mapping[str, Mapping[str, Any]], node_id: Any, what: str) -> Cause | None:
    node = nodes.get(str(node_id))
    if node is None:
        return None
    said = str(node.get("state_message") or "").strip()
    text = f"{what} is gone{f': {_cut(said)}' if said else '.'}"
    if any(word in said.lower() for word in ("preempt", "sigterm", "drain")):
        return Cause(text, _SPOT)
    return Cause(
        text,
        "Ray does not know why it went. Kubernetes may: `kubectl get events` tells of evictions, for an hour. "
        "Let Ray try the tasks again (max_retries, max_restarts), or see that the node stays.",
    )


async def _dead_nodes(client: RayJobsClient, job: JobDetails) -> dict[str, Mapping[str, Any]]:
    """Give the nodes that went while the job was there, by their ids."""
    return {
        str(node.get("node_id")): node
        for node in await rows(client, "nodes")
        if node.get("state") == "DEAD" and _number(node.get("end_time_ms")) >= (job.start_time or 0)
    }


def _never_started(job: JobDetails) -> Cause | None:
    if "entrypoint_num" in (job.message or "") or "entrypoint_memory" in (job.message or ""):
        return None  # it waited for resources, which the message says
    slow = [name for name in ("pip", "uv", "conda") if job.runtime_env.get(name)]
    if not slow:
        return None
    return Cause(
        f"The entrypoint asked for no resources; what takes time before it starts is runtime_env[{slow[0]!r}].",
        "Can the cluster reach the package index? A slow or unreachable one takes all of the time "
        "(RAY_JOB_START_TIMEOUT_SECONDS on the head, 15 minutes by default). Put large packages into the image.",
    )


def _shown(task: Mapping[str, Any]) -> str:
    return _cut(str(task.get("error_message") or "Ray does not say more."))


def _cut(text: str) -> str:
    line = " ".join(last_lines(text).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
