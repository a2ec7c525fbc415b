"""What goes to object storage because it is too large for XCom: what a task returns of it, and reading it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_provider.exceptions import RayProviderError
from ray_provider.functions import results
from ray_provider.operators._job.storage import ObjectStore

#: What a function's result may be written as, by its suffix.
_SUFFIXES = (".parquet", ".json", ".pkl")


def reference_of(store: ObjectStore, submission_id: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the task returns for a result that the cluster wrote.

    :param store: where the job was told to write it.
    :param submission_id: of the job.
    :param told: by the cluster: not to be trusted with a path of its own choice.
    :raises RayProviderError: it names another place than the job's own.
    """
    stem = f"{store.url}/{results.result_file(submission_id).rpartition('.')[0]}"
    if told.get("path") not in {stem + suffix for suffix in _SUFFIXES}:
        raise RayProviderError(
            f"The result is not where job {submission_id} was told to write it: it is at {told.get('path')!r}, and "
            f"not at {stem}.",
            hint="Something on the cluster altered the result. Look at the job's log.",
        )
    return {**told, **({"conn_id": store.conn_id} if store.conn_id else {})}


def read_reference(reference: Mapping[str, Any], *, allow_pickle: bool = False) -> Any:
    """Read a value that went to object storage.

    :param reference: what the task returned: ``path`` and ``format`` (``parquet``, ``json`` or ``pickle``).
    :param allow_pickle: whether a pickle may be read. Reading one runs whatever code the cluster put into it.
    :returns: a pandas DataFrame, an Arrow table, or the value.
    :raises ConfigurationError: this is not a reference, or a pickle that is not allowed.
    :raises RayProviderError: what lies there is not what the function returned.
    """
    conn_id = reference.get("conn_id") if isinstance(reference, Mapping) else None
    if not conn_id:
        return results.read_reference(reference, allow_pickle=allow_pickle)

    def open_file(path: str) -> Any:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        stored: Any = ObjectStoragePath(path, conn_id=conn_id)
        return stored.open("rb")

    return results.read_reference(reference, allow_pickle=allow_pickle, open_file=open_file)
