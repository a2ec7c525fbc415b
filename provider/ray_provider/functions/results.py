"""Reads what :mod:`ray_provider.functions.runner` left behind on the cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray_provider.exceptions import ConfigurationError, JobFailedError, RayProviderError

Meaning = Literal["error", "skip", "fail"]


class RemoteFunctionError(JobFailedError):
    """The function raised on the cluster. ``data`` holds ``type``, ``message_text`` and ``remote_traceback``."""


class RemoteTraceback(Exception):  # noqa: N818 - stands in for the remote exception as the cause
    """Shows the remote traceback as the cause of the local exception."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


@dataclass(frozen=True, slots=True)
class FunctionResult:
    """What came back.

    :param value: the return value (a :class:`ResultReference`'s dict for one that went to object storage).
    :param error: what the function raised, as plain data.
    """

    value: Any = None
    error: Mapping[str, Any] | None = None

    @property
    def meaning(self) -> Meaning | None:
        """What the function's exception means to Airflow; ``None`` if it raised none."""
        return self.error["meaning"] if self.error else None

    def exception(self, *, submission_id: str, url: str) -> RemoteFunctionError:
        """Make the error to raise; raise it ``from RemoteTraceback(...)``.

        :raises ValueError: the function did not raise.
        """
        if self.error is None:
            raise ValueError("the function did not raise")
        error = RemoteFunctionError(
            f"The function raised {self.error['type']} on the cluster: {self.error['message']}\n"
            f"(job {submission_id} at {url})\n{self.error['traceback'].rstrip()}",
            submission_id=submission_id,
            type=self.error["type"],
            message_text=self.error["message"],
            remote_traceback=self.error["traceback"],
        )
        error.__cause__ = RemoteTraceback(self.error["traceback"])
        return error


def result_file(submission_id: str) -> str:
    """Give the name of the result's file in Ray's session log folder."""
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
    if kind == "json" or kind == "reference":  # noqa: PLR1714 - a string from outside
        return FunctionResult(value=json.loads(body))
    if kind == "error":
        return FunctionResult(error=json.loads(body))
    if kind == "version":
        versions = json.loads(body)
        raise python_mismatch(versions["cluster"], versions["worker"])
    if kind == "pickle":
        if not allow_pickle:
            raise ConfigurationError("The cluster sent a pickle, which this task does not accept.")
        import cloudpickle

        return FunctionResult(value=cloudpickle.loads(body))
    raise RayProviderError(f"The function's result is of the unknown kind {kind!r}.", hint="Update airflow-ray.")


def python_mismatch(cluster: Any, worker: Any) -> ConfigurationError:
    """Make the error for two Pythons that can't exchange functions."""
    theirs, ours = ".".join(map(str, cluster[:2])), ".".join(map(str, worker[:2]))
    return ConfigurationError(
        f"The Ray cluster runs Python {theirs}, this Airflow worker runs {ours}: a pickled function does not survive "
        "a change of the minor version.",
        hint=f"Use a Ray image with Python {ours} (tags such as -py{ours.replace('.', '')}), run the task in a worker "
        f"with Python {theirs}, or submit a script with SubmitRayJob.",
    )


def read_reference(reference: Mapping[str, Any], *, allow_pickle: bool = False) -> Any:
    """Read a value that went to object storage.

    :param reference: what the task returned: ``path`` and ``format`` (``parquet``, ``json`` or ``pickle``).
    :param allow_pickle: whether a pickle may be read. Reading one runs whatever code the cluster put into it.
    :returns: a pandas DataFrame, an Arrow table, or the value.
    :raises ConfigurationError: this is not a reference, or a pickle that is not allowed.
    """
    try:
        path, form = reference["path"], reference["format"]
    except (KeyError, TypeError) as error:
        raise ConfigurationError("This is not a reference to a result: it has no path and format.") from error
    if form == "pickle" and not allow_pickle:
        raise ConfigurationError(f"{path} is a pickle, which runs code when it is read.", hint="Set allow_pickle=True.")
    import fsspec

    with fsspec.open(path, "rb") as file:
        if form == "parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(file)
            return table.to_pandas() if reference.get("type") == "pandas" else table
        content = file.read()
    if form == "json":
        return json.loads(content)
    import cloudpickle

    return cloudpickle.loads(content)
