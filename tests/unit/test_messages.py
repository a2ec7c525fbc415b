"""The first line of an error is what a list of tasks or an alert shows of it: the cause stands in it, not behind it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.snippets import ROOT

#: As many characters of an error are seen without opening it.
SHOWN = 100
#: What stands for a name, a number or a path that is filled in.
FILLED_IN = "x" * 12
#: An error that begins so says nothing yet.
EMPTY = re.compile(r"(?i)(error|exception|failed|failure|unfortunately|sorry|oops|invalid (?:input|value)|something)\b")
_SENTENCE = re.compile(r"[.:;](?=\s|$)|$")
_FIELD = re.compile(r"[\w.]+: (?=.)")


def template(node: ast.expr) -> str | None:
    """Give a text with what is filled in; ``None``: it is no text that stands there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else FILLED_IN for part in node.values)
        return "".join(str(part) for part in parts)
    return None


def messages() -> Iterator[tuple[str, str]]:
    """Give the first argument of each error that the package makes, where it is a text, and where it stands."""
    for path in sorted((ROOT / "provider" / "ray_provider").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            text = template(node.args[0])
            # What is filled in as a whole was made elsewhere.
            if text and text.replace(FILLED_IN, "") and name.endswith(("Error", "Exception")):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def complaint(text: str) -> str | None:
    """Say what is wrong with how an error begins."""
    if EMPTY.match(text):
        return "begins with a word that says nothing"
    field = _FIELD.match(text)  # ``region: …``: which argument
    end = _SENTENCE.search(text, field.end() if field else 0).start()
    if end > SHOWN:
        return f"has its first statement end after {end} characters"
    if len(re.findall(r"[A-Za-z']{2,}", text[:SHOWN].replace(FILLED_IN, ""))) < 2:
        return "has hardly a word at its beginning"
    return None


def test_the_cause_stands_at_the_beginning_of_every_error():
    found = list(messages())
    assert len(found) > 350, "the texts are found"
    wrong = [f"{where} {told}: {text[:160]}" for where, text in found if (told := complaint(text))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Error: x", False),
        ("Failed to submit the job.", False),
        (FILLED_IN * 8 + ": it is not there.", False),
        (
            "The task, which runs on a worker of the queue, of which there are several in this Airflow, has no connection.",
            False,
        ),  # fmt: skip
        (f"{FILLED_IN}: {FILLED_IN}", False),
        (f"There is no kubeconfig at {FILLED_IN}.", True),
        ("region: it is needed.", True),
    ],
)
def test_what_counts_as_a_bad_beginning(text, good):
    assert (complaint(text) is None) is good
