"""Object storage that a cluster and its tasks share: for what is too large for XCom, or for one package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from ray_provider.exceptions import ConfigurationError, RayProviderError
from ray_provider.functions import results

#: What a function's result may be written as, by its suffix.
_SUFFIXES = (".parquet", ".json", ".pkl")


@dataclass(frozen=True, slots=True)
class ResultStore:
    """A folder in object storage.

    The cluster gets the address alone and uses its own credentials (a role of its pods, for example); tasks use the
    Airflow connection, if the path names one.

    :param url: an fsspec URL, or an absolute path that both sides have.
    :param conn_id: of the Airflow connection; ``None``: fsspec's own ways to find credentials.
    """

    url: str
    conn_id: str | None = None

    @classmethod
    def parse(cls, path: Any) -> Self:
        """Read a path as people write it: ``s3://bucket/folder``, ``s3://conn_id@bucket/folder``, an ObjectStoragePath.

        :param path: of the folder.
        :raises ConfigurationError: it is neither a URL nor an absolute path.
        """
        text = str(path).rstrip("/")
        parts = urlsplit(text)
        if not parts.scheme and not text.startswith("/"):
            raise ConfigurationError(
                f"result_path is {text!r}: that is neither a URL nor an absolute path.",
                hint="For example result_path='s3://bucket/results/{{ run_id }}'.",
                field="result_path",
            )
        conn_id, _, host = parts.netloc.rpartition("@")
        if not conn_id or (parts.scheme in {"abfs", "abfss"} and "." in host):  # Azure's own container@account
            return cls(text)
        return cls(parts._replace(netloc=host).geturl(), conn_id)

    def reference(self, submission_id: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """Give what the task returns for a result that the cluster wrote here.

        :param submission_id: of the job.
        :param told: by the cluster: not to be trusted with a path of its own choice.
        :raises RayProviderError: it names another place than the job's own.
        """
        stem = f"{self.url}/{results.result_file(submission_id).rpartition('.')[0]}"
        if told.get("path") not in {stem + suffix for suffix in _SUFFIXES}:
            raise RayProviderError(
                f"The result is not where job {submission_id} was told to write it: it is at {told.get('path')!r}, and "
                f"not at {stem}.",
                hint="Something on the cluster altered the result. Look at the job's log.",
            )
        return {**told, **({"conn_id": self.conn_id} if self.conn_id else {})}

    def write(self, name: str, content: bytes) -> str:
        """Write a file, and give its URL.

        :param name: of the file, in the folder.
        :param content: all of it.
        """
        url = f"{self.url}/{name}"
        if self.conn_id:
            from airflow.providers.common.compat.sdk import ObjectStoragePath

            target: Any = ObjectStoragePath(url, conn_id=self.conn_id)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                file.write(content)
            return url
        import fsspec

        filesystem, inner = fsspec.core.url_to_fs(url)
        filesystem.makedirs(inner.rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(inner, content)
        return url


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
