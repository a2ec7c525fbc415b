"""Summaries of plans, guards, and what counts as drift."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.errors import BackendError, PlanRefusedError
from ray_provider.infrastructure.idle import check_prices
from ray_provider.infrastructure.plan import PlanSummary, check_same_module


def change(address: str, *actions: str, before: Any = None, after: Any = None, **more: Any) -> dict[str, Any]:
    kind = address.rpartition("module.")[2].split(".")[-2] if "." in address else address
    inner = {"actions": list(actions), "before": before, "after": after, **more.pop("change", {})}
    return {"address": address, "type": kind, "mode": "managed", "change": inner, **more}


def test_actions_are_told_apart() -> None:
    plan = {
        "resource_changes": [
            change("aws_vpc.a", "create"),
            change("aws_vpc.b", "update", before={"x": 1, "y": 1}, after={"x": 2, "y": 1}),
            change(
                "aws_eks_node_group.c", "delete", "create", change={"replace_paths": [["instance_types"], ["a", 0]]}
            ),
            change("aws_vpc.d", "create", "delete"),
            change("aws_vpc.e", "delete", action_reason="delete_because_each_key"),
            change("aws_vpc.f", "no-op"),
            change("aws_vpc.g", "no-op", previous_address="aws_vpc.old"),
            change("aws_vpc.h", "no-op", change={"importing": {"id": "x"}}),
            change("aws_vpc.i", "forget"),
            {**change("data.aws_ami.j", "read"), "mode": "data"},
        ],
        "output_changes": {"same": {"actions": ["no-op"]}, "other": {"actions": ["update"]}},
    }
    summary = PlanSummary.from_json(plan)
    assert summary.counts == {
        "create": 1,
        "update": 1,
        "replace": 2,
        "delete": 1,
        "move": 1,
        "import": 1,
        "forget": 1,
    }
    assert summary.outputs_changed == ("other",)
    lines = summary.lines()
    assert (
        lines[0] == "Plan: 1 to create, 1 to change, 2 to replace, 1 to destroy, 1 to move, 1 to import, 1 to forget."
    )
    assert "  - aws_vpc.e (delete because each key)" in lines
    assert "  - aws_eks_node_group.c (a.0, instance_types)" in lines
    with pytest.raises(PlanRefusedError) as caught:
        summary.guard()
    assert caught.value.data == {"destroy": [], "replace": ["aws_eks_node_group.c"]}
    summary.guard(allow_replace=True)


@pytest.mark.parametrize(
    "kind", ["aws_eks_cluster", "google_container_cluster", "google_container_node_pool", "google_storage_bucket"]
)
def test_clusters_pools_and_data_are_guarded(kind: str) -> None:
    summary = PlanSummary.from_json({"resource_changes": [change(f"{kind}.x", "delete")]})
    with pytest.raises(PlanRefusedError, match="nothing was changed"):
        summary.guard(allow_replace=True)
    summary.guard(allow_destroy=True)


def test_an_empty_plan_needs_nothing() -> None:
    assert PlanSummary.from_json({}).is_empty
    assert PlanSummary.from_json({}).lines() == ["Plan: 0 to create, 0 to change, 0 to replace, 0 to destroy."]


def test_values_are_never_in_a_summary() -> None:
    plan = {"resource_changes": [change("a.b", "update", before={"password": "old"}, after={"password": "planted"})]}
    summary = PlanSummary.from_json(plan)
    assert "planted" not in repr(summary) + str(summary.to_dict())
    assert summary.changes[0].attributes == ("password",)


@pytest.mark.parametrize(
    ("before", "after", "drifted"),
    [
        ({"tags": None}, {"tags": {}}, False),
        ({"route": []}, {"route": [{"cidr": "x"}]}, False),
        ({"versioning": [{"enabled": False}]}, {"versioning": [{"enabled": True}]}, False),
        ({"size": 1}, {"size": 2}, True),
        ({"tags": {"a": "1"}}, {"tags": {"a": "1", "b": "2"}}, False),
        ({"tags": {"a": "1"}}, {"tags": {}}, True),
        ({"rules": [{"port": 1, "id": ""}]}, {"rules": [{"port": 1, "id": "x"}]}, False),
        ({"rules": [{"port": 1}]}, {"rules": [{"port": 2}]}, True),
        ({"rules": [1]}, {"rules": [1, 2]}, True),
    ],
)
def test_what_a_cloud_fills_in_is_not_drift(before: Any, after: Any, drifted: bool) -> None:
    plan = {"resource_drift": [change("aws_x.y", "update", before=before, after=after)]}
    assert bool(PlanSummary.from_json(plan).drift) is drifted


def test_what_was_deleted_outside_is_drift() -> None:
    summary = PlanSummary.from_json({"resource_drift": [change("aws_x.y", "delete", before={"a": 1})]})
    assert "  ! aws_x.y: delete" in summary.lines()


def _plan(in_state: list[str], configured: list[str], **more: Any) -> dict[str, Any]:
    return {
        "prior_state": {
            "values": {
                "root_module": {"child_modules": [{"resources": [{"address": a, "mode": "managed"} for a in in_state]}]}
            }
        },
        "configuration": {
            "root_module": {
                "module_calls": {
                    "net": {"module": {"resources": [{"address": a, "mode": "managed"} for a in configured]}}
                }
            }
        },
        **more,
    }


def test_a_state_of_another_module_is_refused() -> None:
    check_same_module(_plan([], ["aws_vpc.a"]), "eks")
    check_same_module(_plan(['module.net["x"].aws_vpc.a[0]', "aws_vpc.gone"], ["aws_vpc.a"]), "eks")
    with pytest.raises(BackendError, match="another module than eks: .*google_x.y"):
        check_same_module(_plan(["google_x.y"], ["aws_vpc.a"]), "eks")
    moved = [{"address": "module.net.aws_vpc.a", "previous_address": "aws_vpc.old"}]
    check_same_module(_plan(["aws_vpc.old"], ["aws_vpc.a"], resource_changes=moved), "eks")


@pytest.mark.parametrize("prices", [["m6i"], {"m6i": "cheap"}, {"m6i": -1}, {"m6i": True}])
def test_a_price_table_that_is_none(prices: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_prices(prices)
    assert caught.value.data["field"] == "hourly_prices"
