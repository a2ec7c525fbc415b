"""Looks for planted secrets: in files, databases, command lines, texts; as they are and in usual disguises."""

from __future__ import annotations

import base64
import gzip
import json
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from typing import Self
from urllib.parse import quote, quote_plus

import psutil

#: Of the one Ray head that these tests share. It is planted, too.
RAY_TOKEN = f"planted-password-{token_hex(8)}"


@dataclass(frozen=True)
class Scanner:
    """Knows the secrets by name."""

    secrets: Mapping[str, str]

    @cached_property
    def looks(self) -> dict[str, set[bytes]]:
        """How each of them may look, by its name."""
        return {name: self.forms(secret) for name, secret in self.secrets.items()}

    def forms(self, secret: str) -> set[bytes]:
        """How a secret may look: escaped, quoted, in base64 at any of three offsets."""
        texts = {secret, json.dumps(secret)[1:-1], quote(secret, safe=""), quote_plus(secret), secret[::-1]}
        found = {text.encode() for text in texts}
        for shift in range(3):
            encoded = base64.b64encode(b"\0" * shift + secret.encode()).decode().rstrip("=")
            # The ends depend on what stands beside it.
            found.add(encoded[(2 if shift else 0) + shift : -2].encode())
        return found | {secret.encode().hex().encode()}

    def found_in(self, content: bytes | str) -> set[str]:
        """Name the secrets that a content gives away, also when it is compressed."""
        data = content.encode("utf-8", "replace") if isinstance(content, str) else content
        whole = [data]
        if data[:2] == b"\x1f\x8b":
            whole.append(gzip.decompress(data))
        elif data[:1] == b"\x78":
            try:
                whole.append(zlib.decompress(data))
            except zlib.error:
                pass
        return {name for name, forms in self.looks.items() if any(form in part for form in forms for part in whole)}

    def in_files(self, folders: Iterable[Path], *, leave_out: Iterable[Path] = ()) -> dict[str, set[str]]:
        """Say which files below the folders hold which secrets; also files' names."""
        skipped = [path.resolve() for path in leave_out]
        result: dict[str, set[str]] = {}
        for folder in folders:
            for path in sorted(_all_below(folder)):
                if any(path.resolve().is_relative_to(other) for other in skipped):
                    continue
                try:
                    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
                except OSError:
                    continue
                if names := self.found_in(content) | self.found_in(str(path)):
                    result[str(path)] = names
        return result

    def in_database(self, path: Path) -> dict[str, set[str]]:
        """Say which tables of a SQLite database hold which secrets."""
        result: dict[str, set[str]] = {}
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for row in database.execute(f'SELECT * FROM "{table}"'):
                    for value in row:
                        names = self.found_in(value if isinstance(value, bytes) else str(value))
                        if names:
                            result.setdefault(table, set()).update(names)
        return result


@dataclass
class ArgvSampler:
    """Reads all command lines ten times a second."""

    scanner: Scanner
    #: Processes below this one are Ray's own: what is given to a job is known there.
    cluster: int | None = None
    samples: int = 0
    seen: set[str] = field(default_factory=set)
    found: dict[str, set[str]] = field(default_factory=dict)
    in_cluster: dict[str, set[str]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            self.samples += 1
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit():
                    continue
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                text = line.replace(b"\0", b" ").decode("utf-8", "replace")
                if text in self.seen:
                    continue
                self.seen.add(text)
                if names := self.scanner.found_in(line):
                    place = self.in_cluster if self._is_of_cluster(int(entry.name)) else self.found
                    place[text[:300]] = names
            self._stop.wait(max(0.0, 0.1 - (time.monotonic() - started)))

    def _is_of_cluster(self, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            return self.cluster in {pid, *(parent.pid for parent in process.parents())} or _is_rays(process)
        except psutil.Error:
            return False


def _all_below(folder: Path) -> Iterator[Path]:
    """Give all folders and files below one. Path.rglob fails if a folder goes while it is walked; this passes over it."""
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def _is_rays(process: psutil.Process) -> bool:
    """Ray's job supervisors and workers may be orphans by the time that they are looked at."""
    line = " ".join(process.cmdline())
    return "ray/_private" in line or "ray::" in line or "--serialized-runtime-env-context" in line
