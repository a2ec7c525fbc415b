"""Why a job is PENDING: what its entrypoint asks for, and what the cluster has. Asked of Ray's State API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray_provider.exceptions import RayProviderError
from ray_provider.jobs.explain import last_lines
from ray_provider.jobs.pending import SUPERVISOR
from ray_provider.jobs.retry import RetryPolicy

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient

_GIB = 1024**3
#: Resources that Ray makes up for its own use.
_OWN = ("node:", "object_store_memory", "accelerator_type:")


async def explain(client: RayJobsClient, submission_id: str, message: str | None) -> str:
    """Say in some sentences what a job waits for. What can't be found out is left out.

    :param client: an open client.
    :param submission_id: of the job.
    :param message: what Ray says of the job.
    """
    wants = await _wants(client, submission_id)
    nodes = [_amounts(node.get("resources_total")) for node in await _rows(client, "nodes") if _is_alive(node)]
    parts = []
    if wants:
        parts.append(f"Its entrypoint asks for {_told(wants)}.")
    if nodes:
        total = {name: sum(node.get(name, 0.0) for node in nodes) for name in {key for node in nodes for key in node}}
        parts.append(f"The cluster has {len(nodes)} node{'s' if len(nodes) > 1 else ''} with {_told(total)} in all.")
    if wants and nodes:
        if any(all(node.get(name, 0.0) >= amount for name, amount in wants.items()) for node in nodes):
            parts.append("One node is large enough: other jobs and tasks hold what it has.")
        else:
            lacking = [name for name, amount in wants.items() if all(node.get(name, 0.0) < amount for node in nodes)]
            which = f" (no node has so much {', '.join(lacking)})" if lacking else ""
            parts.append(
                f"No node that is there can hold that{which}: it waits for one that an autoscaler may add. Ask for "
                "less (num_cpus, num_gpus, memory, resources), or for a larger worker group."
            )
    if message:
        parts.append(f"Ray says: {last_lines(message)}")
    return " ".join(parts)


async def _wants(client: RayJobsClient, submission_id: str) -> dict[str, float]:
    query = {"filter_keys": "class_name", "filter_predicates": "=", "filter_values": "JobSupervisor"}
    for actor in await _rows(client, "actors", **query):
        if actor.get("name") == SUPERVISOR + submission_id:
            return _amounts(actor.get("required_resources"))
    return {}


async def _rows(client: RayJobsClient, what: str, **query: str) -> list[Mapping[str, Any]]:
    try:
        data = await client.transport.json(
            "GET", f"/api/v0/{what}", params={"detail": "1", "limit": "1000", **query}, retry=RetryPolicy.none()
        )
    except RayProviderError:
        return []  # a Ray without State API, or one that has too much to do: then less is known
    for key in ("data", "result", "result"):
        data = data.get(key) if isinstance(data, dict) else None
    return [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []


def _is_alive(node: Mapping[str, Any]) -> bool:
    return node.get("state") == "ALIVE"


def _amounts(resources: Any) -> dict[str, float]:
    if not isinstance(resources, Mapping):
        return {}
    return {
        str(name): float(amount)
        for name, amount in resources.items()
        if isinstance(amount, int | float) and amount > 0 and not str(name).startswith(_OWN)
    }


def _told(amounts: Mapping[str, float]) -> str:
    def one(name: str, amount: float) -> str:
        return f"{amount / _GIB:.1f} GiB memory" if name == "memory" else f"{amount:g} {name}"

    return ", ".join(one(name, amounts[name]) for name in sorted(amounts)) or "nothing"
