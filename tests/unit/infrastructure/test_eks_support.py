"""The release's check of the EKS module's table of support ends, by days that are given."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "eks_support.py"


@pytest.mark.parametrize(
    ("day", "said"),
    [
        ("2026-11-30", []),
        ("2027-02-15", ["Support of 1.35, the newest version in the table, ends on 2027-03-27"]),
        ("2027-05-01", ["was read on 2026-11-29: read it anew", "Support of 1.35"]),
    ],
)
def test_what_is_to_be_done_before_a_release(day: str, said: list[str]) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), day], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == len(said), done.stdout + done.stderr
    assert all(part in line for part, line in zip(said, lines, strict=True))
    assert done.returncode == (1 if said else 0)


def test_no_test_of_the_modules_fails_on_the_day_when_a_versions_support_ends() -> None:
    """The plan warns from that day on, and a warning that nobody expects fails a run of ``terraform test``."""
    module = ROOT / "terraform" / "modules" / "eks"
    (read,) = re.findall(r"As read on (\d{4}-\d\d-\d\d)", (module / "checks.tf").read_text())
    ends = dict(re.findall(r'"(1\.\d\d)" = "(\d{4}-\d\d-\d\d)"', (module / "checks.tf").read_text()))
    used = re.findall(r'kubernetes_version += "(1\.\d\d)"', (module / "tests" / "module.tftest.hcl").read_text())
    assert used
    assert [version for version in used if ends.get(version, "") > read] == []
