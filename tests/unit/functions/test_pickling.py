"""What of the DAG's file travels beside a call, and how a package is made."""

from __future__ import annotations

import functools
import io
import pickle
import random
import zipfile

import pytest

from ray_provider.functions.payload import PACKAGE, pack
from ray_provider.functions.pickling import dumps


class Point:
    """Travels."""


def helper() -> type:
    return Point


@functools.lru_cache(maxsize=7, typed=True)
def cached(number: int) -> int:
    return number + 1


def found(call: object, module: str | None = __name__) -> dict[str, object]:
    import cloudpickle

    here = __import__(__name__, fromlist=["x"])
    cloudpickle.register_pickle_by_value(here)
    try:
        content = dumps(call, module)
    finally:
        cloudpickle.unregister_pickle_by_value(here)
    reader = pickle.Unpickler(io.BytesIO(content))
    reader.load()
    names: dict[str, object] = reader.load()
    return names


def test_what_stands_at_the_top_of_the_file_is_noted_by_its_name() -> None:
    def nested() -> int:
        return cached(1)

    names = found([helper, nested, lambda: 1])
    assert set(names) == {"helper", "Point", "cached"}
    assert set(found([helper], "another_module")) == set()
    assert set(found([helper], None)) == set()


def test_a_cache_travels_empty_with_its_parameters() -> None:
    cached(1)
    cached.mark = "kept"  # type: ignore[attr-defined]
    there = found([cached])["cached"]
    assert there.cache_info()[2:] == (7, 0)  # type: ignore[attr-defined]
    assert there(2) == 3  # type: ignore[operator]
    assert there(2.0) == 3.0  # type: ignore[operator]
    assert there.cache_info().currsize == 2, "typed"  # type: ignore[attr-defined]
    assert there.mark == "kept"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("content", "how"), [(b"a" * 100_000, zipfile.ZIP_DEFLATED), (None, zipfile.ZIP_STORED)])
def test_what_shrinks_is_compressed_and_the_rest_is_not(content: bytes | None, how: int) -> None:
    given = content if content is not None else random.Random(1).randbytes(100_000)
    packed = pack(len, (given,))
    info = zipfile.ZipFile(io.BytesIO(packed.content)).getinfo(f"{PACKAGE}/call.pkl")
    assert info.compress_type == how
