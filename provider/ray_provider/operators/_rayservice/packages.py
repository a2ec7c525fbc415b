"""Code on this machine that a RayService is to run: packed, and put where its clusters fetch it without this task."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_provider.exceptions import ConfigurationError, RayProviderError
from ray_provider.operators._job.arguments import names, runtime_environment
from ray_provider.operators._job.storage import ObjectStore

#: Where a task can write, and Ray's agents fetch from by the same address.
_SCHEMES = ("s3", "gs", "abfss", "file")
_CLUSTERS_OWN = "gcs://"
_BY_CONTENT = "_ray_pkg_"


def with_packages(operator: Any, applications: Sequence[Any], folders: Iterable[Path]) -> list[Any]:
    """Bring what applications name on this machine to ``package_path``, and give them with its addresses.

    A package is named by its content, and what is there already is not written again. Nothing is removed: a version
    that is put back needs its own.

    :param operator: with ``package_path``, ``allow_in_package`` and ``log``.
    :param applications: as they were given.
    :param folders: of the DAG's file: relative paths begin there.
    :raises ConfigurationError: a path is none, or the clusters could not fetch from there.
    :raises RayProviderError: it could not be written.
    """
    store = _store(operator.package_path)
    packages = _Packages(store, operator.log)
    allow = names("allow_in_package", operator.allow_in_package)
    places = list(folders)

    async def all_of_them() -> list[Any]:
        return [await packages.of_application(one, allow, places) for one in applications]

    return asyncio.run(all_of_them())


def _store(path: Any) -> ObjectStore:
    """Read ``package_path``.

    :raises ConfigurationError: Ray's agents do not fetch from there, or nobody can write there.
    """
    text = str(path)
    store = ObjectStore.parse(f"file://{text}" if text.startswith("/") else text, "package_path")
    scheme = store.url.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise ConfigurationError(
            f"package_path is at {scheme}://: a task can't write there what a cluster fetches by the same address.",
            hint=f"Give a folder at {', '.join(f'{one}://' for one in _SCHEMES)} (the last one: a file system that all "
            "pods have at the same place).",
            field="package_path",
        )
    return store


class _Packages:
    """What is asked of a cluster for the code of a job, answered by object storage.

    :param store: the folder.
    :param log: of the task.
    """

    def __init__(self, store: ObjectStore, log: Any) -> None:
        self._store = store
        self._log = log
        self._urls: dict[str, str] = {}

    async def package_exists(self, uri: str) -> bool:
        """Whether it need not be packed: it is known when it is packed, by its size.

        :param uri: of the package.
        """
        return uri in self._urls

    async def upload_package(self, uri: str, path: Path) -> None:
        """Write a package, unless it is there.

        :param uri: by which the cluster would know it.
        :param path: of the file.
        :raises RayProviderError: it could not be written.
        """
        self._urls[uri] = await asyncio.to_thread(self._put, uri.removeprefix(_CLUSTERS_OWN), path)

    def _put(self, name: str, path: Path) -> str:
        content = path.read_bytes()
        if not name.startswith(_BY_CONTENT):  # a wheel keeps its name, which says nothing of its content
            name = f"{hashlib.sha256(content).hexdigest()[:20]}/{name}"
        url = f"{self._store.url}/{name}"
        try:
            if self._store.has(name, len(content)):
                self._log.info("The code is there already: %s", url)
            else:
                self._store.write(name, content)
                self._log.info("The code is at %s (%s bytes).", url, f"{len(content):,}")
        except Exception as error:
            # Each store has errors of its own (botocore, gcsfs, OSError): no common base.
            raise RayProviderError(
                f"The code could not be written to {url}: {type(error).__name__}: {error}",
                hint="Check package_path, and the rights of its connection (s3://conn_id@bucket/folder). The clusters "
                "need the right to read there.",
                field="package_path",
            ) from error
        return url

    async def of_application(self, application: Any, allow: Sequence[str], folders: Sequence[Path]) -> Any:
        """Give an application with the addresses of its code, and of that of its deployments.

        :param application: as it was given.
        :param allow: files that are meant, although they look like secrets.
        :param folders: where relative paths begin.
        """
        if not isinstance(application, Mapping):
            return application  # looked at later
        found = await self._with_environment(application, allow, folders)
        deployments = found.get("deployments")
        if isinstance(deployments, list | tuple):
            found["deployments"] = [await self._of_deployment(one, allow, folders) for one in deployments]
        return found

    async def _of_deployment(self, deployment: Any, allow: Sequence[str], folders: Sequence[Path]) -> Any:
        options = deployment.get("ray_actor_options") if isinstance(deployment, Mapping) else None
        if not isinstance(options, Mapping):
            return deployment
        return {**deployment, "ray_actor_options": await self._with_environment(options, allow, folders)}

    async def _with_environment(
        self, holder: Mapping[str, Any], allow: Sequence[str], folders: Sequence[Path]
    ) -> dict[str, Any]:
        from ray_provider.jobs.submit.packaging import needs_packaging, package_runtime_env

        if not holder.get("runtime_env"):
            return dict(holder)
        given = runtime_environment(holder["runtime_env"], folders)
        if needs_packaging(given):
            given = await package_runtime_env(self, given, allow=allow, warn=self._log.warning)
        if isinstance(given.get("working_dir"), str):
            given["working_dir"] = self._urls.get(given["working_dir"], given["working_dir"])
        if isinstance(given.get("py_modules"), list | tuple):
            given["py_modules"] = [self._urls.get(one, one) for one in given["py_modules"]]
        return {**holder, "runtime_env": given}
