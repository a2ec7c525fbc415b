"""A thousand deferred jobs on one triggerer: what each costs, and how soon its end is known."""

from __future__ import annotations

import json
import subprocess

from benchmarks.bench import OURS, ROOT, Bench

JOBS = 1000
GOAL_KB, GOAL_TICK_MS, GOAL_SECONDS = 100.0, 100.0, 1.0


def run(what: str, *arguments: str) -> dict:
    """Run the instrument, and give what it measured."""
    command = [str(OURS), "-m", "benchmarks.triggerer", what, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=900, check=True)
    measured: dict = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(bench: Bench, _address: str) -> None:
    found = run("many", "--jobs", str(JOBS))
    bench.raw["many"] = found
    memory = found["kb_per_trigger"]
    bench.row(f"{JOBS} triggers: memory of each", f"{memory:.0f} KB", "-", f"{GOAL_KB:.0f} KB", good=memory <= GOAL_KB)
    phases = [name for name, value in found.items() if isinstance(value, dict)]
    ticks = {"start": found["start_tick_ms"], "steady": found["steady_tick_ms"]}
    ticks |= {name: found[name]["tick_ms"] for name in phases}
    worst = max(ticks.values())
    told = ", ".join(f"{name} {value:.0f}" for name, value in ticks.items())
    good = worst <= GOAL_TICK_MS
    bench.row(f"{JOBS} triggers: worst tick", f"{worst:.0f} ms ({told})", "-", f"{GOAL_TICK_MS:.0f} ms", good=good)
    for name in phases:
        median = found[name]["median_s"]
        bench.row(
            f"{JOBS} triggers, {found[name]['jobs']} jobs end ({name}): end to event (median)",
            f"{median:.2f} s",
            "-",
            f"{GOAL_SECONDS:.0f} s",
            good=median <= GOAL_SECONDS,
        )
