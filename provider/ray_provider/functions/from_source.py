"""Makes functions and classes of the DAG's file again, from their source.

Shipped with a call that goes to another version of Python, beside :mod:`ray_provider.functions.runner`. The worker uses
it too: what it would make there is compared with what it has. It may use the standard library only.
"""

from __future__ import annotations

import ast
import importlib
import sys
import types
from typing import Any

#: A module for each one whose functions came, by its name: its functions share their globals, as they did.
_MODULES: dict[str, types.ModuleType] = {}


def module_of(name: str, file: str) -> types.ModuleType:
    """Give the module whose globals all functions share that came from the one of that name.

    :param name: of the module where the task ran.
    :param file: of its source, for tracebacks.
    """
    if name not in _MODULES:
        _MODULES[name] = types.ModuleType(name)
        _MODULES[name].__file__ = file
    return _MODULES[name]


def definition(source: str, line: int) -> Any:
    """Parse one ``def`` or ``class``, however deep it stood, its lines numbered as in its file.

    :param source: lines of a file, from the ``def`` or ``class`` on, decorators included; indented as they stand there.
    :param line: at which they begin in the file.
    :return: the syntax tree of it.
    """
    # Not dedented: that would alter texts of more than one line.
    nested = source[:1].isspace()
    tree = ast.parse("if True:\n" + source if nested else source)
    ast.increment_lineno(tree, line - (2 if nested else 1))
    body = tree.body[0].body if isinstance(tree.body[0], ast.If) else tree.body
    return body[0]


def function_code(told: dict[str, Any]) -> types.CodeType:
    """Compile a function: without its decorators, and without what is evaluated where it is defined.

    :param told: what the task says of the function: ``source``, ``line``, ``file``, ``flags``, ``free``.
    :raises SyntaxError: the source is no ``def``, or none of this Python's.
    """
    made = definition(told["source"], told["line"])
    if not isinstance(made, (ast.FunctionDef, ast.AsyncFunctionDef)):
        raise SyntaxError("this is no def")  # noqa: TRY004 - of a text
    given = made.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    for parameter in every:
        if parameter is not None:
            parameter.annotation = None
    given.defaults, given.kw_defaults = [], [None] * len(given.kwonlyargs)
    made.decorator_list, made.returns = [], None
    if hasattr(made, "type_params"):
        made.type_params = []
    # A function around it has its free variables.
    tree = ast.parse(f"def around({', '.join(told['free'])}): pass")
    # Without that, one that calls itself would have itself for a free variable.
    own = [] if made.name in told["free"] else [ast.Global(names=[made.name])]
    tree.body[0].body = [*own, made]  # type: ignore[attr-defined]
    code = compile(ast.fix_missing_locations(tree), told["file"], "exec", flags=told["flags"], dont_inherit=True)
    around = next(each for each in code.co_consts if isinstance(each, types.CodeType))
    return next(each for each in around.co_consts if isinstance(each, types.CodeType) and each.co_name == made.name)


def make_function(told: dict[str, Any]) -> types.FunctionType:
    """Make a function; what it uses is given to it by :func:`set_function`, and may use the function itself.

    :param told: what the task says of the function.
    """
    code = function_code(told)
    cells = tuple(types.CellType() for _ in code.co_freevars)
    return types.FunctionType(code, module_of(told["module"], told["file"]).__dict__, told["name"], None, cells)


def set_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    """Give a function what it uses.

    :param function: from :func:`make_function`.
    :param state: its ``globals``, ``closure`` and ``attributes``, by name.
    """
    function.__globals__.update(state["globals"])
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):  # noqa: B905 - not in Python 3.9
        if name in state["closure"]:
            cell.cell_contents = state["closure"][name]
    for name, value in state["attributes"].items():
        setattr(function, name, value)


def class_code(told: dict[str, Any]) -> types.CodeType:
    """Compile a class with its decorators.

    :param told: what the task says of the class: ``source``, ``line``, ``file``, ``flags``.
    :raises SyntaxError: the source is no ``class``, or none of this Python's.
    """
    made = definition(told["source"], told["line"])
    if not isinstance(made, ast.ClassDef):
        raise SyntaxError("this is no class")  # noqa: TRY004 - of a text
    tree = ast.Module(body=[made], type_ignores=[])
    code: types.CodeType = compile(tree, told["file"], "exec", flags=told["flags"], dont_inherit=True)
    return code


def make_class(told: dict[str, Any], needed: dict[str, Any]) -> type:
    """Define a class; its methods get what they use by :func:`set_class`.

    :param told: what the task says of the class.
    :param needed: what its body uses (bases, decorators, defaults), by name.
    :raises TypeError: what its decorators make of it is no class.
    """
    module = module_of(told["module"], told["file"])
    module.__dict__.update(needed)
    found: dict[str, Any] = {}
    # Decorators such as that of dataclasses look the class' module up.
    unknown = sys.modules.setdefault(module.__name__, module) is module
    try:
        exec(class_code(told), module.__dict__, found)  # noqa: S102 - the source that the task packed  # nosec B102
    finally:
        if unknown:
            del sys.modules[module.__name__]
    made = found[told["name"]]
    if not isinstance(made, type):
        raise TypeError(f"{told['name']} is no class once its decorators have run")
    made.__qualname__ = told["qualname"]
    return made


def set_class(made: type, state: dict[str, Any]) -> None:
    """Give a class' methods what they use.

    :param made: from :func:`make_class`.
    :param state: what its methods use, by name.
    """
    module_of(made.__module__, "").__dict__.update(state)


def named(told: Any) -> Any:
    """Give what a call names instead of holding it: a function of this file, or a name of a module.

    :param told: a function's name, or module and name.
    """
    if isinstance(told, str):
        return {each.__name__: each for each in (make_function, set_function, make_class, set_class)}[told]
    module, name = told
    return getattr(importlib.import_module(module), name)
