"""Runs ``run_compat.py`` on each Airflow and Python of the table, each in an environment of its own.

``python -m tests.compat.matrix [ROW…]``: rows are named like their environments (``airflow-3.3-py3.12``). A Python that
this machine has not got leaves its rows out, loudly; where ``CI`` is set, or a row was named, that is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.pythons import find_python

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """An Airflow, by the name of its lock file, and a Python.

    :param airflow: minor version.
    :param minor: minor version of Python; ``None``: that of the Makefile.
    """

    airflow: str
    minor: int | None = None

    @property
    def name(self) -> str:
        return f"airflow-{self.airflow}" + ("" if self.minor is None else f"-py3.{self.minor}")


ROWS = (Row("2.11"), Row("3.1"), Row("3.3", 12), Row("3.3", 13))


def say(text: str) -> None:
    print(text, flush=True)


def run(row: Row) -> bool:
    """Make the environment, and run the row in it."""
    environment = f".venv-{row.name}"
    made = ["make", "-s", f"{environment}/.installed"]
    if row.minor is not None:
        made.append(f"PYTHON={find_python(row.minor)}")
    # A make above us tells its own flags by these.
    variables = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    commands = (made, ["scripts/isolated", f"{environment}/bin/python", "tests/compat/run_compat.py"])
    return all(subprocess.run(command, cwd=ROOT, env=variables).returncode == 0 for command in commands)


def main(names: Sequence[str]) -> int:
    if unknown := set(names) - {row.name for row in ROWS}:
        raise SystemExit(f"no row: {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in ROWS)}")
    began = time.monotonic()
    verdicts: dict[str, str] = {}
    for row in ROWS:
        if names and row.name not in names:
            continue
        say(f"== {row.name}")
        if row.minor is not None and find_python(row.minor) is None:
            wanted = bool(names or os.environ.get("CI"))
            verdicts[row.name] = "failed" if wanted else "skipped"
            say(f"{verdicts[row.name]}: Python 3.{row.minor} is not on this machine (pyenv install 3.{row.minor}).")
            continue
        start = time.monotonic()
        verdicts[row.name] = "passed" if run(row) else "failed"
        say(f"== {row.name} {verdicts[row.name]} ({time.monotonic() - start:.0f} s)")
    counts = {verdict: list(verdicts.values()).count(verdict) for verdict in ("passed", "failed", "skipped")}
    say("\n".join(f"{name:<24}{verdict}" for name, verdict in verdicts.items()))
    # As pytest closes: tests/lanes.py counts by it.
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    say(f"{told} in {time.monotonic() - began:.2f}s")
    return int(bool(counts["failed"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
