"""Functions and classes that are made again from their source, as the cluster does it."""

from __future__ import annotations
import __future__

import dataclasses
import inspect
import sys
from typing import Any

import pytest

from ray_provider.functions import from_source
from ray_provider.functions.from_source import (
    definition,
    function_code,
    make_class,
    make_function,
    module_of,
    named,
    set_class,
    set_function,
)

PLAIN = '''@some.decorator(that="is not there")
def add(a: Unknown, b: "int" = undefined(), *rest: X, c: Y = 2, **more: Z) -> Nowhere:
    """Text."""
    return a + b + c + FACTOR
'''
NESTED = """    async def inner(x):
        return x + free
"""
RECURSIVE = """def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)
"""
CLASS = """@dataclasses.dataclass
class Point:
    x: int
    y: int = START

    def moved(self):
        return Point(self.x + STEP, self.y)
"""


@pytest.fixture(autouse=True)
def no_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_source, "_MODULES", {})


def told(source: str, name: str, **further: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "source": source,
        "line": 100,
        "free": [],
        "file": "/dags/mine.py",
        "flags": 0,
        "module": "mine",
        "name": name,
        "qualname": name,
    }
    return {**options, **further}


def state(**further: Any) -> dict[str, Any]:
    return {"globals": {}, "closure": {}, "attributes": {}, **further}


def test_a_function_needs_nothing_of_where_it_was_defined() -> None:
    made = make_function(told(PLAIN, "add", line=100))
    set_function(made, state(globals={"FACTOR": 10}, attributes={"limit": 3, "__defaults__": (5,)}))
    assert made(1, 2, c=3) == 16
    assert (made.limit, made.__defaults__) == (3, (5,))  # type: ignore[attr-defined]
    assert (made.__name__, made.__module__) == ("add", "mine")
    assert made.__annotations__ == {}
    assert (made.__code__.co_filename, made.__code__.co_firstlineno) == ("/dags/mine.py", 101)
    with pytest.raises(TypeError) as caught:
        made(1, None, c=3)
    frame = caught.tb.tb_next
    assert frame is not None
    assert frame.tb_lineno == 103, "the line in the DAG's file"


def test_one_that_stood_deeper_keeps_its_lines_and_what_it_closes_over() -> None:
    made = make_function(told(NESTED, "inner", free=["free"]))
    assert inspect.iscoroutinefunction(made)
    assert made.__code__.co_firstlineno == 100
    set_function(made, state(closure={"free": 7, "other": 1}))
    with pytest.raises(StopIteration) as caught:
        made(1).send(None)
    assert caught.value.value == 8


def test_what_is_not_known_yet_is_left_open() -> None:
    made = make_function(told(NESTED, "inner", free=["free"]))
    set_function(made, state())
    assert made.__closure__ is not None
    with pytest.raises(ValueError, match="empty"):
        made.__closure__[0].cell_contents  # noqa: B018


def test_a_function_may_call_itself() -> None:
    made = make_function(told(RECURSIVE, "factorial"))
    set_function(made, state(globals={"factorial": made}))
    assert made(5) == 120
    assert not made.__closure__
    itself = make_function(told(RECURSIVE, "factorial", free=["factorial"]))
    set_function(itself, state(closure={"factorial": itself}))
    assert itself(4) == 24


def test_functions_of_a_file_share_their_globals() -> None:
    first, second = (make_function(told(f"def {name}():\n    return SHARED\n", name)) for name in ("one", "two"))
    set_function(first, state(globals={"SHARED": 1}))
    assert (first(), second()) == (1, 1)  # type: ignore[operator]
    other = make_function(told("def one():\n    return SHARED\n", "one", module="other"))
    with pytest.raises(NameError):
        other()
    assert module_of("mine", "").__file__ == "/dags/mine.py"


def test_future_imports_of_the_file_hold() -> None:
    source = "def f():\n    x: Undefined = 1\n    def g(a: Undefined): return a\n    return g.__annotations__\n"
    made = make_function(told(source, "f", flags=__future__.annotations.compiler_flag))
    assert made() == {"a": "Undefined"}
    with pytest.raises(NameError):
        make_function(told(source, "f"))()


def test_a_class_is_made_with_its_decorators_and_what_it_needs() -> None:
    made = make_class(told(CLASS, "Point", qualname="dag.<locals>.Point"), {"dataclasses": dataclasses, "START": 5})
    set_class(made, {"STEP": 2, "Point": made})
    assert made(1).moved() == made(3, 5)
    assert (made.__qualname__, made.__module__) == ("dag.<locals>.Point", "mine")
    assert "mine" not in sys.modules, "nothing is left of it"


def test_a_module_that_is_there_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    there = type(sys)("mine")
    monkeypatch.setitem(sys.modules, "mine", there)
    make_class(told("class A: pass\n", "A"), {})
    assert sys.modules["mine"] is there
    with pytest.raises(ZeroDivisionError):
        make_class(told("class B: x = 1 / 0\n", "B", module="new_one"), {})
    assert "new_one" not in sys.modules


def test_what_is_something_else_is_refused() -> None:
    with pytest.raises(SyntaxError, match="this is no def"):
        function_code(told("class A: pass\n", "A"))
    with pytest.raises(SyntaxError, match="this is no class"):
        make_class(told("def f(): pass\n", "f"), {})
    with pytest.raises(TypeError, match="A is no class once its decorators have run"):
        make_class(told("@len_of\nclass A: pass\n", "A"), {"len_of": lambda _: 5})


def test_lines_are_those_of_the_file() -> None:
    assert definition("def f(): pass\n", 7).lineno == 7
    assert definition("  def f(): pass\n", 7).lineno == 7


def test_what_a_call_names() -> None:
    for each in (make_function, set_function, make_class, set_class):
        assert named(each.__name__) is each
    assert named(("json", "dumps")) is __import__("json").dumps
