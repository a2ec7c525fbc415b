"""Running ``ray-provider reap`` beside a real Airflow."""

from __future__ import annotations

import subprocess
import sys

from ray_provider.testing import AirflowStack


def reap(stack: AirflowStack, *arguments: str, status: int = 0) -> str:
    """Run the command where a stack's metadata database is its own, and give what it printed.

    :param status: the exit status that is expected.
    """
    done = subprocess.run(
        [sys.executable, "-m", "ray_provider.cli", "reap", *arguments],
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout
