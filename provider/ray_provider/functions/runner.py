"""Runs on the cluster: calls the packed function and leaves its result beside the job's log.

This file is shipped as source and started as ``python -m airflow_ray_call``. It may use the standard library only: the
cluster has neither Airflow nor this provider. The result is one file in Ray's session log folder, which Ray's State API
serves (a driver's standard output is a file in that very folder): a line of JSON that says what it is, then the
content. Nothing that the function prints can touch it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import sys
import time
import traceback
import types
from pathlib import Path
from typing import Any

FORMAT = 1
HERE = Path(__file__).resolve().parent

#: Results lie in Ray's session folder. On a cluster that lives for months they would fill its disk: one that is older
#: than this (seconds) was read long ago.
KEEP_SECONDS = 24 * 3600
#: Of an exception's texts so many characters travel, from both ends.
MAX_MESSAGE, MAX_TRACEBACK = 10_000, 100_000

# A function on a DAG's page may know these classes from Airflow, which is not installed on the cluster. They mean what
# they mean there by their names.
SKIP, FAIL = "AirflowSkipException", "AirflowFailException"
_AIRFLOW_MODULES = ("airflow", "airflow.exceptions", "airflow.sdk", "airflow.sdk.exceptions")


class UnserializableResult(Exception):  # noqa: N818 - the name is read in a task's log
    """The function's return value can't travel as it was asked to."""


def log_folder() -> Path:
    """Find Ray's session log folder: the one in which our standard output lies."""
    named = os.environ.get("AIRFLOW_RAY_LOG_FOLDER")
    if named:
        return Path(named)
    with contextlib.suppress(OSError):
        target = Path(f"/proc/{os.getpid()}/fd/1").readlink()
        if target.is_absolute() and target.name.startswith("job-driver-"):
            return target.parent
    latest = Path("/tmp/ray/session_latest/logs")  # noqa: S108 - Ray's own place  # nosec B108
    if latest.is_dir():
        return latest
    raise RuntimeError("Ray's session log folder can't be found: is this process a Ray job's driver?")


def write_result(header: dict[str, Any], content: bytes = b"") -> None:
    """Leave a result: written aside, then renamed, so that a reader sees all of it or nothing."""
    header = {
        "format": FORMAT,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "python": ".".join(map(str, sys.version_info[:3])),
        **header,
    }
    path = log_folder() / os.environ["AIRFLOW_RAY_RESULT_FILE"]
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.write(content)
    aside.rename(path)


def tidy() -> None:
    """Remove what earlier calls left in this folder and their tasks have read long ago."""
    oldest = time.time() - KEEP_SECONDS
    for path in log_folder().glob("airflow-result-*.bin*"):
        with contextlib.suppress(OSError):  # another call tidies at the same time
            if path.stat().st_mtime < oldest:
                path.unlink()


def pretend_airflow() -> None:
    """Let the few exceptions that a function may raise be unpickled where Airflow is not installed."""
    if importlib.util.find_spec("airflow") is not None:
        return
    base = type("AirflowException", (Exception,), {"__module__": "airflow.exceptions"})
    classes = {name: type(name, (base,), {"__module__": "airflow.exceptions"}) for name in (SKIP, FAIL)}
    classes["AirflowException"] = base
    for name in _AIRFLOW_MODULES:
        module = types.ModuleType(name)
        module.__dict__.update(classes)
        module.__path__ = []
        sys.modules[name] = module


def read_call(settings: dict[str, Any]) -> bytes:
    """Give the pickled call: from the package, or, too large for one, from object storage.

    :raises RuntimeError: what lies there is not what the task packed.
    """
    path = os.environ.get("AIRFLOW_RAY_CALL_PATH")
    if not path:
        return (HERE / "call.pkl").read_bytes()
    import fsspec

    filesystem, inner = fsspec.core.url_to_fs(path)
    content = bytes(filesystem.cat_file(inner))
    if hashlib.sha256(content).hexdigest() != settings["call_sha256"]:
        raise RuntimeError(f"{path} does not hold the arguments that the task packed: it was altered, or cut short")
    filesystem.rm_file(inner)
    return content


