"""The map in CONTRIBUTING is the tree, and no folder of it grows too large to look through."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "provider" / "ray_provider"
MOST = 16


def folders() -> dict[str, int]:
    """Give how many modules each folder of the package has."""
    made = (file.parent for file in PACKAGE.rglob("*.py") if "_bundled" not in file.parts)
    found: dict[str, int] = {}
    for folder in made:
        found[folder.relative_to(PACKAGE).as_posix()] = len(list(folder.glob("*.py")))
    return found


def test_the_map_names_every_folder_and_no_other():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("Folders below") :].partition("Beside it:")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)]
    assert sorted(named) == sorted(set(folders()) - {"."})


def test_no_folder_is_too_full():
    assert {folder: count for folder, count in folders().items() if count > MOST} == {}
