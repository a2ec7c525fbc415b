"""What a plan would do, and whether it may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ray_provider.infrastructure.errors import BackendError, PlanRefusedError
from ray_provider.infrastructure.idle import IdleCost

#: What is not destroyed or replaced unless it was allowed: clusters, pools, and what holds data.
GUARDED_TYPES = (
    "aws_eks_cluster",
    "aws_eks_node_group",
    "aws_eks_fargate_profile",
    "aws_autoscaling_group",
    "aws_s3_bucket",
    "aws_efs_file_system",
    "aws_fsx_*",
    "aws_kms_key",
    "google_container_cluster",
    "google_container_node_pool",
    "google_storage_bucket",
    "google_filestore_instance",
    "google_kms_crypto_key",
)
_LISTED = 50
#: How much of a plan goes into XCom: that many changes, attributes of each, characters of a name.
_HANDED_ON = 200
_ATTRIBUTES = 20
_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """One resource that a plan changes.

    :param address: of the resource.
    :param type: of the resource, such as ``aws_eks_cluster``.
    :param action: ``create``, ``update``, ``replace``, ``delete``, ``import``, ``move`` or ``forget``.
    :param reason: Terraform's, if it gives one.
    :param attributes: names of what changes. Values are left out: they may be secret.
    :param unfinished: its creation never ended well: nothing that needs it was ever made.
    :param previous: its former address, if it was moved.
    """

    address: str
    type: str
    action: str
    reason: str = ""
    attributes: tuple[str, ...] = ()
    unfinished: bool = False
    previous: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain data."""
        return {
            "address": self.address[:_CHARACTERS],
            "action": self.action,
            "reason": self.reason,
            "attributes": [name[:_CHARACTERS] for name in self.attributes[:_ATTRIBUTES]],
        }


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What a plan would do.

    :param changes: the resources that would be created, updated, replaced, deleted, imported, moved or forgotten.
    :param drift: resources that were deleted, or whose values were changed, outside of Terraform since its last run.
    :param outputs_changed: names of outputs that would change.
    :param destroy: whether this is the plan of a destroy.
    :param idle: what will run with nobody using it.
    """

    changes: tuple[PlannedChange, ...] = ()
    drift: tuple[PlannedChange, ...] = ()
    outputs_changed: tuple[str, ...] = ()
    destroy: bool = False
    idle: IdleCost | None = None

    @classmethod
    def from_json(cls, plan: Mapping[str, Any], *, destroy: bool = False) -> PlanSummary:
        """Read ``terraform show -json PLAN``. Values are left out: they may be secret.

        :param plan: that JSON.
        :param destroy: it is the plan of a destroy. Default: no.
        """
        root = (plan.get("prior_state") or {}).get("values", {}).get("root_module") or {}
        return cls(
            changes=tuple(_changes(plan.get("resource_changes") or (), needed=_needed(root))),
            drift=tuple(
                change for change in _changes(plan.get("resource_drift") or (), drift=True) if _is_news(change)
            ),
            outputs_changed=tuple(
                sorted(
                    name
                    for name, change in (plan.get("output_changes") or {}).items()
                    if change.get("actions") != ["no-op"]
                )
            ),
            destroy=destroy,
            idle=None if destroy else IdleCost.of(plan),
        )

    def of(self, action: str) -> tuple[str, ...]:
        """Give the addresses that an action is planned for.

        :param action: ``create``, ``update``, ``replace`` or ``delete``.
        """
        return tuple(change.address for change in self.changes if change.action == action)

    @property
    def touched(self) -> frozenset[str]:
        """The addresses, new and old, that the plan says something of."""
        return frozenset({address for change in self.changes for address in (change.address, change.previous)})

    def deleted_outside(self, guarded: Iterable[str] = ("*",)) -> tuple[str, ...]:
        """Give the addresses of what the refresh did not find any more.

        :param guarded: patterns of resource types that count, such as ``aws_eks_*``. Default: all.
        """
        patterns = tuple(guarded)
        return tuple(
            change.address
            for change in self.drift
            if change.action == "delete" and any(fnmatchcase(change.type, pattern) for pattern in patterns)
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many resources, by action; the four usual ones always."""
        found = dict.fromkeys(("create", "update", "replace", "delete"), 0)
        for change in self.changes:
            found[change.action] = found.get(change.action, 0) + 1
        return found

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do, not even an output to store."""
        return not self.changes and not self.outputs_changed

    def lines(self) -> list[str]:
        """Give the summary for a log: counts, and by name what is lost."""
        counts = self.counts
        found = [
            f"Plan: {counts['create']} to create, {counts['update']} to change, {counts['replace']} to replace,"
            f" {counts['delete']} to destroy"
            + "".join(f", {number} to {action}" for action, number in counts.items() if action not in _USUAL)
            + "."
        ]
        for action, title in (
            ("delete", "Will be destroyed"),
            ("replace", "Will be replaced (destroyed and made anew)"),
        ):
            lost = [change for change in self.changes if change.action == action]
            if lost:
                found.append(f"{title}:")
                found += [f"  - {change.address}{_because(change)}" for change in lost[:_LISTED]]
                if len(lost) > _LISTED:
                    found.append(f"  … and {len(lost) - _LISTED} more")
        if self.drift:
            found.append(f"Changed outside of Terraform: {len(self.drift)}")
            found += [
                f"  ! {change.address}: {change.action} {', '.join(change.attributes)}".rstrip()
                for change in self.drift[:_LISTED]
            ]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain data, without values, and bounded: what is lost comes first, the counts are of all."""
        return {
            "counts": self.counts,
            "changes": _capped(self.changes),
            "drift": _capped(self.drift),
            "left_out": max(0, len(self.changes) - _HANDED_ON) + max(0, len(self.drift) - _HANDED_ON),
            "destroy": self.destroy,
            "idle": None if self.idle is None else {"things": dict(self.idle.things), "gpus": self.idle.gpus},
        }

    def guard(
        self, *, allow_destroy: bool = False, allow_replace: bool = False, guarded: Iterable[str] = GUARDED_TYPES
    ) -> None:
        """Refuse a plan that loses a cluster, a pool or data.

        What was never complete (its creation failed, or was stopped) may be replaced: that is the way on from there.

        :param allow_destroy: guarded resources may be destroyed.
        :param allow_replace: guarded resources may be replaced.
        :param guarded: resource types; ``*`` stands for anything.
        :raises PlanRefusedError: it would lose something that it must not.
        """
        patterns = tuple(guarded)

        def lost(action: str) -> list[PlannedChange]:
            return [
                change
                for change in self.changes
                if change.action == action
                and not (action == "replace" and change.unfinished)
                and any(fnmatchcase(change.type, pattern) for pattern in patterns)
            ]

        destroyed = [] if allow_destroy else lost("delete")
        replaced = [] if allow_replace else lost("replace")
        if not destroyed and not replaced:
            return
        parts = [f"destroy {change.address}{_because(change)}" for change in destroyed]
        parts += [f"replace {change.address}{_because(change)}" for change in replaced]
        wanted = [name for name, changes in (("allow_destroy", destroyed), ("allow_replace", replaced)) if changes]
        raise PlanRefusedError(
            "The plan is refused, and nothing was changed. It would " + ", ".join(parts) + ".",
            hint=f"If that is meant, set {' and '.join(f'`{name}=True`' for name in wanted)}. Otherwise"
            " look at what changed in"
            " `variables` or in the module.",
            destroy=[change.address for change in destroyed],
            replace=[change.address for change in replaced],
        )


