"""What importing the provider's operators adds to ``airflow.sdk``, in fresh processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import time

from benchmarks.bench import OURS, PEER, Bench

GOAL_SECONDS, GOAL_MB = 0.2, 10.0

#: The names are asked for: a module that only loads them later would cost nothing by itself.
IMPORT = "from ray_provider.operators import DeleteRayCluster, SetupRayCluster, SubmitRayJob"
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


def compare(python: str, runs: int = 7) -> dict:
    """Pair by pair, so that a machine that slows down slows both."""
    fresh(python, BASE)
    seconds, megabytes, modules = [], [], ""
    for _ in range(runs):
        base = fresh(python, BASE)
        ours = fresh(python, f"{BASE}; {IMPORT}")
        seconds.append(ours[0] - base[0])
        megabytes.append(ours[1] - base[1])
        modules = ours[2]
    return {
        "added_s": statistics.median(seconds),
        "added_mb": statistics.median(megabytes),
        "modules": [name for name in modules.split(",") if name],
    }


def measure(bench: Bench, _address: str) -> None:
    ours, peer = compare(str(OURS)), compare(str(PEER), runs=3)
    bench.raw["imports"] = {"ours": ours, "peer": peer}
    heavy = {"ray", "kubernetes", "kubernetes_asyncio"} & set(ours["modules"])
    bench.row(
        "import of the operators, over airflow.sdk",
        f"{ours['added_s']:+.2f} s, {ours['added_mb']:+.1f} MB",
        f"{peer['added_s']:+.2f} s, {peer['added_mb']:+.0f} MB",
        f"{GOAL_SECONDS} s, {GOAL_MB:.0f} MB, neither ray nor kubernetes",
        good=ours["added_s"] <= GOAL_SECONDS and ours["added_mb"] <= GOAL_MB and not heavy,
    )
