"""Bring a runtime environment to the cluster: local folders and files are uploaded and replaced by their URIs.

Ray is not imported: what is done here is what Ray's own client does before it submits.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from ray_provider.exceptions import ConfigurationError
from ray_provider.jobs.submit import requirements
from ray_provider.jobs.submit.runtime_env import ARCHIVES, SCHEMES

if TYPE_CHECKING:
    from ray_provider.jobs.submit.archive import Package

log = logging.getLogger(__name__)


class Packages(Protocol):
    """What keeps packages for a cluster: its dashboard (``RayJobsClient``), or something beside it."""

    async def package_exists(self, uri: str) -> bool:
        """Whether it is there.

        :param uri: such as ``gcs://_ray_pkg_0123.zip``.
        """
        ...

    async def upload_package(self, uri: str, path: Path) -> None:
        """Take a file as a package.

        :param uri: the name it gets.
        :param path: of the file.
        """
        ...


def needs_packaging(runtime_env: Mapping[str, Any] | None) -> bool:
    """Tell whether a runtime environment names something on this machine, or something that Ray's server won't take.

    :param runtime_env: as the user gave it.
    """
    if not runtime_env:
        return False
    if _is_local(runtime_env.get("working_dir")):
        return True
    modules = runtime_env.get("py_modules")
    if modules is not None and (not isinstance(modules, list | tuple) or any(_is_local(each) for each in modules)):
        return True
    for field in ("pip", "uv"):
        if isinstance(runtime_env.get(field), str | Path) or _names_packages_file(runtime_env.get(field)):
            return True
    return _is_conda_file(runtime_env.get("conda"))


async def package_runtime_env(
    client: Packages,
    runtime_env: Mapping[str, Any],
    *,
    allow: Sequence[str] = (),
    warn: Callable[[str], None] = log.warning,
) -> dict[str, Any]:
    """Upload what a runtime environment names on this machine, and give a new one that names the uploads.

    What the cluster has already is not uploaded again. The caller's mapping is left as it is. All is checked before
    the first upload.

    :param client: what keeps packages, such as an open client.
    :param runtime_env: as the user gave it.
    :param allow: files in the packages that are meant, though they look like secrets or are links that lead out.
    :param warn: told of the others.
    :raises ConfigurationError: a field can't work; its name is in the message.
    """
    if not isinstance(runtime_env, Mapping):
        raise ConfigurationError(
            f"runtime_env has to be a mapping, but is a {type(runtime_env).__name__}.",
            hint='For example runtime_env={"working_dir": "./src", "pip": ["emoji"]}.',
            field="runtime_env",
        )
    result = dict(runtime_env)
    excludes = _excludes(runtime_env)
    for field in ("pip", "uv"):
        if isinstance(runtime_env.get(field), str | Path):
            result[field] = await asyncio.to_thread(requirements.read, field, Path(runtime_env[field]))
        elif _names_packages_file(runtime_env.get(field)):
            packages = await asyncio.to_thread(requirements.read, field, Path(runtime_env[field]["packages"]))
            result[field] = {**runtime_env[field], "packages": packages}
    if _is_conda_file(runtime_env.get("conda")):
        result["conda"] = await asyncio.to_thread(_read_conda, Path(runtime_env["conda"]))

    if (working_dir := runtime_env.get("working_dir")) is not None:
        result["working_dir"] = await asyncio.to_thread(_plan_working_dir, working_dir, excludes)
    if (modules := runtime_env.get("py_modules")) is not None:
        if not isinstance(modules, list | tuple):
            raise ConfigurationError(
                f'runtime_env["py_modules"] has to be a list, but is a {type(modules).__name__}.',
                hint='For example "py_modules": ["./my_package"].',
                field="runtime_env.py_modules",
            )
        result["py_modules"] = [
            await asyncio.to_thread(_plan_module, module, number, excludes) for number, module in enumerate(modules)
        ]
    uploads = [each for each in (result.get("working_dir"), *result.get("py_modules", ())) if isinstance(each, _Upload)]
    for each in uploads:
        if told := await asyncio.to_thread(each.warning, allow):
            warn(told)
    sent = {each: await each.send(client, warn) for each in uploads}
    if isinstance(working_dir := result.get("working_dir"), _Upload):
        result["working_dir"] = sent[working_dir]
    if "py_modules" in result:
        result["py_modules"] = [sent[each] if isinstance(each, _Upload) else each for each in result["py_modules"]]
    return result


class _Upload:
    """Something on this machine, and the name under which the cluster gets it.

    :param uri: the name, as the content was when it was looked at.
    :param field: of the runtime environment, for errors.
    :param file: an archive or a wheel; it goes as it is.
    :param extension: of an archive, which is named by its content; without, the name stays as it is.
    :param package: a folder, or a single file, that is to be packed.
    """

    def __init__(
        self,
        uri: str,
        field: str,
        *,
        file: Path | None = None,
        extension: str = "",
        package: Package | None = None,
    ) -> None:
        self.uri = uri
        self._field = field
        self._file = file
        self._extension = extension
        self._package = package

    @classmethod
    def archive(cls, field: str, file: Path, extension: str) -> _Upload:
        from ray_provider.jobs.submit.archive import hash_file

        return cls(_archive_uri(hash_file(file, field), extension), field, file=file, extension=extension)

    def warning(self, allow: Sequence[str]) -> str | None:
        from ray_provider.jobs.submit.doubtful import warning_of

        return warning_of(self._package, allow) if self._package is not None else None

    async def send(self, client: Packages, warn: Callable[[str], None]) -> str:
        """Upload it unless the cluster has it, and give the name that it got.

        The cluster keeps packages by their names, for jobs that come later too. So a name has to tell what is in the
        package, also where something was changed after it had been looked at.

        :param client: of the cluster.
        :param warn: told what is doubtful.
        """
        if await client.package_exists(self.uri):
            return self.uri
        with tempfile.TemporaryDirectory(prefix="ray-package-") as folder:
            source, target, uri = await asyncio.to_thread(self._fix, Path(folder))
            if uri != self.uri:
                warn(f"{source} has changed while it was packed. The job gets what was read last, as {uri}.")
                if await client.package_exists(uri):
                    return uri
            await client.upload_package(uri, target)
        return uri

    def _fix(self, folder: Path) -> tuple[Path, Path, str]:
        """Give what was to be sent, the file that is to go, which nobody changes any more, and the name for it."""
        from ray_provider.jobs.submit.archive import copy_file

        if self._package is not None:
            target = folder / self._package.name
            return self._package.source, target, f"gcs://{self._package.write(target)}"
        assert self._file is not None
        if not self._extension:  # a wheel: pip wants its own name
            return self._file, self._file, self.uri
        target = folder / self._file.name
        return self._file, target, _archive_uri(copy_file(self._file, target, self._field), self._extension)


def _archive_uri(content: str, extension: str) -> str:
    return f"gcs://_ray_pkg_{content}{extension}"


def _plan_working_dir(value: Any, excludes: Sequence[str]) -> _Upload | str:
    from ray_provider.jobs.submit.archive import default_excludes, pack_folder

    field = 'runtime_env["working_dir"]'
    if not isinstance(value, str | Path):
        raise ConfigurationError(
            f"{field} has to be a path or a URI, but is a {type(value).__name__}.",
            hint='For example "working_dir": "/opt/airflow/dags/training", or "s3://bucket/code.zip".',
            field="runtime_env.working_dir",
        )
    if not _is_local(value):
        return str(value)
    path = Path(value).expanduser()
    if path.is_dir():
        package = pack_folder(path, field, [*default_excludes(), *excludes], with_parent=False)
        return _Upload(package.uri, field, package=package)
    extension = next((each for each in ARCHIVES if path.name.endswith(each)), None)
    if path.is_file() and extension:
        return _Upload.archive(field, path, ".tar.gz" if extension == ".tgz" else extension)
    what = "is a file" if path.is_file() else "does not exist"
    raise ConfigurationError(
        f"{field} is {str(value)!r}, which {what} on the machine that runs the task ({path.absolute()}).",
        hint=f"Give a folder there, an archive ({', '.join(ARCHIVES)}), or a URI such as s3://bucket/code.zip. "
        "A relative path begins in the folder of the DAG's file, or in the worker's working directory.",
        field="runtime_env.working_dir",
    )


def _plan_module(value: Any, number: int, excludes: Sequence[str]) -> _Upload | str:
    from ray_provider.jobs.submit.archive import pack_file, pack_folder

    field = f'runtime_env["py_modules"][{number}]'
    if isinstance(value, ModuleType):
        value = _folder_of(value, field)
    if not isinstance(value, str | Path):
        raise ConfigurationError(
            f"{field} has to be a path, a URI or an imported module, but is a {type(value).__name__}.",
            hint='For example "py_modules": ["./my_package"].',
            field=f"runtime_env.py_modules.{number}",
        )
    if not _is_local(value):
        return str(value)
    path = Path(value).expanduser()
    if path.is_dir():
        package = pack_folder(path, field, excludes, with_parent=True)
        return _Upload(package.uri, field, package=package)
    if path.is_file() and path.suffix == ".py":
        package = pack_file(path, field)
        return _Upload(package.uri, field, package=package)
    if path.is_file() and path.suffix == ".whl":
        return _Upload(f"gcs://{path.name}", field, file=path)
    if path.is_file() and path.suffix == ".zip":
        return _Upload.archive(field, path, ".zip")
    what = "is neither a folder nor a .py, .whl or .zip file" if path.exists() else "does not exist"
    raise ConfigurationError(
        f"{field} is {str(value)!r}, which {what} on the machine that runs the task ({path.absolute()}).",
        hint="Give the folder of a package, a .py file, a wheel, or a URI.",
        field=f"runtime_env.py_modules.{number}",
    )


def _folder_of(module: ModuleType, field: str) -> str:
    paths = list(getattr(module, "__path__", [])) or [module.__file__]
    if len(paths) != 1 or paths[0] is None:
        raise ConfigurationError(
            f"{field}: the module {module.__name__} does not lie in one place: {paths}.",
            hint="Give the path of its folder.",
            field="runtime_env.py_modules",
        )
    return str(paths[0])


def _excludes(runtime_env: Mapping[str, Any]) -> list[str]:
    excludes = runtime_env.get("excludes")
    if excludes is None:
        return []
    if not isinstance(excludes, list | tuple) or not all(isinstance(each, str) for each in excludes):
        raise ConfigurationError(
            'runtime_env["excludes"] has to be a list of patterns.',
            hint='For example "excludes": ["data/", "*.ckpt"].',
            field="runtime_env.excludes",
        )
    return list(excludes)


def _is_local(value: Any) -> bool:
    if value is None:
        return False
    return not (isinstance(value, str) and "://" in value and urlsplit(value).scheme.lower() in SCHEMES)


def _names_packages_file(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("packages"), str | Path)


def _is_conda_file(value: Any) -> bool:
    return isinstance(value, str | Path) and Path(value).suffix in {".yml", ".yaml"}


def _read_conda(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # A parser's own text shows lines of the file, in which an index's password may stand.
        said = "it is no YAML" if isinstance(error, yaml.YAMLError) else str(error)
        raise ConfigurationError(
            f'runtime_env["conda"] names the file {str(path)!r}, which can\'t be read: {said}.',
            hint="Give a file on the machine that runs the task, a mapping, or the name of an environment.",
            field="runtime_env.conda",
        ) from None
