"""A thousand deferred jobs on one triggerer: what each costs, and how soon its end is known."""

from __future__ import annotations

import json
import subprocess

from benchmarks.bench import OURS, ROOT, Bench

JOBS = 1000
GOAL_KB = 100.0
#: Half a second until Ray tells a log's new lines, a tenth until the state; then state and log are asked for.
GOAL_SECONDS, GOAL_QUESTIONS = 0.75, 2.0
#: Python's garbage collector makes the longest ticks, with any trigger: ours may add half as much.
GOAL_COLLECTIONS = 1.5


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
    collection = found["collection_ms"]
    limit = f"{GOAL_COLLECTIONS:g} garbage collections of {collection:.0f} ms"
    good = worst <= GOAL_COLLECTIONS * collection
    bench.row(f"{JOBS} triggers: worst tick", f"{worst:.0f} ms ({told})", "-", limit, good=good)
    for name in phases:
        median, count = found[name]["median_s"], found[name]["jobs"]
        limit_s = GOAL_SECONDS + GOAL_QUESTIONS * found["asking_s"] * count / JOBS
        bench.row(
            f"{JOBS} triggers, {count} jobs end ({name}): end to event (median)",
            f"{median:.2f} s",
            "-",
            f"{limit_s:.2f} s ({GOAL_SECONDS} s, and {GOAL_QUESTIONS:g} questions for each job)",
            good=median <= limit_s,
        )
