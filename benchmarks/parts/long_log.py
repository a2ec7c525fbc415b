"""A hundred megabytes of log through one trigger: each line once and in order, without holding up the others."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.parts.many import run

MEGABYTES = 100
GOAL_MB, GOAL_TICK_MS = 50.0, 50.0


def measure(bench: Bench, _address: str) -> None:
    found = run("log", "--megabytes", str(MEGABYTES))
    bench.raw["long_log"] = found
    whole = found["lines_passed_on"] == found["lines"] and not found["wrong"]
    name = f"{MEGABYTES} MB of log through one trigger"
    bench.row(
        f"{name}: lines, once and in order",
        f"{found['lines_passed_on']} of {found['lines']} in {found['seconds']:.0f} s",
        "-",
        "all",
        good=whole,
    )
    added, tick = found["added_mb"], found["tick_ms"]
    bench.row(f"{name}: more memory", f"{added:.0f} MB", "-", f"{GOAL_MB:.0f} MB", good=added <= GOAL_MB)
    bench.row(f"{name}: worst tick", f"{tick:.0f} ms", "-", f"{GOAL_TICK_MS:.0f} ms", good=tick <= GOAL_TICK_MS)
