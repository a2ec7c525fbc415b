#!/usr/bin/env python3
"""Make each Terraform module a repository of its own, with the structure that Terraform's registry wants.

``scripts/terraform_registry.py OUT`` writes ``OUT/terraform-aws-ray-eks`` and ``OUT/terraform-google-ray-gke``: the
module at the top, its parts below ``modules/`` (those that both share are copied in), its examples below ``examples/``,
its own tests, README, CHANGELOG and licence. A folder that is no git repository yet becomes one; what it holds is
replaced, committed, and tagged with the version. Nothing is pushed.

``--url`` is where the repositories will be: the READMEs tell what to copy.

What the registry wants (https://developer.hashicorp.com/terraform/registry/modules/publish, November 2026): the name
``terraform-<PROVIDER>-<NAME>``, tags ``x.y.z`` with or without a ``v``, and the standard structure.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TERRAFORM = ROOT / "terraform"
SHARED = TERRAFORM / "modules" / "shared"
URL = "https://git.example.org/you"
#: Where the READMEs in this tree say that a module is.
TREE_SOURCE = re.compile(r'"git::[^"]*//terraform/modules/(\w+)\?ref=v[^"]*"')
LEFT_OUT = shutil.ignore_patterns(".terraform", "*.tfstate*", ".terraform.lock.hcl")
GIT_IGNORE = ".terraform/\n.terraform.lock.hcl\n*.tfstate\n*.tfstate.*\n*.tfvars\n*.tfvars.json\n"


@dataclass(frozen=True)
class Module:
    """A module and its repository."""

    cloud: str
    repository: str

    @property
    def folder(self) -> Path:
        """Where it lies in this tree."""
        return TERRAFORM / "modules" / self.cloud

    @property
    def examples(self) -> list[Path]:
        """Its examples in this tree."""
        return sorted((TERRAFORM / "examples").glob(f"{self.cloud}-*"))


MODULES = (Module("eks", "terraform-aws-ray-eks"), Module("gke", "terraform-google-ray-gke"))


class RegistryError(Exception):
    """The repositories can't be made."""


def version() -> str:
    """Give the version of the package, which is that of the modules."""
    text = (ROOT / "provider" / "ray_provider" / "_version.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise RegistryError("provider/ray_provider/_version.py has no __version__")
    return found[1]


def write(module: Module, target: Path, *, release: str, url: str) -> None:
    """Write what the module's repository holds into a folder that has nothing else but ``.git``."""
    shutil.copytree(module.folder, target, ignore=LEFT_OUT, dirs_exist_ok=True)
    for part in sorted(SHARED.iterdir()):
        shutil.copytree(part, target / "modules" / part.name, ignore=LEFT_OUT)
    for example in module.examples:
        shutil.copytree(example, target / "examples" / example.name.removeprefix(f"{module.cloud}-"), ignore=LEFT_OUT)
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, target / name)
    (target / ".gitignore").write_text(GIT_IGNORE)
    for path in _texts(target):
        text = path.read_text()
        depth = "../" * len(path.parent.relative_to(target).parts) or "./"
        text = re.sub(r'"(?:\.\./)+shared/', f'"{depth}modules/', text)
        text = text.replace(f'"../../modules/{module.cloud}/', '"../../').replace(
            f'"../../modules/{module.cloud}"', '"../../"'
        )
        text = text.replace('"../../modules/shared/', '"../../modules/')
        text = TREE_SOURCE.sub(f'"git::{url}/{module.repository}.git?ref=v{release}"', text)
        text = re.sub(r"^ *# An address and a tag of yours:.*\n", "", text, flags=re.MULTILINE)
        # What belongs to other parts of this tree is where this tree is.
        text = text.replace("../../../helm/ray-cluster", "./ray-cluster")
        path.write_text(text)
    changes = target / "CHANGELOG.md"
    changes.write_text(
        changes.read_text().replace("## [Unreleased]\n", f"## [Unreleased]\n\n## [{release}] - {_date()}\n", 1)
    )
    for path in _texts(target):
        for source in re.findall(r'^\s*source\s*=\s*"(\.[^"]*)"', path.read_text(), re.MULTILINE):
            found = (path.parent / source).resolve()
            if path.suffix == ".tf" and not (found.is_dir() and found.is_relative_to(target.resolve())):
                raise RegistryError(f"{path.relative_to(target)}: {source} leads out of the repository, or nowhere")


def publish(module: Module, out: Path, *, release: str, url: str) -> Path:
    """Make or renew the repository of a module, and tag the version.

    :raises RegistryError: it has that version already, or changes that nobody has committed.
    """
    target = out / module.repository
    target.mkdir(parents=True, exist_ok=True)
    if not (target / ".git").exists():
        _git(target, "init", "--quiet", "--initial-branch", "main")
    if _git(target, "status", "--porcelain"):
        raise RegistryError(f"{target} has changes that are not committed")
    if _git(target, "tag", "--list", f"v{release}"):
        raise RegistryError(f"{target} has a tag v{release} already: another version needs another number")
    for path in target.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write(module, target, release=release, url=url)
    _git(target, "add", "--all")
    if _git(target, "status", "--porcelain"):
        _git(target, "commit", "--quiet", "--message", f"Release {release}")
    _git(target, "tag", f"v{release}")
    return target


def _texts(target: Path) -> Iterator[Path]:
    for path in sorted(target.rglob("*")):
        if path.is_file() and path.suffix in (".tf", ".hcl", ".md") and ".git" not in path.relative_to(target).parts:
            yield path


def _date() -> str:
    """Give the day of the commit that the modules are taken from: the same input makes the same repository."""
    return _git(ROOT, "show", "--no-patch", "--format=%cs", "HEAD") or "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RegistryError(f"git {arguments[0]} in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()


def main() -> int:
    """Make the repositories."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "out", type=Path, help="folder of the repositories: new ones, or clones of those that there are"
    )
    parser.add_argument("--version", default=version(), help="default: the package's, %(default)s")
    parser.add_argument("--url", default=URL, help="where the repositories will be, for the READMEs")
    parser.add_argument("--module", choices=[module.cloud for module in MODULES], help="this one alone")
    given = parser.parse_args()
    try:
        for module in MODULES:
            if given.module in (None, module.cloud):
                made = publish(module, given.out, release=given.version, url=given.url.rstrip("/"))
                print(f"{made}: v{given.version}. To publish: git -C {made} push origin main v{given.version}")
    except RegistryError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
