"""Which Terraform or OpenTofu to run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ray_provider.infrastructure.errors import TerraformNotFoundError

#: Validation across variables, which the modules use, came with it in both.
MINIMUM = (1, 9, 0)
#: Names the program if no argument does.
BINARY_VARIABLE = "RAY_PROVIDER_TERRAFORM"

_HOW = (
    "Install Terraform 1.9 or newer (or OpenTofu 1.9 or newer) on the worker, and name it by the argument"
    f" `terraform_binary`, by the environment variable {BINARY_VARIABLE}, or put it on PATH."
)


@dataclass(frozen=True, slots=True)
class TerraformBinary:
    """A program that was asked for its version.

    :param path: of the executable.
    :param flavour: which of the two it says it is.
    :param version: its numbers.
    """

    path: str
    flavour: Literal["terraform", "tofu"]
    version: tuple[int, int, int]
    #: As it says it, e.g. ``linux_amd64``.
    platform: str = ""

    @property
    def label(self) -> str:
        """Its name and version, for people."""
        return f"{'OpenTofu' if self.flavour == 'tofu' else 'Terraform'} {'.'.join(map(str, self.version))}"


def find_binary(given: str | None = None, env: Mapping[str, str] | None = None) -> TerraformBinary:
    """Find the program: as given, by the environment, ``terraform`` on PATH, ``tofu`` on PATH.

    :param given: path or name.
    :param env: the environment to look in; the process' own if not given.
    :raises TerraformNotFoundError: there is none, or it is too old.
    """
    env = os.environ if env is None else env
    named = given or env.get(BINARY_VARIABLE)
    path = None
    for name in (named,) if named else ("terraform", "tofu"):
        path = shutil.which(os.path.expanduser(name), path=env.get("PATH"))  # noqa: PTH111 - a bare name must stay one
        if path is not None:
            break
    if path is None:
        where = f"{named!r} (field `terraform_binary`) is not" if named else "neither `terraform` nor `tofu` is"
        raise TerraformNotFoundError(f"Terraform is missing: {where} on this worker.", hint=_HOW)
    stat = Path(path).stat()
    binary = _ask(path, stat.st_mtime_ns, stat.st_size)
    if binary.version < MINIMUM:
        raise TerraformNotFoundError(
            f"{binary.label} ({path}) is too old: {'.'.join(map(str, MINIMUM[:2]))} or newer is needed.",
            hint=_HOW,
            path=path,
        )
    return binary


@lru_cache(maxsize=16)
def _ask(path: str, _mtime: int, _size: int) -> TerraformBinary:
    env = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/"), "CHECKPOINT_DISABLE": "1"}
    try:
        done = subprocess.run(
            [path, "version", "-json"], capture_output=True, text=True, timeout=60, env=env, check=False
        )
        data = json.loads(done.stdout)
        numbers = str(data["terraform_version"]).partition("-")[0].split(".")
        version = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
        platform = str(data.get("platform", ""))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, IndexError, TypeError) as error:
        raise TerraformNotFoundError(
            f"{path} does not answer to `version -json` as Terraform does ({type(error).__name__}: {error}).",
            hint=_HOW,
            path=path,
        ) from error
    flavour: Literal["terraform", "tofu"] = "tofu" if _is_tofu(path, env) else "terraform"
    return TerraformBinary(path=path, flavour=flavour, version=version, platform=platform)


def _is_tofu(path: str, env: Mapping[str, str]) -> bool:
    """OpenTofu says its name in the text form only."""
    done = subprocess.run([path, "version"], capture_output=True, text=True, timeout=60, env=dict(env), check=False)
    return done.stdout.lstrip().startswith("OpenTofu")
