"""Tests that are ended leave no server behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil

from tests.support.requirements import need

ROOT = Path(__file__).resolve().parents[2]
PARENT = """
import subprocess, sys, time
from ray_provider.testing.parent import die_with_parent
server = subprocess.Popen(["sleep", "600"], start_new_session=True, preexec_fn=die_with_parent)
print(server.pid, flush=True)
time.sleep(600)
"""


def gone(pid: int) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_server_ends_with_tests_that_are_killed():
    need("Linux", present=sys.platform == "linux", how="The kernel's part in it is Linux's.")
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        server = int(tests.stdout.readline())
        assert psutil.pid_exists(server)
        tests.kill()
    assert gone(server)


def test_tests_that_are_told_to_end_put_things_away_first(tmp_path):
    case = tmp_path / "test_case.py"
    case.write_text(
        textwrap.dedent(f"""
        import os, pathlib, signal, time, pytest

        @pytest.fixture(scope="session")
        def server():
            yield
            pathlib.Path({str(tmp_path / "away")!r}).touch()

        def test_waits(server):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        """)
    )
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", case],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stdout
    assert (tmp_path / "away").exists()
