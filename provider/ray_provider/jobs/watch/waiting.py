"""Why a job is PENDING: what its entrypoint asks for, and what the cluster has. Asked of Ray's State API."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import RayProviderError
from ray_provider.jobs.explain import first_of, last_lines
from ray_provider.jobs.pending import SUPERVISOR

if TYPE_CHECKING:
    from ray_provider.jobs.client import RayJobsClient

_GIB = 1024**3
#: Resources that Ray makes up for its own use.
_OWN = ("node:", "object_store_memory", "accelerator_type:")
#: How both of Ray's autoscalers say that no kind of node can hold a demand, and the demand in it.
_UNKNOWN_TYPE = "No available node types can fulfill resource request"
_DEMAND = re.compile(r"\{[^{}]*\}")
#: Of the text of ``ray status``: what is told, and how.
_SECTIONS = (
    ("Pending", "Nodes that are on their way"),
    ("Recent failures", "Nodes that could not be had"),
    ("Pending Demands", "All that waits in the cluster"),
)
_MOST_LINES = 5
#: Of a runtime_env: what may take long to make, the slowest first.
_SLOW_PARTS = ("conda", "pip", "uv", "py_modules", "working_dir")


@dataclass(frozen=True, slots=True)
class Prospects:
    """What a job that waits can hope for.

    :param text: sentences for people.
    :param never: nothing that the cluster can ever get is large enough.
    :param overrules: what may still come is not known to Ray's autoscaler. In a cluster that does not grow by itself it
        knows only the nodes that are there, and says of what does not fit them that it can never be had (Ray 2.60).
    """

    text: str
    never: bool = False
    overrules: bool = False


#: Says what can still come, of what a job asks for: for clusters that something else than Ray knows.
Ask = Callable[[Mapping[str, float]], Awaitable[Prospects]]


async def explain(client: RayJobsClient, submission_id: str, message: str | None, ask: Ask | None = None) -> Prospects:
    """Say in some sentences what a job waits for. What can't be found out is left out.

    :param client: an open client.
    :param submission_id: of the job.
    :param message: what Ray says of the job.
    :param ask: knows more of the cluster.
    """
    supervisor = await _supervisor(client, submission_id)
    wants = _amounts(supervisor.get("required_resources"))
    making = await _making(client, supervisor)
    nodes = [_amounts(node.get("resources_total")) for node in await rows(client, "nodes") if _is_alive(node)]
    parts = []
    fits, refused = False, None
    if wants:
        parts.append(f"Its entrypoint asks for {amounts_told(wants)}.")
    if nodes:
        total = {name: sum(node.get(name, 0.0) for node in nodes) for name in {key for node in nodes for key in node}}
        parts.append(
            f"The cluster has {len(nodes)} node{'s' if len(nodes) > 1 else ''} with {amounts_told(total)} in all."
        )
    if wants and nodes:
        fits = any(all(node.get(name, 0.0) >= amount for name, amount in wants.items()) for node in nodes)
        if fits and making is None:
            parts.append("One node is large enough: other jobs and tasks hold what it has.")
        elif not fits:
            lacking = [name for name, amount in wants.items() if all(node.get(name, 0.0) < amount for node in nodes)]
            which = f" (no node has so much {', '.join(lacking)})" if lacking else ""
            parts.append(
                f"No node that is there can hold that{which}: it waits for a node that is to come. Ask for "
                "less (num_cpus, num_gpus, memory, resources), or for a larger worker group."
            )
            refused = await _refused(client, submission_id, wants)
    if making is not None and (fits or not wants):
        parts.append(
            f"It has its place. Ray is making its runtime_env[{making!r}] there: what takes long is most often large, "
            "or comes from somewhere that the cluster reaches slowly or not at all (the package index?)."
        )
    parts += await _autoscaler(client)
    more = Prospects("")
    if ask is not None:
        try:
            more = await ask({} if fits else wants)
        except RayProviderError as error:
            more = Prospects(f"What the cluster may still get can't be told: {error.message}")
    if refused is not None and not more.overrules:
        parts.append(f"The autoscaler says: {refused}")
    parts += [more.text] if more.text else []
    if message:
        parts.append(f"Ray says: {last_lines(message)}")
    return Prospects(" ".join(parts), more.never or (refused is not None and not more.overrules))


async def _refused(client: RayJobsClient, submission_id: str, wants: Mapping[str, float]) -> str | None:
    """Give what the autoscaler says of a demand that no kind of node can hold, if it says so since the submit."""
    events = await rows(client, "cluster_events")
    started = [str(one.get("time")) for one in events if _is_start(one, submission_id)]
    for event in events:
        message = str(event.get("message") or "")
        # By the same clock, as text that sorts. An earlier job may have asked when other nodes were known.
        if _UNKNOWN_TYPE not in message or not started or str(event.get("time")) < max(started):
            continue
        for found in _DEMAND.findall(message):
            if _demand(found) == wants:
                return message
    return None


def _is_start(event: Mapping[str, Any], submission_id: str) -> bool:
    about = event.get("custom_fields")
    return event.get("source_type") == "JOBS" and (
        isinstance(about, Mapping)
        and about.get("submission_id") == submission_id
        and str(event.get("message")).startswith("Started")
    )


def _demand(text: str) -> dict[str, float]:
    try:
        return _amounts(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return {}


async def _autoscaler(client: RayJobsClient) -> list[str]:
    """Say what an autoscaler is about to do, in sentences; none where there is none, or nothing is to be told."""
    try:
        data = await client.transport.json(
            "GET", "/api/cluster_status", params={"format": "1"}, retry=RetryPolicy.none()
        )
    except RayProviderError:
        return []
    data = data.get("data") if isinstance(data, dict) else None
    text = data.get("clusterStatus") if isinstance(data, dict) else None
    if not isinstance(text, str):
        return []
    told = []
    for title, sentence in _SECTIONS:
        match = re.search(rf"^{title}:\n((?: .*(?:\n|$))+)", text, re.MULTILINE)
        lines = [line.strip() for line in match[1].splitlines()] if match else []
        lines = [line for line in lines if line and not line.startswith("(no")]
        if lines:
            told.append(f"{sentence}: {first_of(lines, _MOST_LINES)}.")
    return told


async def _supervisor(client: RayJobsClient, submission_id: str) -> Mapping[str, Any]:
    """Give the actor that runs the entrypoint; empty where it is not to be found."""
    query = {"filter_keys": "class_name", "filter_predicates": "=", "filter_values": "JobSupervisor"}
    for actor in await rows(client, "actors", **query):
        if actor.get("name") == SUPERVISOR + submission_id:
            return actor
    return {}


async def environment_in_the_making(client: RayJobsClient, submission_id: str) -> str | None:
    """Say which part of a job's ``runtime_env`` its node works at, most likely; ``None``: at none.

    A node begins with it when the job has its place there: such a job does not wait for resources.

    :param client: an open client.
    :param submission_id: of a job whose entrypoint has not begun.
    """
    return await _making(client, await _supervisor(client, submission_id))


async def _making(client: RayJobsClient, supervisor: Mapping[str, Any]) -> str | None:
    try:
        wanted = json.loads(str(supervisor.get("serialized_runtime_env") or "{}"))
    except ValueError:
        return None
    parts = [name for name in _SLOW_PARTS if isinstance(wanted, dict) and wanted.get(name)]
    if not parts:
        return None
    for made in await rows(client, "runtime_envs"):
        if made.get("runtime_env") == wanted and made.get("success") is None:
            return parts[0]
    return None


async def rows(client: RayJobsClient, what: str, **query: str) -> list[Mapping[str, Any]]:
    """Give what the State API lists; nothing where it does not answer.

    :param client: an open client.
    :param what: ``nodes``, ``actors``, ``tasks``, …
    :param query: filters.
    """
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


def amounts_told(amounts: Mapping[str, float]) -> str:
    """Say amounts of resources: ``2 CPU, 1.0 GiB memory``.

    :param amounts: by Ray's names.
    """

    def one(name: str, amount: float) -> str:
        return f"{amount / _GIB:.1f} GiB memory" if name == "memory" else f"{amount:g} {name}"

    return ", ".join(one(name, amounts[name]) for name in sorted(amounts)) or "nothing"
