"""Destroys infrastructure, with all guards: what ``DeleteRayInfrastructure`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_provider.exceptions import ConfigurationError, InfrastructureError
from ray_provider.infrastructure.errors import PlanRefusedError
from ray_provider.infrastructure.guards import CloudOf, guard_gone, guard_missing
from ray_provider.infrastructure.run import InfrastructureRun
from ray_provider.infrastructure.terraform.state import CLUSTER_TYPES, StateView


@dataclass(frozen=True, slots=True)
class Removal:
    """How to destroy.

    :param confirm: the name of the cluster that is to be destroyed.
    :param cloud: gives the cloud that is asked what is really there.
    :param refuse_if_used: raises an error while somebody uses the cluster; gets the outputs.
    :param known: what else may tell the name, where the state does not: the handle's or the task's.
    :param outputs: the handle's, for a state that is empty.
    :param place: the handle's.
    :param allow_drifted: addresses of what is known to be gone, with ``*`` for anything.
    """

    confirm: str
    cloud: CloudOf
    refuse_if_used: Callable[[Mapping[str, Any]], None]
    known: str | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    place: Mapping[str, Any] = field(default_factory=dict)
    allow_drifted: Iterable[str] = ()


def remove(run: InfrastructureRun, removal: Removal) -> int:
    """Destroy what the state holds, and ask the cloud whether it is gone.

    :param run: entered.
    :param removal: what to destroy, and what to look at before.
    :return: how many resources were destroyed.
    :raises ConfigurationError: ``confirm`` is not the name of what the state holds.
    :raises PlanRefusedError: the state's resources can't all be found, or are protected.
    :raises InfrastructureError: the cluster is in use, or still there afterwards.
    """
    state = run.state
    if not state.resources:
        run.write("There is nothing in the state: nothing is to be destroyed.")
        guard_gone(_expected(removal), removal.cloud, run.write)
        return 0
    name = state.cluster_name or removal.known
    if removal.confirm != name:
        raise ConfigurationError(
            f"confirm: {removal.confirm!r} is not the name of what this state holds, {name!r}. Nothing was destroyed.",
            field="confirm",
        )
    if state.protected:
        raise PlanRefusedError(
            f"{name} is protected against deletion (`deletion_protection`). Nothing was destroyed.",
            hint="Apply once with `deletion_protection = false`, then delete.",
            name=name,
        )
    outputs = outputs_of(state)
    if outputs.get("cloud") and outputs.get("cluster_name"):
        removal.refuse_if_used(outputs)
    summary = run.plan(destroy=True)
    for line in summary.lines():
        run.write(run.redactor(line))
    missing = [address for address in state.addresses if address not in summary.touched]
    gone = guard_missing(missing, state, removal.cloud, allow_drifted=removal.allow_drifted, doing="The destroy")
    if gone:
        run.write(f"Gone already, as the cloud says too: {', '.join(gone)}")
    run.apply()
    left = run.read_state().addresses
    if left:
        raise InfrastructureError(f"After the destroy the state still holds {', '.join(left)}.", resources=left)
    guard_gone(_clusters(state), removal.cloud, run.write)
    return summary.counts["delete"]


def outputs_of(state: StateView) -> dict[str, Any]:
    """Give the outputs; where an apply came to no end, what its cluster tells of itself.

    :param state: what is in the state.
    """
    found: dict[str, Any] = {}
    for cluster in state.clusters[:1]:
        found = {
            "cloud": CLUSTER_TYPES[cluster.type],
            "cluster_name": cluster.text("name"),
            "location": cluster.region or cluster.text("location"),
            "project": cluster.account if cluster.type.startswith("google_") else None,
        }
    return found | {name: value for name, value in state.outputs.items() if value is not None}


def _clusters(state: StateView) -> list[tuple[str, str, str]]:
    return [(item.text("name"), item.region or item.text("location"), item.text("endpoint")) for item in state.clusters]


def _expected(removal: Removal) -> list[tuple[str, str, str]]:
    """Give the cluster that the handle speaks of."""
    outputs = removal.outputs
    location = str(outputs.get("location") or removal.place.get("region") or "")
    return [(removal.confirm, location, str(outputs.get("cluster_endpoint") or ""))]
