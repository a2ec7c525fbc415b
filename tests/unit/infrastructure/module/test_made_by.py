"""A destroy that the changed module doesn't let through says how to have the old one again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure.errors import ModuleError, PlanRefusedError, UnreachableError
from ray_provider.infrastructure.module.made_by import add_way_back, advice, made_by, own_version

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


LOCKED = """
# This file is maintained automatically by "terraform init".
provider "registry.terraform.io/hashicorp/aws" {
  version     = "5.100.0"
  constraints = ">= 5.0.0"
  hashes = [
    "h1:abc=",
  ]
}

provider "registry.terraform.io/hashicorp/random" {
  version = "3.7.2"
}
"""


def test_with_what_it_is_made_is_read_from_the_modules_copy(tmp_path: Path) -> None:
    root = tmp_path / "repository" / "modules" / "eks"
    root.mkdir(parents=True)
    assert made_by(root, "Terraform 1.11.4") == {"airflow-ray": own_version(), "terraform": "Terraform 1.11.4"}
    (root / ".terraform.lock.hcl").write_text(LOCKED)
    (tmp_path / "repository" / ".airflow-ray-commit").write_text("abc123")
    (tmp_path / ".airflow-ray-commit").write_text("of something else")
    assert made_by(root, "OpenTofu 1.9.0") == {
        "airflow-ray": own_version(),
        "terraform": "OpenTofu 1.9.0",
        "providers": {AWS: "5.100.0", "registry.terraform.io/hashicorp/random": "3.7.2"},
        "commit": "abc123",
    }


@pytest.mark.parametrize("part", ["airflow-ray", "providers", "commit", "terraform"])
def test_what_was_not_recorded_is_not_advised(part: str) -> None:
    then = {**THEN, "providers": {AWS: "5.100.0"}}
    now = {"airflow-ray": "9", "terraform": "Terraform 9", "providers": {AWS: "9"}, "commit": "9"}
    word = {
        "airflow-ray": "is installed",
        "providers": "pin the provider",
        "commit": "give the commit",
        "terraform": "use Terraform",
    }
    module = "eks" if part == "airflow-ray" else GIT
    assert word[part] in advice(module, then, now)
    assert word[part] not in advice(module, {**then, part: None}, now)
    assert "==" not in advice("eks", {**then, "airflow-ray": "unknown"}, now)
