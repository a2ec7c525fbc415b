"""How long 50 triggers that follow jobs and their logs hold up the event loop that they share."""

from __future__ import annotations

from benchmarks.bench import OURS, PEER, Bench, proxied

GOAL_MS = 30.0
NETWORKS = (
    ("loopback", 0.0, None),
    ("100 ms round trip", 0.05, None),
    ("a dashboard that stalls 10 s", 0.0, (3.0, 10.0)),
)


def measure(bench: Bench, address: str) -> None:
    for name, delay, stall in NETWORKS:
        hold = ("--sleep", "15" if stall else "8")
        with proxied(address, delay, stall) as via:
            ours = bench.measure(OURS, "loop", address, *hold, "--via", via)
        with proxied(address, delay, stall) as via:  # the stall counts from the first connection
            peer = bench.measure(PEER, "loop", address, *hold, "--via", via, "--poll", "5")
        bench.raw[f"ticks, {name}"] = {"ours": ours, "peer": peer}
        bench.row(
            f"50 triggers with logs, worst tick, {name}",
            f"{ours['worst_tick_ms']:.0f} ms ({ours['events']} events)",
            f"{peer['worst_tick_ms']:.0f} ms ({peer['events']} events)",
            f"{GOAL_MS:.0f} ms (idle: {ours['idle_worst_tick_ms']:.1f} ms)",
            good=ours["worst_tick_ms"] <= GOAL_MS and ours["events"] == 50,
        )
