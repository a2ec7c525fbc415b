"""What a plan leaves running with nobody using it: what costs money from the first hour on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.exceptions import ConfigurationError

#: Resources that cost by the hour whether they are used or not, and what people call them.
_ALWAYS_ON = {
    "aws_eks_cluster": "control plane",
    "google_container_cluster": "control plane",
    "aws_nat_gateway": "NAT gateway",
    "google_compute_router_nat": "NAT gateway",
    "aws_lb": "load balancer",
    "aws_fsx_lustre_file_system": "FSx file system",
    "google_filestore_instance": "Filestore instance",
}


@dataclass(frozen=True, slots=True)
class IdleCost:
    """What runs when no Ray cluster does.

    :param things: how many of each, e.g. ``{"control plane": 1, "m6i.2xlarge": 1}``.
    :param machines: which of them are machines.
    :param gpus: how many accelerators their pools keep, ``None`` where the plan does not know.
    :param warm: pools with accelerators that keep machines, and how many.
    """

    things: Mapping[str, int]
    machines: frozenset[str]
    gpus: int | None
    warm: Mapping[str, int]

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> IdleCost:
        """Read ``terraform show -json PLAN``.

        :param plan: that JSON.
        """
        things: dict[str, int] = {}
        machines: set[str] = set()
        planned = plan.get("planned_values") or {}
        for resource in _resources(planned.get("root_module") or {}):
            kind, values = resource.get("type"), resource.get("values") or {}
            name = _ALWAYS_ON.get(str(kind))
            if kind == "aws_vpc_endpoint" and values.get("vpc_endpoint_type") == "Interface":
                name = "interface endpoint (in each zone)"
            if name:
                things[name] = things.get(name, 0) + 1
            found = _machines(str(kind), values)
            if found is not None and found[0] > 0:
                things[found[1]] = things.get(found[1], 0) + found[0]
                machines.add(found[1])
        gpus, warm = _accelerators(planned.get("outputs") or {})
        return cls(things=things, machines=frozenset(machines), gpus=gpus, warm=warm)

    def lines(self, prices: Mapping[str, float] | None = None) -> list[str]:
        """Give it for a log.

        :param prices: per hour, of one of each thing, by the names in the line.
        """
        if not self.things:
            return []
        parts = [
            f"{number} \u00d7 {name}" if name in self.machines or number > 1 else name
            for name, number in self.things.items()
        ]
        if self.gpus is not None:
            parts.append(f"{self.gpus} GPU{'' if self.gpus == 1 else 's'}")
        line = f"With nobody using it, this runs: {', '.join(parts)}"
        if prices:
            known = sum(number * float(prices[name]) for name, number in self.things.items() if name in prices)
            unknown = [name for name in self.things if name not in prices]
            line += f"; {'at least ' if unknown else ''}{known:.2f} an hour by your price table"
            line += f" (without {', '.join(unknown)})" if unknown else ""
        found = [f"{line}."]
        found += [
            f"Warning: node_pools.{name} keeps {number} machine{'' if number == 1 else 's'} with accelerators running"
            " when nobody uses them. With `min = 0` they are made when a Ray cluster needs them."
            for name, number in self.warm.items()
        ]
        return found


def check_prices(prices: Any) -> dict[str, float]:
    """Read a price table.

    :param prices: US dollars an hour, by what costs them, such as a machine type; as somebody gave them.
    :raises ConfigurationError: it is not one.
    """
    if prices is None:
        return {}
    if not isinstance(prices, Mapping) or not all(
        isinstance(name, str) and isinstance(price, (int, float)) and not isinstance(price, bool) and price >= 0
        for name, price in prices.items()
    ):
        raise ConfigurationError(
            "hourly_prices: it has to map names to prices.",
            hint='For example {"control plane": 0.10, "NAT gateway": 0.045, "m6i.2xlarge": 0.384}.',
            field="hourly_prices",
        )
    return {name: float(price) for name, price in prices.items()}


def _resources(module: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for item in module.get("resources") or ():
        if item.get("mode") == "managed":
            yield item
    for child in module.get("child_modules") or ():
        yield from _resources(child)


def _machines(kind: str, values: Mapping[str, Any]) -> tuple[int, str] | None:
    """Give how many machines a pool keeps at least, and of which type."""
    if kind == "aws_eks_node_group":
        scaling = _first(values.get("scaling_config"))
        types = values.get("instance_types") or ["machine of a launch template"]
        return int(scaling.get("min_size") or 0), str(types[0])
    if kind == "google_container_node_pool":
        scaling = _first(values.get("autoscaling"))
        zones = len(values.get("node_locations") or ()) or 1
        number = (
            int(scaling.get("total_min_node_count") or 0) or int(scaling.get("min_node_count") or 0) * zones
            if scaling
            else int(values.get("node_count") or values.get("initial_node_count") or 0) * zones
        )
        return number, str(_first(values.get("node_config")).get("machine_type") or "machine")
    return None


def _accelerators(outputs: Mapping[str, Any]) -> tuple[int | None, dict[str, int]]:
    """Count what the pools in the outputs keep, by the contract of both bundled modules."""
    pools = (outputs.get("node_pools") or {}).get("value")
    if not isinstance(pools, Mapping):
        return None, {}
    total, warm = 0, {}
    for name, pool in pools.items():
        accelerator = pool.get("accelerator") if isinstance(pool, Mapping) else None
        if not isinstance(accelerator, Mapping):
            continue
        machines = int(pool.get("min") or 0) * int(pool.get("num_of_hosts") or 1)
        if machines:
            warm[str(name)] = machines
        total += machines * int(accelerator.get("count") or 0)
    return total, warm


def _first(value: Any) -> Mapping[str, Any]:
    found = value[0] if isinstance(value, list) and value else value
    return found if isinstance(found, Mapping) else {}
