"""States that no backend took: found by the next run on the same state, which saves them before it plans anything."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_provider.infrastructure.errors import unsaved
from ray_provider.infrastructure.terraform.backend import Backend
from ray_provider.infrastructure.terraform.folder import write_private_json
from ray_provider.infrastructure.terraform.rescue import (
    IDENTITY,
    kept_states,
    last_resort,
    last_words,
    lock_holder,
    plain,
    would_overwrite,
)

if TYPE_CHECKING:
    from ray_provider.infrastructure.terraform.runner import TerraformRunner

#: Of a backend's arguments, those that say which state it is. The others say how to get there.
_PLACE = (
    "path",
    "bucket",
    "key",
    "prefix",
    "workspace_key_prefix",
    "address",
    "storage_account_name",
    "container_name",
    "namespace",
    "secret_suffix",
    "schema_name",
)


def identity_of(backend: Backend, workspace: str | None, module: str) -> dict[str, Any]:
    """Give what a state is known by; plain data, without secrets.

    :param backend: where the state lies.
    :param workspace: of the state; ``None`` for the default one.
    :param module: as it is shown to people.
    """
    public = backend.public()
    place = {"type": backend.type, "workspace": workspace or "default"}
    place |= {name: str(backend.config[name]) for name in _PLACE if backend.config.get(name)}
    key = hashlib.sha256(json.dumps(place, sort_keys=True).encode()).hexdigest()[:24]
    return {"key": key, "backend": public, "workspace": workspace or "default", "module": module}


def write_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Say in a private folder whose state is worked on, for whoever finds it.

    :param folder: the private one.
    :param identity: as :func:`identity_of` gave it.
    """
    write_private_json(folder / IDENTITY, identity)


def find_kept(identity: Mapping[str, Any]) -> list[Path]:
    """Give the states that were kept of this one, oldest first.

    :param identity: as :func:`identity_of` gave it.
    """
    bases = (kept_states(os.environ), last_resort())
    found = [path for base in bases for path in (base / str(identity["key"])).glob("*.tfstate")]
    return sorted(path for path in found if path.stat().st_uid == os.getuid())


def save_kept(identity: Mapping[str, Any], runner: TerraformRunner, write: Callable[[str], None]) -> None:
    """Push what was kept of this state, or refuse to go on.

    Terraform itself refuses to overwrite a newer state with it, or another one.

    :param identity: as :func:`identity_of` gave it.
    :param runner: Terraform in the module, initialised.
    :param write: gets each line of progress.
    :raises UnsavedStateError: it can't be pushed.
    """
    for path in find_kept(identity):
        write(f"A state of an earlier run could not be saved, and lies in {path}. It is pushed now.")
        there = runner.run("state pull").out
        if other := would_overwrite(path.read_text(encoding="utf-8"), there):
            raise unsaved(path, other, None, runner.binary.flavour)
        pushed = runner.run("state push", path, check=False, lock_timeout=runner.lock_timeout)
        lock_id = _lock_of(path)
        if pushed.exit_code != 0 and lock_id is not None and (lock_holder(pushed.err) or {}).get("ID") == lock_id:
            # The apply that made this state left it behind.
            pushed = runner.run("state push", path, check=False, lock=False)
            if pushed.exit_code == 0:
                runner.run("force-unlock", lock_id, force=True)
        if pushed.exit_code != 0:
            raise unsaved(path, last_words(plain(pushed.err or pushed.out)), lock_id, runner.binary.flavour)
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)
        write("It is saved.")


def _lock_of(path: Path) -> str | None:
    with suppress(OSError, ValueError):
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")).get("lock_id")
        return found if isinstance(found, str) else None
    return None
