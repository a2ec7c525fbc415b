"""What KubeRay would do of a change of a RayService: the operator's own rule, told before anything is changed. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.clusters.rayservice.manifest import NONE
from ray_provider.clusters.rayservice.record import Kind

_MOST_PATHS = 5


@dataclass(frozen=True, slots=True)
class Change:
    """What a deploy would change.

    :param kind: what KubeRay does of it.
    :param paths: what differs in the cluster, by its path in the spec; the first few.
    :param ignored: KubeRay would leave the change of the cluster out, without a word.
    """

    kind: Kind
    paths: tuple[str, ...] = ()
    ignored: bool = False

    def text(self, cluster: str) -> str:
        """Say what KubeRay does, in a sentence.

        :param cluster: the RayCluster that serves.
        """
        if self.kind == "in_place":
            return f"The applications change: Serve updates them in place, in the cluster {cluster}."
        if self.kind == "new_cluster":
            return (
                f"The cluster changes ({', '.join(self.paths)}): KubeRay makes a second one beside {cluster}, and "
                "switches to it when all of its applications run. Until the first one is deleted, both need their room."
            )
        if self.kind == "settings":
            return "Replicas, groups at the end or settings of the service change: no pod is replaced."
        return "It is as it should be: nothing to change."


def change_of(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> Change:
    """Tell what KubeRay would do.

    :param live: the spec of the RayService as it is.
    :param wanted: the spec as Kubernetes would store it.
    """
    if live == wanted:
        return Change("nothing")
    before, after = _compared(live), _compared(wanted)
    groups = len(before.get("workerGroupSpecs") or ())
    # Groups that are added at the end are added in place.
    same = before == after or before == {**after, "workerGroupSpecs": (after.get("workerGroupSpecs") or [])[:groups]}
    if not same:
        kind = ((wanted.get("upgradeStrategy") or {}).get("type")) or ""
        paths = tuple(_differences(before, after, ""))
        more = (f"and {len(paths) - _MOST_PATHS} more",) if len(paths) > _MOST_PATHS else ()
        return Change("new_cluster", (*paths[:_MOST_PATHS], *more), ignored=kind == NONE)
    return Change("in_place" if live.get("serveConfigV2") != wanted.get("serveConfigV2") else "settings")


def _compared(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Give what of a RayService's cluster makes KubeRay (1.6) make another one when it changes."""
    cluster: dict[str, Any] = copy.deepcopy(dict(spec.get("rayClusterConfig") or {}))
    for key in ("upgradeStrategy", "suspend"):
        cluster.pop(key, None)
    for group in (cluster.get("headGroupSpec") or {}, *(cluster.get("workerGroupSpecs") or ())):
        pod = (group.get("template") or {}).get("spec") or {}
        for key in ("tolerations", "schedulingGates"):
            pod.pop(key, None)
    for group in cluster.get("workerGroupSpecs") or ():
        for key in ("replicas", "minReplicas", "maxReplicas"):
            group.pop(key, None)
        if isinstance(group.get("scaleStrategy"), dict):
            group["scaleStrategy"].pop("workersToDelete", None)
        if not group.get("scaleStrategy"):
            group.pop("scaleStrategy", None)
    found: dict[str, Any] = _pruned(cluster)
    return found


def _pruned(value: Any) -> Any:
    """Leave out what says nothing: an operator that writes a spec again adds it."""
    if isinstance(value, Mapping):
        kept = {key: _pruned(one) for key, one in value.items()}
        return {key: one for key, one in kept.items() if one not in (None, {}, [], "")}
    return [_pruned(one) for one in value] if isinstance(value, list) else value


def _differences(before: Any, after: Any, where: str) -> Iterator[str]:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from _differences(before.get(key), after.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{where}[{number}]")
    else:
        yield where
