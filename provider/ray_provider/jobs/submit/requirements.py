"""Requirements files, read as pip reads them: Ray's server has not got the file, only its lines travel."""

from __future__ import annotations

import re
from pathlib import Path

from ray_provider.exceptions import ConfigurationError

_COMMENT = re.compile(r"(^|\s+)#.*$")
_INCLUDE = re.compile(r"(?:-r\s*|--requirement(?:\s+|=))(?P<name>\S.*)$")
_CONSTRAINT = re.compile(r"(?:-c\s*|--constraint(?:\s+|=))(?P<name>\S.*)$")
_DEPTH = 10


def read(field: str, path: Path, *, by: Path | None = None, depth: int = 0) -> list[str]:
    """Give the lines of a requirements file, with those of the files that it includes.

    :param field: ``pip`` or ``uv``, for messages.
    :param path: of the file, on this machine.
    :param by: the file that includes it; ``None``: the ``runtime_env`` names it.
    :param depth: how many files included this one.
    :raises ConfigurationError: it can't be read, or needs a file that does not travel.
    """
    try:
        # Editors on Windows put a byte order mark at the beginning.
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            (f"{str(by)!r} includes" if by else f'runtime_env["{field}"] names')
            + f" the requirements file {str(path)!r}, which can't be read: {error}.",
            hint=f'Give a file on the machine that runs the task, or a list such as "{field}": ["emoji==2.0"].',
            field=f"runtime_env.{field}",
        ) from error
    found: list[str] = []
    for line in _lines(text):
        if included := _INCLUDE.match(line):
            if depth >= _DEPTH:
                raise ConfigurationError(
                    f"{str(path)!r} includes files more than {_DEPTH} deep.",
                    hint="Does one of them include itself?",
                    field=f"runtime_env.{field}",
                )
            name = included["name"].strip("\"' ")
            found += read(field, path.expanduser().parent / name, by=path, depth=depth + 1)
        elif constraint := _CONSTRAINT.match(line):
            raise ConfigurationError(
                f"{str(path)!r} names the constraints file {constraint['name']!r}, which the cluster has not got.",
                hint="Write the versions that are wanted into the requirements themselves, or into the image.",
                field=f"runtime_env.{field}",
            )
        else:
            found.append(line)
    return found


def _lines(text: str) -> list[str]:
    """Give the lines as pip sees them: continued ones joined, without comments and empty ones."""
    joined = re.sub(r"\\\n\s*", " ", text.replace("\r\n", "\n"))
    lines = (_COMMENT.sub("", line).strip() for line in joined.split("\n"))
    return [re.sub(r"[ \t]{2,}", " ", line) for line in lines if line]
