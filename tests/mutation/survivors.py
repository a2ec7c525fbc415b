"""Mutants that no test of these layers can notice, each with the reason. They count as survivors all the same."""

from __future__ import annotations

from tests.mutation.mutants import Mutant

#: (end of the file's path, text of the changed line) → why.
REASONS: dict[tuple[str, str], str] = {}


def reason_of(mutant: Mutant) -> str:
    """Give why a mutant survives, where that is known."""
    changed = mutant.diff
    for (path, text), reason in REASONS.items():
        if mutant.path.endswith(path) and text in changed:
            return f"({reason})"
    return ""
