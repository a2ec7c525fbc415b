"""What a plan leaves running."""

from __future__ import annotations

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