def load_call(settings: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Unpickle the function and its arguments."""
    # The cloudpickle that packed the call reads it: another version, if the cluster has one, may not be able to.
    sys.path.insert(0, str(HERE / "vendor"))
    import cloudpickle  # noqa: F401 - what was packed names it

    sys.path.pop(0)
    pretend_airflow()
    import pickle

    function, args, kwargs = pickle.loads(read_call(settings))  # noqa: S301 - packed by the task that sent this job  # nosec B301
    return function, args, kwargs


def all_plain(items: Any) -> bool:
    """Tell of many values at once, at C's speed, that JSON knows each of them."""
    kinds = set(map(type, items))
    return kinds <= {str, int, bool, type(None)} or (kinds == {float} and all(map(math.isfinite, items)))


def plain(value: Any, where: str = "the return value") -> Any:
    """Give the value as JSON knows it, or raise TypeError naming the place that it does not."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}, which JSON does not have")
        return value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}: JSON's are strings")
        if all_plain(value.values()):
            return value
        return {key: plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if all_plain(value):
            return value
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return plain(value.item(), where)
    raise TypeError(f"{where} is of type {type(value).__module__}.{type(value).__qualname__}")


def encode(value: Any, settings: dict[str, Any]) -> tuple[str, bytes]:
    """Give the value's kind and bytes: JSON if it can be, a pickle if that was allowed."""
    try:
        text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
        return "json", text.encode("utf-8", "surrogatepass")
    except TypeError as error:
        if not settings["allow_pickle"]:
            raise UnserializableResult(
                f"The function's result can't be sent as JSON: {error}. Return numbers, strings, lists and dicts, or "
                "set allow_pickle_results=True (read the documentation on what that trusts), or give result_path= to "
                "have it written to object storage."
            ) from error
    import cloudpickle

    try:
        return "pickle", cloudpickle.dumps(value)
    except Exception as error:
        raise UnserializableResult(
            f"The function's result of type {type(value).__qualname__} can't be pickled: {error}"
        ) from error


def table(value: Any) -> Any:
    """Give a pandas or Arrow table as an Arrow table, and anything else as ``None``."""
    module = type(value).__module__.partition(".")[0]
    if module == "pandas" and type(value).__name__ == "DataFrame":
        import pyarrow

        return pyarrow.Table.from_pandas(value)
    if module == "pyarrow" and type(value).__name__ == "Table":
        return value
    return None


def put(path: str, suffix: str, write: Any) -> dict[str, Any]:
    """Write to object storage, and say where it is and how large."""
    import fsspec

    target = path.rstrip("/") + "/" + os.environ["AIRFLOW_RAY_RESULT_FILE"].rpartition(".")[0] + suffix
    filesystem, inner = fsspec.core.url_to_fs(target)
    filesystem.makedirs(inner.rpartition("/")[0], exist_ok=True)
    with filesystem.open(inner, "wb") as file:
        write(file)
    return {"path": target, "bytes": filesystem.size(inner)}


def by_reference(value: Any, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Write a table or a large value to ``result_path``; ``None`` if the value goes inline."""
    path = settings.get("result_path")
    if not path:
        return None
    arrow = table(value)
    if arrow is not None:
        import pyarrow.parquet

        kind = "pandas" if type(value).__module__.startswith("pandas") else "arrow"
        reference = put(path, ".parquet", lambda file: pyarrow.parquet.write_table(arrow, file))
        return {**reference, "format": "parquet", "type": kind, "rows": arrow.num_rows}
    kind, content = encode(value, settings)
    if len(content) <= settings["max_inline_bytes"]:
        return None
    reference = put(path, ".json" if kind == "json" else ".pkl", lambda file: file.write(content))
    return {**reference, "format": kind, "sha256": hashlib.sha256(content).hexdigest()}


def deliver(value: Any, settings: dict[str, Any]) -> None:
    """Send the function's return value back."""
    reference = by_reference(value, settings)
    if reference is not None:
        write_result({"kind": "reference"}, json.dumps(reference).encode())
        return
    kind, content = encode(value, settings)
    if len(content) > settings["max_result_bytes"]:
        raise UnserializableResult(
            f"The function's result is {len(content):,} bytes ({kind}): more than the {settings['max_result_bytes']:,} "
            "that go through XCom. Return less, or give result_path= to have it written to object storage."
        )
    write_result({"kind": kind}, content)


def describe(error: BaseException) -> dict[str, Any]:
    """Give an exception as plain data, its traceback beginning at the user's function."""
    names = {cls.__name__ for cls in type(error).__mro__}
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    told: dict[str, Any] = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": shortened(str(error), MAX_MESSAGE),
        "traceback": shortened(text, MAX_TRACEBACK),
        "meaning": "skip" if SKIP in names else "fail" if FAIL in names else "error",
    }
    if isinstance(error, ModuleNotFoundError):
        told["missing_module"] = error.name
    return told


def shortened(text: str, limit: int) -> str:
    """Give a text that is not too long: its beginning and its end, and how much was left out."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters left out ...\n{text[-half:]}"


def main() -> int:
    """Run the call. Returns the process's exit status."""
    settings = json.loads((HERE / "settings.json").read_text())
    mine, theirs = list(sys.version_info[:2]), settings["python"][:2]
    if mine != theirs:
        write_result(
            {"kind": "version"},
            json.dumps({"cluster": mine, "worker": settings["python"]}).encode(),
        )
        sys.stderr.write(f"Python {mine[0]}.{mine[1]} here, {theirs[0]}.{theirs[1]} where the function was packed.\n")
        return 1
    loaded = False
    try:
        tidy()
        function, args, kwargs = load_call(settings)
        loaded = True
        value = function(*args, **kwargs)
        sys.stdout.flush()
        deliver(value, settings)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the task has to hear of it
        told = {**describe(error), "loaded": loaded}
        write_result({"kind": "error"}, json.dumps(told).encode())
        if told["meaning"] == "skip":
            return 0
        sys.stderr.write(told["traceback"])
        if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code:
            return error.code
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
