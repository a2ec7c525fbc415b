"""Packs a function and its arguments into the zip that the cluster runs."""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import json
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ray_provider.exceptions import ConfigurationError
from ray_provider.functions import from_source, runner

#: The package's name on the cluster, and so the job's entrypoint.
PACKAGE = "airflow_ray_call"
ENTRYPOINT = f"python -m {PACKAGE}"

#: Ray takes packages of at most this size (bytes) over HTTP.
MAX_PACKAGE_BYTES = 100 * 1024 * 1024

#: What does not shrink to less than this is sent as it is: packing and unpacking take 15 ms for a megabyte, which is
#: more than a network inside a data centre takes for it. It is tried on a sample (bytes).
_WORTH_COMPRESSING = 0.5
_SAMPLE_BYTES = 256 * 1024

# Registering a module with cloudpickle is process-wide.
_by_value = threading.Lock()


@dataclass(frozen=True, slots=True)
class ResultSettings:
    """How a return value travels back.

    :param allow_pickle: take a pickle where JSON can't say it. A pickle from the cluster runs code when it is read.
    :param lenient: what JSON can't say becomes null, with a warning, instead of an error.
    :param max_result_bytes: the largest value (bytes) that goes through XCom.
    :param result_path: object storage (an fsspec URL) for tables and for what is larger than ``max_inline_bytes``.
    :param max_inline_bytes: with ``result_path``, the largest value (bytes) that still goes through XCom.
    """

    allow_pickle: bool = False
    lenient: bool = False
    max_result_bytes: int = 16 * 1024 * 1024
    result_path: str | None = None
    max_inline_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class PackedCall:
    """A zip, and the name Ray knows it by: its content decides it, so that the same call is uploaded once.

    :param content: the zip.
    :param apart: the pickled call, where it is too large for a package: it has to be written to object storage, and the
        runner be told where by ``AIRFLOW_RAY_CALL_PATH``.
    """

    content: bytes
    apart: bytes | None = None

    @property
    def uri(self) -> str:
        """Ray's URI of the package once it is uploaded."""
        return f"gcs://_ray_pkg_{hashlib.sha256(self.content).hexdigest()[:32]}.zip"


def _name(function: Callable[..., Any]) -> str:
    """Give a function's name; a ``functools.partial`` has none of its own."""
    return str(getattr(function, "__qualname__", None) or repr(function))


