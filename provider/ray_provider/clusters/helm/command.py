"""Helm as a child process: no shell, a process group of its own, an environment per call, and no secret in sight."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_provider._shared.child_environment import inherited
from ray_provider._shared.redaction import Redactor
from ray_provider.clusters.helm.errors import NOWHERE, explain
from ray_provider.exceptions import ConfigurationError, RayProviderError

log = logging.getLogger(__name__)

#: What Helm makes of a release's labels; older ones can't say whose a release is.
OLDEST_HELM = (3, 13, 0)
_TERMINATE_SECONDS = 10.0
#: Helm's variables that say where it keeps its things. All others would lead it to another cluster than the connection
#: says, or have it run other programs (HELM_PLUGINS).
_KEPT = frozenset(
    {
        *(f"HELM_{kind}_HOME" for kind in ("CACHE", "CONFIG", "DATA")),
        *("HELM_CONTENT_CACHE", "HELM_REGISTRY_CONFIG", "HELM_REPOSITORY_CACHE", "HELM_REPOSITORY_CONFIG"),
        *("HELM_DRIVER", "HELM_DRIVER_SQL_CONNECTION_STRING"),
    }
)
#: Of the others, those that nobody misses: the connection says it.
_REPLACED = ("HELM_KUBE", "HELM_NAMESPACE", "HELM_DEBUG", "HELM_BURST_LIMIT")


def find_helm(path: str | None = None) -> str:
    """Give Helm's executable: the one named, that of ``RAY_PROVIDER_HELM``, or the first on ``PATH``.

    :param path: path or name; ``None`` for the others.
    :raises ConfigurationError: there is none.
    """
    wanted = path or os.environ.get("RAY_PROVIDER_HELM") or "helm"
    found = shutil.which(wanted)
    if found is None:
        raise ConfigurationError(
            f"Helm is not there: {wanted!r} is no program that can be run on this worker.",
            hint="Install Helm 3.13 or newer on the workers and triggerers (https://helm.sh/docs/intro/install), "
            "or name it: `helm_path=` of the task, or the environment variable RAY_PROVIDER_HELM.",
        )
    return str(Path(found).absolute())


def helm_environment(
    extra: Mapping[str, str] | None = None, warn: Callable[[str], None] = lambda _: None
) -> dict[str, str]:
    """Give the environment of a Helm process, and of the credential programs that it runs.

    It is ours, without Airflow's secrets, and without what would lead Helm to another cluster or have it run other
    programs.

    :param extra: on top; it wins.
    :param warn: told which variables are left out that somebody may miss.
    """
    env: dict[str, str] = {}
    for name, value in inherited().items():
        if name == "KUBECONFIG" or (name.startswith("HELM_") and name not in _KEPT):
            if name.startswith("HELM_") and not name.startswith(_REPLACED):
                warn(f"The environment variable {name} is not passed on to Helm: it changes what Helm runs.")
            continue
        env[name] = value
    env.update(extra or {})
    return env


def without_plain_http(env: Mapping[str, str]) -> dict[str, str]:
    """Give an environment in which Helm reaches nothing by plain ``http`` but this machine.

    An index behind ``https`` may name archives behind ``http``, and a server may redirect there: only Helm itself sees
    all of that. Programs in Go ask ``HTTP_PROXY`` for plain ``http`` alone, and never for this machine (`httpproxy`_).
    ``NO_PROXY`` would make exceptions; where there is a proxy for ``https`` it has to stay.

    .. _httpproxy: https://pkg.go.dev/golang.org/x/net/http/httpproxy#Config

    :param env: the whole environment of a Helm.
    """
    dropped = {"HTTP_PROXY"}
    if not any(env.get(name) for name in ("HTTPS_PROXY", "https_proxy")):
        dropped.add("NO_PROXY")
    kept = {name: value for name, value in env.items() if name.upper() not in dropped}
    return kept | {"HTTP_PROXY": f"http://{NOWHERE}"}


async def run_helm(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    redact: Callable[[str], str] = str,
) -> tuple[int, bytes, bytes]:
    """Run Helm to its end and give its exit status, output and errors.

    When it is cancelled, Helm is asked to end (it then marks the release as failed), and killed with all that it
    started if it doesn't; only then the cancellation goes on.

    :param argv: program and arguments; a secret in them has to be known to ``redact``.
    :param stdin: what it reads; nothing if ``None``.
    :param env: its whole environment; that of :func:`helm_environment` if ``None``.
    :param redact: takes secrets out of what is logged. Default: nothing is taken out.
    :raises asyncio.CancelledError: it was cancelled; Helm has ended.
    """
    shown = redact(shlex.join(argv[1:]))
    log.debug("helm %s", shown)
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(env) if env is not None else helm_environment(),
        start_new_session=True,
    )
    talk = asyncio.ensure_future(process.communicate(stdin))
    try:
        out, err = await asyncio.shield(talk)
    except BaseException:
        await asyncio.shield(_end(process, talk))
        raise
    log.debug("helm %s: exit status %s after %.1f s", shown, process.returncode, time.monotonic() - began)
    return process.returncode or 0, out, err


async def _end(process: asyncio.subprocess.Process, talk: asyncio.Future[tuple[bytes, bytes]]) -> None:
    _signal(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_TERMINATE_SECONDS):
            await asyncio.shield(talk)
    except TimeoutError:
        pass
    finally:
        _signal(process.pid, signal.SIGKILL)  # the group: a plugin or credential program may be left of it
        with contextlib.suppress(OSError):
            await talk


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def helm_version(executable: str) -> tuple[int, int, int]:
    """Ask Helm for its version.

    :param executable: as found by :func:`find_helm`.
    :raises ConfigurationError: it is too old, or no Helm.
    """
    code, out, err = await run_helm([executable, "version", "--template", "{{ .Version }}"])
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", out.decode(errors="replace").strip())
    if code or not found:
        said = Redactor(guess=True)((err or out).decode(errors="replace").strip())[:300]
        raise ConfigurationError(f"{executable} is no Helm that can be used: asked for its version it said {said!r}.")
    version = (int(found[1]), int(found[2]), int(found[3]))
    if version < OLDEST_HELM:
        raise ConfigurationError(
            f"Helm {found[0].lstrip('v')} ({executable}) is too old: {'.'.join(map(str, OLDEST_HELM))} is needed.",
            hint="Install a newer Helm 3, or Helm 4, or name another one with `helm_path=`.",
        )
    return version


def _arguments(command: Sequence[Any], labels: Mapping[str, str]) -> list[str]:
    """Give a command of pyhelm3's with what it can't say itself."""
    argv = [str(part) for part in command]
    if labels and argv[0] in ("install", "upgrade"):
        argv += ["--labels", ",".join(f"{key}={value}" for key, value in labels.items())]
    if argv[0] == "uninstall":
        # The RayCluster stays, as one that is being deleted, until its pods are gone. Deleted at once, the operator may
        # not know it yet when it sees the first pod go, and make another one.
        argv += ["--cascade", "foreground"]
    return argv


def _failure(argv: Sequence[str], code: int, err: bytes, redact: Callable[[str], str]) -> RayProviderError:
    said = redact(err.decode(errors="replace").strip())
    return explain(said, code=code, argv=[redact(part) for part in argv[1:]])


def make_command(
    executable: str,
    version: tuple[int, int, int],
    kubeconfig: Path | None,
    *,
    redact: Callable[[str], str],
    history: int = 3,
    timeout: str = "5m",
    labels: Mapping[str, str] | None = None,
) -> Any:
    """Make the ``Command`` that pyhelm3's client runs Helm by.

    :param executable: as found by :func:`find_helm`.
    :param version: as asked by :func:`helm_version`; saves the client from asking, synchronously.
    :param kubeconfig: file with the one context to use.
    :param redact: takes secrets out of what is shown.
    :param history: how many revisions of a release are kept.
    :param timeout: of Helm's own steps, as Helm takes it: ``300s``, ``5m`` (the default).
    :param labels: put on releases that are installed or upgraded.
    """
    import semver
    from pyhelm3 import Command
    from pyhelm3.errors import ReleaseNotFoundError

    extra = {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
    env = helm_environment(extra, log.warning)

    class OwnCommand(Command):  # type: ignore[misc]
        async def run(self, command: Sequence[Any], input: bytes | None = None) -> bytes:  # noqa: A002 - pyhelm3's name
            return await self._run([executable, *_arguments(command, labels or {})], input, env)

        async def pull(self, arguments: Sequence[str], *, plain_http: bool) -> None:
            # By plain http only if that is said.
            argv = [executable, "pull", *arguments]
            await self._run(argv, None, env if plain_http else without_plain_http(env))

        async def _run(self, argv: Sequence[str], stdin: bytes | None, env: Mapping[str, str]) -> bytes:
            code, out, err = await run_helm(argv, stdin=stdin, env=env, redact=redact)
            if code == 0:
                return out
            if b"release: not found" in err.lower():
                raise ReleaseNotFoundError(code, out, err)
            raise _failure(argv, code, err, redact)

        def client_version(self) -> Any:
            return semver.Version(*version)

    return OwnCommand(executable=executable, history_max_revisions=history, default_timeout=timeout)


__all__ = [
    "find_helm",
    "helm_environment",
    "helm_version",
    "make_command",
    "run_helm",
]
