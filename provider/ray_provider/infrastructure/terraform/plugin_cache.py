"""The folder in which providers are kept between runs: one run at a time fills it, and what is damaged in it goes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Registry, namespace, type, version, platform.
_ENTRY = "*/*/*/*/*"


@contextmanager
def one_at_a_time(cache: Path | None) -> Iterator[None]:
    """Hold the cache of providers: two `init` that fill it at the same time spoil it.

    :param cache: its folder; ``None`` if there is none, and nothing is held.
    """
    if cache is None:
        yield
        return
    from filelock import FileLock

    with FileLock(cache / ".airflow-ray.lock", mode=0o600):
        yield


def drop_damaged(cache: Path, module: Path, said: str) -> list[str]:
    """Remove from the cache the providers that a failure speaks of.

    :param cache: the cache.
    :param module: the folder of the run that failed; of a provider with several versions, only those that it uses go.
    :param said: the failure's text, which names providers as ``hashicorp/aws``.
    :return: what was removed, e.g. ``hashicorp/aws/5.100.0/linux_amd64``.
    """
    links = module / ".terraform" / "providers"
    used = {path.relative_to(links) for path in links.glob(_ENTRY)}
    dropped: list[str] = []
    for entry in sorted(cache.glob(_ENTRY)):
        name = entry.relative_to(cache)
        if "/".join(name.parts[1:3]) not in said or (used and name not in used):
            continue
        if entry.is_symlink() or not entry.is_dir():
            # It leads to a mirror, which is not ours; or it is a lock of OpenTofu's.
            continue
        shutil.rmtree(entry)
        dropped.append("/".join(name.parts[1:]))
    if dropped:
        shutil.rmtree(links, ignore_errors=True)
    return dropped
