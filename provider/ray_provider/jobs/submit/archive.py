"""Make a package of a folder or file: the same bytes always make the same package, under a name made of its content."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from ray_provider.exceptions import ConfigurationError
from ray_provider.jobs.client import MAX_PACKAGE_BYTES

#: What Ray leaves out of a working_dir unless it is told otherwise.
_DEFAULT_EXCLUDES = ".git,.venv,venv,__pycache__"
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file knows
_BLOCK = 1024 * 1024
_SHOWN = 5

_Exclude = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    name: str  # in the package; a folder's ends with a slash
    size: int
    executable: bool


@dataclass(frozen=True, slots=True)
class Package:
    """What goes into a package.

    :param field: of the runtime environment, for errors.
    :param source: the folder or file.
    :param name: of the package: ``_ray_pkg_<hash>.zip``.
    :param entries: the files.
    """

    field: str
    source: Path
    name: str
    entries: tuple[_Entry, ...]

    @property
    def uri(self) -> str:
        """How a runtime environment names the package."""
        return f"gcs://{self.name}"

    def write(self, target: Path) -> str:
        """Write the package. Blocking.

        Files may have changed since they were looked at, and may change while they are read: what counts is what was
        read here. It is hashed on its way into the package, and the package is to be named by that.

        :param target: the file to make.
        :return: the name of what was packed.
        :raises ConfigurationError: it becomes larger than Ray takes, or a file is gone.
        """
        digest = hashlib.sha256()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for entry in self.entries:
                info = zipfile.ZipInfo(entry.name, _TIME)
                info.external_attr = (0o40755 << 16 | 0x10) if entry.name.endswith("/") else _mode(entry) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                if entry.name.endswith("/"):
                    archive.writestr(info, b"")
                    _count(digest, entry, "")
                    continue
                info.file_size = entry.size
                content = hashlib.sha256()
                with (
                    _open(entry.path, self.field, self.source) as source,
                    archive.open(info, "w", force_zip64=True) as sink,
                ):
                    while block := source.read(_BLOCK):
                        content.update(block)
                        sink.write(block)
                        if archive.fp is not None and archive.fp.tell() > MAX_PACKAGE_BYTES:
                            raise self._too_large()
                _count(digest, entry, _short(content))
        if target.stat().st_size > MAX_PACKAGE_BYTES:
            raise self._too_large()
        return _named(digest)

    def _too_large(self) -> ConfigurationError:
        total = sum(entry.size for entry in self.entries)
        biggest = sorted(self.entries, key=lambda entry: -entry.size)[:_SHOWN]
        listed = ", ".join(f"{entry.name} ({_mib(entry.size)})" for entry in biggest)
        return ConfigurationError(
            f"{self.field} {self.source} is too large to upload: {len(self.entries)} files, {_mib(total)}; packed, Ray "
            f"takes at most {_mib(MAX_PACKAGE_BYTES)}. The largest: {listed}.",
            hint='Leave out what the job does not need by runtime_env["excludes"] or a .rayignore file, or put it into '
            "the image or into object storage.",
            field=self.field,
        )


def pack_folder(folder: Path, field: str, excludes: Sequence[str], *, with_parent: bool) -> Package:
    """See what a folder's package holds. Blocking: it reads every file.

    Left out are, as Ray does it: the excludes, what ``.gitignore`` and ``.rayignore`` files name at any depth, and for
    a ``working_dir`` also ``.git``, ``.venv``, ``venv`` and ``__pycache__``.

    :param folder: what is to be packed.
    :param field: of the runtime environment, for errors.
    :param excludes: patterns like those of a ``.gitignore`` file.
    :param with_parent: names in the package begin with the folder's own.
    :raises ConfigurationError: a file can't be read, or a pattern is broken.
    """
    folder = folder.absolute()
    prefix = f"{folder.name}/" if with_parent else ""
    rules = [_rule(folder, folder, list(excludes), field)]
    try:
        entries = sorted(_walk(folder, folder, prefix, rules, frozenset(), field), key=lambda entry: entry.name)
        return Package(field, folder, _name(entries, field), tuple(entries))
    except OSError as error:
        raise _unreadable(field, folder, error) from error


def pack_file(path: Path, field: str) -> Package:
    """See what the package of a single Python file holds. Blocking.

    :param path: what is to be packed.
    :param field: of the runtime environment, for errors.
    :raises ConfigurationError: the file can't be read.
    """
    path = path.absolute()
    try:
        entries = (_entry(path, path.name),)
        return Package(field, path, _name(entries, field), entries)
    except OSError as error:
        raise _unreadable(field, path, error) from error


def hash_file(path: Path, field: str) -> str:
    """Make a name of a file's content. Blocking.

    :param path: the file.
    :param field: of the runtime environment, for errors.
    :raises ConfigurationError: the file can't be read.
    """
    with _open(path, field, path) as source:
        return _short(hashlib.file_digest(source, "sha256"))


def copy_file(path: Path, target: Path, field: str) -> str:
    """Copy a file, and make the name of what was copied: another program may write into the file meanwhile. Blocking.

    :param path: the file.
    :param target: the file to make.
    :param field: of the runtime environment, for errors.
    :raises ConfigurationError: the file can't be read.
    """
    digest = hashlib.sha256()
    with _open(path, field, path) as source, target.open("wb") as sink:
        while block := source.read(_BLOCK):
            digest.update(block)
            sink.write(block)
    return _short(digest)


def default_excludes() -> list[str]:
    """Give what Ray leaves out of a working_dir; the environment may say otherwise, by Ray's own variable."""
    given = os.environ.get("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", _DEFAULT_EXCLUDES)
    return [each.strip() for each in given.split(",") if each.strip()]


