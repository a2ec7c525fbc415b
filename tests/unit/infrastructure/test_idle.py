"""What a plan leaves running."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.infrastructure.idle import IdleCost


def test_endpoints_instead_of_nat_cost_by_the_hour_too() -> None:
    endpoints = [
        {"mode": "managed", "type": "aws_vpc_endpoint", "values": {"vpc_endpoint_type": kind}}
        for kind in ("Interface", "Interface", "Gateway")
    ]
    plan = {"planned_values": {"root_module": {"child_modules": [{"resources": endpoints}]}}}
    (line,) = IdleCost.of(plan).lines({"interface endpoint (in each zone)": 0.01})
    assert "2 \u00d7 interface endpoint (in each zone)" in line
    assert "0.02 an hour" in line


WARM = (
    "Warning: node_pools.{name} keeps {machines} with accelerators running when nobody uses them. With `min = 0` they are"
    " made when a Ray cluster needs them."
)


def planned(*resources: tuple[str, dict[str, Any]], pools: Any = None, mode: str = "managed") -> dict[str, Any]:
    items = [{"mode": mode, "type": kind, "values": values} for kind, values in resources]
    outputs = {} if pools is None else {"node_pools": {"value": pools}}
    return {"planned_values": {"root_module": {"resources": items}, "outputs": outputs}}


@pytest.mark.parametrize(
    ("kind", "values", "thing"),
    [
        ("aws_eks_cluster", {}, "control plane"),
        ("google_container_cluster", {}, "control plane"),
        ("aws_nat_gateway", {}, "NAT gateway"),
        ("google_compute_router_nat", {}, "NAT gateway"),
        ("aws_lb", {}, "load balancer"),
        ("aws_fsx_lustre_file_system", {}, "FSx file system"),
        ("google_filestore_instance", {}, "Filestore instance"),
        ("aws_eks_node_group", {"scaling_config": [{"min_size": 1}], "instance_types": ["m6i.large"]}, "1 × m6i.large"),
        ("aws_eks_node_group", {"scaling_config": {"min_size": 2}}, "2 × machine of a launch template"),
        (
            "google_container_node_pool",
            {
                "autoscaling": [{"min_node_count": 1}],
                "node_locations": ["a", "b"],
                "node_config": [{"machine_type": "n2"}],
            },
            "2 × n2",
        ),
        (
            "google_container_node_pool",
            {"autoscaling": [{"total_min_node_count": 3, "min_node_count": 1}], "node_locations": ["a", "b"]},
            "3 × machine",
        ),
        ("google_container_node_pool", {"node_count": 2, "initial_node_count": 9}, "2 × machine"),
        ("google_container_node_pool", {"initial_node_count": 1, "node_locations": ["a", "b"]}, "2 × machine"),
    ],
)
def test_what_costs_by_the_hour_is_named(kind: str, values: dict[str, Any], thing: str) -> None:
    assert IdleCost.of(planned((kind, values))).lines() == [f"With nobody using it, this runs: {thing}."]
    assert IdleCost.of(planned((kind, values), mode="data")).lines() == []


def test_what_costs_nothing_is_not() -> None:
    nothing = (
        ("aws_vpc", {}),
        ("aws_vpc_endpoint", {"vpc_endpoint_type": "Gateway"}),
        ("aws_eks_node_group", {"scaling_config": [{"min_size": 0}], "instance_types": ["p5"]}),
        ("google_container_node_pool", {"autoscaling": [{"min_node_count": 0}]}),
    )
    assert IdleCost.of(planned(*nothing)).lines() == []
    assert IdleCost.of({}).lines() == []


def test_prices_make_a_sum_and_what_has_none_is_named() -> None:
    both = planned(
        ("aws_eks_cluster", {}),
        ("aws_nat_gateway", {}),
        ("aws_nat_gateway", {}),
        ("aws_eks_node_group", {"scaling_config": [{"min_size": 3}], "instance_types": ["m"]}),
        ("aws_eks_node_group", {"scaling_config": [{"min_size": 1}], "instance_types": ["m"]}),
    )
    cost = IdleCost.of(both)
    runs = "With nobody using it, this runs: control plane, 2 × NAT gateway, 4 × m"
    assert cost.lines({"control plane": 0.1, "NAT gateway": 0.05, "m": 0.5, "other": 9}) == [
        f"{runs}; 2.20 an hour by your price table."
    ]
    assert cost.lines({"control plane": 0.1}) == [
        f"{runs}; at least 0.10 an hour by your price table (without NAT gateway, m)."
    ]


def test_accelerators_that_nobody_uses_are_counted_and_warned_of() -> None:
    pools = {
        "cpu": {"min": 3},
        "idle": {"min": 0, "accelerator": {"count": 8}},
        "one": {"min": 1, "accelerator": {"count": 1}},
        "odd": "text",
    }
    told = IdleCost.of(planned(("aws_eks_cluster", {}), pools=pools)).lines()
    assert told[0] == "With nobody using it, this runs: control plane, 1 GPU."
    assert told[1:] == [WARM.format(name="one", machines="1 machine")]
    pools["slices"] = {"min": 2, "num_of_hosts": 4, "accelerator": {"count": 2}}
    told = IdleCost.of(planned(("aws_eks_cluster", {}), pools=pools)).lines()
    assert told[0].endswith("control plane, 17 GPUs.")
    assert told[2] == WARM.format(name="slices", machines="8 machines")
    assert IdleCost.of(planned(("aws_eks_cluster", {}), pools={})).lines()[0].endswith("control plane, 0 GPUs.")
