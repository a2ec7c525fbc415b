"""What is among a package's files that may not be meant to leave this machine: secrets, and what links lead to.

Everybody with Ray's token can read a package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_provider.jobs.submit.archive import Package

#: Files that hold secrets by their name: of programs that many have.
_NAMES = (
    *(".env", ".env.*", ".netrc", "_netrc", "airflow.cfg", ".pgpass", ".pypirc", ".git-credentials"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.p12", "*.pfx", "*.jks", "kubeconfig", "*.kubeconfig"),
    *("terraform.tfstate", "*.tfvars.json"),
)
_PATHS = (".aws/credentials", ".kube/config", ".docker/config.json", ".config/gcloud/*.json")
#: Examples to copy from.
_HARMLESS = (".env.example", ".env.sample", ".env.template", ".env.dist")
#: Where private keys lie, as text: PEM, or a service account's JSON.
_KEY_FILES = frozenset({".pem", ".key", ".crt", ".json", ".txt", ""})
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_BYTES = 64 * 1024
_SHOWN = 10


def warning_of(package: Package, allowed: Sequence[str]) -> str | None:
    """Say what is doubtful among a package's files, and what to do; ``None``: nothing. Blocking.

    :param package: not uploaded yet.
    :param allowed: names or paths in the package, with ``*``, that are meant.
    """
    found = {name: why for name, why in _find(package).items() if not _matches(name, allowed)}
    if not found:
        return None
    shown = [f"{name} ({why})" for name, why in list(found.items())[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    names = ", ".join(repr(name) for name in list(found)[:3])
    return (
        f"{package.field} {package.source}: everybody with Ray's token can read what is packed, and among it is "
        f'{", ".join(shown)}{more}. Leave it out by runtime_env["excludes"] or a .rayignore file; or, if it is meant, '
        f"say allow_in_package=[{names}]."
    )


def _find(package: Package) -> dict[str, str]:
    root = package.source.resolve()
    links: dict[Path, str | None] = {}
    found: dict[str, str] = {}
    for entry in package.entries:
        if link := _link_out(entry.path, package.source, root, links):
            found[link[0]] = f"a link to {link[1]}, out of the folder"
        elif why := _why_secret(entry.path, entry.name):
            found[entry.name] = why
    return found


def _link_out(path: Path, top: Path, root: Path, seen: dict[Path, str | None]) -> tuple[str, str] | None:
    """Give the link by which a path leads out of the folder, and where to."""
    if path == top or not path.is_relative_to(top):
        return None
    for part in [*reversed([one for one in path.parents if one != top and one.is_relative_to(top)]), path]:
        if part not in seen:
            target = part.resolve() if part.is_symlink() else None
            seen[part] = str(target) if target is not None and not target.is_relative_to(root) else None
        if (target_text := seen[part]) is not None:
            return part.relative_to(top).as_posix(), target_text
    return None


def _why_secret(path: Path, name: str) -> str | None:
    if _matches(name, _NAMES) and not _matches(name, _HARMLESS):
        return "it usually holds secrets"
    if any(name == one or fnmatchcase(name, f"*/{one}") or fnmatchcase(name, one) for one in _PATHS):
        return "it usually holds secrets"
    if (
        path.suffix in _KEY_FILES
        and path.is_file()
        and path.stat().st_size <= _KEY_BYTES
        and _KEY.search(path.read_bytes())
    ):
        return "a private key"
    return None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    base = name.rstrip("/").rpartition("/")[2]
    return any(fnmatchcase(base, pattern) or fnmatchcase(name, pattern) for pattern in patterns)
