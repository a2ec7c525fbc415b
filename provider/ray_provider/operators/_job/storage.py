"""A folder in object storage that a cluster and its tasks share: for what is too large for XCom, and for code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from ray_provider.exceptions import ConfigurationError


def as_text(path: Any) -> Any:
    """Give an ``ObjectStoragePath`` as text, so that templates in it are rendered.

    :param path: what was given: anything else stays what it is.
    """
    return str(path) if hasattr(path, "protocol") else path


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A folder in object storage.

    The cluster gets the address alone and uses its own credentials (a role of its pods, for example); tasks use the
    Airflow connection, if the path names one.

    :param url: an fsspec URL, or an absolute path that both sides have.
    :param conn_id: of the Airflow connection; ``None``: fsspec's own ways to find credentials.
    """

    url: str
    conn_id: str | None = None

    @classmethod
    def parse(cls, path: Any, field: str = "result_path") -> Self:
        """Read a path as people write it: ``s3://bucket/folder``, ``s3://conn_id@bucket/folder``, an ObjectStoragePath.

        :param path: the path.
        :param field: the argument that has it, for messages.
        :raises ConfigurationError: it is neither a URL nor an absolute path.
        """
        text = str(path).rstrip("/")
        parts = urlsplit(text)
        if not parts.scheme and not text.startswith("/"):
            raise ConfigurationError(
                f"{field} is {text!r}: that is neither a URL nor an absolute path.",
                hint=f"For example {field}='s3://bucket/folder'.",
                field=field,
            )
        conn_id, _, host = parts.netloc.rpartition("@")
        if not conn_id or (parts.scheme in {"abfs", "abfss"} and "." in host):  # Azure's own container@account
            return cls(text)
        return cls(parts._replace(netloc=host).geturl(), conn_id)

    def has(self, name: str, size: int) -> bool:
        """Whether a file is there, and as large as it has to be: another task may have ended while it wrote.

        :param name: of the file, in the folder.
        :param size: bytes.
        """
        url = f"{self.url}/{name}"
        if self.conn_id:
            from airflow.providers.common.compat.sdk import ObjectStoragePath

            there: Any = ObjectStoragePath(url, conn_id=self.conn_id)
            return bool(there.exists()) and int(there.stat().st_size) == size
        import fsspec

        filesystem, inner = fsspec.core.url_to_fs(url)
        return bool(filesystem.exists(inner)) and int(filesystem.size(inner)) == size

    def write(self, name: str, content: bytes) -> str:
        """Write a file, and give its URL. A folder is made if it is missing, a bucket is not.

        :param name: of the file, in the folder.
        :param content: all of it.
        """
        from ray_provider.functions.runner import has_folders

        url = f"{self.url}/{name}"
        if self.conn_id:
            from airflow.providers.common.compat.sdk import ObjectStoragePath

            target: Any = ObjectStoragePath(url, conn_id=self.conn_id)
            if has_folders(url):
                target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                file.write(content)
            return url
        import fsspec

        filesystem, inner = fsspec.core.url_to_fs(url)
        if has_folders(url):
            filesystem.makedirs(inner.rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(inner, content)
        return url
