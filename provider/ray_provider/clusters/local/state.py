"""Where a local Ray is remembered: a folder per name, a record in it, and a lock beside it."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ray_provider._shared.private_files import write_private
from ray_provider.exceptions import ClusterError, ClusterTimeoutError, ConfigurationError

#: Overrides the folder in which all local clusters of this user are remembered.
HOME_VARIABLE = "AIRFLOW_RAY_LOCAL_HOME"

#: What a folder of ours can be called. What a cluster that is made can be called says ``naming.check_name``, which is
#: narrower: older releases made clusters whose names KubeRay would not take, and those are still found and deleted.
_FOLDER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
#: Ray puts sockets below its folder, as `session_<26 characters>_<pid>/sockets/dash_<module>`. The kernel takes paths
#: of at most 107 characters for them (macOS: 103).
_MAX_RAY_FOLDER = 103 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead")
_LOCK_POLL_SECONDS = 0.1


def local_home() -> Path:
    """Give the folder in which local clusters are remembered.

    ``AIRFLOW_RAY_LOCAL_HOME``; else ``airflow-ray`` in ``XDG_STATE_HOME``; else in ``~/.local/state``.
    """
    if given := os.environ.get(HOME_VARIABLE):
        return Path(given).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state").absolute() / "airflow-ray"


@dataclass(frozen=True, slots=True)
class LocalPaths:
    """Where the things of one cluster lie.

    :param name: of the cluster.
    :param home: see :func:`local_home`.
    """

    name: str
    home: Path

    @classmethod
    def of(cls, name: str, home: Path | None = None) -> LocalPaths:
        """Give the paths of a cluster.

        :param name: of the cluster.
        :param home: unless given, as :func:`local_home` says.
        :raises ConfigurationError: no folder of ours can be called that.
        """
        if not _FOLDER.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} can't be the name of a Ray cluster.",
                hint="Use lower-case letters, digits and hyphens; begin and end with no hyphen.",
                field="name",
            )
        return cls(name, home or local_home())

    @classmethod
    def below(cls, home: Path) -> list[LocalPaths]:
        """Give the paths of all clusters below a folder, by name; what else lies there is passed over.

        :param home: the folder; where there is none, there are no clusters.
        """
        if not home.is_dir():
            return []
        found = []
        for folder in sorted(entry for entry in home.iterdir() if entry.is_dir()):
            with suppress(ConfigurationError):  # not a folder of ours
                found.append(cls.of(folder.name, home))
        return found

    @property
    def folder(self) -> Path:
        """The cluster's own folder (0700)."""
        return self.home / self.name

    @property
    def record(self) -> Path:
        """What is known of the cluster."""
        return self.folder / "cluster.json"

    @property
    def token(self) -> Path:
        """Ray's token (0600)."""
        return self.folder / "token"

    @property
    def log(self) -> Path:
        """What the head writes."""
        return self.folder / "head.log"

    @property
    def lock(self) -> Path:
        """The file whose lock whoever changes the cluster holds."""
        return self.home / f"{self.name}.lock"

    @property
    def ray_folder(self) -> Path:
        """Where Ray keeps its session: in the folder, unless its sockets' paths would be too long there."""
        inside = self.folder / "ray"
        if len(str(inside)) <= _MAX_RAY_FOLDER:
            return inside
        short = f"ray-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]}"
        candidate = Path(tempfile.gettempdir()) / short
        return candidate if len(str(candidate)) <= _MAX_RAY_FOLDER else Path("/tmp") / short  # noqa: S108 - made 0700  # nosec B108

    def make(self) -> None:
        """Make the folders, for nobody but us, and a new token.

        :raises ClusterError: somebody else owns a folder of that name.
        """
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.folder, self.ray_folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise ClusterError(f"{folder} belongs to somebody else, or is no folder.", hint="Remove it.")
            folder.chmod(0o700)
        write_private(self.token, secrets.token_urlsafe(32))

    def remove(self) -> None:
        """Remove the folders with all that is in them."""
        for folder in (self.ray_folder, self.folder):
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class LocalRecord:
    """What is known of a local cluster.

    :param name: of the cluster.
    :param phase: ``starting`` from before the head is started, ``ready`` once its Jobs API has answered.
    :param machine: where it runs: the host's name and its process namespace.
    :param address: URL of its dashboard.
    :param pid: of the head.
    :param started: when the head's process was started.
    :param owner: which DAG, run and task it belongs to.
    :param settings: what it was started with, to tell whether an update changes something.
    :param ray_version: of the head.
    """

    name: str
    phase: Literal["starting", "ready"]
    machine: str
    address: str | None = None
    pid: int | None = None
    started: float | None = None
    owner: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    ray_version: str | None = None

    @classmethod
    def read(cls, paths: LocalPaths) -> LocalRecord | None:
        """Read a record; ``None`` if there is none, or none that was written to its end.

        :param paths: of the cluster.
        """
        try:
            data = json.loads(paths.record.read_text(encoding="utf-8"))
            return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return None

    def write(self, paths: LocalPaths) -> None:
        """Write the record in one step: a reader sees the old one or the new one.

        :param paths: of the cluster. Its folder has to be there.
        """
        temporary = paths.record.with_suffix(".new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(paths.record)


def this_machine() -> str:
    """Say where we run, so that a pid in a record that lies on a shared disk is not taken for one of ours."""
    namespace = ""
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {namespace}".strip()


@asynccontextmanager
async def locked(paths: LocalPaths, *, timeout: float) -> AsyncIterator[None]:
    """Hold a cluster's lock: one set-up or delete of a name at a time, in all processes of this machine.

    The kernel gives it back when a process dies. Whoever removes the lock's file holds it; who waited meanwhile notices
    that its file is not the one that lies there now, and takes that one (why not by filelock:
    docs/decisions/file-locks.md).

    :param paths: of the cluster. The folder above is made if it is missing.
    :param timeout: how long (seconds) to wait for the lock.
    :raises ClusterTimeoutError: somebody else holds it for longer than ``timeout`` seconds.
    """
    paths.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    descriptor = -1
    try:
        while True:
            descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT, 0o600)
            if _try_lock(descriptor, paths.lock):
                break
            os.close(descriptor)
            descriptor = -1
            if time.monotonic() > deadline:
                raise ClusterTimeoutError(
                    f"Another process has been at work on the local Ray {paths.name!r} for {timeout:.0f} s.",
                    hint="See which task does, and wait for it; or choose another name.",
                    name=paths.name,
                )
            await asyncio.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        if descriptor >= 0:
            if not paths.folder.exists():
                paths.lock.unlink(missing_ok=True)
            os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = path.stat()
    except (BlockingIOError, FileNotFoundError):
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
