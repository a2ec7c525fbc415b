"""The cache of providers, which several tasks of a worker fill."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

from ray_provider.infrastructure.terraform.plugin_cache import one_at_a_time

_HOLD = """
import sys, time
from pathlib import Path
from ray_provider.infrastructure.terraform.plugin_cache import one_at_a_time
with one_at_a_time(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_cache_is_one_tasks_until_that_ends_even_killed(tmp_path: Path) -> None:
    ours = threading.Event()

    def take() -> None:
        with one_at_a_time(tmp_path):
            ours.set()

    with subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        waiting = threading.Thread(target=take)
        waiting.start()
        try:
            assert not ours.wait(timeout=0.5)
        finally:
            os.kill(other.pid, signal.SIGKILL)
        assert ours.wait(timeout=30)
        waiting.join()
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600]


def test_without_a_cache_nothing_is_held() -> None:
    with one_at_a_time(None), one_at_a_time(None):
        pass
