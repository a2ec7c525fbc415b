"""The peer and us, in one run on one machine: ``make bench``, or ``python -m benchmarks.run PART...``.

Prints a table, writes ``benchmarks/results.json`` and exits with 1 where a limit is broken. The peer runs in an
environment of its own (``.venv-peer``), made from PyPI.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import imports
from ray_provider.clusters.local_head import free_ports
from tests.support.ray_head import RayHead

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OURS, PEER = ROOT / ".venv/bin/python", ROOT / ".venv-peer/bin/python"


@contextmanager
def proxied(address: str, delay: float, stall: tuple[float, float] | None = None) -> Iterator[str]:
    """Put a slow network between provider and Ray."""
    [port] = free_ports(1)
    command = [sys.executable, str(HERE / "proxy.py"), str(port), address.removeprefix("http://"), str(delay)]
    process = subprocess.Popen([*command, *(str(x) for x in stall or ())], stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[tuple[str, str, str, str, bool]] = []
        self.raw: dict[str, object] = {}

    def measure(self, python: Path, what: str, address: str, *arguments: str, script: str = "measure.py") -> dict:
        home = self.folder / python.parent.parent.name
        env = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "BENCH_LOG": str(self.folder / "provider.log"),
            "PYTHONWARNINGS": "ignore",
        }
        done = subprocess.run(
            [str(python), str(HERE / script), what, address, *arguments],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            timeout=900,
            check=False,
        )
        if done.returncode:
            tail = (self.folder / "provider.log").read_text(errors="replace")[-2000:]
            raise SystemExit(f"{what} with {python} failed:\n{tail}")
        return json.loads(done.stdout.splitlines()[-1])

    def row(self, name: str, ours: str, peer: str, limit: str, *, good: bool) -> None:
        self.rows.append((name, ours, peer, limit, good))
        print(f"  {'ok ' if good else 'BAD'} {name}: ours {ours}, peer {peer}, limit {limit}", flush=True)

    # ------------------------------------------------------------------ the measures
    def imports(self, _address: str) -> None:
        ours, peer = imports.measure(str(OURS)), imports.measure(str(PEER), runs=3)
        self.raw["imports"] = {"ours": ours, "peer": peer}
        good = ours["added_s"] <= 0.2 and ours["added_mb"] <= 10 and not {"ray", "kubernetes"} & set(ours["modules"])
        self.row(
            "import ray_provider.operators, over airflow.sdk",
            f"+{ours['added_s']:.2f} s, +{ours['added_mb']:.1f} MB",
            f"+{peer['added_s']:.2f} s, +{peer['added_mb']:.0f} MB",
            "0.2 s, 10 MB, no ray",
            good=good,
        )

    def latency(self, address: str) -> None:
        ours = self.measure(OURS, "latency", address, "--runs", "7")
        peer = self.measure(PEER, "latency", address, "--runs", "2")
        self.raw["latency"] = {"ours": ours, "peer": peer}
        over = ours["median_s"] - ours["limit_median_s"]
        self.row(
            "job end to event, default settings (median)",
            f"{ours['median_s']:.2f} s",
            f"{peer['median_s']:.1f} s" if peer["median_s"] else "error",
            f"{ours['limit_median_s']:.2f} + 0.5 s",
            good=over <= 0.5 and not ours["errors"],
        )

    def ticks(self, address: str) -> None:
        for name, delay, stall in (
            ("loopback", 0.0, None),
            ("100 ms round trip", 0.05, None),
            ("a dashboard that stalls 10 s", 0.0, (3.0, 10.0)),
        ):
            with proxied(address, delay, stall) as via:
                hold = ("--sleep", "15" if stall else "8", "--via", via)
                ours = self.measure(OURS, "loop", address, *hold)
                peer = self.measure(PEER, "loop", address, *hold, "--poll", "5")
            self.raw[f"ticks, {name}"] = {"ours": ours, "peer": peer}
            self.row(
                f"50 triggers with logs, worst tick, {name}",
                f"{ours['worst_tick_ms']:.0f} ms ({ours['events']} events)",
                f"{peer['worst_tick_ms']:.0f} ms ({peer['events']} events)",
                "30 ms",
                good=ours["worst_tick_ms"] <= 30 and ours["events"] == 50,
            )

    def functions(self, address: str) -> None:
        ours = self.measure(OURS, "functions", address, script="functions.py")
        self.raw["functions"] = ours
        for kind in ("json", "pickle"):
            over = ours[f"{kind}_s"] - ours["bare_s"]
            self.row(
                f"@task.ray, 10 MB in and out as {kind}, over a bare submit (median)",
                f"{over:+.2f} s ({ours[f'{kind}_s']:.2f} s)",
                "can't",
                f"{ours['bare_s']:.2f} + 0.5 s",
                good=over <= 0.5,
            )


PARTS = ("imports", "latency", "ticks", "functions")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], help=f"of {', '.join(PARTS)}; all if none is named")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray-bench-") as name:
        bench = Bench(Path(name))
        with RayHead() as head:
            for part in arguments.parts or PARTS:
                getattr(bench, part)(head.url)
    results = {"rows": bench.rows, "raw": bench.raw, "cpus": os.cpu_count(), "python": sys.version.split()[0]}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n| measure | ours | peer | limit | |\n|---|---|---|---|---|")
    for name, ours, peer, limit, good in bench.rows:
        print(f"| {name} | {ours} | {peer} | {limit} | {'ok' if good else 'BROKEN'} |")
    return 0 if all(row[4] for row in bench.rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
