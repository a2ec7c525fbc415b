"""Folders that somebody else removes while they are walked."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path


class _Listing:
    """What os.scandir gives: an iterator that is closed after use."""

    def __init__(self, entries: list[os.DirEntry[str]]) -> None:
        self._entries = iter(entries)

    def __enter__(self) -> _Listing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> _Listing:
        return self

    def __next__(self) -> os.DirEntry[str]:
        return next(self._entries)


def scandir_that_is_late(names: Collection[str]) -> Callable[[str | Path], _Listing]:
    """Give an ``os.scandir`` for whose folders somebody else was quicker: each is gone when it was just seen.

    :param names: of those folders; may be filled later.
    """
    scandir = os.scandir

    def scan(path: str | Path) -> _Listing:
        with scandir(path) as found:
            entries = list(found)
        for entry in entries:
            if entry.name in names:
                entry.is_dir()  # it was one, and the entry remembers
                _remove(entry.path)
        return _Listing(entries)

    return scan


def _remove(folder: str) -> None:
    for place, _, files in os.walk(folder, topdown=False):
        for file in files:
            os.unlink(os.path.join(place, file))
        os.rmdir(place)
