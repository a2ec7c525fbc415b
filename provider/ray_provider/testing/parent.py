"""Servers that tests start end with the tests, also when those are killed.

Between ``fork`` and ``exec`` no code of ours runs (no ``preexec_fn``, no ``user``): in a process in which gRPC lives,
its fork handlers would run, too, and abort the child every now and then. So a small program, started without a fork of
the whole process, does what has to be done and then becomes the server.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def dying_with_parent(
    command: Sequence[str | Path], *, python: str | Path = sys.executable, user: tuple[int, int] | None = None
) -> list[str]:
    """Give the command that runs ``command`` under the same process id, and ends it (SIGTERM) with the caller.

    The kernel does that, on Linux; elsewhere the command runs as it is. It is the thread that starts the command whose
    end counts: start it from a thread that lives as long.

    :param command: the program, looked for on PATH, and its arguments.
    :param python: runs the small program before; any Python 3.
    :param user: as which user and group (ids) the command runs; only root may say so.
    """
    as_whom = f"{user[0]}:{user[1]}" if user else "-"
    # Isolated and without site-packages: it starts in 20 ms, whatever the caller's environment says.
    return [str(python), "-I", "-S", __file__, str(os.getpid()), as_whom, *map(str, command)]


def main(parent: int, as_whom: str, command: list[str]) -> None:
    """Become the command.

    :param parent: pid of the process that started this one: when that ends, the command is ended, too (Linux).
    :param as_whom: ``uid:gid`` to become; ``-``: stay who we are.
    :param command: program and arguments.
    """
    if as_whom != "-":
        user, group = map(int, as_whom.split(":"))
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    if sys.platform == "linux":
        # After the change of the user, which would clear it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the process that started this one has ended")
    try:
        # No shell is wanted.
        os.execvp(command[0], command)  # noqa: S606 # nosec B606
    except OSError as error:
        sys.exit(f"{command[0]} can't be started: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
