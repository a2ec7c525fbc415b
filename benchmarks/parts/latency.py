"""From a job's end to the trigger's event, at the providers' own settings."""

from __future__ import annotations

from benchmarks.bench import OURS, PEER, Bench

GOAL_SECONDS = 0.5


def measure(bench: Bench, address: str) -> None:
    ours = bench.measure(OURS, "latency", address, "--runs", "7")
    peer = bench.measure(PEER, "latency", address, "--runs", "3")
    bench.raw["latency"] = {"ours": ours, "peer": peer}
    over = ours["median_s"] - ours["limit_median_s"]
    bench.row(
        "job end to event, default settings (median)",
        f"{ours['median_s']:.2f} s",
        f"{peer['median_s']:.1f} s" if peer["median_s"] else f"error: {peer['errors']}",
        f"{ours['limit_median_s']:.2f} s (Ray tells) + {GOAL_SECONDS} s",
        good=over <= GOAL_SECONDS and not ours["errors"],
    )
