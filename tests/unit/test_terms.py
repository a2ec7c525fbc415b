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
    r"\bNothing to do takes\b": "a sentence with a subject",
    r"\b(?:do|does|did) not let us\b|\blets? us (?:in|to|through)\b": "denies access",
    r"\bthe way into (?:a|the|Kubernetes)\b|\bno way into\b": "access to",
    r"\bon the way can\b|\bwhoever is on the way\b": "on the network path",
    r"\bsends us on\b": "redirects to",
    r"\bwhose a token is\b": "checks tokens",
    r"\b(?:is|are|be) entered (?:by|with)\b|\benter(?:s|ed)? a cluster\b": "authenticate to, access",
    r"\bis none that\b": "is not one that",
    r"\bcertificate (?:which|that) (?:is|was) not trusted\b|\bnot trusted certificate\b": "untrusted certificate",
    r"\bcustom object definition|\bdefinition of a custom\b": "CRD, custom resource",
    r"\bmachine pools?\b|\bpools? of machines\b": "node pool",
    r"\b(?:login|log-in|sign-in) (?:data|details)\b": "credentials",
    r"\bhandwork\b": "manual steps",
}


#: What people read that is no document: the package, the example DAGs, the chart's notes and values, the modules' texts.
PYTHON = ("provider/ray_provider", "examples/dags")
OTHERS = ("helm/**/NOTES.txt", "helm/**/values.yaml", "helm/**/*.schema.json", "terraform/**/*.tf")


def texts() -> list[tuple[str, str]]:
    """Give each text that a person may read, and where it stands: of Python the constants, those in f-strings, too.

    So the form, the help of the command line, log lines, errors and docstrings are among them.
    """
    found = [(name, (ROOT / name).read_text()) for name in DOCUMENTS]
    for path in (path for folder in PYTHON for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node.value))
    for path in (path for pattern in OTHERS for path in sorted(ROOT.glob(pattern))):
        if ".terraform" not in path.parts:
            found.append((str(path.relative_to(ROOT)), path.read_text()))
    return found


TEXTS = texts()


@pytest.mark.parametrize(("term", "instead"), TERMS.items())
def test_the_terms_of_the_field_are_used(term, instead):
    wrong = [f"{where}: {hit.group()!r}" for where, text in TEXTS for hit in re.finditer(term, text)]
    assert not wrong, f"write {instead}: {wrong}"


def test_every_text_that_a_person_sees_is_looked_at():
    """A text of each kind is among them; else nothing would hold it."""
    seen = [text for _, text in TEXTS]
    for expected in (
        "Kubernetes API server",  # the form
        "delete them; without it they are only listed",  # the help of the command line
        "The task was ended: stopping job %s.",  # a line of a task's log
        "The Kubernetes API server denies access (403) to Ray at ",  # an error
        ":param entrypoint:",  # an operator's docstring
        "This costs money",  # an example
        "error_message",  # Terraform
    ):
        assert any(expected in text for text in seen), expected
    assert len(seen) > 4000
