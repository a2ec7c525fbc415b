"""Mutants of the code (tests/mutation): each changes one place, and the same seed draws the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation.mutants import PACKAGE, draw, mutants_of

CODE = '''"""Text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import nothing

LIMIT = 3


def decide(one: "Annotated", log) -> bool:
    """Text."""
    log.info("ready")
    one.close()
    if one.size > LIMIT and not one.open:  # grün
        return True
    return one.state == "ready" or f"a {one}" in one.words
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / PACKAGE / "jobs"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text(CODE)
    return tmp_path


def test_conditions_comparisons_constants_and_calls_are_changed_one_at_a_time(root):
    found = mutants_of(root, f"{PACKAGE}/jobs/code.py")
    changes = {(mutant.kind, mutant.diff.splitlines()[-1].lstrip("+ ")) for mutant in found}
    assert changes == {
        ("constant", "LIMIT = 4"),
        ("constant", "return False"),
        ("constant", "return one.state == 'readyx' or f\"a {one}\" in one.words"),
        ("removed call", "pass"),
        ("condition", "if (not (one.size > LIMIT and (not one.open))):  # grün"),
        ("condition", "if (one.size > LIMIT or not one.open):  # grün"),
        ("condition", "if one.size > LIMIT and (one.open):  # grün"),
        ("condition", "return (one.state == 'ready' and f'a {one}' in one.words)"),
        ("comparison", "if (one.size >= LIMIT) and not one.open:  # grün"),
        ("comparison", "return (one.state != 'ready') or f\"a {one}\" in one.words"),
        ("comparison", "return one.state == \"ready\" or (f'a {one}' not in one.words)"),
    }
    assert {mutant.area for mutant in found} == {"jobs"}
    assert [mutant.whole_file for mutant in found if "LIMIT = 4" in mutant.diff] == [True]
    for mutant in found:
        compile(mutant.text, "mutant", "exec")
        assert len(mutant.diff.splitlines()) == 2


def test_a_seed_draws_the_same_and_at_most_one_of_a_line(root):
    files = [f"{PACKAGE}/jobs/code.py"]
    first, again, other = (draw(root, files, seed=seed, count=4, least=1) for seed in (1, 1, 2))
    assert [mutant.diff for mutant in first] == [mutant.diff for mutant in again]
    assert len({mutant.first for mutant in first}) == len(first) == 4
    assert [mutant.diff for mutant in first] != [mutant.diff for mutant in other]
