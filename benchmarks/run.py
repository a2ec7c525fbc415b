"""The peer and us, in one run on one machine: ``make bench``, or ``python -m benchmarks.run PART...``.

Prints a table, writes ``benchmarks/results.json`` and exits with 1 where a limit is broken. The peer runs in an
environment of its own (``.venv-peer``), made from PyPI. Each module in ``parts/`` is a part: its
``measure(bench, address)`` gets the address of a Ray that is up.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks import parts
from benchmarks.bench import HERE, Bench
from tests.support.ray_head import RayHead

PARTS = sorted(module.name for module in pkgutil.iter_modules(parts.__path__))
#: Only if it is named: it takes twenty minutes.
LONG = {"faults"}


@contextmanager
def all_cores_but_one() -> Iterator[None]:
    """Start something that leaves the last core to what is measured (``measure.py`` takes it)."""
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores - {max(cores)} or cores)
        yield
    finally:
        os.sched_setaffinity(0, cores)


def machine() -> str:
    """Say what the figures were measured on."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} cores ({names[0] if names else platform.machine()}), {memory:.0f} GiB, "
        f"Python {sys.version.split()[0]}, load before {os.getloadavg()[0]:.1f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [part for part in PARTS if part not in LONG]
    parser.add_argument(
        "parts", nargs="*", default=[], help=f"of {', '.join(PARTS)}; {', '.join(usual)} if none is named"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    where = machine()
    print(where, flush=True)
    with tempfile.TemporaryDirectory(prefix="ray-bench-") as name:
        bench = Bench(Path(name))
        head = RayHead()
        with all_cores_but_one():
            head.start()
        try:
            for part in arguments.parts or usual:
                print(f"== {part}", flush=True)
                importlib.import_module(f"benchmarks.parts.{part}").measure(bench, head.url)
        finally:
            head.stop()
    results = {"machine": where, "rows": [asdict(row) for row in bench.rows], "raw": bench.raw}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n| measure | ours | peer | limit | |\n|---|---|---|---|---|")
    for row in bench.rows:
        print(f"| {row.name} | {row.ours} | {row.peer} | {row.limit} | {'ok' if row.good else 'BROKEN'} |")
    return 0 if all(row.good for row in bench.rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