def check_same_module(plan: Mapping[str, Any], module: str) -> None:
    """Refuse a state in which nothing comes from this module.

    :param plan: ``terraform show -json PLAN``.
    :param module: as it is shown to people.
    :raises BackendError: the state belongs to another module.
    """
    in_state = _state_resources((plan.get("prior_state") or {}).get("values", {}).get("root_module") or {})
    if not in_state:
        return
    moved = {
        str(change.get("previous_address"))
        for change in plan.get("resource_changes") or ()
        if change.get("previous_address")
    }
    configured = _configured((plan.get("configuration") or {}).get("root_module") or {})
    if configured & {_without_keys(address) for address in in_state} or moved & set(in_state):
        return
    known = ", ".join(sorted(in_state)[:5])
    raise BackendError(
        f"backend: the state holds resources of another module than {module}:"
        f" {known}{', …' if len(in_state) > 5 else ''}. Nothing was changed.",
        hint="Give each infrastructure a state of its own: another key, path or workspace.",
        field="backend",
        resources=sorted(in_state)[:_LISTED],
    )


_USUAL = frozenset({"create", "update", "replace", "delete"})


def _capped(changes: Sequence[PlannedChange]) -> list[dict[str, Any]]:
    if len(changes) > _HANDED_ON:
        changes = sorted(changes, key=lambda change: change.action not in {"delete", "replace"})[:_HANDED_ON]
    return [change.to_dict() for change in changes]


