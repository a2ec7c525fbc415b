"""A pytest plugin: says to coverage which test runs, and notes how each ended and how long it took.

Coverage's own contexts per test function see only the thread of the test; operators work beside it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

_ended: dict[str, float | None] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Name the test to coverage."""
    current = coverage.Coverage.current()
    assert current is not None
    current.switch_context(item.nodeid)
    began = time.monotonic()
    _ended[item.nodeid] = 0.0
    result = yield
    if _ended[item.nodeid] is not None:
        _ended[item.nodeid] = time.monotonic() - began
    current.switch_context("")
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what failed or was skipped: it tells nothing about mutants."""
    if not report.passed:
        _ended[report.nodeid] = None


def pytest_sessionfinish() -> None:
    """Write it down."""
    path = Path(os.environ["AIRFLOW_RAY_RECORDING"])
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **_ended}))
