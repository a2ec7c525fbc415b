"""The map in CONTRIBUTING is the tree, and nothing in it grows too large to look through: folder, module or function."""

from __future__ import annotations

import ast
import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "provider" / "ray_provider"
MOST = 16
MOST_LINES = {"module": 400, "function": 60}
#: What is longer, and why: one file travels to the cluster, half of the other describes and takes arguments.
LONG_MODULES = {"functions/runner.py", "operators/job.py"}
#: These are lists of arguments.
LONG_FUNCTIONS = {
    "operators/cluster.py __init__",
    "operators/job.py __init__",
    "operators/rayjob.py __init__",
    "operators/rayservice.py __init__",
}


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


def test_the_unit_tests_stand_in_the_folders_of_what_they_test():
    tests = Path(__file__).parent
    standing = {file.parent for file in tests.rglob("*.py") if file.name.startswith("test_")}
    assert {folder.relative_to(tests).as_posix() for folder in standing} - set(folders()) == set()
    counts = {folder.relative_to(tests).as_posix(): len(list(folder.glob("*.py"))) for folder in standing}
    assert {folder: count for folder, count in counts.items() if count > MOST} == {}


def modules() -> dict[str, str]:
    """Give the text of each module of the package."""
    files = (file for file in PACKAGE.rglob("*.py") if "_bundled" not in file.parts)
    return {file.relative_to(PACKAGE).as_posix(): file.read_text() for file in files}


def test_no_module_is_too_long():
    found = {name for name, text in modules().items() if text.count("\n") > MOST_LINES["module"]}
    assert found <= LONG_MODULES


def test_no_function_is_too_long():
    found = {
        f"{name} {node.name}"
        for name, text in modules().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= MOST_LINES["function"]
    }
    assert found <= LONG_FUNCTIONS


#: What a test puts in the place of something, named by its whole path.
PATCHED = re.compile(r"""setattr\(\s*"(ray_provider\.[\w.]+)",""")


@pytest.mark.parametrize(
    ("test", "path"),
    sorted(
        {
            (file.relative_to(ROOT).as_posix(), path)
            for file in (ROOT / "tests").rglob("*.py")
            for path in PATCHED.findall(file.read_text())
        }
    ),
)
def test_what_a_test_replaces_is_there(test, path):
    """A change moves a name, and a test of a layer that was not run for it looks for the name where it was."""
    del test
    pkgutil.resolve_name(path)
