"""Waiting until objects are gone, and telling which are not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ray_provider.clusters.kubernetes.client import UNREACHABLE_SECONDS, Json, Kube


async def remaining(
    kube: Kube, places: Iterable[tuple[str, str, dict[str, str]]], timeout: float
) -> dict[str, dict[str, Json]]:
    """Wait until lists of objects are empty; give what is left of each kind, by name, when the time is over.

    :param kube: where.
    :param places: for each the kind, the path of its collection, and the query that selects among it.
    :param timeout: seconds.
    :raises KubernetesError: the API server stayed away, or we may not look.
    """
    places = list(places)
    left: dict[str, dict[str, Json]] = {kind: {} for kind, _, _ in places}
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            for kind, path, query in places:
                group.create_task(_until_empty(kube, path, query, left[kind]))
    except TimeoutError:
        return left
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return {}


async def _until_empty(kube: Kube, path: str, query: dict[str, str], left: dict[str, Json]) -> None:
    """Wait until a list of objects is empty.

    :param left: holds what is there meanwhile, by name.
    """
    async for event in kube.watch(path, patience=UNREACHABLE_SECONDS, **query):
        if event.type == "SYNC":
            left.clear()
            left.update({item["metadata"]["name"]: item for item in event.items})
        elif event.type == "DELETED":
            left.pop(event.object["metadata"]["name"], None)
        else:
            left[event.object["metadata"]["name"]] = event.object
        if not left:
            return
