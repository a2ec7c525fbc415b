"""YAML as plain data: by the safe loader, without what JSON can't say, bounded however it refers to itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

#: More values than this in a text are a trap, not a configuration: aliases of aliases multiply.
MAX_VALUES = 100_000
#: Brackets that are open at a time. The parser's time grows with the square of it.
MAX_DEPTH = 300
_BRACKETS = re.compile(r"[][{}]")


class UnplainError(yaml.YAMLError):
    """The text is YAML, but not of the plain kind. ``problem`` says why, and shows nothing of it.

    :param problem: what it is, without a full stop and without the data.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class _Loader(yaml.SafeLoader):
    """The safe loader, without dates: Helm and Kubernetes take them as the text that they are, too."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_documents(text: str) -> list[Any]:
    """Load all documents of a text.

    :param text: of any origin: aliases, tags and depth are bounded.
    :raises yaml.YAMLError: it is no YAML, or no plain data. Its text may show some of it: don't print it.
    """
    _check_depth(text)
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))  # a safe loader, see above
        check_plain(documents)
    except RecursionError:
        raise UnplainError("it is nested too deeply") from None
    except (ValueError, TypeError, AttributeError) as error:
        # Such as an integer of a million digits, or a key that is a mapping.
        raise UnplainError(f"a value in it can't be read ({type(error).__name__})") from None
    return documents


def load_document(text: str) -> Any:
    """Load the one document of a text; ``None`` where it is empty.

    :param text: see :func:`load_documents`.
    :raises yaml.YAMLError: see :func:`load_documents`; or there are several.
    """
    documents = load_documents(text)
    if len(documents) > 1:
        raise UnplainError("it holds several documents")
    return documents[0] if documents else None


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise UnplainError("it is nested too deeply")


def check_plain(value: Any) -> None:
    """Make sure that data is made of maps, lists, text, numbers, booleans and nulls, and has an end.

    :param value: what was loaded, or given as Python objects.
    :raises UnplainError: it is not.
    """
    count = 0
    above: set[int] = set()

    def walk(item: Any) -> None:
        nonlocal count
        count += 1
        if count > MAX_VALUES:
            raise UnplainError(f"it has more than {MAX_VALUES} values")
        if isinstance(item, Mapping | list):
            if id(item) in above:
                raise UnplainError("a value in it contains itself")
            above.add(id(item))
            for key in item if isinstance(item, Mapping) else ():
                if not isinstance(key, str | int | float | bool | None):
                    raise UnplainError(f"a key in it is a {type(key).__name__}")
            for inner in item.values() if isinstance(item, Mapping) else item:
                walk(inner)
            above.discard(id(item))
        elif not isinstance(item, str | int | float | bool | None):
            raise UnplainError(f"a value in it is a {type(item).__name__}, which no configuration can hold")

    walk(value)
