"""A handle points: what is taken from it, what is refused, and what older ones say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.errors import BackendError
from ray_provider.infrastructure.handle import InfrastructureHandle
from ray_provider.infrastructure.module.declared import DeclaredVariable, for_destroy
from ray_provider.infrastructure.module.settings import merge_backend, merge_providers, settle
from ray_provider.infrastructure.terraform.state import StateView, check_providers
from ray_provider.operators import DeleteRayInfrastructure

FIXTURES = Path(__file__).parents[2] / "infrastructure" / "fixtures"


@pytest.fixture
def old() -> dict[str, Any]:
    """The handle that commit 6260089 made of an EKS cluster in eu-west-1."""
    found: dict[str, Any] = json.loads((FIXTURES / "handle_6260089.json").read_text())
    return found


def spec_of(handle: dict[str, Any], **task: Any) -> Any:
    operator = DeleteRayInfrastructure(task_id="d", infrastructure=handle, confirm="raytest", **task)
    return operator.spec({"ti": None}, InfrastructureHandle.from_dict(handle))


def test_a_handle_of_the_release_before_is_read_and_tells_its_region(old: dict[str, Any]) -> None:
    handle = InfrastructureHandle.from_dict(old)
    assert (handle.name, handle.complete, handle.place) == ("raytest", True, {})
    spec = spec_of(old)
    assert spec.module == "eks"
    assert spec.workspace == "blue"
    assert spec.place == {"region": "eu-west-1"}
    assert spec.backend["key"] == "ray/terraform.tfstate"
    assert spec.variables["name"] == "raytest"


@pytest.mark.parametrize(
    ("forged", "field"),
    [
        ({"module": "git::https://evil.example/module.git"}, "module"),
        ({"module": "/tmp"}, "module"),
        ({"backend": {"type": "http", "address": "https://evil.example/state"}}, "backend.type"),
        (
            {"backend": {"type": "s3", "bucket": "b", "key": "k", "endpoints": {"s3": "https://evil"}}},
            "backend.endpoints",
        ),
        (
            {"backend": {"type": "s3", "bucket": "b", "key": "k", "shared_config_files": ["/tmp/x"]}},
            "backend.shared_config_files",
        ),
        ({"providers": {"aws": {"endpoints": {"sts": "https://evil"}}}}, "providers.aws.endpoints"),
        ({"providers": {"aws": {"shared_config_files": ["/tmp/x"]}}}, "providers.aws.shared_config_files"),
        ({"providers": {"kubernetes": {"exec": {"command": "sh"}}}}, "providers.kubernetes.exec"),
    ],
)
def test_a_forged_handle_decides_neither_code_nor_address(
    old: dict[str, Any], forged: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigurationError, match="Nothing was changed") as caught:
        spec_of({**old, **forged})
    assert caught.value.data["field"] == field
    assert caught.value.retryable is False


def test_another_module_counts_if_the_task_says_it_and_its_variables(old: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text("")
    handle = {**old, "module": str(tmp_path), "variables": {"command": "rm"}}
    with pytest.raises(ConfigurationError, match="of command"):
        spec_of(handle, module=str(tmp_path), variables={"command": "ls"})
    with pytest.raises(ConfigurationError, match="was made by"):
        spec_of({**handle, "module": "/elsewhere"}, module=str(tmp_path))
    assert spec_of(handle, module=str(tmp_path), variables={"command": "rm"}).variables == {"command": "rm"}


def test_settings_of_the_handle_are_used_and_differences_are_named() -> None:
    recorded = {"aws": {"region": "eu-west-1", "assume_role": {"role_arn": "arn:x"}}}
    assert merge_providers({}, recorded) == recorded
    assert merge_providers({"aws": {"max_retries": 3}}, recorded)["aws"]["region"] == "eu-west-1"
    with pytest.raises(ConfigurationError, match=r"providers\.aws\.region"):
        merge_providers({"aws": {"region": "us-east-1"}}, recorded)
    with pytest.raises(ConfigurationError, match=r"backend\.key"):
        merge_backend({"type": "s3", "bucket": "b", "key": "other"}, {"type": "s3", "bucket": "b", "key": "k"})
    named = {"aws": {"endpoints": {"sts": "https://mine"}}}
    assert merge_providers(named, named) == named


def test_a_state_with_somebody_elses_provider_is_not_touched() -> None:
    good = state("registry.terraform.io/hashicorp/aws")
    check_providers(good)
    assert settle(good, providers={}, given_env={}, expected={}) == {
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    with pytest.raises(BackendError, match="evil/evil.*Nothing of it was run"):
        check_providers(state("registry.terraform.io/evil/evil"))
    with pytest.raises(ConfigurationError, match="not of the same infrastructure"):
        settle(good, providers={}, given_env={}, expected={"region": "us-east-1"})


def test_a_destroy_takes_variables_of_another_version_of_the_module() -> None:
    declared = {
        "name": DeclaredVariable("name", "string", required=False),
        "added": DeclaredVariable("added", "string", required=True, nullable=False),
        "typed": DeclaredVariable("typed", "number", required=False),
    }
    fitting, told = for_destroy(declared, {"name": "x", "renamed": 1, "typed": ["x"]}, elsewhere={})
    assert fitting == {"name": "x", "added": "unknown"}
    assert [line for line in told if "renamed" in line]
    assert len(told) == 3


def state(provider: str) -> StateView:
    arn = "arn:aws:eks:eu-west-1:123456789012:cluster/x"
    resource = {
        "mode": "managed",
        "type": "aws_eks_cluster",
        "name": "this",
        "provider": f'provider["{provider}"]',
        "instances": [{"attributes": {"arn": arn, "name": "x"}}],
    }
    return StateView.from_text(json.dumps({"version": 4, "serial": 1, "resources": [resource]}))
