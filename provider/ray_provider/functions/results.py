"""Reads what :mod:`ray_provider.functions.runner` left behind on the cluster."""

from __future__ import annotations

import hashlib
import json
import linecache
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ray_provider._shared.plain_text import clean
from ray_provider.exceptions import ConfigurationError, JobFailedError, RayProviderError

#: One frame of a traceback.
_FRAME = re.compile(r'  File "(?P<file>[^"]+)", line (?P<line>\d{1,7}), in .*')

Meaning = Literal["error", "skip", "fail"]
_MEANINGS = ("error", "skip", "fail")


class RemoteFunctionError(JobFailedError):
    """The function raised on the cluster. ``data`` holds ``type``, ``message_text`` and ``remote_traceback``."""


class RemoteTraceback(Exception):  # noqa: N818 - stands in for the remote exception as the cause
    """Shows the remote traceback as the cause of the local exception.

    :param text: of the traceback on the cluster.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


@dataclass(frozen=True, slots=True)
class FunctionResult:
    """What came back.

    :param value: the return value; of one that went to object storage, the reference.
    :param error: what the function raised, as plain data.
    :param by_reference: the value is a reference.
    :param became_null: what XCom can't carry and is null in the value, by its place.
    """

    value: Any = None
    error: Mapping[str, Any] | None = None
    by_reference: bool = False
    became_null: tuple[str, ...] = ()

    @property
    def meaning(self) -> Meaning | None:
        """What the function's exception means to Airflow; ``None`` if it raised none."""
        return self.error["meaning"] if self.error else None

    def exception(self, *, submission_id: str, url: str, source: str = "") -> RemoteFunctionError:
        """Make the error to raise; the remote traceback is its cause.

        :param submission_id: of the job.
        :param url: of the cluster, for a reader.
        :param source: the file that the function was defined in: the cluster has not got it, so its lines are put into
            the traceback here.
        :raises ValueError: the function did not raise.
        """
        if self.error is None:
            raise ValueError("the function did not raise")
        trace = _with_source(self.error["traceback"].rstrip(), source)
        did = "raised" if self.error.get("loaded", True) else "could not be loaded"
        what, shown = f"The function {did} on the cluster: {self.error['type']}", f"\n{trace}"
        unsent = self.error.get("unsent")
        if unsent:  # the traceback is one of our own
            what, shown = "The function has returned on the cluster, and its value can't be sent back", ""
        error = RemoteFunctionError(
            f"{what}: {self.error['message']}\n(job {submission_id} at {url}){shown}",
            hint=_advice(self.error),
            submission_id=submission_id,
            type=self.error["type"],
            message_text=self.error["message"],
            remote_traceback=trace,
        )
        if not unsent:
            error.__cause__ = RemoteTraceback(trace)
        return error


def _with_source(trace: str, source: str) -> str:
    """Put the lines of one file into a traceback where they are missing. Of no other file: the cluster names them."""
    lines = trace.split("\n")
    found: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        found.append(line)
        frame = _FRAME.fullmatch(line)
        if frame and frame["file"] == source and not following.startswith("    "):
            text = linecache.getline(source, int(frame["line"])).strip()
            found += [f"    {text}"] if text else []
    return "\n".join(found)


def _advice(error: Mapping[str, Any]) -> str | None:
    """Say what to do about an error that has one usual cause."""
    if module := error.get("missing_module"):
        return (
            f"The cluster has no module {module!r}. A package from PyPI: use an image that has it, or runtime_env "
            'with "pip". Code of your own: runtime_env with "py_modules" or "working_dir"; by themselves only the '
            "functions, classes and constants of the DAG's own file travel."
        )
    if error.get("unsent") == "store":
        return (
            "The cluster writes with its own credentials, never with an Airflow connection. Check that the bucket of "
            "result_path is there, that the pods of the cluster may write to it, and that they have the file system's "
            "package (s3fs, gcsfs, adlfs)."
        )
    if not error.get("loaded", True):
        return (
            "An argument, or something the function uses, can't be unpickled there: most often its package has "
            "another version on the cluster than in this worker."
        )
    return None


def result_file(submission_id: str) -> str:
    """Give the name of the result's file in Ray's session log folder.

    :param submission_id: of the job.
    """
    return f"airflow-result-{submission_id}.bin"


