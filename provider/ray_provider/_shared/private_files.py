"""Files that only we can read, from their first moment on."""

from __future__ import annotations

import os
from pathlib import Path


def write_private(path: Path, text: str, *, replace: bool = False) -> Path:
    """Write a file that only its owner can read.

    :param path: where.
    :param text: written as UTF-8.
    :param replace: overwrite what is there; its mode stays then. Default: no.
    :return: the path.
    :raises FileExistsError: something is there, a link included, unless it may be replaced.
    """
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if replace else os.O_EXCL)
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path
