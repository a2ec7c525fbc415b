"""Runs on the cluster: calls the packed function and leaves its result beside the job's log.

This file is shipped as source and started as ``python -m airflow_ray_call``. It may use the standard library only: the
cluster has neither Airflow nor this provider. The result is one file in Ray's session log folder, which Ray's State API
serves (a driver's standard output is a file in that very folder): a line of JSON that says what it is, then the
content. Nothing that the function prints can touch it.

It stays one file, however long: what is shipped is its text, under a name that the task's side chooses.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import io
import json
import math
import os
import pickle
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
#: So many places that became null are named.
MAX_NOTES = 10

#: Where a folder is a part of a name. To "make" it would make the bucket: one that a typing error names, or one that is
#: there, in which we may write, but which we may neither list nor make.
OBJECT_STORES = frozenset(
    ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "cos", "obs", "r2", "tos")
)

# A function on a DAG's page may know these classes from Airflow, which is not installed on the cluster. They mean what
# they mean there by their names.
SKIP, FAIL = "AirflowSkipException", "AirflowFailException"
_AIRFLOW_MODULES = ("airflow", "airflow.exceptions", "airflow.sdk", "airflow.sdk.exceptions")


class UnserializableResult(Exception):  # noqa: N818 - the name is read in a task's log
    """The function's return value can't travel as it was asked to."""

    unsent = "value"


class UnwritableResult(UnserializableResult):
    """The object storage for it does not take it."""

    unsent = "store"


def log_folder() -> Path:
    """Find Ray's session log folder: the one in which our standard output lies.

    :raises RuntimeError: there is none: this is no process of a job.
    """
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
    """Leave a result: written aside, then renamed, so that a reader sees all of it or nothing.

    :param header: what the task is to know of it: its ``kind`` first.
    :param content: the result's bytes. Default: none.
    """
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
    for path in log_folder().glob("airflow-result-*"):
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

    :param settings: that the task packed with the call.
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


class Reader(pickle.Unpickler):
    """Reads a call, also one whose functions came as source."""

    def persistent_load(self, told: Any) -> Any:
        """Give what the call names instead of holding it.

        :param told: a function's name, or module and name.
        """
        return importlib.import_module(f"{__package__}.from_source").named(told)


def load_call(settings: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Unpickle the function and its arguments.

    :param settings: that the task packed with the call.
    :return: the function, its arguments by place, and those by name.
    """
    # The cloudpickle that packed the call reads it: another version, if the cluster has one, may not be able to.
    sys.path.insert(0, str(HERE / "vendor"))
    import cloudpickle  # noqa: F401 - what was packed names it

    sys.path.pop(0)
    pretend_airflow()
    reader = Reader(io.BytesIO(read_call(settings)))
    function, args, kwargs = reader.load()
    offer(settings, reader.load())
    return function, args, kwargs


def offer(settings: dict[str, Any], found: dict[str, Any]) -> None:
    """Offer the functions and classes of the DAG's file under its module's name.

    Processes that the function starts (``multiprocessing``, ``ProcessPoolExecutor``) get them by their names. Ray and
    others with a cloudpickle of their own go on to send them by value: their processes do not come from this one.

    :param settings: that the task packed with the call: ``module`` is its name there.
    :param found: the functions and classes, by name.
    """
    name = settings.get("module")
    if not name or not found or name in sys.modules:
        return
    module = types.ModuleType(name, "Functions and classes of the DAG's file that travelled with the call.")
    module.__dict__.update(found)
    sys.modules[name] = module
    while "." in name:
        name, _, last = name.rpartition(".")
        parent = package(name)
        setattr(parent, last, module)
        module = parent
    name = settings["module"]
    for each in list(sys.modules.values()):
        by_value(each, name)
    sys.meta_path.insert(0, ByValue(name))


def package(name: str) -> types.ModuleType:
    """Give a package, an empty one if the cluster has none of that name.

    :param name: with dots.
    """
    with contextlib.suppress(ImportError):
        return importlib.import_module(name)
    made = types.ModuleType(name)
    made.__path__ = []
    sys.modules[name] = made
    return made


def by_value(module: Any, name: str) -> None:
    """Have a copy of cloudpickle send a module's functions by value.

    :param module: any that is loaded; one that is no cloudpickle stays as it is.
    :param name: of the module whose functions are sent.
    """
    registered = module.__dict__.get("_PICKLE_BY_VALUE_MODULES") if isinstance(module, types.ModuleType) else None
    if isinstance(registered, set):
        registered.add(name)


