"""Servers that tests start end with the tests, also when those are killed."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Linux: have the kernel send SIGTERM to this process when its parent ends. For ``preexec_fn``.

    It is the thread that called ``fork`` whose end counts: start such processes from a thread that lives as long.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
