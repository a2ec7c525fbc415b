"""YAML that users and handles give: plain data, and with an end."""

from __future__ import annotations

import pytest

from ray_provider._shared import yaml_text
from ray_provider._shared.yaml_text import UnplainError, check_plain, load_document, load_documents


def test_plain_data_is_read_dates_as_text() -> None:
    assert load_documents("a: 1\n---\n[2026-01-31, 1.5, true, null]\n") == [{"a": 1}, ["2026-01-31", 1.5, True, None]]
    assert load_document("a: {b: [1]}") == {"a": {"b": [1]}}
    assert load_document("") is None
    assert load_documents("") == []
    assert load_document("a: &x [1]\nb: *x\n") == {"a": [1], "b": [1]}, "the same list twice is no circle"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\n---\nb: 2\n", "it holds several documents"),
        ("[" * 301, "it is nested too deeply"),
        ("{a: " * 301, "it is nested too deeply"),
        ("a: &x [*x]", "a value in it contains itself"),
        ("a: &x {b: {c: *x}}", "a value in it contains itself"),
        ("a: !!binary aGk=", "a value in it is a bytes, which no configuration can hold"),
        ("a: [!!set {x}]", "a value in it is a set, which no configuration can hold"),
        ("? !!binary aGk=\n: 1", "a key in it is a bytes"),
        ("? [1]\n: 1", "unhashable"),
        ("a: !!python/object:os.system {}", "python"),
    ],
)
def test_what_is_not_plain_is_refused(text: str, problem: str) -> None:
    import yaml

    with pytest.raises(yaml.YAMLError) as caught:
        load_document(text)
    assert problem in getattr(caught.value, "problem", "") + str(caught.value)


def test_brackets_that_are_closed_again_do_not_count() -> None:
    assert len(load_document("[" + "[], " * 400 + "{}]")) == 401
    assert load_document("[" * 40 + "]" * 40) is not None


def test_there_is_a_limit_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "MAX_VALUES", 5)
    check_plain([1, 2, 3, 4])
    with pytest.raises(UnplainError, match="it has more than 5 values") as caught:
        check_plain([1, 2, {"a": 3, "b": 4}])
    assert caught.value.problem == "it has more than 5 values"


def test_a_text_that_multiplies_has_an_end() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for one, two in zip("abcde", "bcdef", strict=True):
        bomb += f"{two}: &{two} [{', '.join([f'*{one}'] * 10)}]\n"
    with pytest.raises(UnplainError, match="more than 100000 values"):
        load_document(bomb)


def test_a_number_without_end_is_not_shown() -> None:
    with pytest.raises(UnplainError, match="can't be read") as caught:
        load_document("a: " + "9" * 100_000)
    assert "999" not in str(caught.value)