class ByValue:
    """Watches for copies of cloudpickle that are imported later, such as Ray's own.

    :param name: of the module whose functions are sent by value.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Find nothing but copies of cloudpickle: what they are to know, they are told when they are loaded.

        :param fullname: of the module that is imported.
        :param path: of its package.
        :param target: of a reload.
        :return: ``None``: another finder is to look.
        """
        if fullname.rpartition(".")[2] not in {"cloudpickle", "cloudpickle_fast"}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        loader = spec.loader if spec else None
        if spec is None or loader is None:
            return None
        load = loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            by_value(module, self.name)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def all_plain(items: Any) -> bool:
    """Tell of many values at once, at C's speed, that JSON and XCom know each of them.

    :param items: gone through twice: no iterator.
    """
    kinds = set(map(type, items))
    return kinds <= {str, int, bool, type(None)} or (kinds == {float} and all(map(math.isfinite, items)))


def key_text(key: Any, where: str) -> str:
    """Give a dictionary's key as XCom has it: numbers become text, as with a plain ``@task``.

    :param key: of any type.
    :param where: the dictionary's place, for the message.
    :raises TypeError: XCom can't have such a key.
    """
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, (bool, int, float)) or is_numpy_number(key):
        return str(key)
    raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}: XCom's are strings")


def is_numpy_number(value: Any) -> bool:
    """Tell whether it is a single number of NumPy's.

    :param value: of any type.
    """
    return type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0


