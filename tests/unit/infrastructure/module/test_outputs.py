"""The outputs that the tasks after a set-up read: checked before anything is made."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.infrastructure.errors import ModuleError
from ray_provider.infrastructure.module.outputs import InfrastructureOutputs, check_planned

POOL = {
    "node_selector": {"ray-pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu"}],
    "accelerator": {"resource": "nvidia.com/gpu", "type": "a10g", "count": 4},
    "min": 0,
    "max": 2,
}
WHOLE = {"cloud": "aws", "cluster_name": "c", "location": "r"}


def planned(values: dict[str, Any], *, unknown: Any = None, sensitive: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "configuration": {"root_module": {"outputs": {name: {"sensitive": name in sensitive} for name in values}}},
        "output_changes": {
            name: {"after": value, "after_unknown": (unknown or {}).get(name, False)} for name, value in values.items()
        },
    }


def problems(values: dict[str, Any], **further: Any) -> list[str]:
    with pytest.raises(ModuleError, match="The module's outputs are not what the tasks after this one read") as caught:
        check_planned(planned(values, **further))
    assert caught.value.data["field"] == "module"
    assert "Nothing was changed" in str(caught.value)
    return list(caught.value.data["outputs"])


def test_what_keeps_the_contract_passes() -> None:
    assert check_planned(planned({**WHOLE, "node_pools": {"gpu": POOL}, "mine": [1]})) == []
    assert check_planned(planned({"cloud": "gcp", "cluster_name": "c", "location": "l", "project": "p"})) == []
    assert check_planned(planned({"mine": 1})) == [], "a module without a cluster has no contract"
    assert check_planned({}) == []


def test_what_belongs_to_a_cloud_has_to_be_there() -> None:
    assert problems({"cloud": "aws"}) == ["cluster_name", "location"]
    assert problems({"cloud": "gcp", "cluster_name": "c", "location": "l"}) == ["project"]
    assert problems(WHOLE, sensitive=("cloud", "location")) == ["cloud", "location"]
    assert check_planned(planned({**WHOLE, "kubernetes_version": "1"}, sensitive=("kubernetes_version",))) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("cluster_name", 7, "it has to be text, and is int"),
        ("nvidia_device_plugin_required", "no", "it has to be true or false, and is str"),
        ("ray_operator_managed", 1, "it has to be true or false, and is int"),
        ("node_pools", [], "it has to be a mapping, and is list"),
        ("ray_helm_values", "x", "it has to be a mapping, and is str"),
        ("service_accounts", [1], "it has to be a mapping, and is list"),
        ("bucket_uri", {}, "it has to be text, and is dict"),
        ("cluster_endpoint", 1, "it has to be text, and is int"),
        ("kubernetes_version", 1.3, "it has to be text, and is float"),
        ("project", 5, "it has to be text, and is int"),
    ],
)
def test_each_output_has_its_kind(name: str, value: Any, words: str) -> None:
    with pytest.raises(ModuleError, match=f"outputs.{name}: {words}"):
        check_planned(planned({**WHOLE, name: value}))
    check_planned(planned({**WHOLE, name: None}))
    check_planned(planned({**WHOLE, name: value}, unknown={name: True}))
    with pytest.raises(ModuleError, match=f"output {name} is {type(value).__name__}") as caught:
        InfrastructureOutputs.from_values({name: value})
    assert caught.value.data["field"] == name


@pytest.mark.parametrize(
    "change",
    [
        {"node_selector": ["x"]},
        {"allocatable": 5},
        {"tolerations": ["x"]},
        {"min": "few"},
        {"max": "many"},
        {"num_of_hosts": [1]},
        {"accelerator": {"count": 1, "type": "x"}},
        {"accelerator": {"count": 1, "resource": "x"}},
        {"accelerator": {"resource": "x", "type": "y"}},
        {"accelerator": {"count": "all", "resource": "x", "type": "y"}},
    ],
)
def test_a_pool_that_a_chart_could_not_read_is_named(change: dict[str, Any]) -> None:
    wrong = {**WHOLE, "node_pools": {"gpu": {**POOL, **change}, "cpu": {}}}
    assert problems(wrong) == ["node_pools.gpu"]
    # What is known in part only is read after the apply.
    for unknown in ({"gpu": {"accelerator": True}}, {"gpu": {"tolerations": [{}, True]}}):
        assert check_planned(planned(wrong, unknown={"node_pools": unknown})) == []
    assert problems(wrong, unknown={"node_pools": {"gpu": {"min": False, "tolerations": [False]}}}) == [
        "node_pools.gpu"
    ]
    with pytest.raises(ModuleError, match="node_pools.gpu is not what it should be") as caught:
        InfrastructureOutputs.from_values(wrong)
    assert caught.value.data["field"] == "node_pools.gpu"


def test_a_pool_that_is_none_is_named() -> None:
    assert problems({**WHOLE, "node_pools": {"gpu": "four"}}) == ["node_pools.gpu"]


def test_a_name_that_is_nearly_right_is_told() -> None:
    assert check_planned(planned({**WHOLE, "node_pool": 1})) == [
        "The module's output node_pool is not one that later tasks read; is node_pools meant?"
    ]
    assert check_planned(planned({**WHOLE, "node_pool": 1, "node_pools": {}})) == []
    assert check_planned(planned({**WHOLE, "nodes": 1})) == []
