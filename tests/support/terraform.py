"""Terraform (or OpenTofu) and its provider plugins, for tests that must not reach a registry.

Where things are looked for, in this order:

* the program: ``TERRAFORM_BINARY``, ``terraform`` on PATH, ``tofu`` on PATH, the cache folder, and at last OpenTofu built
  from its Go module (``prepare()``). Terraform itself can't be built so: since 1.6 its module needs folders beside it
  that the Go module doesn't carry.
* the provider plugins: ``TERRAFORM_PROVIDER_MIRROR``, then any folder ``registry.terraform.io/hashicorp/aws/<version>``
  that is on the disk in one of the usual places, then the cache folder. What is in none of them is downloaded by
  ``terraform init``, as everywhere else.

``python -m tests.support.terraform`` fetches beforehand what a machine lacks, so that the tests themselves need no network;
``python -m tests.support.terraform opentofu`` builds OpenTofu, and prints where it is.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kubernetes.node.cache import locked
from tests.support.requirements import lacking, need

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "terraform" / "modules"
EXAMPLES = ROOT / "terraform" / "examples"

#: The modules' cross-variable validation needs Terraform 1.9; OpenTofu has it from 1.9 on, too.
MINIMUM = (1, 9, 0)
OPENTOFU_VERSION = "v1.12.6"
REGISTRY = "registry.terraform.io"
TOFU_REGISTRY = "registry.opentofu.org"
HOW = "Install Terraform 1.9 or newer, or run 'python -m tests.support.terraform' (builds OpenTofu, needs Go)."
HOW_AWS = "Put the provider into a filesystem mirror (TERRAFORM_PROVIDER_MIRROR), or let 'python -m tests.support.terraform' fetch it."

#: Where an operating system or an image puts a filesystem mirror.
_MIRROR_ROOTS = (
    "~/.terraform.d/plugins",
    "~/.terraform.d",
    "~/.local/share/terraform/plugins",
    "/usr/local/share/terraform/plugins",
    "/usr/share/terraform/plugins",
    "/opt",
    "/usr/local/share",
    "/usr/share",
    "/var/lib",
    "/srv",
)


def cache_dir(*parts: str) -> Path:
    """Give a folder for things that are expensive to get and the same for every run."""
    base = (
        os.environ.get("AIRFLOW_RAY_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "airflow-ray"
    )
    return Path(base).expanduser().joinpath(*parts)


def target() -> str:
    """Give the platform as Terraform names it, e.g. ``linux_amd64``."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"{platform.system().lower()}_{machine}"


@dataclass(frozen=True)
class Program:
    """A Terraform or OpenTofu program."""

    path: Path
    flavour: str
    version: tuple[int, int, int]

    @property
    def registry(self) -> str:
        """The registry that a provider source without a host name means to this program."""
        return TOFU_REGISTRY if self.flavour == "opentofu" else REGISTRY

    def __str__(self) -> str:
        return f"{self.flavour} {'.'.join(map(str, self.version))}"


