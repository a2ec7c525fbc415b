"""What a test needs of the machine: missing, it is skipped loudly, and where CI is set it fails."""

from __future__ import annotations

import os
import shutil
import sys

import pytest


def need(what: str, *, present: bool | None = None, how: str = "") -> None:
    """Go on only if ``what`` is there: a program on PATH, or whatever ``present`` says.

    :param how: how the reader gets it.
    """
    there = shutil.which(what) is not None if present is None else present
    if there:
        return
    message = f"needs {what}, which is not here. {how}".strip()
    if os.environ.get("CI"):
        pytest.fail(f"{message} (CI is set: nothing may be skipped)")
    pytest.skip(message)


def lacking(what: str, *, how: str) -> None:
    """Say before the tests what they will miss: they skip what needs it. Where CI is set, end here.

    :param how: how the reader gets it.
    """
    message = f"{what} is not here: the tests that need it are skipped. {how}"
    if os.environ.get("CI"):
        raise SystemExit(f"{message} (CI is set: nothing may be skipped)")
    print(message, file=sys.stderr)
