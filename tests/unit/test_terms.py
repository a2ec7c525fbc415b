"""The words of the field, where a person reads them: documentation, and every text of the package."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.snippets import DOCUMENTS, ROOT

#: What is not written, and what is.
TERMS = {
    r"\bvouch": "untrusted certificate",
    r"\ba Kubernetes(?= (?:and|or|that|which|with)\b|[.,;:)])": "a Kubernetes cluster",
    r"\bthe definitions?\b": "CRD",
    r"\bdefinitions (?:here|first|of \{|that are|up to)": "CRDs",
    r"\bauthorities to trust": "CA certificates",
    r"\b[Ee]nter (?:EKS|GKE) clusters": "authenticate to",
    r"\bas the worker\b\.?$": "the worker's own credentials",
    r"\bWho needs what\b": "a sentence with a subject",
}


def texts() -> list[tuple[str, str]]:
    found = [(name, (ROOT / name).read_text()) for name in DOCUMENTS]
    for path in sorted((ROOT / "provider" / "ray_provider").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node.value))
    return found


TEXTS = texts()


@pytest.mark.parametrize(("term", "instead"), TERMS.items())
def test_the_terms_of_the_field_are_used(term, instead):
    wrong = [f"{where}: {hit.group()!r}" for where, text in TEXTS for hit in re.finditer(term, text)]
    assert not wrong, f"write {instead}: {wrong}"
