"""10 MB into a Python function on the cluster and back, against a bare submit of the same work."""

from __future__ import annotations

from benchmarks.bench import OURS, Bench

GOAL_SECONDS = 0.5


def measure(bench: Bench, address: str) -> None:
    ours = bench.measure(OURS, "functions", address, script="functions.py")
    bench.raw["functions"] = ours
    for kind in ("json", "pickle"):
        over = ours[f"{kind}_s"] - ours["bare_s"]
        bench.row(
            f"@task.ray, 10 MB in and out as {kind}, over a bare submit (median)",
            f"{over:+.2f} s ({ours[f'{kind}_s']:.2f} s)",
            "can't",
            f"{ours['bare_s']:.2f} + {GOAL_SECONDS} s",
            good=over <= GOAL_SECONDS,
        )
