"""Each module as a repository of its own: made once by the command, and used from there as a stranger would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infrastructure.lab.provider import workspace
from tests.support.terraform import ROOT, Workspace, environment, need_aws_provider, need_terraform

SCRIPT = ROOT / "scripts" / "terraform_registry.py"
REPOSITORIES = {"eks": "terraform-aws-ray-eks", "gke": "terraform-google-ray-gke"}
AUTHOR = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def split(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(out), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(out), **AUTHOR},
    )


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("registry")
    done = split(out, "--version", "1.2.3", "--url", "https://git.example.org/team")
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("cloud", ["eks", "gke"])
def test_what_a_repository_holds(repositories: Path, cloud: str) -> None:
    folder = repositories / REPOSITORIES[cloud]
    names = {path.name for path in folder.iterdir()}
    assert {
        "main.tf",
        "variables.tf",
        "outputs.tf",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "modules",
        "examples",
    } <= names
    assert re.search(r"^## \[1\.2\.3\] - ", (folder / "CHANGELOG.md").read_text(), re.M)
    assert "airflow-ray.git" not in (folder / "README.md").read_text()
    source = f'"git::https://git.example.org/team/{REPOSITORIES[cloud]}.git?ref=v1.2.3"'
    assert source in (folder / "README.md").read_text()
    assert (folder / "modules" / "ray-values" / "main.tf").is_file()
    assert {path.name for path in (folder / "examples").iterdir()} == {
        path.name.removeprefix(f"{cloud}-") for path in (ROOT / "terraform" / "examples").glob(f"{cloud}-*")
    }
    # Nothing of it leads to the tree that it comes from.
    for path in folder.rglob("*.tf"):
        assert "/shared/" not in path.read_text(), path
        assert "modules/" + cloud not in path.read_text(), path
    tags = subprocess.run(["git", "tag"], cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    assert tags == ["v1.2.3"]


def test_a_version_is_made_once_and_the_next_goes_on_top(repositories: Path) -> None:
    again = split(repositories, "--version", "1.2.3")
    assert again.returncode == 1
    assert "has a tag v1.2.3 already" in again.stderr
    folder = repositories / REPOSITORIES["gke"]
    (folder / "main.tf").write_text("# somebody's own\n")
    spoilt = split(repositories, "--version", "1.2.4", "--module", "gke")
    assert "has changes that are not committed" in spoilt.stderr
    subprocess.run(["git", "checkout", "--quiet", "main.tf"], cwd=folder, check=True)
    done = split(repositories, "--version", "1.2.4", "--module", "gke", "--url", "https://git.example.org/team")
    assert done.returncode == 0, done.stderr
    log = subprocess.run(["git", "log", "--format=%s"], cwd=folder, capture_output=True, text=True, check=True)
    assert log.stdout.split("\n")[:2] == ["Release 1.2.4", "Release 1.2.3"]


@pytest.mark.slow
@pytest.mark.parametrize("cloud", ["eks", "gke"])
def test_a_stranger_takes_it_by_git(repositories: Path, tmp_path: Path, cloud: str) -> None:
    """Init and validate with the source that the README shows, and of the repository's own examples."""
    if cloud == "gke":
        base = workspace(tmp_path, "google", ".")
    else:
        program = need_terraform()
        env = environment(
            tmp_path / "cli", program=program, mirrors=[need_aws_provider()], extra={"AWS_REGION": "us-east-1"}
        )
        base = Workspace(tmp_path, program, env)
    repository = repositories / REPOSITORIES[cloud]
    show = ["git", "show", "v1.2.3:README.md"]
    readme = subprocess.run(show, cwd=repository, capture_output=True, text=True, check=True).stdout
    (snippet,) = [block for block in re.findall(r"```hcl\n(.*?)```", readme, re.S) if 'module "ray"' in block]
    root = tmp_path / "stranger"
    root.mkdir()
    (root / "main.tf").write_text(snippet.replace("git::https://git.example.org/team/", f"git::file://{repositories}/"))
    assert f"git::file://{repository.parent}/{repository.name}.git?ref=v1.2.3" in (root / "main.tf").read_text()
    # What a server calls so.
    (repositories / f"{repository.name}.git").symlink_to(repository / ".git")
    stranger = Workspace(root, base.program, base.env)
    stranger.init()
    verdict = stranger.validate()
    assert verdict["valid"] is True, verdict["diagnostics"]
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--branch", "v1.2.3", str(repository), str(clone)], check=True)
    for example in sorted((clone / "examples").iterdir()):
        target = Workspace(example, base.program, base.env)
        target.init()
        verdict = target.validate()
        assert verdict["valid"] is True, (example.name, verdict["diagnostics"])
