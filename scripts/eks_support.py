"""Tell before a release whether the EKS module's table of support ends has to be read anew.

``python scripts/eks_support.py [YYYY-MM-DD]``. Never part of the tests: they don't go by the calendar.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

TABLE = Path(__file__).resolve().parent.parent / "terraform" / "modules" / "eks" / "checks.tf"
#: Amazon publishes a version about every four months.
READING_LASTS = timedelta(days=120)


def problems(text: str, today: date) -> list[str]:
    """Say what is to be done.

    :param text: of ``checks.tf``.
    :param today: the day to judge by.
    """
    read = date.fromisoformat(re.findall(r"As read on (\d{4}-\d\d-\d\d)", text)[0])
    ends = {version: date.fromisoformat(day) for version, day in re.findall(r'"(1\.\d\d)" = "(\d{4}-\d\d-\d\d)"', text)}
    newest = max(ends, key=lambda version: int(version.partition(".")[2]))
    found = []
    if today - read > READING_LASTS:
        found.append(f"The table of support ends was read on {read}: read it anew, and write the day down.")
    if ends[newest] - today < timedelta(days=60):
        found.append(f"Support of {newest}, the newest version in the table, ends on {ends[newest]}: add newer ones.")
    return found


def main(arguments: list[str]) -> int:
    """Print it; 1 if something is to be done."""
    today = date.fromisoformat(arguments[0]) if arguments else datetime.now(tz=UTC).date()
    found = problems(TABLE.read_text(), today)
    for line in found:
        print(f"{TABLE.name}: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
