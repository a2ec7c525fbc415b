"""Prints as JSON what the installed ``ray_provider`` offers to DAGs: run by the Python of either environment."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
import warnings

MODULES = ("hooks", "operators", "decorators", "triggers", "exceptions", "constants")


def parameters(function) -> list[dict]:
    return [
        {
            "name": p.name,
            "kind": p.kind.name,
            "default": None if p.default is inspect.Parameter.empty else json.dumps(p.default, default=str),
        }
        for p in inspect.signature(function).parameters.values()
        if p.name != "self"
    ]


def of_class(found: type) -> dict:
    fields = getattr(found, "template_fields", ())
    methods = {
        name: parameters(method)
        for name, method in inspect.getmembers(found, inspect.isfunction)
        if not name.startswith("_") and method.__module__.startswith("ray_provider")
    }
    return {
        "init": parameters(found.__init__),
        "methods": methods,
        "template_fields": list(fields) if isinstance(fields, tuple | list) else [],
    }


def main() -> None:
    warnings.simplefilter("ignore")
    surface: dict = {"names": {}, "classes": {}}
    for module_name in MODULES:
        module = importlib.import_module(f"ray_provider.{module_name}")
        names = [name for name in dir(module) if not name.startswith("_")]
        surface["names"][module_name] = names
        for name in names:
            found = getattr(module, name)
            if inspect.isclass(found) and found.__module__.startswith("ray_provider"):
                surface["classes"][f"{module_name}.{name}"] = of_class(found)
    surface["names"][""] = [name for name in dir(importlib.import_module("ray_provider")) if not name.startswith("_")]
    hooks = importlib.import_module("ray_provider.hooks")
    surface["inherited"] = inherited(hooks.RayHook)
    surface["status"] = sorted(str(getattr(s, "value", s)) for s in surface_constants())
    # The form needs Flask-AppBuilder, which Airflow 3.3 has not got: its fields are read off the text.
    surface["form"] = re.findall(r'(?m)^ +"(\w+)": (?:String|Boolean|Password)Field', inspect.getsource(hooks))
    json.dump(surface, sys.stdout)


def inherited(hook: type) -> dict[str, list[str]]:
    """Public names and plain attributes of the hook, by the package that they come from."""
    found: dict[str, list[str]] = {}
    for each in hook.__mro__:
        if each.__module__.startswith(("ray_provider", "airflow.providers")):
            names = {name for name in vars(each) if not name.startswith("_")}
            names |= set(re.findall(r"self\.([a-z]\w*)(?:: [^=\n]+)? = ", inspect.getsource(each)))
            found.setdefault(each.__module__, []).extend(sorted(names))
    return found


def surface_constants():
    return importlib.import_module("ray_provider.constants").TERMINAL_JOB_STATUSES


if __name__ == "__main__":
    main()
