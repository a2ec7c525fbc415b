"""Where a relative path of an argument begins: one rule for all arguments."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def candidates(given: str | Path, folders: Iterable[Path] = ()) -> list[Path]:
    """Give where a path may lie: in the folder of the DAG's file, else in the working directory of the process.

    :param given: the path as a person wrote it; ``~`` is the home folder. An absolute one may lie in one place only.
    :param folders: of the DAG's file.
    """
    path = Path(str(given).strip()).expanduser()
    return [path] if path.is_absolute() else [*(Path(folder) / path for folder in folders), Path.cwd() / path]
