"""What holds for all tests: a run that is told to end puts everything away first."""

from __future__ import annotations

import signal

import pytest


def pytest_configure() -> None:
    """End as on Ctrl-C when SIGTERM comes (a time limit, a cancelled CI job): fixtures stop what they started."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pytest.exit("SIGTERM", returncode=143)

    signal.signal(signal.SIGTERM, end)