def _walk(
    root: Path, folder: Path, prefix: str, rules: list[_Exclude], above: frozenset[Path], field: str
) -> Iterator[_Entry]:
    """Go through a folder, as Ray does: each may hold ignore files for itself and what is below."""
    above |= {folder.resolve()}
    ignore_files = [".rayignore"]
    if os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1":
        ignore_files.insert(0, ".gitignore")
    rules = rules + [
        _rule(root, folder, (folder / name).read_text(encoding="utf-8", errors="replace").splitlines(), field)
        for name in ignore_files
        if (folder / name).is_file()
    ]
    empty = True
    for path in sorted(folder.iterdir()):
        empty = False
        relative = path.relative_to(root).as_posix()
        if any(excluded(relative) for excluded in rules):
            continue
        if path.is_dir():
            if path.resolve() in above:
                continue  # a link to a folder above: it would never end
            yield from _walk(root, path, prefix, rules, above, field)
        elif path.is_file():
            yield _entry(path, prefix + relative)
    if empty and folder != root:
        yield _Entry(folder, f"{prefix}{folder.relative_to(root).as_posix()}/", 0, executable=True)


def _rule(root: Path, folder: Path, patterns: list[str], field: str) -> _Exclude:
    """Make a rule for paths relative to the root, of patterns that count from a folder in it."""
    import pathspec

    try:
        try:
            spec: Any = pathspec.PathSpec.from_lines("gitignore", patterns)
        except LookupError:  # pathspec below 1.0
            spec = pathspec.PathSpec.from_lines("gitwildmatch", patterns)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"A pattern of what to leave out of {field} can't be used: {error}.",
            hint="Patterns are written as in a .gitignore file.",
            field="runtime_env.excludes",
        ) from error
    above = folder.relative_to(root).as_posix() + "/" if folder != root else ""
    return lambda relative: bool(spec.match_file(relative[len(above) :]))


def _entry(path: Path, name: str) -> _Entry:
    state = path.stat()
    return _Entry(path, name, state.st_size, executable=bool(state.st_mode & 0o100))


def _mode(entry: _Entry) -> int:
    return 0o100755 if entry.executable else 0o100644


def _name(entries: Sequence[_Entry], field: str) -> str:
    """Make the package's name: of names, modes and contents, not of times."""
    digest = hashlib.sha256()
    for entry in entries:
        _count(digest, entry, "" if entry.name.endswith("/") else hash_file(entry.path, field))
    return _named(digest)


def _count(digest: hashlib._Hash, entry: _Entry, content: str) -> None:
    digest.update(f"{entry.name}\0{entry.executable}\0{content}\0".encode("utf-8", "surrogateescape"))


def _named(digest: hashlib._Hash) -> str:
    return f"_ray_pkg_{_short(digest)}.zip"


def _short(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:40]


def _open(path: Path, field: str, named: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(field, named, error) from error


def _unreadable(field: str, source: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{field} {source} can't be read: {error}.",
        hint="Make it readable for the user that runs the task, or leave the file out by excludes.",
        field=field,
    )


def _mib(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
