"""``make demo`` as a person runs it: what it shows, and what is left of it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ray_provider.clusters.local.processes import family, marked, wait_gone

pytestmark = pytest.mark.timeout(900)

#: All that a demonstration starts carries the folder for its temporary files in this variable.
MARK = "MARK_OF_THE_DEMO_TEST"


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demonstration, with a folder of its own for temporary files."""
    return subprocess.Popen(
        [sys.executable, "-m", "ray_provider.cli", "demo", *arguments],
        env={**os.environ, "TMPDIR": str(tmp_path), MARK: str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def addresses_of(processes: list[psutil.Process]) -> list[str]:
    """The addresses on which they listen for connections."""
    found: list[str] = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    return found


def assert_nothing_left(tmp_path: Path, seen: list[psutil.Process]) -> None:
    assert marked(MARK, str(tmp_path)) == []
    assert wait_gone(seen, 1) == []
    assert list(tmp_path.iterdir()) == []


def test_it_shows_the_states_the_log_and_the_result(tmp_path):
    temporary, image = tmp_path / "tmp", tmp_path / "image.png"
    temporary.mkdir()
    demo = start(temporary, "--image", str(image))
    lines: list[str] = []
    listening: list[str] = []
    try:
        for line in demo.stdout:
            lines.append(line.rstrip("\n"))
            if line.endswith("setup: running\n"):
                listening = addresses_of(family(MARK, str(temporary)))
        assert demo.wait(300) == 0, "\n".join(lines)
    finally:
        demo.terminate()
        demo.wait(300)
        demo.stdout.close()
    told = "\n".join(lines)
    assert image.read_bytes().startswith(b"\x89PNG")
    assert any("everybody who reaches it is an administrator" in line for line in lines)
    assert listening
    assert [address for address in listening if not ipaddress.ip_address(address).is_loopback] == []
    for expected in (
        "setup: success",
        "delays: deferred",
        "delays: success",
        "delete: success",
        "everything is stopped",
    ):
        assert len([line for line in lines if line.endswith(expected)]) == 1, (expected, told)
    assert len([line for line in lines if "JetBlue Airways" in line]) == 1, told
    assert_nothing_left(temporary, [])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(number, tmp_path):
    demo = start(tmp_path)
    seen: list[psutil.Process] = []
    told: list[str] = []
    try:
        for line in demo.stdout:
            told.append(line)
            if line.endswith("setup: running\n"):
                # Airflow, and soon a Ray, which has a session of its own.
                seen = family(MARK, str(tmp_path))
                listening = addresses_of(seen)
                demo.send_signal(number)
                demo.send_signal(number)  # an impatient person
        assert demo.wait(300) == 128 + number, "".join(told)
    finally:
        demo.terminate()
        demo.wait(300)
        demo.stdout.close()
    assert len(seen) > 5
    assert any("everybody who reaches it is an administrator" in line for line in told)
    assert listening
    assert [address for address in listening if not ipaddress.ip_address(address).is_loopback] == []
    assert "everything is stopped" in "".join(told)
    seen = [process for process in seen if process.pid != demo.pid]
    assert_nothing_left(tmp_path, seen)
