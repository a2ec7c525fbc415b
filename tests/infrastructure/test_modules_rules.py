"""Our own rules for the modules, the tables in their READMEs, and checkov."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hcl2
import pytest

from tests.support.requirements import need
from tests.support.terraform import MODULES, ROOT, checkov, root_modules

FOLDERS = list(root_modules())
IDS = [str(path.relative_to(ROOT / "terraform")) for path in FOLDERS]


@functools.cache
def blocks(path: Path, kind: str) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    with path.open() as file:
        return {name.strip('"'): body for entry in hcl2.load(file).get(kind, []) for name, body in entry.items()}


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_standard_files(folder: Path) -> None:
    for name in ("main.tf", "variables.tf", "outputs.tf", "versions.tf", "README.md"):
        assert (folder / name).is_file(), name


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_inputs_are_typed_and_described(folder: Path) -> None:
    for name, body in blocks(folder / "variables.tf", "variable").items():
        assert body.get("type"), f"{name} has no type"
        assert body["type"] not in ("any", "${any}"), f"{name} may be anything"
        assert len(body.get("description", "")) > 8, f"{name} isn't described"
        for validation in body.get("validation", []):
            # The reader must find the field.
            first = re.split(r"[ :]", validation["error_message"].strip('"'))[0]
            assert first == name or name in validation["error_message"], f"{name}: the message doesn't name the field"
    for path in folder.glob("*.tf"):
        if path.name != "variables.tf":
            # By its text: the parser takes seconds for a large file.
            assert not re.search(r"^\s*variable\s+\"", path.read_text(), re.M), f"inputs in {path.name}"


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_outputs_are_described_and_hold_no_token(folder: Path) -> None:
    for name, body in blocks(folder / "outputs.tf", "output").items():
        assert len(body.get("description", "")) > 5, f"{name} isn't described"
        assert not re.search(r"token|kubeconfig|password|secret", name), name
        if "certificate" in name:
            assert body.get("sensitive") is True
    text = "\n".join(path.read_text() for path in folder.glob("*.tf"))
    for source in ("aws_eks_cluster_auth", "google_client_config", "google_service_account_key", "aws_iam_access_key"):
        assert f'"{source}"' not in text, f"{source} would put a credential into the state"


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_one_provider_with_a_bounded_version(folder: Path) -> None:
    (settings,) = hcl2.loads((folder / "versions.tf").read_text())["terraform"]
    assert settings["required_version"].strip('"') == ">= 1.9"
    providers = {
        name: body
        for entry in settings.get("required_providers", [])
        for name, body in entry.items()
        if not name.startswith("__")
    }
    assert len(providers) == (0 if folder.name == "ray-values" else 1)
    for name, body in providers.items():
        values = {key.strip('"'): str(value).strip('"') for key, value in body.items()}
        assert values["source"] == f"hashicorp/{name}"
        assert re.fullmatch(r">= \d+\.\d+, < \d+\.0", values["version"])


def test_modules_configure_no_provider_and_no_backend() -> None:
    for path in MODULES.rglob("*.tf"):
        if ".terraform" not in path.parts:
            text = path.read_text()
            assert not re.search(r'^provider "', text, re.M), path
            assert not re.search(r'^\s+backend "', text, re.M), path


def test_readme_tables_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "terraform_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_checkov_finds_nothing_that_is_not_explained() -> None:
    program = checkov()
    need(
        "checkov",
        present=program is not None,
        how="Run 'python -m tests.support.terraform' (installs it from the lock file).",
    )
    config = ROOT / "terraform" / ".checkov.yaml"
    done = subprocess.run(
        [
            str(program),
            "-d",
            str(MODULES),
            "--framework",
            "terraform",
            "--skip-download",
            "--compact",
            "--quiet",
            "--config-file",
            str(config),
            "-o",
            "json",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    report = json.loads(done.stdout)
    failed = [
        f"{check['check_id']} {check['check_name']} ({check['resource']})"
        for check in report["results"]["failed_checks"]
    ]
    assert failed == []
    assert report["summary"]["passed"] > 200


def test_every_skip_is_explained() -> None:
    lines = (ROOT / "terraform" / ".checkov.yaml").read_text().splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if line.strip().startswith("- CKV"):
            assert before.strip().startswith("# "), line


def test_the_gpu_images_that_people_copy_have_the_charts_ray() -> None:
    """Workers of another Ray than the head's never join."""
    tag = re.search(r'^  tag: "(\S+)"$', (ROOT / "helm" / "ray-cluster" / "values.yaml").read_text(), re.M)
    assert tag is not None
    found = {
        str(path.relative_to(ROOT)): set(re.findall(r"\d+\.\d+\.\d+(?:-py\d+)?-gpu", path.read_text()))
        for folder in ("terraform", "examples", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".tf", ".py", ".md") and ".terraform" not in path.parts
    }
    assert {name for name, tags in found.items() if tags} >= {"terraform/examples/gke-gpu/main.tf"}
    assert [name for name, tags in found.items() if tags - {f"{tag[1]}-gpu"}] == []


@pytest.mark.parametrize("folder", sorted((ROOT / "terraform" / "examples").iterdir()), ids=lambda path: path.name)
def test_an_example_that_makes_a_cluster_says_where_it_is(folder: Path) -> None:
    """So that it can be the module of a ``SetupRayInfrastructure``: the tasks after it find the cluster by these."""
    names = set(blocks(folder / "outputs.tf", "output"))
    wanted = {"cloud", "cluster_name", "location", *({"project", "dns_endpoint"} if "gke" in folder.name else ())}
    assert "cluster_name" not in names or wanted <= names


def test_cpu_pools_that_people_copy_start_at_none() -> None:
    found = {
        str(path.relative_to(ROOT)): pools
        for place in ("terraform/examples", "terraform/modules", "examples", "docs")
        for path in (ROOT / place).rglob("*")
        if path.suffix in (".tf", ".py", ".md")
        and ".terraform" not in path.parts
        and (pools := re.findall(r"\bcpu\"?\s*[=:]\s*\{[^}]*machine_type[^}]*\}", path.read_text()))
    }
    assert set(found) >= {
        "docs/infrastructure.md",
        "terraform/modules/eks/README.md",
        "terraform/examples/eks-gpu/main.tf",
    }
    assert {
        name for name, pools in found.items() for pool in pools if not re.search(r"min\"?\s*[=:]\s*0\b", pool)
    } == set()
