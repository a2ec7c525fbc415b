"""What a runtime environment can't be: found before anything is made, as Ray finds it only in the job, or never."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ray_provider.exceptions import ConfigurationError

#: The keys of Ray 2.60 (``RuntimeEnv.known_fields``), and what older ones had.
KEYS = frozenset({
    "conda", "config", "container", "env_vars", "excludes", "image_uri", "java_jars", "mpi", "nsight", "pip",
    "py_executable", "py_modules", "rocprof_sys", "uv", "worker_process_setup_hook", "working_dir",
    "_inject_current_ray", "_nsight", "_ray_commit", "_ray_release", "_rocprof_sys",
})  # fmt: skip
#: Where Ray's agents fetch code from.
SCHEMES = ("http", "https", "s3", "gs", "azure", "abfss", "file", "gcs", "local")
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.xz")
_ONE_OF = (("pip", "conda"), ("pip", "uv"), ("uv", "conda"))


def check(runtime_env: Mapping[str, Any]) -> list[str]:
    """Refuse what Ray never takes.

    :param runtime_env: as the user gave it.
    :return: lines of warning about what Ray may not know.
    :raises ConfigurationError: a key with a typing error, fields that exclude each other, an address that Ray can't
        fetch.
    """
    unknown = []
    for key in runtime_env:
        if key in KEYS:
            continue
        near = [known for known in sorted(KEYS) if not known.startswith("_") and _is_one_away(str(key), known)]
        if near:
            raise ConfigurationError(
                f"runtime_env has the key {key!r}, which Ray does not know and ignores without a word.",
                hint=f"Is {near[0]!r} meant?",
                field=f"runtime_env.{key}",
            )
        unknown.append(repr(key))
    for one, other in _ONE_OF:
        if runtime_env.get(one) and runtime_env.get(other):
            raise ConfigurationError(
                f"runtime_env has both {one!r} and {other!r}: Ray takes one of them.",
                hint='Packages of pip can stand in conda\'s "dependencies": [{"pip": [...]}].'
                if "conda" in (one, other)
                else "Keep one of the two.",
                field=f"runtime_env.{other}",
            )
    _check_address('runtime_env["working_dir"]', runtime_env.get("working_dir"), ARCHIVES)
    modules = runtime_env.get("py_modules")
    for number, module in enumerate(modules if isinstance(modules, list | tuple) else ()):
        _check_address(f'runtime_env["py_modules"][{number}]', module, (*ARCHIVES, ".whl"))
    if not unknown:
        return []
    line = f"runtime_env has what Ray does not know by itself: {', '.join(unknown)}. "
    return [f"{line}Without a plug-in, or a newer Ray, on the cluster it is ignored."]


def _check_address(field: str, value: Any, endings: tuple[str, ...]) -> None:
    if not isinstance(value, str) or "://" not in value:
        return
    parts = urlsplit(value)
    if parts.scheme.lower() not in SCHEMES:
        raise ConfigurationError(
            f"{field} has an address of the kind {parts.scheme}://, which Ray can't fetch.",
            hint=f"Ray fetches {', '.join(f'{each}://' for each in SCHEMES[:6])}; or give a folder on this machine.",
            field=field,
        )
    if not parts.path.endswith(endings) and not parts.netloc.endswith(endings):
        raise ConfigurationError(
            f"{field} names {PurePosixPath(parts.path).name or parts.netloc!r}, and Ray fetches archives only.",
            hint=f"It has to end in {', '.join(endings)}.",
            field=field,
        )


def _is_one_away(one: str, other: str) -> bool:
    """Tell whether one typing error lies between two names: a letter more, less, wrong, or two in the wrong order."""
    if one == other or abs(len(one) - len(other)) > 1 or min(len(one), len(other)) < 3:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    swapped = len(a) > 1 and len(a) == len(b) and a[:2] == b[1::-1] and a[2:] == b[2:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or swapped
