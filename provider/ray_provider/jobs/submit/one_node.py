"""A Ray that is one node and stays so: a job that asks for more than it has would wait for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray_provider.exceptions import ConfigurationError
from ray_provider.jobs.watch.waiting import amounts_told, rows

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.models import JobSpec


async def refuse_too_large(client: RayJobsClient, spec: JobSpec) -> None:
    """Refuse a job before its submit if the one node can never hold its entrypoint. In doubt it is taken.

    :param client: an open client.
    :param spec: of the job.
    :raises ConfigurationError: it asks for more than the node has.
    """
    named = {"CPU": spec.num_cpus, "GPU": spec.num_gpus, "memory": spec.memory}
    wants = {name: amount for name, amount in {**named, **(spec.resources or {})}.items() if amount}
    nodes = [row["resources_total"] for row in await rows(client, "nodes") if _is_known(row)] if wants else []
    if len(nodes) != 1:
        return
    [has] = nodes
    lacking = {name: amount for name, amount in wants.items() if float(has.get(name, 0)) < amount}
    if lacking:
        there = {name: float(has[name]) for name in ("CPU", "GPU", "memory", *(spec.resources or {})) if name in has}
        raise ConfigurationError(
            f"The job asks for {amounts_told(lacking)}, and this local Ray has {amounts_told(there)}: it would "
            "wait for ever.",
            hint="Ask for less (num_cpus, num_gpus, memory, resources), or use a connection to a cluster that has it. "
            "What a local Ray counts on is set by SetupRayCluster(local={'num_cpus': 4}).",
            field="resources",
        )


def _is_known(row: Any) -> bool:
    return row.get("state") == "ALIVE" and isinstance(row.get("resources_total"), dict)
