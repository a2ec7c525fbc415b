"""Runs a property for as long as it is given: a moment in ``make test``, ten minutes in all by ``make test-fuzz``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

#: Seconds for each property; unless set, a fixed number of examples.
SECONDS = float(os.environ.get("AIRFLOW_RAY_FUZZ_SECONDS", "0"))
_EXAMPLES = 60
_ROUND = 400
_EXAMPLE_SECONDS = 2.0


def fuzz(check: Callable[..., None], *strategies: st.SearchStrategy[Any]) -> int:
    """Run a check on made-up input, and give how many examples there were.

    One example may take two seconds: more is a hang, and an error.
    """
    count = 0

    def counted(drawn: tuple[Any, ...]) -> None:
        nonlocal count
        count += 1
        started = time.process_time()
        check(*drawn)
        # Of the processor's time: the machine may have more to do.
        assert time.process_time() - started < _EXAMPLE_SECONDS, "a hang"

    end = time.monotonic() + SECONDS
    number = 0
    while True:
        options: dict[str, Any] = {
            "max_examples": _ROUND if SECONDS else _EXAMPLES,
            "deadline": None,
            "suppress_health_check": list(HealthCheck),
            "database": None,
            "derandomize": not SECONDS,
            "phases": [Phase.explicit, Phase.generate, Phase.shrink],
        }
        run = settings(**options)(given(st.tuples(*strategies))(counted))
        if SECONDS:
            # Told when it fails: the same round comes again with the same number.
            run = seed(number)(run)
        run()
        number += 1
        if time.monotonic() >= end:
            return count


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
KEYS = st.text(max_size=8) | st.sampled_from(["metadata", "spec", "name", "kind", "items", "a", "head", "worker"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)


@st.composite
def spoilt(draw: st.DrawFn, good: Any) -> Any:
    """A good value in which something was replaced, removed or added."""
    import copy

    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(0, 4))):
        place, key = _somewhere(draw, value)
        if place is None:
            return draw(JSON)
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove":
            del place[key]
        elif change == "replace":
            place[key] = draw(JSON)
        elif isinstance(place, dict):
            place[draw(KEYS)] = draw(JSON)
        else:
            place.append(draw(JSON))
    return value


def _somewhere(draw: st.DrawFn, value: Any) -> tuple[Any, Any]:
    place: Any = None
    key: Any = None
    while isinstance(value, dict | list) and value:
        place = value
        key = draw(
            st.sampled_from(sorted(value, key=repr)) if isinstance(value, dict) else st.integers(0, len(value) - 1)
        )
        value = value[key]
        if draw(st.booleans()):
            break
    return place, key
