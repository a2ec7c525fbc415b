"""Which processes are ours: real ones, that lose one sign or another."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from ray_provider.clusters.local.processes import ProcessIdentity, family, last_lines, marked, signal_all, wait_gone
from tests.support.waiting import wait_until

MARK = "AIRFLOW_RAY_TEST_MARK"

#: A head whose first child drops the mark, and whose second one opens a session of its own.
_HEAD = f"""
import os, subprocess, sys, time
clean = {{k: v for k, v in os.environ.items() if k != {MARK!r}}}
one = subprocess.Popen(["sleep", "60"], env=clean)
two = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(one.pid, two.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def head(tmp_path) -> Iterator[tuple[subprocess.Popen, ProcessIdentity, int, int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HEAD],
        env={**os.environ, MARK: str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    one, two = map(int, process.stdout.readline().split())
    # A process that is only just becoming another program shows no environment yet.
    wait_until(lambda: all(psutil.Process(pid).environ() for pid in (one, two)))
    try:
        yield process, ProcessIdentity.of(process.pid), one, two
    finally:
        for pid in (process.pid, one, two):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(10)
        process.stdout.close()


def pids(processes) -> set[int]:
    return {process.pid for process in processes}


def test_all_are_found_while_the_head_lives(head, tmp_path):
    process, identity, one, two = head
    assert pids(marked(MARK, str(tmp_path))) == {process.pid, two}
    assert pids(family(MARK, str(tmp_path))) == {process.pid, one, two}
    assert pids(family(MARK, str(tmp_path / "other"))) == set()
    assert identity.find().pid == process.pid


def test_all_are_found_after_the_head_died(head, tmp_path):
    process, identity, one, two = head
    process.kill()
    process.wait(10)
    assert identity.find() is None
    assert pids(family(MARK, str(tmp_path), [identity])) == {one, two}
    left = [psutil.Process(one), psutil.Process(two)]
    signal_all(left, signal.SIGKILL)
    assert wait_gone(left, 10) == []
    assert family(MARK, str(tmp_path), [identity]) == []


def test_a_later_process_with_the_same_pid_is_another_one(head, tmp_path):
    process, identity, one, two = head
    earlier = ProcessIdentity(identity.pid, identity.started - 3600)
    assert earlier.find() is None
    # Its session is not taken for the earlier one's either.
    assert pids(family("NO_SUCH_MARK", "x", [earlier])) == set()


def test_a_zombie_counts_as_ended():
    process = subprocess.Popen([sys.executable, "-c", ""])
    identity = ProcessIdentity.of(process.pid)
    try:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert identity.find() is None
        assert wait_gone([psutil.Process(process.pid)], 5) == []
    finally:
        process.wait(10)


def test_the_end_of_a_log_is_read_without_its_beginning(tmp_path):
    log = tmp_path / "log"
    assert last_lines(log) == ""
    log.write_bytes(b"x" * 100_000 + "\nä\nlast \xff\n".encode("latin-1"))
    assert last_lines(log, 1).startswith("last ")
    assert len(last_lines(log, 5)) <= 64 * 1024
