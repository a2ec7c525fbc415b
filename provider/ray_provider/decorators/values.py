"""Arguments as a cluster can read them, where nothing of Airflow is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = (str, bytes, bytearray, int, float, bool, type(None))


def materialize(value: Any, _within: frozenset[int] = frozenset()) -> Any:
    """Read what Airflow would read later, wherever it is nested: such values are bound to the task, and don't travel.

    The output of a mapped task, and what ``map``, ``zip`` and ``concat`` make of one, become lists; ``params`` becomes
    a dictionary. All else is given back as it is; of a list, tuple or dictionary with such a value inside, a copy.

    :param value: what a function is called with.
    :param _within: ids of what it lies in, for its own use.
    """
    if isinstance(value, _PLAIN) or id(value) in _within:  # what holds itself stays as it is
        return value
    within = _within | {id(value)}
    kind = type(value)
    if kind is dict:
        items = {key: materialize(item, within) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in value) else value
    if kind in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_make")):
        parts = [materialize(item, within) for item in value]
        if all(part is item for part, item in zip(parts, value, strict=True)):
            return value
        return value._make(parts) if hasattr(value, "_make") else kind(parts)
    if not kind.__module__.startswith("airflow."):
        return value
    if isinstance(value, Mapping):
        return {key: materialize(value[key], within) for key in value}
    if isinstance(value, Sequence):
        return [materialize(item, within) for item in value]
    return value
