"""Editors and type checkers know a function's own parameters behind the decorator: mypy says so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SAMPLE = Path(__file__).with_name("typed_dag.py")


def test_mypy_knows_the_parameters_and_finds_the_wrong_calls():
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(SAMPLE)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    found = {
        (int(line), code)
        for line, code in re.findall(r"typed_dag\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    }
    wanted = {
        (number, line.rpartition("# error: ")[2])
        for number, line in enumerate(SAMPLE.read_text().splitlines(), 1)
        if "# error: " in line
    }
    assert found == wanted, done.stdout + done.stderr
