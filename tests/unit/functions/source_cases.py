"""A DAG's file as people write them, for calls that travel as source."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import os.path
import pathlib
import sys
from collections import Counter
from typing import NamedTuple

FACTOR = 3
LOOKUP = {"a": [1, 2]}
HERE = pathlib.Path("/some/where")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: int = FACTOR

    def moved(self) -> Point:
        return Point(self.x + FACTOR, self.y)


class Base:
    def __init__(self):
        self.text = """two
lines"""


class Derived(Base):
    def __init__(self):
        super().__init__()
        self.number = helper(1)


class Named(NamedTuple):
    a: int
    b: str = "b"


class OurError(Exception):
    pass


@functools.lru_cache
def cached():
    return 5


def helper(n):
    return n * FACTOR if n else other(3)


def other(n):
    return helper(n) + math.floor(1.5)


def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


def in_a_dag():
    offset = 10

    def inner(n):
        return n + offset

    class BadText(Exception):
        def __str__(self):
            return "bad"

    def function(point: Point, colour, *, path: pathlib.Path = HERE, k=FACTOR) -> dict:
        def deeper(values):
            return [inner(each) + k for each in values]

        try:
            raise BadText
        except BadText as error:
            text = str(error)
        return {
            "python": list(sys.version_info[:2]),
            "inner": deeper([1, 2]),
            "point": dataclasses.asdict(point.moved()),
            "colour": [colour.value, colour is Colour.RED],
            "text": text,
            "path": str(path),
            "derived": [Derived().text, Derived().number],
            "cached": cached(),
            "factorial": factorial(5),
            "counter": Counter("aab")["a"],
            "joined": os.path.join("a", "b"),
            "named": Named(1).b,
            "lookup": LOOKUP,
            "other": other(0),
        }

    return function


def raises():
    raise OurError("mine")


def in_processes():
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(factorial, [3, 4])


def gives_a_point():
    return Point(1, 2)


def gives_a_function():
    return factorial


key = lambda x: x  # noqa: E731


def uses_a_lambda():
    return key(1)


def made_class():
    limit = 3

    class Limited:
        most = limit

    return Limited


exec("def from_text():\n    return 1")  # noqa: S102
