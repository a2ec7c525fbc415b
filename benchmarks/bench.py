"""What the parts of the benchmark share: run the instrument in either environment, put a network between, keep rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_provider.clusters.local.head import free_ports

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OURS, PEER = ROOT / ".venv/bin/python", ROOT / ".venv-peer/bin/python"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    :param limit: the goal, in words.
    :param good: whether we keep it.
    """

    name: str
    ours: str
    peer: str
    limit: str
    good: bool


@contextmanager
def proxied(address: str, delay: float, stall: tuple[float, float] | None = None) -> Iterator[str]:
    """Put a slow network between provider and Ray.

    :param delay: seconds that every chunk is late, in each direction.
    :param stall: when, in seconds after the first connection, nothing arrives any more, and for how long.
    """
    [port] = free_ports(1)
    command = [sys.executable, str(HERE / "proxy.py"), str(port), address.removeprefix("http://"), str(delay)]
    process = subprocess.Popen([*command, *(str(x) for x in stall or ())], stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@dataclass
class Bench:
    """A run of the benchmark.

    :param folder: for Airflow's homes and what the providers log.
    """

    folder: Path
    rows: list[Row] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def measure(
        self, python: Path, what: str, address: str, *arguments: str, script: str = "measure.py"
    ) -> dict[str, Any]:
        """Run an instrument in an environment, and give what it measured."""
        home = self.folder / python.parent.parent.name
        log = self.folder / "provider.log"
        env = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "BENCH_LOG": str(log),
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
            raise SystemExit(f"{what} with {python} failed:\n{log.read_text(errors='replace')[-2000:]}")
        measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return measured

    def row(self, name: str, ours: str, peer: str, limit: str, *, good: bool) -> None:
        """Keep and print a row."""
        self.rows.append(Row(name, ours, peer, limit, good))
        print(f"  {'ok ' if good else 'BAD'} {name}: ours {ours}, peer {peer}, limit {limit}", flush=True)
