"""Stands between a task and Terraform, so that Terraform can end in peace when the task can't wait for it.

Airflow gives a killed task five seconds before SIGKILL; Terraform needs longer to finish the calls under way, save its
state and release the lock. And a Terraform whose reader is gone dies of the first line that it prints. So it writes
into files, and this small program, in a session of its own, waits for it:

* a line ``interrupt`` on standard input sends SIGINT (once more for a second line); ``kill`` sends SIGKILL; ``done``
  says that the task has read what was written;
* end of file on standard input means that the task is gone: SIGINT, minutes of patience, SIGINT again, more minutes,
  and SIGKILL at the very end. Then the private folder is removed, which the task would have done;
* a state that the backend refused at the end is saved (``rescue.py``), whether the task lives or not;
* standard output says what happened, a line of JSON each.

Run as a script, so that it imports nothing but the standard library. Its first line of input is the job: a JSON object.
Both it and the command hold the lock of the private folder (``folder.py``), which no other run then removes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any


def main() -> int:
    """Run one command and wait for it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Caught, not ignored: what is ignored would be ignored by the child, too.
        signal.signal(number, lambda *_: None)
    job = json.loads(_first_line())
    os.umask(0o077)
    with open(job["stdout"], "wb") as out, open(job["stderr"], "wb") as err:  # noqa: PTH123 - starts faster without
        try:
            child = subprocess.Popen(
                job["argv"],
                cwd=job["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                pass_fds=[] if job.get("lock") is None else [job["lock"]],
            )
        except OSError as error:
            _tell({"failed": f"{type(error).__name__}: {error.strerror}"})
            return 0
    _tell({"started": child.pid})
    _Keeper(child, job).wait()
    return 0


def _load_rescue() -> ModuleType:
    """Load the file beside this one: of a package, nothing is to be imported."""
    spec = importlib.util.spec_from_file_location("rescue", Path(__file__).with_name("rescue.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1)
        if not part:
            break
        line += part
    return line


def _tell(message: dict[str, Any]) -> None:
    with suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")


class _Keeper:
    def __init__(self, child: subprocess.Popen[bytes], job: dict[str, Any]) -> None:
        self.child = child
        self.patience: list[float] = list(job["patience"])
        self.folder: str | None = job.get("folder")
        self.orphaned = False
        self.killed = False
        self.interrupts = 0
        self.deadline: float | None = None
        self.kept: str | None = job.get("kept")
        self.rescue = None if job.get("rescue") is None else _load_rescue().Rescue(job["rescue"], _tell)

    def wait(self) -> None:
        """Wait for the child to end, doing what standard input says."""
        ended, ended_write = os.pipe()
        os.set_blocking(ended_write, False)
        signal.set_wakeup_fd(ended_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while self.child.poll() is None:
            watched = [ended] if self.orphaned else [0, ended]
            ready, _, _ = select.select(watched, [], [], self.timeout())
            if ended in ready:
                os.read(ended, 4096)
            if 0 in ready:
                self.command(os.read(0, 4096))
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.step()
            if self.rescue is not None:
                self.rescue.look(running=self.child.poll() is None)
        if self.interrupts:
            # Of a provisioner that is interrupted, Terraform ends the shell; what that has started would go on.
            with suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGTERM)
        rescued = {} if self.rescue is None else self.rescue.finish()
        _tell({"exited": self.child.returncode, "killed": self.killed, "interrupts": self.interrupts, **rescued})
        done = False
        while not self.orphaned and not done and (data := os.read(0, 4096)):
            # The task reads the files and removes them; should it die before that, end of file says so.
            done = b"done" in data
        if not done and self.folder is not None:
            _load_rescue().remove_folder(self.folder, self.kept)

    def timeout(self) -> float | None:
        """Give how long nothing has to be done, if nothing happens."""
        found = [] if self.deadline is None else [max(0.0, self.deadline - time.monotonic())]
        if self.rescue is not None and self.rescue.every is not None:
            found.append(self.rescue.every)
        return min(found) if found else None

    def command(self, data: bytes) -> None:
        """Do what the task says, or notice that it is gone.

        :param data: lines of standard input; empty at its end.
        """
        if not data:
            self.orphaned = True
            if self.deadline is None:
                self.step()
            return
        for word in data.split():
            if word == b"interrupt":
                self.step()
            elif word == b"kill":
                self.kill()

    def step(self) -> None:
        """Go on to the next, less patient means."""
        if self.interrupts < len(self.patience):
            with suppress(ProcessLookupError):
                self.child.send_signal(signal.SIGINT)
            self.deadline = time.monotonic() + self.patience[self.interrupts]
            self.interrupts += 1
            _tell({"interrupted": self.interrupts})
        else:
            self.kill()

    def kill(self) -> None:
        """End it, with everything that it started."""
        self.killed = True
        self.deadline = None
        _tell({"killing": True})
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
