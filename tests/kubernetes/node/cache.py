"""The cache of built parts: a folder per part and key, whole or not there at all, one builder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

BEGAN = time.monotonic()
_KEPT_DAYS = 14
_print_lock = threading.Lock()


def say(text: str) -> None:
    """Print a line of progress with the seconds since this program began."""
    with _print_lock:
        print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)


def cache_root() -> Path:
    """Return where built parts and running nodes are kept."""
    explicit = os.environ.get("AIRFLOW_RAY_CACHE")
    base = Path(explicit) if explicit else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "airflow-ray"
    return base.expanduser().resolve() / "kubernetes"


@contextlib.contextmanager
def locked(path: Path, waiting_for: str = "") -> Iterator[None]:
    """Hold an exclusive lock on ``path``; the kernel gives it back however this process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting_for:
                say(f"{waiting_for}: somebody else is at it, waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest_of(*things: str | Path) -> str:
    """Return a short hash of texts and files; of a folder, of all files in it."""
    digest = hashlib.sha256(platform.machine().encode())
    for thing in things:
        if isinstance(thing, Path):
            for file in sorted(p for p in thing.rglob("*") if p.is_file()) if thing.is_dir() else [thing]:
                digest.update(file.relative_to(thing.parent).as_posix().encode() + b"\0" + file.read_bytes())
        else:
            digest.update(thing.encode())
        digest.update(b"\1")
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Part:
    """Something that is built once: ``make(folder, needs)`` fills a folder.

    The key is made from what the part is made of, so that a change of a setting does not build Kubernetes anew.
    """

    name: str
    key: str
    make: Callable[[Path, dict[str, Path]], None]
    needs: tuple[Part, ...] = field(default=())

    @property
    def path(self) -> Path:
        return cache_root() / "parts" / f"{self.name}-{self.key}"

    def built(self) -> bool:
        return self.path.is_dir()

    def ensure(self) -> Path:
        """Build the part unless it is there, what it needs first."""
        if not self.built():
            needs = {part.name: part.ensure() for part in self.needs}
            with locked(cache_root() / "locks" / f"{self.path.name}.lock", self.name):
                if not self.built():
                    self._build(needs)
        os.utime(self.path)  # what is used is not pruned
        return self.path

    def _build(self, needs: dict[str, Path]) -> None:
        aside = self.path.with_name(f".{self.path.name}.making")
        remove_tree(aside)
        aside.mkdir(parents=True)
        began = time.monotonic()
        over = threading.Event()

        def tell() -> None:
            while not over.wait(30):
                say(f"{self.name}: still building ({time.monotonic() - began:.0f} s)")

        say(f"{self.name}: building")
        threading.Thread(target=tell, daemon=True).start()
        try:
            self.make(aside, needs)
            aside.rename(self.path)
        finally:
            over.set()
            if aside.exists():
                remove_tree(aside)
        say(f"{self.name}: built in {time.monotonic() - began:.0f} s")


def remove_tree(path: Path) -> None:
    """Remove a folder, also one in which a Go module cache or a container left folders without write permission."""
    if path.exists():
        shutil.rmtree(path)


def prune(keep: list[Part], *, days: float = _KEPT_DAYS) -> list[str]:
    """Remove parts that are not in ``keep`` and that nobody used for some days, and what broken builds left.

    :returns: the names of what was removed.
    """
    kept = {part.path.name for part in keep}
    removed = []
    parts = cache_root() / "parts"
    for path in sorted(parts.iterdir()) if parts.is_dir() else []:
        name = path.name.removeprefix(".").removesuffix(".making")
        lock = cache_root() / "locks" / f"{name}.lock"
        if name in kept and not path.name.startswith("."):
            continue
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # being built
            old = time.time() - path.stat().st_mtime > days * 86400
            if path.name.startswith(".") or old:
                remove_tree(path)
                removed.append(path.name)
                lock.unlink(missing_ok=True)
    return removed
