"""What holds for all tests: a run that is told to end puts everything away first."""

from __future__ import annotations

import os
import signal
import sys
import traceback

import pytest

# In Python 3.11 a traceback that is formatted while the compiler runs (the garbage collector ran a finalizer that raised)
# makes that compiler fail: "SystemError: AST constructor recursion depth mismatch". Here it would take a whole run with
# it, as pytest compiles what it imports. Without the little arrows below a line the formatter needs no compiler.
if sys.version_info < (3, 12):
    traceback._extract_caret_anchors_from_line_segment = lambda _segment: None  # type: ignore[attr-defined]


def pytest_configure() -> None:
    """End as on Ctrl-C when SIGTERM comes (a time limit, a cancelled CI job): fixtures stop what they started."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pytest.exit("SIGTERM", returncode=143)

    signal.signal(signal.SIGTERM, end)


@pytest.fixture(autouse=True, scope="session")
def kept_states(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What runs of Terraform keep beyond their end is no test's to find again."""
    os.environ.setdefault("RAY_PROVIDER_KEPT_STATES", str(tmp_path_factory.mktemp("kept-states")))
