"""A destroy that the changed module doesn't let through says how to have the old one again."""

from __future__ import annotations

import pytest

from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure.errors import ModuleError, PlanRefusedError, UnreachableError
from ray_provider.infrastructure.module.made_by import add_way_back, advice

AWS = "registry.terraform.io/hashicorp/aws"
GIT = "git::https://user:pass@example.com/modules.git//eks?ref=main"
THEN = {"airflow-ray": "1.0.0", "terraform": "Terraform 1.11.4", "providers": {AWS: "5.100.0"}, "commit": "abc123"}


def test_what_differs_is_named() -> None:
    now = {"airflow-ray": "1.1.0", "terraform": "Terraform 1.12.0", "providers": {AWS: "6.2.0"}, "commit": "def456"}
    told = advice(GIT, THEN, now)
    assert 'module="git::https://example.com/modules.git//eks?ref=abc123"' in told
    assert "pin the provider hashicorp/aws to 5.100.0" in told
    assert "use Terraform 1.11.4" in told
    assert "airflow-ray==" not in told
    assert "run this task where airflow-ray==1.0.0 is installed" in advice("eks", THEN, now)


def test_where_nothing_differs_nothing_is_said() -> None:
    assert advice(GIT, THEN, THEN) == ""
    assert advice("eks", {}, {"airflow-ray": "1.1.0"}) == ""


@pytest.mark.parametrize(
    ("error", "added"),
    [
        (ModuleError("x"), True),
        (InfrastructureError("x", diagnostics=[]), True),
        (InfrastructureError("the cluster is in use", users=["a"]), False),
        (UnreachableError("x", diagnostics=[]), False),
        (PlanRefusedError("x"), False),
        (ValueError("x"), False),
    ],
)
def test_only_what_the_module_may_cause_leads_back(error: Exception, added: bool) -> None:
    add_way_back(error, "eks", THEN, {"airflow-ray": "1.1.0", "providers": THEN["providers"]})
    assert bool(getattr(error, "__notes__", [])) is added