class Carrier:
    """Gives a value as JSON and XCom know it.

    :param lenient: leave out what they do not know, as a note, instead of refusing all.
    :param whole: keep NaN and infinity, which JSON as Python writes it has and XCom has not.
    """

    def __init__(self, *, lenient: bool = False, whole: bool = False) -> None:
        self.lenient = lenient
        self.whole = whole
        #: What became null, by its place.
        self.notes: list[str] = []

    def plain(self, value: Any, where: str = "the return value") -> Any:
        """Give the value, or raise TypeError naming the place that can't be said.

        :param value: what the function returned, or a part of it.
        :param where: its place, for messages.
        :raises TypeError: unless lenient: XCom can't say the value.
        """
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            if math.isfinite(value):
                return value
            self.notes.append(f"{where} is {float(value)}")
            return float(value) if self.whole else None
        if isinstance(value, dict):
            return self.dictionary(value, where)
        if isinstance(value, (list, tuple)):
            if all_plain(value):
                return value
            return [self.plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        if is_numpy_number(value):
            return self.plain(value.item(), where)
        told = f"{where} is of type {type(value).__module__}.{type(value).__qualname__}"
        if not self.lenient:
            raise TypeError(told)
        if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
            return self.plain(value.tolist(), where)
        self.notes.append(told)
        return None

    def dictionary(self, value: dict[Any, Any], where: str) -> dict[str, Any]:
        """Give a dictionary whose keys are text.

        :param value: its keys may be of any type.
        :param where: its place, for messages.
        :raises TypeError: unless lenient: XCom can't say a key or a value.
        """
        if all_plain(value.values()) and all(type(key) is str for key in value):
            return value
        given: dict[str, Any] = {}
        for key, item in value.items():
            try:
                text = key_text(key, where)
                if text in given:
                    raise TypeError(f"{where} has two keys that are {text!r} as text")
            except TypeError as error:
                if not self.lenient:
                    raise
                self.notes.append(str(error))
                continue
            given[text] = self.plain(item, f"{where}[{key!r}]")
        return given


def plain(value: Any, where: str = "the return value") -> Any:
    """Give the value as JSON and XCom know it, or raise TypeError naming the place that can't be said.

    :param value: what the function returned.
    :param where: its place, for messages.
    """
    return Carrier().plain(value, where)


def encode(value: Any, settings: dict[str, Any], *, whole: bool = False) -> tuple[str, bytes, list[str]]:
    """Give the value's kind and bytes: JSON if it can be, a pickle if that was allowed; and what became null in it.

    :param value: what the function returned.
    :param settings: that the task packed with the call.
    :param whole: keep what JSON says and XCom does not (NaN, infinity). Default: it becomes null.
    :raises UnserializableResult: it can't be sent.
    """
    carrier = Carrier(lenient=bool(settings.get("lenient")) and not settings["allow_pickle"], whole=whole)
    try:
        text = json.dumps(carrier.plain(value), ensure_ascii=False)
        return "json", text.encode("utf-8", "surrogatepass"), carrier.notes
    except TypeError as error:
        if not settings["allow_pickle"]:
            raise UnserializableResult(
                f"The function's result can't be sent as JSON: {error}. Return numbers, strings, lists and dicts; a "
                "pandas or Arrow table goes by result_path=. What Airflow itself can put into XCom (dates, "
                "dataclasses) comes back with allow_pickle_results=True (read the documentation on what that trusts)."
            ) from error
    import cloudpickle

    # Bytecode of this Python would end the worker's: what another one reads holds classes by their names.
    dumps = cloudpickle.dumps if reads_bytecode(settings) else pickle.dumps
    try:
        return "pickle", dumps(value, protocol=5), []
    except Exception as error:
        raise UnserializableResult(
            f"The function's result of type {type(value).__qualname__} can't be pickled: {error}"
        ) from error


def table(value: Any) -> Any:
    """Give a pandas or Arrow table as an Arrow table, and anything else as ``None``.

    :param value: what the function returned. Neither library is imported for anything else.
    """
    module = type(value).__module__.partition(".")[0]
    if module == "pandas" and type(value).__name__ == "DataFrame":
        import pyarrow

        return pyarrow.Table.from_pandas(value)
    if module == "pyarrow" and type(value).__name__ == "Table":
        return value
    return None


def has_folders(url: str) -> bool:
    """Whether a folder has to be made before a file can be written into it.

    :param url: an fsspec URL, or a path.
    """
    return url.partition("://")[0].lower() not in OBJECT_STORES


def put(path: str, suffix: str, write: Any) -> dict[str, Any]:
    """Write to object storage, and say where it is and how large.

    :param path: URL of a folder; it is made if it is missing. A bucket is not.
    :param suffix: of the file; its name is made of the job's id.
    :param write: is called with the open file.
    :return: ``path``, and ``bytes``: its size.
    :raises UnwritableResult: it can't be written there.
    """
    target = path.rstrip("/") + "/" + os.environ["AIRFLOW_RAY_RESULT_FILE"].rpartition(".")[0] + suffix
    try:
        import fsspec

        filesystem, inner = fsspec.core.url_to_fs(target)
        if has_folders(target):
            filesystem.makedirs(inner.rpartition("/")[0], exist_ok=True)
        with filesystem.open(inner, "wb") as file:
            write(file)
        return {"path": target, "bytes": filesystem.size(inner)}
    except Exception as error:
        why = f"{type(error).__name__}: {text_of(error)}"
        raise UnwritableResult(f"It could not be written to {target}: {why}") from error


def by_reference(value: Any, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Write a table or a large value to ``result_path``; ``None`` if the value goes inline.

    :param value: what the function returned.
    :param settings: that the task packed with the call.
    """
    path = settings.get("result_path")
    if not path:
        return None
    arrow = table(value)
    if arrow is not None:
        import pyarrow.parquet

        kind = "pandas" if type(value).__module__.startswith("pandas") else "arrow"
        reference = put(path, ".parquet", lambda file: pyarrow.parquet.write_table(arrow, file))
        return {**reference, "format": "parquet", "type": kind, "rows": arrow.num_rows}
    kind, content, notes = encode(value, settings, whole=True)
    # What XCom can't say goes there whole, however small it is.
    if len(content) <= settings["max_inline_bytes"] and not notes:
        return None
    reference = put(path, ".json" if kind == "json" else ".pkl", lambda file: file.write(content))
    return {**reference, "format": kind, "sha256": hashlib.sha256(content).hexdigest()}


def deliver(value: Any, settings: dict[str, Any]) -> None:
    """Send the function's return value back. One that can't travel is kept, and not computed again.

    :param value: what the function returned.
    :param settings: that the task packed with the call.
    :raises UnserializableResult: it can't travel; says where it is kept.
    """
    try:
        send(value, settings)
    except Exception as error:
        told = isinstance(error, UnserializableResult)
        why = error if told else f"{type(error).__name__}: {text_of(error)}"
        raise (type(error) if told else UnserializableResult)(f"{why}\n{keep(value, settings)}") from error


def send(value: Any, settings: dict[str, Any]) -> None:
    """Write the return value where the task looks for it.

    :param value: what the function returned.
    :param settings: that the task packed with the call.
    :raises UnserializableResult: it is too large, or can't be sent.
    """
    reference = by_reference(value, settings)
    if reference is not None:
        write_result({"kind": "reference"}, json.dumps(reference).encode())
        return
    kind, content, notes = encode(value, settings)
    if len(content) > settings["max_result_bytes"]:
        raise UnserializableResult(
            f"The function's result is {len(content):,} bytes ({kind}): more than the {settings['max_result_bytes']:,} "
            "that go through XCom. Return less, or give result_path= to have it written to object storage."
        )
    if notes:
        more = [f"and {len(notes) - MAX_NOTES:,} more"] if len(notes) > MAX_NOTES else []
        write_result({"kind": kind, "null": [shortened(note, 500) for note in notes[:MAX_NOTES]] + more}, content)
    else:
        write_result({"kind": kind}, content)


def keep(value: Any, settings: dict[str, Any]) -> str:
    """Keep a value that can't travel: it may have taken hours. Says where it is, or why it is nowhere.

    :param value: what the function returned.
    :param settings: that the task packed with the call.
    """
    import cloudpickle

    try:
        content = cloudpickle.dumps(value)
    except Exception as error:  # noqa: BLE001 - whatever a value's own code raises
        return f"It can't be kept either: {type(error).__name__}: {text_of(error)}"
    name = os.environ["AIRFLOW_RAY_RESULT_FILE"].rpartition(".")[0] + ".pkl"
    kept = []
    with contextlib.suppress(OSError):
        path = log_folder() / name
        path.write_bytes(content)
        kept.append(f"{path} on the node {os.uname().nodename} of the cluster, for a day")
    if settings.get("result_path"):
        with contextlib.suppress(Exception):  # it may be the very reason
            kept.append(str(put(settings["result_path"], ".pkl", lambda file: file.write(content))["path"]))
    if not kept:
        return "It could not be kept: nothing could be written."
    return f"It is kept as a pickle (read it with cloudpickle.load): {'; '.join(kept)}. It is not computed again."


def text_of(error: BaseException) -> str:
    """Give an exception's message, also of one whose own code for that raises.

    :param error: of the user's code.
    """
    try:
        return str(error)
    except Exception as inner:  # noqa: BLE001 - the user's code
        return f"<no text: its __str__ raised {type(inner).__name__}>"


def describe(error: BaseException) -> dict[str, Any]:
    """Give an exception as plain data, its traceback beginning at the user's function.

    :param error: what the function raised.
    :return: type, message, traceback, and what it means for the task: ``error``, ``fail`` or ``skip``. ``unsent``: the
        function returned, and its value can't travel (``value``), or object storage does not take it (``store``).
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    told: dict[str, Any] = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": shortened(text_of(error), MAX_MESSAGE),
        "traceback": shortened(text, MAX_TRACEBACK),
        # What can't travel can't after another try either.
        "meaning": "skip" if SKIP in names else "fail" if names & {FAIL, "UnserializableResult"} else "error",
    }
    cause: BaseException | None = error
    if isinstance(error, UnserializableResult):
        told["unsent"], cause = error.unsent, error.__cause__
    if isinstance(cause, ModuleNotFoundError):
        told["missing_module"] = cause.name
    return told


def shortened(text: str, limit: int) -> str:
    """Give a text that is not too long: its beginning and its end, and how much was left out.

    :param text: of any length.
    :param limit: in characters; what is said of the rest comes on top.
    """
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters left out ...\n{text[-half:]}"


def call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function. One that ends itself as a program that is content does (``sys.exit()``) returns nothing.

    :param function: the user's.
    :param args: by place.
    :param kwargs: by name.
    :raises SystemExit: it ended itself with a failure. What else it raises goes on, too.
    """
    try:
        return function(*args, **kwargs)
    except SystemExit as error:
        if error.code:
            raise
        return None


def exit_status(error: BaseException) -> int:
    """Give the status of a process that ends with this exception: never 0.

    An operating system keeps the last eight bits only: 256, which ``os.system`` gives for a command that ended with 1,
    would be a success.

    :param error: what the function ended with.
    """
    code = error.code if isinstance(error, SystemExit) else None
    return (code & 0xFF if isinstance(code, int) else 1) or 1


def reads_bytecode(settings: dict[str, Any]) -> bool:
    """Tell whether the task's Python reads bytecode of this one.

    :param settings: that the task packed with the call: ``python`` is its version.
    """
    return list(sys.version_info[:2]) == list(settings["python"][:2])


def main() -> int:
    """Run the call. Returns the process's exit status."""
    settings = json.loads((HERE / "settings.json").read_text())
    # Found by our standard output: before the function may close that.
    os.environ["AIRFLOW_RAY_LOG_FOLDER"] = str(log_folder())
    if not reads_bytecode(settings) and settings.get("send") != "source":
        mine, theirs = sys.version_info, settings["python"]
        write_result(
            {"kind": "version"},
            json.dumps({"cluster": list(mine[:2]), "worker": theirs}).encode(),
        )
        sys.stderr.write(f"Python {mine[0]}.{mine[1]} here, {theirs[0]}.{theirs[1]} where the function was packed.\n")
        return 1
    loaded = False
    try:
        tidy()
        function, args, kwargs = load_call(settings)
        loaded = True
        value = call(function, args, kwargs)
        with contextlib.suppress(ValueError, AttributeError, OSError):  # the function closed it, or took it away
            sys.stdout.flush()
        deliver(value, settings)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the task has to hear of it
        told = {**describe(error), "loaded": loaded}
        write_result({"kind": "error"}, json.dumps(told).encode())
        if told["meaning"] == "skip":
            return 0
        with contextlib.suppress(ValueError, AttributeError, OSError):
            sys.stderr.write(told["traceback"])
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
