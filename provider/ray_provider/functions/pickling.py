"""Pickles a call, with what the functions of one file need to be themselves on the cluster."""

from __future__ import annotations

import functools
import io
import types
from typing import Any

import cloudpickle

from ray_provider.functions import source

#: Known to every Python that a cluster may have.
_PROTOCOL = 5


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, but caches of functions travel too, and what belongs to the DAG's file is noted.

    :param file: gets the pickle.
    :param module: name of the DAG's module, whose functions and classes are noted; ``None``: of none.
    """

    def __init__(self, file: io.BytesIO, module: str | None) -> None:
        super().__init__(file, protocol=_PROTOCOL)
        self.module = module
        #: Functions and classes at the top of the module that travelled, by their names.
        self.found: dict[str, Any] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Say how an object is pickled, where that is not cloudpickle's own way.

        :param obj: any that the call holds.
        """
        if self.module is not None and getattr(obj, "__module__", None) == self.module:
            cached = isinstance(obj, functools._lru_cache_wrapper)  # noqa: SLF001 - the type of functools.cache's wrappers
            if cached or isinstance(obj, types.FunctionType | type):
                name = getattr(obj, "__qualname__", ".")
                if "." not in name and name.isidentifier():
                    self.found.setdefault(name, obj)
            if cached:
                # By reference otherwise, to a module that the cluster has not got. It begins empty there.
                how = obj.cache_parameters()
                make = functools._lru_cache_wrapper  # noqa: SLF001
                state = {key: value for key, value in obj.__dict__.items() if key != "cache_parameters"}
                kind = functools._CacheInfo  # noqa: SLF001
                return make, (obj.__wrapped__, how["maxsize"], how["typed"], kind), state
        return super().reducer_override(obj)


class _SourcePickler(_Pickler):
    """Sends functions and classes as source: another minor version of Python can't read bytecode."""

    def persistent_id(self, obj: Any) -> Any:
        """Say what is found by its name on the cluster.

        :param obj: any that the call holds.
        :return: ``None``: it is not found by its name.
        """
        return source.named(obj)

    def reducer_override(self, obj: Any) -> Any:
        """Say how an object is pickled, where that is not cloudpickle's own way.

        :param obj: any that the call holds.
        :raises NoSourceError: a function or class has no source.
        """
        how = super().reducer_override(obj)  # notes what belongs to the DAG's file
        return source.reduce(obj) or how


def dumps(call: Any, module: str | None, *, as_source: bool = False) -> bytes:
    """Pickle a call, and after it what was found at the top of the module: both are read by one unpickler.

    :param call: whatever travels.
    :param module: the name of the module whose functions travel by value.
    :param as_source: functions and classes that travel by value do so as source, not as bytecode.
    :raises NoSourceError: one of them has no source.
    """
    file = io.BytesIO()
    pickler = (_SourcePickler if as_source else _Pickler)(file, module)
    pickler.dump(call)
    pickler.dump(dict(pickler.found))
    return file.getvalue()
