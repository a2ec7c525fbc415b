"""Formatting, validation and the modules' own tests (``*.tftest.hcl``, mocked providers), by Terraform itself."""

from __future__ import annotations

import re

import pytest

from tests.infrastructure.lab.provider import workspace
from tests.support.terraform import (
    ROOT,
    Workspace,
    copy_tree,
    environment,
    need_aws_provider,
    need_terraform,
    root_modules,
)

TERRAFORM = ROOT / "terraform"
#: Nested modules are validated with the module that calls them, too; alone they are validated for who takes the part alone.
FOLDERS = [str(path.relative_to(TERRAFORM)) for path in root_modules()]
TESTED = [folder for folder in FOLDERS if any((TERRAFORM / folder / "tests").glob("*.tftest.hcl"))]


def provider_of(folder: str) -> str:
    return "google" if "gke" in folder else "aws"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of everything, with the real AWS provider."""
    program = need_terraform()
    folder = tmp_path_factory.mktemp("aws")
    return Workspace(
        copy_tree(folder),
        program,
        environment(folder / "cli", program=program, mirrors=[need_aws_provider()], extra={"AWS_REGION": "us-east-1"}),
    )


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of everything, with the stand-in for the google provider."""
    return workspace(tmp_path_factory.mktemp("google"), "google", ".")


@pytest.fixture(scope="module")
def aws_6(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of everything, with the stand-in for the AWS provider's version 6."""
    return workspace(tmp_path_factory.mktemp("aws_6"), "aws", ".")


def at(folder: str, aws: Workspace, google: Workspace) -> Workspace:
    base = google if provider_of(folder) == "google" else aws
    found = Workspace(base.folder / folder, base.program, base.env)
    if not (found.folder / ".terraform").exists():
        found.init()
    return found


def test_formatted(aws: Workspace) -> None:
    done = aws.run("fmt", "-check", "-recursive", "-diff", check=False)
    assert done.returncode == 0, done.stdout


def is_valid(target: Workspace) -> None:
    verdict = target.validate()
    assert verdict["valid"] is True, verdict["diagnostics"]
    assert verdict["warning_count"] == 0, verdict["diagnostics"]


def calls(folders: list[str]) -> str:
    """Give a root module that calls all of these, with a value that is not known for what they need."""
    lines = ['variable "any" {}']
    for number, folder in enumerate(folders):
        text = "\n".join(path.read_text() for path in (TERRAFORM / folder).glob("*.tf"))
        declared = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL)
        needed = [name for name, body in declared if not re.search(r"^  default +=", body, re.MULTILINE)]
        lines += [
            f'module "m{number}" {{',
            f'  source = "../{folder}"',
            *(f"  {name} = var.any" for name in needed),
            "}",
        ]
    return "\n".join([*lines, ""])


@pytest.mark.parametrize("provider", ["aws", "google"])
def test_all_are_valid(provider: str, aws: Workspace, google: Workspace) -> None:
    """At once: most of what a validation takes is the provider's schema."""
    base = {"aws": aws, "google": google}[provider]
    target = Workspace(base.folder / "all", base.program, base.env)
    target.folder.mkdir()
    folders = [folder for folder in FOLDERS if provider_of(folder) == provider]
    (target.folder / "main.tf").write_text(calls(folders))
    target.init()
    is_valid(target)


#: As root modules, as users have them: test_all_are_valid has them as children of one.
@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_valid(folder: str, aws: Workspace, google: Workspace) -> None:
    is_valid(at(folder, aws, google))


def passes_its_own_tests(target: Workspace, folder: str) -> None:
    done = target.run("test", "-no-color", check=False, timeout=580)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    match = re.search(r"Success! (\d+) passed, 0 failed", done.stdout)
    assert match is not None, done.stdout
    runs = sum(path.read_text().count('\nrun "') for path in (TERRAFORM / folder / "tests").glob("*.tftest.hcl"))
    assert int(match[1]) == runs
    print(f"{folder}: {match[0]} in {target.times[-1][1]:.1f} s")


@pytest.mark.parametrize("folder", TESTED)
def test_own_tests(folder: str, aws: Workspace, google: Workspace) -> None:
    passes_its_own_tests(at(folder, aws, google), folder)


@pytest.mark.slow
@pytest.mark.parametrize("folder", [folder for folder in TESTED if provider_of(folder) == "aws"])
def test_own_tests_on_aws_provider_6(folder: str, aws_6: Workspace) -> None:
    target = Workspace(aws_6.folder / folder, aws_6.program, aws_6.env)
    target.init()
    passes_its_own_tests(target, folder)


def test_what_the_eks_module_makes_before_what(aws: Workspace, google: Workspace) -> None:
    """Terraform destroys the other way round."""
    lines = at("modules/eks", aws, google).run("graph").stdout.splitlines()
    edges: dict[str, set[str]] = {}
    for line in lines:
        if match := re.match(r'\s*"([^"]+)" -> "([^"]+)";', line):
            edges.setdefault(match[1], set()).add(match[2])

    def needs(one: str) -> set[str]:
        found: set[str] = set()
        left = [one]
        while left:
            new = edges.get(left.pop(), set()) - found
            found |= new
            left += new
        return found

    # Without the network plugin no node becomes ready; without its driver's role a volume is never made.
    assert "aws_eks_addon.early" in needs("module.node_pools.aws_eks_node_group.this")
    assert "module.node_pools.aws_eks_node_group.this" in needs("aws_eks_addon.later")
    assert "module.service_accounts.aws_iam_role.this" in needs("aws_eks_addon.later")
    # What EKS logs after its cluster's end must find the group that is there.
    assert "terraform_data.log_drain" in needs("aws_eks_cluster.this")
    assert "aws_cloudwatch_log_group.cluster" in needs("terraform_data.log_drain")
    # Data of the pools is read in the plan: what it refuses is refused before anything is made.
    assert not needs("module.node_pools.data.aws_ec2_instance_type.this") & {
        "aws_eks_addon.early",
        "aws_eks_cluster.this",
    }


def test_every_module_for_users_has_tests() -> None:
    parts = {"modules/eks/modules/node-pools", "modules/gke/modules/node-pools", "modules/shared/ray-values"}
    assert {"modules/eks", "modules/gke", *parts} <= set(TESTED)
