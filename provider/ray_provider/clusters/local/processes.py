"""Process trees that we started: found again by a mark in their environment, and ended exactly.

A pid alone says nothing: it may have been given to another process meanwhile. So a process is remembered with its start
time. What it starts is known by three signs, because each of them can get lost: being its child (until a parent dies),
a mark in the environment (until a process changes its title, which overwrites it), and the session that our process
opened (until a process opens its own).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

#: A start time is computed from the machine's boot time, which moves a little when the clock is set.
_START_TIME_TOLERANCE = 2.0


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from a later one with the same pid.

    :param pid: its id.
    :param started: when it was started, in seconds since the epoch.
    """

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Remember a process that is there now.

        :param pid: of the process. With the time of its start it is never taken for a later one of the same pid.
        :raises psutil.NoSuchProcess: it isn't.
        """
        return cls(pid=pid, started=psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """Give the process if it still runs; ``None`` if it ended or its pid belongs to another one now."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) <= _START_TIME_TOLERANCE
            return process if same and is_alive(process) else None
        except psutil.NoSuchProcess:
            return None


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs. A zombie, which only waits for its parent to look at it, does not.

    :param process: may have ended meanwhile.
    """
    try:
        return process.is_running() and process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


def marked(variable: str, value: str) -> list[psutil.Process]:
    """Give the running processes that were started with ``variable=value`` in their environment.

    Only those of our own user can be looked at, which are the only ones that we can have started. A process that only
    now was forked and has not called ``exec`` yet carries its parent's environment, so this finds it too.

    :param variable: name of an environment variable that only we set.
    :param value: which of ours it is.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(variable) == value and is_alive(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
            continue
    return found


def descendants(root: psutil.Process) -> list[psutil.Process]:
    """Give a process and all that it started, as far as the kernel still knows whose child they are.

    :param root: it is the first of the list; none, if it has ended.
    """
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def in_sessions(leaders: Iterable[ProcessIdentity]) -> list[psutil.Process]:
    """Give the running processes in the sessions that these processes opened, also when those have ended.

    :param leaders: processes that were started with a session of their own.
    """
    ours = {}
    for leader in leaders:
        if leader.find() is not None or not psutil.pid_exists(leader.pid):
            ours[leader.pid] = leader.started - _START_TIME_TOLERANCE
    found = []
    for process in psutil.process_iter() if ours else ():
        try:
            session = os.getsid(process.pid)
            if session in ours and process.create_time() >= ours[session] and is_alive(process):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def family(variable: str, value: str, leaders: Iterable[ProcessIdentity] = ()) -> list[psutil.Process]:
    """Give all running processes that stem from ours, by any of the three signs.

    :param variable: of the mark. Whoever sets it has to open a session with it: then all of that session is ours.
    :param value: of the mark.
    :param leaders: processes of ours that opened a session.
    """
    found = {process.pid: process for process in [*marked(variable, value), *in_sessions(leaders)]}
    sessions = set()
    for process in found.values():
        try:
            sessions.add(os.getsid(process.pid))
        except OSError:
            continue
    sessions.discard(os.getsid(0))
    for process in psutil.process_iter() if sessions else ():
        try:
            if os.getsid(process.pid) in sessions and is_alive(process):
                found.setdefault(process.pid, process)
        except (psutil.Error, OSError):
            continue
    for process in list(found.values()):
        found.update({child.pid: child for child in descendants(process) if is_alive(child)})
    found.pop(os.getpid(), None)
    return list(found.values())


def signal_all(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each process that is still the one we found.

    :param processes: those that have ended are passed over.
    :param number: of the signal.
    """
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def wait_gone(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until processes have ended, and give those that have not.

    A child of our own is waited for, so that it leaves no zombie.

    :param processes: that were told to end.
    :param seconds: for all of them together.
    """
    _, remaining = psutil.wait_procs(list(processes), timeout=seconds)
    return [process for process in remaining if is_alive(process)]


def describe(process: psutil.Process) -> str:
    """Say in a few words which process this is, without its arguments (they may be long).

    :param process: may have ended: then that is said.
    """
    try:
        return f"{process.pid} ({process.name()})"
    except psutil.NoSuchProcess:
        return f"{process.pid} (ended)"


def last_lines(path: Path, count: int = 20, *, most_bytes: int = 64 * 1024) -> str:
    """Give the last lines of a log file; an empty text if there is none.

    :param path: the file.
    :param count: how many lines at most.
    :param most_bytes: only so much of the file's end is read: its lines may be long.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-count:])