def check_callable(function: Callable[..., Any]) -> None:
    """Refuse what can't be sent.

    :param function: what was decorated.
    :raises ConfigurationError: a method, a class, a generator or a coroutine function.
    """
    name = _name(function)
    if inspect.ismethod(function):
        raise ConfigurationError(
            f"@task.ray can't run the method {name}: its object would have to travel too.",
            hint="Use a plain function and pass it what it needs as arguments.",
        )
    if inspect.isclass(function):
        raise ConfigurationError(f"@task.ray can't run the class {name}.", hint="Use a function that makes the object.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"@task.ray can't run the generator {name}.", hint="Return a list.")
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(
            f"@task.ray can't run the coroutine function {name}.", hint="Call asyncio.run(...) inside a plain function."
        )
    parameters = inspect.signature(function).parameters
    if next(iter(parameters), None) in {"self", "cls"} and "." in name.replace("<locals>.", ""):
        raise ConfigurationError(
            f"@task.ray can't run the method {name}: its object would have to travel too.",
            hint="Move the function out of the class.",
        )


def _module_of(function: Callable[..., Any]) -> ModuleType | None:
    """Give the module whose function this is at last: behind ``functools.partial`` and decorators."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    module = inspect.getmodule(function) or sys.modules.get(getattr(function, "__module__", ""))
    return module if isinstance(module, ModuleType) and module.__name__ != "__main__" else None


@contextmanager
def _travelling(module: ModuleType | None) -> Iterator[None]:
    """Have the function's own module pickled by value: the DAG's file does not exist on the cluster."""
    import cloudpickle

    if module is None:
        yield
        return
    with _by_value:
        already = module.__name__ in cloudpickle.list_registry_pickle_by_value()
        if not already:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            if not already:
                cloudpickle.unregister_pickle_by_value(module)


def _pickle(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    module: ModuleType | None,
    *,
    as_source: bool,
) -> bytes:
    from ray_provider.functions.pickling import dumps
    from ray_provider.functions.source import NoSourceError

    with _travelling(module):
        try:
            call = (function, tuple(args), dict(kwargs))
            return dumps(call, module.__name__ if module else None, as_source=as_source)
        except NoSourceError as error:
            raise ConfigurationError(
                f"{_name(function)} can't be sent to the cluster as source: {error}.",
                hint="Use plain functions of the DAG's file, or a cluster with this worker's version of Python.",
                reason=str(error),
            ) from error
        except Exception as error:
            # Whatever a value's own code raises.
            culprit = _culprit(function, args, kwargs)
            raise ConfigurationError(
                f"{culprit} can't be sent to the cluster: {type(error).__name__}: {error}",
                hint="Locks, connections, open files and generators don't travel: make them inside the function.",
            ) from error


def _culprit(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Find which part of the call can't be pickled, for the error's first words."""
    import cloudpickle

    parts = [(f"Argument {index + 1}", value) for index, value in enumerate(args)]
    parts += [(f"Argument {key!r}", value) for key, value in kwargs.items()]
    for name, value in parts:
        try:
            cloudpickle.dumps(value)
        except Exception:  # noqa: BLE001 - this one it is, whatever it raises
            return f"{name} of {_name(function)} (type {type(value).__qualname__})"
    return f"The function {_name(function)}, or a global or closure that it uses,"


def pack(
    function: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    settings: ResultSettings | None = None,
    as_source: bool = False,
) -> PackedCall:
    """Pack a call. The same call gives the same bytes as far as cloudpickle does.

    :param function: a plain function; what it uses of its module and closures travels with it.
    :param args: positional arguments.
    :param kwargs: keyword arguments.
    :param settings: how the result travels back.
    :param as_source: for a cluster with another minor version of Python: functions and classes of the function's file
        travel as source, not as bytecode.
    :raises ConfigurationError: the function can't be sent, an argument can't be pickled, or all is too large.
    """
    check_callable(function)
    settings = settings or ResultSettings()
    module = _module_of(function)
    call = _pickle(function, args, kwargs or {}, module, as_source=as_source)
    package = functools.partial(_package, settings, call, module.__name__ if module else None, as_source=as_source)
    content = package()
    if len(content) <= MAX_PACKAGE_BYTES:
        return PackedCall(content)
    if not settings.result_path:
        raise ConfigurationError(
            f"The arguments of {_name(function)} make a package of {len(content):,} bytes: Ray takes at most "
            f"{MAX_PACKAGE_BYTES:,}.",
            hint="Give result_path= (they go through that object storage then), or write the data to object storage "
            "yourself and pass its path.",
        )
    return PackedCall(package(apart=True), apart=call)


def _package(
    settings: ResultSettings, call: bytes, module: str | None, *, as_source: bool, apart: bool = False
) -> bytes:
    """Make the zip, with the pickled call or without it."""
    told = {
        "python": list(sys.version_info[:3]),
        "module": module,
        "send": "source" if as_source else "pickle",
        "call_sha256": hashlib.sha256(call).hexdigest(),
        **asdict(settings),
    }
    content = {
        f"{PACKAGE}/__init__.py": b"",
        f"{PACKAGE}/__main__.py": Path(runner.__file__).read_bytes(),
        f"{PACKAGE}/settings.json": json.dumps(told).encode(),
        **_vendored_cloudpickle(),
    }
    if as_source:
        content[f"{PACKAGE}/from_source.py"] = Path(from_source.__file__).read_bytes()
    if not apart:
        content[f"{PACKAGE}/call.pkl"] = call
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name)  # with a fixed date: the bytes depend on the content only
            entry.compress_type = zipfile.ZIP_DEFLATED if _shrinks(data) else zipfile.ZIP_STORED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _shrinks(data: bytes) -> bool:
    """Tell whether compressing is worth its time: of numbers it hardly ever is. It is if else it would be too large."""
    worth = _WORTH_COMPRESSING if len(data) < MAX_PACKAGE_BYTES else 1.0
    middle = max(0, len(data) // 2 - _SAMPLE_BYTES // 2)
    sample = data[middle : middle + _SAMPLE_BYTES]
    return len(zlib.compress(sample, 1)) < worth * len(sample)


def _vendored_cloudpickle() -> dict[str, bytes]:
    """Give cloudpickle's own few files: the cluster's may be of a version that can't read ours."""
    import cloudpickle

    folder = Path(cloudpickle.__file__).parent
    return {f"{PACKAGE}/vendor/cloudpickle/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.py"))}