def _because(change: PlannedChange) -> str:
    parts = [change.reason] if change.reason else []
    if change.attributes:
        parts.append(", ".join(change.attributes))
    return f" ({': '.join(parts)})" if parts else ""


def _is_news(change: PlannedChange) -> bool:
    return change.action != "update" or bool(change.attributes)


def _changes(
    found: Iterable[Mapping[str, Any]], *, drift: bool = False, needed: frozenset[str] = frozenset()
) -> Iterable[PlannedChange]:
    for item in found:
        change = item.get("change") or {}
        action = _action(change.get("actions") or (), item)
        if item.get("mode", "managed") != "managed" or action is None:
            continue
        yield PlannedChange(
            address=str(item.get("address", "?")),
            type=str(item.get("type", "")),
            action=action,
            reason=str(item.get("action_reason", "")).replace("_", " "),
            attributes=tuple(_drifted(change) if drift else _differences(change, replacing=action == "replace")),
            # Terraform makes what needs a resource only when that is complete. A cluster with pools that somebody
            # tainted by hand has been.
            unfinished=item.get("action_reason") == "replace_because_tainted"
            and _without_keys(str(item.get("address"))) not in needed,
            previous=str(item.get("previous_address") or ""),
        )


def _action(actions: Sequence[str], item: Mapping[str, Any]) -> str | None:
    if set(actions) == {"create", "delete"}:
        return "replace"
    if list(actions) == ["no-op"]:
        if (item.get("change") or {}).get("importing"):
            return "import"
        return "move" if item.get("previous_address") not in {None, item.get("address")} else None
    return actions[0] if actions and actions[0] != "read" else None


def _differences(change: Mapping[str, Any], *, replacing: bool) -> list[str]:
    """Name the attributes that differ; for a replacement, those that force it."""
    if replacing:
        return sorted({".".join(str(step) for step in path) for path in change.get("replace_paths") or ()})
    before, after = change.get("before"), change.get("after")
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return []
    unknown = change.get("after_unknown")
    names = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    if isinstance(unknown, Mapping):
        names |= {name for name, value in unknown.items() if value is True and name in before}
    return sorted(names)


def _drifted(change: Mapping[str, Any]) -> list[str]:
    """Name the attributes whose values were changed or taken away outside.

    What was empty and is filled now doesn't count: clouds and providers do that by themselves after every apply, to
    dozens of resources. Where such a value matters, the module says so, and the plan has a change for it.
    """
    before, after = change.get("before"), change.get("after")
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return []
    return sorted(name for name, value in before.items() if _was_changed(value, after.get(name)))


def _was_changed(before: Any, after: Any) -> bool:
    if before is False or before in (None, "", [], {}):
        return False
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return any(_was_changed(value, after.get(name)) for name, value in before.items())
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return any(_was_changed(old, new) for old, new in zip(before, after, strict=True))
    return bool(before != after)


def _state_resources(module: Mapping[str, Any]) -> list[str]:
    found = [str(item["address"]) for item in module.get("resources") or () if item.get("mode") == "managed"]
    for child in module.get("child_modules") or ():
        found += _state_resources(child)
    return found


def _needed(module: Mapping[str, Any]) -> frozenset[str]:
    """Give the addresses, without keys, that managed resources in the state were made after."""
    found = {
        _without_keys(str(address))
        for item in module.get("resources") or ()
        if item.get("mode") == "managed"
        for address in item.get("depends_on") or ()
    }
    return frozenset(found).union(*(_needed(child) for child in module.get("child_modules") or ()))


def _configured(module: Mapping[str, Any], prefix: str = "") -> set[str]:
    found = {prefix + str(item["address"]) for item in module.get("resources") or () if item.get("mode") == "managed"}
    for name, call in (module.get("module_calls") or {}).items():
        found |= _configured(call.get("module") or {}, f"{prefix}module.{name}.")
    return found


def _without_keys(address: str) -> str:
    out, depth = [], 0
    for character in address:
        depth += character == "["
        if depth == 0:
            out.append(character)
        depth -= character == "]"
    return "".join(out)