def decode(content: bytes, *, allow_pickle: bool) -> FunctionResult:
    """Read a result file.

    :param content: the whole file.
    :param allow_pickle: whether a pickle may be read. Reading one runs whatever code the cluster put into it.
    :raises RayProviderError: the file is cut short or is none of ours.
    :raises ConfigurationError: a pickle came and is not allowed, or the Python versions differ.
    """
    line, _, body = content.partition(b"\n")
    try:
        header = json.loads(line)
        kind, size, digest = header["kind"], header["size"], header["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise RayProviderError(
            "The function's result on the cluster can't be read: it is not a result file."
        ) from error
    if len(body) != size or hashlib.sha256(body).hexdigest() != digest:
        raise RayProviderError(f"The function's result arrived damaged: {len(body):,} of {size:,} bytes, or altered.")
    if kind in ("json", "reference", "error", "version"):
        try:
            notes = header.get("null")
            told = tuple(clean(str(note)) for note in notes[:20]) if isinstance(notes, list) else ()
            return replace(_plain(kind, json.loads(body)), became_null=told)
        except (ValueError, KeyError, TypeError) as error:
            raise RayProviderError(
                f"The function's result on the cluster can't be read: it is no {kind} of ours.",
                hint="Does the cluster run another version of airflow-ray's runner?",
            ) from error
    if kind == "pickle":
        if not allow_pickle:
            raise ConfigurationError("The cluster sent a pickle, which this task does not accept.")
        import cloudpickle

        return FunctionResult(value=cloudpickle.loads(body))
    raise RayProviderError(f"The function's result is of the unknown kind {kind!r}.", hint="Update airflow-ray.")


def _plain(kind: str, value: Any) -> FunctionResult:
    if kind == "error":
        error = {name: str(value[name]) for name in ("type", "message", "traceback")}
        meaning, module, unsent = (value.get(key) for key in ("meaning", "missing_module", "unsent"))
        told: dict[str, Any] = {
            "meaning": meaning if meaning in _MEANINGS else "error",
            "loaded": value.get("loaded") is not False,
            "missing_module": module if isinstance(module, str) else None,
            "unsent": unsent if unsent in ("store", "value") else None,
        }
        return FunctionResult(error={**error, **told})
    if kind == "version":
        raise python_mismatch(value["cluster"], value["worker"])
    return FunctionResult(value=value, by_reference=kind == "reference")


def python_mismatch(cluster: Any, worker: Any, *, not_as_source: str | None = None) -> ConfigurationError:
    """Make the error for two Pythons that can't exchange functions.

    :param cluster: its version, as numbers.
    :param worker: the worker's.
    :param not_as_source: why the function can't be sent as source; ``None`` if that was not tried.
    """
    theirs, ours = ".".join(map(str, cluster[:2])), ".".join(map(str, worker[:2]))
    image = f"a Ray image with Python {ours} (tags such as -py{ours.replace('.', '')})"
    why = f", and this one can't be sent as source: {not_as_source}." if not_as_source else "."
    return ConfigurationError(
        f"The Ray cluster runs Python {theirs}, this Airflow worker runs {ours}: a pickled function does not survive "
        f"a change of the minor version{why}",
        hint=(f"Use {image}" if not_as_source else f'Send it as source (send="source"), use {image}')
        + f", run the task in a worker with Python {theirs}, or submit a script with SubmitRayJob.",
    )


def read_reference(
    reference: Mapping[str, Any], *, allow_pickle: bool = False, open_file: Callable[[str], Any] | None = None
) -> Any:
    """Read a value that went to object storage.

    :param reference: what the task returned: ``path`` and ``format`` (``parquet``, ``json`` or ``pickle``).
    :param allow_pickle: whether a pickle may be read. Reading one runs whatever code the cluster put into it.
    :param open_file: opens a path for reading bytes; unless given, fsspec does.
    :returns: a pandas DataFrame, an Arrow table, or the value.
    :raises ConfigurationError: this is not a reference, or a pickle that is not allowed.
    :raises RayProviderError: what lies there is not what the function returned.
    """
    try:
        path, form = reference["path"], reference["format"]
    except (KeyError, TypeError) as error:
        raise ConfigurationError("This is not a reference to a result: it has no path and format.") from error
    if form == "pickle" and not allow_pickle:
        raise ConfigurationError(f"{path} is a pickle, which runs code when it is read.", hint="Set allow_pickle=True.")
    if open_file is None:
        import fsspec

        def open_file(path: str) -> Any:
            return fsspec.open(path, "rb")

    with open_file(path) as file:
        if form == "parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(file)
            return table.to_pandas() if reference.get("type") == "pandas" else table
        content = file.read()
    if hashlib.sha256(content).hexdigest() != reference.get("sha256"):
        raise RayProviderError(f"{path} does not hold what the function returned: it was altered, or cut short.")
    if form == "json":
        return json.loads(content)
    import cloudpickle

    return cloudpickle.loads(content)
