"""What importing the provider's operators adds to ``airflow.sdk``, in fresh processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

BASE = "from airflow.sdk import DAG, BaseOperator, task"
HEAVY = ("ray", "kubernetes", "kubernetes_asyncio", "aiohttp", "boto3", "google.cloud", "pyhelm3")
TAIL = (
    "; import resource as _r, sys as _s"
    "; print('RESULT', _r.getrusage(_r.RUSAGE_SELF).ru_maxrss,"
    f" ','.join(m for m in {HEAVY!r} if m in _s.modules))"
)


def fresh(python: str, code: str) -> tuple[float, float, str]:
    """Wall seconds, peak MB and the heavy modules that were loaded."""
    started = time.perf_counter()
    done = subprocess.run([python, "-c", code + TAIL], capture_output=True, text=True, env=os.environ, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{code}: {done.stderr.strip().splitlines()[-1]}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    parts = line.split(" ")
    return seconds, int(parts[1]) / 1024, parts[2] if len(parts) > 2 else ""


def measure(python: str, runs: int = 7) -> dict:
    """Pair by pair, so that a machine that slows down slows both."""
    fresh(python, BASE)
    seconds, megabytes, modules = [], [], ""
    for _ in range(runs):
        base = fresh(python, BASE)
        ours = fresh(python, f"{BASE}; import ray_provider.operators")
        seconds.append(ours[0] - base[0])
        megabytes.append(ours[1] - base[1])
        modules = ours[2]
    return {
        "added_s": statistics.median(seconds),
        "added_mb": statistics.median(megabytes),
        "modules": [name for name in modules.split(",") if name],
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1] if len(sys.argv) > 1 else sys.executable)))