@functools.cache
def _program(path: str) -> Program | None:
    try:
        done = subprocess.run(
            [path, "version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.devnull},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"(Terraform|OpenTofu) v(\d+)\.(\d+)\.(\d+)", done.stdout)
    if not match:
        return None
    version = (int(match[2]), int(match[3]), int(match[4]))
    return Program(Path(path), match[1].lower(), version)


def find_terraform() -> Program | None:
    """Find a program that is new enough: Terraform rather than OpenTofu."""
    for name in (os.environ.get("TERRAFORM_BINARY"), "terraform", "tofu", str(_cached_tofu())):
        path = shutil.which(name) if name else None
        program = _program(path) if path else None
        if program and program.version >= MINIMUM:
            return program
    return None


def find_opentofu() -> Program | None:
    """Find OpenTofu, on PATH or in the cache."""
    for name in ("tofu", str(_cached_tofu())):
        path = shutil.which(name)
        program = _program(path) if path else None
        if program and program.flavour == "opentofu":
            return program
    return None


def need_terraform() -> Program:
    """Give the program, or skip (fail where CI is set)."""
    program = find_terraform()
    need("terraform", present=program is not None, how=HOW)
    assert program is not None
    return program


def _packages(provider: Path) -> list[Path]:
    """List a provider's packages for this platform in a mirror: folders, and zip files."""
    return [*provider.glob(f"*/{target()}"), *provider.glob(f"*_{target()}.zip")]


@functools.cache
def find_mirror() -> Path | None:
    """Find a filesystem mirror that has the AWS provider for this platform."""
    roots = [os.environ.get("TERRAFORM_PROVIDER_MIRROR"), *_MIRROR_ROOTS, str(cache_dir("terraform-mirror"))]
    for root in roots:
        if not root:
            continue
        base = Path(root).expanduser()
        for pattern in (REGISTRY, f"*/{REGISTRY}", f"*/*/{REGISTRY}"):
            for found in sorted(base.glob(f"{pattern}/hashicorp/aws")) if base.is_dir() else ():
                if _packages(found):
                    return found.parents[2]
    return None


def provider_versions(mirror: Path | None, name: str = "aws") -> list[str]:
    """List the versions of a hashicorp provider that a mirror has, newest last."""
    if mirror is None:
        return []
    folder = mirror / REGISTRY / "hashicorp" / name
    versions = {path.parent.name for path in folder.glob(f"*/{target()}")}
    versions |= {
        match[1]
        for path in folder.glob("*.zip")
        if (match := re.match(rf"terraform-provider-{name}_(.+)_{target()}\.zip", path.name))
    }
    return sorted(versions, key=lambda version: [int(part) for part in re.findall(r"\d+", version)])


def need_aws_provider() -> Path:
    """Give a mirror with the real AWS provider, or skip (fail where CI is set)."""
    mirror = find_mirror()
    need("the AWS provider plugin", present=mirror is not None, how=HOW_AWS)
    assert mirror is not None
    return mirror


def as_seen_by(program: Program, mirror: Path, folder: Path) -> Path:
    """Give the mirror with the host name that this program asks for: OpenTofu has a registry of its own."""
    if program.registry == REGISTRY:
        return mirror
    view = folder / f"mirror-{program.flavour}"
    # Links are followed for the packages themselves only.
    for package in [package for provider in (mirror / REGISTRY).glob("*/*") for package in _packages(provider)]:
        for host in (program.registry, REGISTRY):
            seen = view / host / package.relative_to(mirror / REGISTRY)
            seen.parent.mkdir(parents=True, exist_ok=True)
            if not seen.exists():
                seen.symlink_to(package)
    return view


def cli_config(folder: Path, mirrors: Sequence[Path], *, direct: bool) -> Path:
    """Write the CLI configuration: plugins from these mirrors, and from the registry only where ``direct``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["disable_checkpoint = true", "provider_installation {"]
    lines += [f"  filesystem_mirror {{\n    path = {json.dumps(str(mirror))}\n  }}" for mirror in mirrors]
    lines += ["  direct {}"] if direct else []
    path = folder / "terraform.rc"
    path.write_text("\n".join([*lines, "}", ""]))
    return path


#: What a person's shell may hold that would change what a test sees.
_UNWANTED = re.compile(r"^(TF_|AWS_|GOOGLE_|CLOUDSDK_|GCLOUD_|CHECKPOINT_)")


def environment(
    folder: Path,
    *,
    program: Program | None = None,
    mirrors: Iterable[Path] | None = None,
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Make an environment of its own for Terraform: nothing from the machine's configuration, no cloud credentials.

    :param folder: a private folder for the CLI configuration.
    :param mirrors: where plugins are; default the mirror found on this machine. The registry is asked only where there is none.
    :param extra: variables to add at last.
    """
    program = program or find_terraform()
    found = list(mirrors) if mirrors is not None else [path for path in [find_mirror()] if path]
    if program:
        found = [as_seen_by(program, mirror, folder / f"m{index}") for index, mirror in enumerate(found)]
    env = {key: value for key, value in os.environ.items() if not _UNWANTED.match(key)}
    env |= {
        "TF_CLI_CONFIG_FILE": str(cli_config(folder, found, direct=not found)),
        "TF_IN_AUTOMATION": "1",
        "TF_INPUT": "0",
        "CHECKPOINT_DISABLE": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        # no profile of the person who runs the tests is ever read
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    if not found:
        plugins = cache_dir("terraform-plugins")
        plugins.mkdir(parents=True, exist_ok=True)
        env["TF_PLUGIN_CACHE_DIR"] = str(plugins)
    return env | dict(extra or {})


class TerraformFailedError(AssertionError):
    """A command failed that should not have."""


@dataclass
class Workspace:
    """A root module in a folder, and commands run on it."""

    folder: Path
    program: Program
    env: dict[str, str]
    #: Seconds that each command took, for the report of a test.
    times: list[tuple[str, float]] = field(default_factory=list)

    def run(
        self, *args: str, timeout: float = 300, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command. ``check`` fails the test with both outputs."""
        import time

        started = time.monotonic()
        done = subprocess.run(
            [str(self.program.path), *args],
            cwd=self.folder,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        self.times.append((args[0], time.monotonic() - started))
        if check and done.returncode:
            raise TerraformFailedError(
                f"{self.program} {' '.join(args)} in {self.folder} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def init(self) -> None:
        """Install the plugins; no backend but the local one."""
        self.run("init", "-input=false", "-no-color")

    def validate(self) -> dict[str, Any]:
        """Validate and give the machine-readable verdict."""
        result: dict[str, Any] = json.loads(self.run("validate", "-json", check=False).stdout)
        return result

    def plan(self, *args: str) -> tuple[int, str]:
        """Plan; gives Terraform's detailed exit status (0 nothing to do, 2 changes) and what it printed."""
        done = self.run("plan", "-input=false", "-no-color", "-detailed-exitcode", *args, check=False)
        if done.returncode not in (0, 2):
            raise TerraformFailedError(
                f"plan in {self.folder} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done.returncode, done.stdout

    def apply(self, *args: str, timeout: float = 600) -> str:
        """Apply without asking."""
        return self.run("apply", "-input=false", "-no-color", "-auto-approve", *args, timeout=timeout).stdout

    def destroy(self, *args: str, timeout: float = 600) -> str:
        """Destroy without asking."""
        return self.run("destroy", "-input=false", "-no-color", "-auto-approve", *args, timeout=timeout).stdout

    def outputs(self) -> dict[str, Any]:
        """Give the outputs' values, sensitive ones included."""
        return {name: entry["value"] for name, entry in json.loads(self.run("output", "-json").stdout).items()}

    def state(self) -> dict[str, Any]:
        """Give the state file as data."""
        state: dict[str, Any] = json.loads((self.folder / "terraform.tfstate").read_text())
        return state


def copy_module(source: Path, destination: Path) -> Path:
    """Copy a module or example for one test, without what an earlier ``init`` left in it."""
    shutil.copytree(
        source,
        destination,
        ignore=shutil.ignore_patterns(".terraform", "*.tfstate*", ".terraform.lock.hcl"),
        dirs_exist_ok=True,
    )
    return destination


def copy_tree(destination: Path) -> Path:
    """Copy the modules and the examples as they lie to each other, and give the copy's ``terraform`` folder."""
    copy_module(ROOT / "terraform", destination / "terraform")
    return destination / "terraform"


def root_modules() -> Iterator[Path]:
    """Every folder under ``terraform/`` that has a ``versions.tf``."""
    for path in sorted((ROOT / "terraform").rglob("versions.tf")):
        if ".terraform" not in path.parts:
            yield path.parent


def _cached_tofu() -> Path:
    return cache_dir("opentofu", OPENTOFU_VERSION, "tofu")


def build_opentofu() -> Path:
    """Build OpenTofu from its Go module into the cache (some minutes, once)."""
    final = _cached_tofu()
    if final.exists():
        return final
    go = shutil.which("go")
    if go is None:
        raise RuntimeError("neither Terraform nor OpenTofu is here, and no Go to build OpenTofu with")
    found = subprocess.run(
        [go, "mod", "download", "-json", f"github.com/opentofu/opentofu@{OPENTOFU_VERSION}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GOFLAGS": "-mod=mod"},
    )
    source = Path(json.loads(found.stdout)["Dir"])
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f"tofu.{os.getpid()}")
    flags = "-s -w -X github.com/opentofu/opentofu/version.dev=no"
    try:
        # Built inside the module's own folder: it is the main module there, so that its "replace" lines count.
        subprocess.run(
            [go, "build", "-trimpath", "-mod=readonly", "-ldflags", flags, "-o", str(aside), "./cmd/tofu"],
            cwd=source,
            check=True,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""},
        )
        aside.rename(final)
    finally:
        aside.unlink(missing_ok=True)
    return final


def mirror_aws_provider(program: Program) -> Path:
    """Fetch the AWS provider into the cache, as a filesystem mirror."""
    final = cache_dir("terraform-mirror")
    final.mkdir(parents=True, exist_ok=True)
    env = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    module = MODULES / "eks"
    subprocess.run(
        [str(program.path), f"-chdir={module}", "providers", "mirror", str(final)],
        check=True,
        env={**env, "TF_CLI_CONFIG_FILE": os.devnull},
    )
    find_mirror.cache_clear()
    return final


def checkov() -> Path | None:
    """Give checkov, if the cache has it."""
    lock = (ROOT / "requirements" / "checkov.txt").read_bytes()
    program = cache_dir("checkov", hashlib.sha256(lock).hexdigest()[:16], "bin", "checkov")
    return program if program.exists() else None


def install_checkov() -> None:
    """Install checkov as locked, in an environment of its own: it pins much that others need newer."""
    lock = ROOT / "requirements" / "checkov.txt"
    final = cache_dir("checkov", hashlib.sha256(lock.read_bytes()).hexdigest()[:16])
    # A virtual environment can't be renamed: checkov itself comes last, so that a half-made one has none, and one
    # process at a time makes it.
    with locked(final.with_suffix(".lock"), "checkov"):
        if checkov():
            return
        shutil.rmtree(final, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(final)], check=True)
        python = str(final / "bin" / "python")
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r", str(lock)],
            check=True,
        )


def prepare() -> None:
    """Get what this machine lacks, while there is a network."""
    from tests.infrastructure.lab import schemas

    # Some rows are about OpenTofu, whatever else is here.
    if find_opentofu() is None and shutil.which("go"):
        build_opentofu()
    program = find_terraform()
    if program is None:
        lacking("Terraform", how=HOW)
    else:
        if find_mirror() is None:
            mirror_aws_provider(program)
        mirror = find_mirror()
        print(f"{program} at {program.path}; AWS provider {', '.join(provider_versions(mirror))} in {mirror}")
    schemas.prepare()
    install_checkov()
    print(f"checkov at {checkov()}")


if __name__ == "__main__":
    if sys.argv[1:] == ["opentofu"]:
        print(build_opentofu())
    else:
        prepare()
