"""The outputs of a module as typed objects: the contract that both bundled modules keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ray_provider.infrastructure.errors import ModuleError

#: What the tasks after a set-up read, and of which kind it is.
CONTRACT: Mapping[str, type] = {
    "cloud": str,
    "project": str,
    "cluster_name": str,
    "cluster_endpoint": str,
    "location": str,
    "kubernetes_version": str,
    "node_pools": Mapping,
    "ray_helm_values": Mapping,
    "service_accounts": Mapping,
    "bucket_uri": str,
    "nvidia_device_plugin_required": bool,
    "ray_operator_managed": bool,
}


@dataclass(frozen=True, slots=True)
class InfrastructureOutputs:
    """What a module gives back: the part of the contract that decides something here, and all of it as it came.

    :param cloud: ``aws`` or ``gcp``.
    :param project: of Google Cloud.
    :param cluster_name: of the Kubernetes cluster; ``None``: the module does not say it, or it is not made yet.
    :param location: its region or zone.
    :param nvidia_device_plugin_required: pods only get NVIDIA's GPUs when somebody has installed its device plugin.
    :param values: all outputs that are not sensitive, as Terraform gave them.
    :param sensitive: the sensitive ones. Never printed, never in :meth:`public`.
    """

    cloud: str | None = None
    project: str | None = None
    cluster_name: str | None = None
    location: str | None = None
    nvidia_device_plugin_required: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)
    sensitive: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def public(self) -> dict[str, Any]:
        """Give the outputs as plain data, without the sensitive ones."""
        return dict(self.values)

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, Any]]) -> InfrastructureOutputs:
        """Read ``terraform output -json``.

        :param data: each output with ``value`` and ``sensitive``.
        :raises ModuleError: an output of the contract has another type.
        """
        values = {name: item.get("value") for name, item in data.items() if not item.get("sensitive")}
        sensitive = {name: item.get("value") for name, item in data.items() if item.get("sensitive")}
        return cls.from_values(values, sensitive)

    @classmethod
    def from_values(
        cls, values: Mapping[str, Any], sensitive: Mapping[str, Any] | None = None
    ) -> InfrastructureOutputs:
        """Make the object from plain values, as :meth:`public` gave them.

        :param values: those that are not sensitive.
        :param sensitive: the others. Default: none.
        :raises ModuleError: an output of the contract has another type.
        """
        for name, kind in CONTRACT.items():
            value = values.get(name)
            if value is not None and not isinstance(value, kind):
                raise ModuleError(
                    f"The module's output {name} is {type(value).__name__}, not {kind.__name__}.", field=name
                )
        for name, pool in (values.get("node_pools") or {}).items():
            _check_pool(name, pool)
        return cls(
            cloud=values.get("cloud"),
            project=values.get("project"),
            cluster_name=values.get("cluster_name"),
            location=values.get("location"),
            nvidia_device_plugin_required=bool(values.get("nvidia_device_plugin_required")),
            values=dict(values),
            sensitive=dict(sensitive or {}),
        )


#: A module that says in which cloud it makes a cluster has to say which cluster.
_WITH_CLOUD = ("cluster_name", "location")
_KINDS = {str: "text", bool: "true or false", Mapping: "a mapping"}


def check_planned(plan: Mapping[str, Any]) -> list[str]:
    """Check the outputs that a plan declares, before anything is made.

    :param plan: ``terraform show -json PLAN``.
    :return: names that look like a misspelt output of the contract, as sentences.
    :raises ModuleError: an output of the contract is missing beside others, or of another type.
    """
    declared = (plan.get("configuration") or {}).get("root_module", {}).get("outputs") or {}
    changes = plan.get("output_changes") or {}
    problems = [
        f"outputs.{name}: it is missing, though `cloud` is there"
        for name in _WITH_CLOUD
        if "cloud" in declared and name not in declared
    ]
    problems += [
        f"outputs.{name}: it is sensitive, so it can't be handed on to the tasks after this one"
        for name in ("cloud", *_WITH_CLOUD)
        if (declared.get(name) or {}).get("sensitive")
    ]
    if (changes.get("cloud") or {}).get("after") == "gcp" and "project" not in declared:
        problems.append("outputs.project: it is missing, and Google Cloud needs it")
    for name, kind in CONTRACT.items():
        change = changes.get(name) or {}
        value, unknown = change.get("after"), change.get("after_unknown")
        if value is None or unknown is True:
            continue
        if not isinstance(value, kind):
            problems.append(f"outputs.{name}: it has to be {_KINDS[kind]}, and is {type(value).__name__}")
        elif name == "node_pools" and isinstance(value, Mapping):
            problems += _pool_problems(value, unknown if isinstance(unknown, Mapping) else {})
    if problems:
        raise ModuleError(
            "The module's outputs are not what the tasks after this one read: " + "; ".join(problems) + ". Nothing was"
            " changed.",
            hint="Correct the module's outputs; docs/infrastructure.md lists them.",
            field="module",
            outputs=sorted({problem.partition(":")[0].removeprefix("outputs.") for problem in problems}),
        )
    near = {name: get_close_matches(name, CONTRACT, n=1, cutoff=0.85) for name in declared if name not in CONTRACT}
    return [
        f"The module's output {name} is not one that later tasks read; is {found[0]} meant?"
        for name, found in near.items()
        if found and found[0] not in declared
    ]


def _pool_problems(pools: Mapping[str, Any], unknown: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    for name, pool in pools.items():
        if _any_unknown(unknown.get(name)):
            # Known in part: what is missing now is there after the apply.
            continue
        try:
            _check_pool(name, pool)
        except ModuleError as error:
            problems.append(f"outputs.node_pools.{name}: {error.message}")
    return problems


def _check_pool(name: str, pool: Any) -> None:
    """Refuse a pool that charts, scripts and :mod:`ray_provider.infrastructure.idle` could not read."""
    try:
        for mapping in ("node_selector", "allocatable"):
            dict(pool.get(mapping) or {})
        for toleration in pool.get("tolerations") or ():
            dict(toleration)
        for number in ("min", "max", "num_of_hosts"):
            int(pool.get(number) or 0)
        if (accelerator := pool.get("accelerator")) is not None:
            int(accelerator["count"])
            for text in ("resource", "type"):
                str(accelerator[text])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModuleError(
            f"The module's output node_pools.{name} is not what it should be: {type(error).__name__} {error}.",
            field=f"node_pools.{name}",
        ) from error


def _any_unknown(marks: Any) -> bool:
    if isinstance(marks, Mapping):
        return any(_any_unknown(mark) for mark in marks.values())
    return any(_any_unknown(mark) for mark in marks) if isinstance(marks, list) else marks is True
