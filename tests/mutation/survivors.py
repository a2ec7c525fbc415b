"""Mutants that no test of these layers can notice, each with the reason. They count as survivors all the same."""

from __future__ import annotations

from tests.mutation.mutants import Mutant

#: (end of the file's path, text of the changed line) → why.
REASONS: dict[tuple[str, str], str] = {
    (
        "kuberay/account.py",
        "response.status < 300",
    ): "equivalent: redirects are refused before, and nothing sends a 300",
    ("local/head.py", "for _ in range(5)"): "equivalent: how often a thing that works is done again",
    (
        "kuberay/readiness.py",
        "self._looked_at.pop(uid, None)",
    ): "a pod that went is looked at again 15 s later or sooner",
    (
        "helm/fetch.py",
        "usable = parts.scheme in _PORTS",
    ): "tests/security/test_fetched.py has the row; that layer is not run here",
    ("functions/results.py", "strict=True"): "equivalent: both lists are made of the same lines",
}


def reason_of(mutant: Mutant) -> str:
    """Give why a mutant survives, where that is known."""
    changed = mutant.diff
    for (path, text), reason in REASONS.items():
        if mutant.path.endswith(path) and text in changed:
            return f"({reason})"
    return ""
