"""The rows of the fault matrix that the peer can run, side by side. Ten minutes for each of the two."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.bench import OURS, PEER, ROOT, Bench


def rows_of(python: Path) -> dict[str, dict]:
    command = [sys.executable, "-m", "benchmarks.fault_rows", str(python)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=1800, check=True)
    found: dict[str, dict] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(bench: Bench, _address: str) -> None:
    ours, peer = rows_of(OURS), rows_of(PEER)
    bench.raw["faults"] = {"ours": ours, "peer": peer}
    for name, came in ours.items():
        bench.row(name, came["told"], peer[name]["told"], "the matrix", good=came["good"])
