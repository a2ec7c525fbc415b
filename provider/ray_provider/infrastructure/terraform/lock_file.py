"""The lock file of a state's providers, kept between its runs: what changed under its version is refused."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_provider._shared.private_files import write_private
from ray_provider.infrastructure.terraform.binary import TerraformBinary
from ray_provider.infrastructure.terraform.rescue import kept_states

LOCK_FILE = ".terraform.lock.hcl"
#: What ``init`` says where a lock file names a version that the module does not take any more, or that is gone.
OUTDATED = re.compile(
    r"locked\s+provider\s.{0,400}does\s+not\s+match\s+configured\s+version\s+constraint"
    r"|previously-selected\s+version\s+\S+\s+is\s+no\s+longer\s+available",
    re.DOTALL,
)
_LOCKED = re.compile(r'provider "([^"]+)" \{[^}]*?version\s*=\s*"([^"]+)"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class LockFile:
    """A run's lock file: what it begins with, and where the one of its apply is kept.

    :param path: in the run's copy of the module.
    :param kept: where it lies between runs.
    :param own: what the module brings; empty if it brings none.
    :param begin: what the run begins with: what was kept, else the module's own; empty if there is neither.
    """

    path: Path
    kept: Path
    own: str
    begin: str

    @classmethod
    def of(cls, root: Path, identity: Mapping[str, Any], binary: TerraformBinary) -> LockFile:
        """Find what is kept of a state, and put it into the copy of its module.

        It is kept for a program and a platform, since it holds their registry and their hashes, and for the lock file
        that the module brings: who changes that one wants it to count.

        :param root: the copy.
        :param identity: whose state it is.
        :param binary: the program.
        """
        path = root / LOCK_FILE
        own = path.read_text(encoding="utf-8") if path.is_file() else ""
        name = f"{binary.flavour}-{binary.platform}-{hashlib.sha256(own.encode()).hexdigest()[:12]}.lock.hcl"
        kept = kept_states(os.environ) / str(identity["key"]) / name
        begin = own
        # Where it can't be read, it can't be kept either: that will be told.
        with suppress(OSError):
            if kept.stat().st_uid == os.getuid():
                begin = kept.read_text(encoding="utf-8")
        found = cls(path, kept, own, begin)
        found.restore()
        return found

    @property
    def is_kept(self) -> bool:
        """Whether the run begins with what an earlier one left."""
        return self.begin != self.own

    def restore(self) -> None:
        """Begin anew: ``init`` also records the hashes of what turns out to be damaged."""
        if self.begin:
            self.path.write_text(self.begin, encoding="utf-8")
        else:
            self.path.unlink(missing_ok=True)

    def keep(self, write: Callable[[str], None]) -> None:
        """Keep it for the next run. Only after an apply that succeeded.

        :param write: told if it can't be kept.
        """
        now = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        if now == self.begin:
            return
        aside = self.kept.with_suffix(f".{os.getpid()}")
        try:
            self.kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(aside, now, replace=True).replace(self.kept)
        except OSError as error:
            write(
                f"The lock file of the providers can't be kept in {self.kept.parent} ({error.strerror}): the next run"
                " chooses them anew. RAY_PROVIDER_KEPT_STATES names another folder."
            )

    def tell(self) -> str:
        """Say which providers are locked, and by what."""
        locked = ", ".join(f"{name.partition('/')[2]} {number}" for name, number in versions(self.begin).items())
        return f"Providers as in the last apply of this state: {locked}. (They are locked in {self.kept}.)"

    def advice(self, binary: TerraformBinary) -> str:
        """Say how somebody goes on who trusts a provider that the lock file does not know.

        :param binary: the program.
        """
        if self.is_kept:
            return f"If it is meant, remove {self.kept} on this worker, and run the task again."
        return (
            f"If it is meant, or this platform is missing in the module's {LOCK_FILE}, run `{binary.flavour} providers"
            f" lock -platform={binary.platform}` in the module's folder, and commit what changes."
        )


def versions(text: str) -> dict[str, str]:
    """Give the providers in a lock file: address and version.

    :param text: a lock file's.
    """
    return dict(_LOCKED.findall(text))
