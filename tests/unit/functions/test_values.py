"""Values of Airflow's own among a function's arguments become plain ones, wherever they are nested."""

from __future__ import annotations

from collections import namedtuple

import pytest
from airflow.sdk import Param
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.definitions.xcom_arg import _ConcatResult, _MapResult, _ZipResult

from ray_provider.decorators.values import materialize

Pair = namedtuple("Pair", "first second")


def lazy() -> _MapResult:
    return _MapResult([1, 2, 3], [lambda n: 3 * n])


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (lazy(), [3, 6, 9]),
        ({"a": [lazy(), 1]}, {"a": [[3, 6, 9], 1]}),
        ((lazy(), {"b": (lazy(),)}), ([3, 6, 9], {"b": ([3, 6, 9],)})),
        (Pair(lazy(), 2), Pair([3, 6, 9], 2)),
        (_ZipResult([[1, 2], [3, 4]], fillvalue=None), [(1, 3), (2, 4)]),
        (_ConcatResult([[1, 2], [3]]), [1, 2, 3]),
        (ParamsDict({"factor": Param(3)}), {"factor": 3}),
    ],
)
def test_they_become_plain(given, plain):
    found = materialize(given)
    assert found == plain
    assert type(found) is type(plain)


def test_all_else_is_the_very_same():
    within: list = [1, {"a": (1, 2)}]
    within.append(within)
    for value in (within, {"x": {1, 2}}, (1, "a"), range(3), object()):
        assert materialize(value) is value
