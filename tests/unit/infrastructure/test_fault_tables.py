"""The tables of faults in the documentation: each test that a row names is there, and the modules say what it quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs" / "infrastructure.md").read_text()
#: Each table of the page with these four columns.
TABLES = re.findall(r"^\| fault \|[^\n]*\| test \|\n\|[-|]+\|\n((?:\|[^\n]*\n)+)", DOCUMENT, re.MULTILINE)
ROWS = [row for table in TABLES for row in table.splitlines()]
OWN = "\n".join(path.read_text() for path in (ROOT / "terraform" / "modules").rglob("*.tftest.hcl"))
#: What the modules say, with what is filled in left as it is.
SAID = "\n".join(
    line
    for path in (ROOT / "terraform" / "modules").rglob("*.tf")
    for line in re.findall(r"error_message\s*=\s*\"(.*)\"$|command\s*=\s*\"(.*)\"$", path.read_text(), re.MULTILINE)
    for line in line
)
PYTHON = "\n".join(path.read_text() for path in (ROOT / "tests" / "infrastructure").glob("test_*.py"))


def test_there_is_a_table_for_each_cloud() -> None:
    assert len(TABLES) == 2
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_row_names_tests_that_are_there(row: str) -> None:
    last = row.rstrip().rstrip("|").rpartition(" | ")[2]
    if last.strip() == "the same":
        return
    outside = re.sub(r"\([^)]*\)", "", last)
    names = re.findall(r"`([^`]+)`", outside)
    assert names, row
    for name in names:
        wanted, text = (f"def {name}(", PYTHON) if name.startswith("test_") else (f'run "{name}"', OWN)
        assert wanted in text, name
    # In brackets: which of the pools in that run.
    for pool in (one for inside in re.findall(r"\(([^)]*)\)", last) for one in re.findall(r"`([^`]+)`", inside)):
        assert re.search(rf"^\s*\"?{re.escape(pool).replace('…', '.*')}\"?\s*=", OWN, re.MULTILINE) or pool.endswith(
            "…"
        ), pool


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_the_modules_say_what_a_row_quotes(row: str) -> None:
    """Half of a message's words, in their order: the rest is what the plan fills in."""
    says = row.split(" | ")[2]
    for message in re.findall(r"`([^`]+)`", says):
        words = message.split()
        if len(words) < 3 or re.match(r"\w+ = ", message):
            continue  # a variable's name, or its setting
        runs = (words[start:end] for start in range(len(words)) for end in range(start + 1, len(words) + 1))
        longest = max((len(run) for run in runs if " ".join(run) in SAID), default=0)
        assert longest >= min(3, len(words) // 2), message
