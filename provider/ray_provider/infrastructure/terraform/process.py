"""Runs one command of Terraform under its keeper, with its output read while it comes."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ray_provider.infrastructure.terraform.folder import lock_of
from ray_provider.infrastructure.terraform.rescue import Rescue, kept_states

#: After the first SIGINT, and after the second, before the next step. Making or deleting a cluster takes up to twenty
#: minutes in which the cloud's call can't be taken back: killing Terraform then loses the state of it.
PATIENCE_SECONDS = (600.0, 300.0)

#: How often the output files are looked at. They are files, not pipes, so that Terraform outlives its reader.
READ_EVERY_SECONDS = 0.1

_KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended.

    :param exit_code: of the command.
    :param interrupts: how many SIGINTs it was sent.
    :param killed: it did not end after the last one.
    :param saved: a state that the backend had refused was saved afterwards.
    :param unlocked: a lock that it left behind was released.
    :param kept: path of a state that could not be saved; ``None``: there is none.
    :param lock_id: of the lock on a state that is kept, if it is known.
    :param why: the state could not be saved; empty: it is.
    """

    exit_code: int
    interrupts: int
    killed: bool
    saved: bool = False
    unlocked: bool = False
    kept: str | None = None
    lock_id: str | None = None
    why: str = ""


class CommandProcess:
    """One running command. Use as a context manager; leaving it early interrupts the command and waits.

    :param argv: program and arguments; no secret in them.
    :param cwd: where it runs.
    :param env: its whole environment.
    :param output: folder for its output files (private).
    :param folder: removed by the keeper if this process dies before the command has ended.
    :param patience: seconds after the first and the second SIGINT.
    :param rescue: what :class:`ray_provider.infrastructure.terraform.rescue.Rescue` has to know, for a command that
        writes state.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str],
        output: Path,
        folder: Path | None = None,
        patience: Sequence[float] = PATIENCE_SECONDS,
        rescue: Mapping[str, Any] | None = None,
    ) -> None:
        self._argv = list(argv)
        self._cwd = None if cwd is None else str(cwd)
        self._env = dict(env)
        self._stdout = output / "stdout"
        self._stderr = output / "stderr"
        self._keeper_log = output / "keeper"
        self._folder = folder
        self._patience = list(patience)
        self._rescue = None if rescue is None else {**rescue, "stdout": str(self._stdout)}
        self._keeper: subprocess.Popen[bytes] | None = None
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None
        self._ended = threading.Event()
        self._over = False
        self.pid: int | None = None

    def __enter__(self) -> Self:
        lock = None if self._folder is None else lock_of(self._folder)
        job = {
            "argv": self._argv,
            "cwd": self._cwd,
            "stdout": str(self._stdout),
            "stderr": str(self._stderr),
            "folder": None if self._folder is None else str(self._folder),
            "patience": self._patience,
            "lock": lock,
            "kept": str(kept_states(os.environ)),
            "rescue": self._rescue,
        }
        with self._keeper_log.open("wb") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-E", str(_KEEPER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._env,
                start_new_session=True,
                close_fds=True,
                pass_fds=() if lock is None else (lock,),
            )
        self._send(json.dumps(job).encode() + b"\n")
        assert self._keeper.stdout is not None
        self._reader = threading.Thread(target=self._listen, args=(self._keeper.stdout,), daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        keeper = self._keeper
        if keeper is None:
            return
        if kind is not None and keeper.poll() is None and self.pid is not None:
            # An exception (execution_timeout, KeyboardInterrupt) while it runs: the state has to be saved first.
            self.interrupt()
            self._ended.wait()
        if keeper.poll() is not None:
            self._wait_without_keeper()
        self._send(b"done\n")
        with suppress(OSError):
            if keeper.stdin is not None:
                keeper.stdin.close()
        keeper.wait()
        if self._reader is not None:
            self._reader.join()
        if keeper.stdout is not None:
            keeper.stdout.close()

    def interrupt(self) -> None:
        """Send SIGINT. The keeper goes on if nothing comes of it. May be called in a signal handler."""
        self._send(b"interrupt\n")

    def kill(self) -> None:
        """End it at once. The state is lost, and the lock stays behind: only when all else has failed."""
        self._send(b"kill\n")

    def run(
        self,
        on_stdout: Callable[[str], None],
        on_stderr: Callable[[str], None],
        on_step: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Finished:
        """Pass the output on line by line until the command has ended.

        :param on_stdout: gets each line of the output.
        :param on_stderr: gets each line of the errors.
        :param on_step: gets what the supervisor tells. Default: nobody does.
        :raises FileNotFoundError: the program can't be started.
        :raises ChildProcessError: the process that waits for the program has died.
        """
        out, err = _Tail(self._stdout, on_stdout), _Tail(self._stderr, on_stderr)
        try:
            while True:
                try:
                    message = self._messages.get(timeout=READ_EVERY_SECONDS)
                except queue.Empty:
                    # Who reads may raise, and then it is ended: so not before it is known which process that is.
                    if self.pid is not None:
                        out.read()
                        err.read()
                    continue
                if message is None:
                    self._wait_without_keeper()
                    raise ChildProcessError(
                        f"the process that waits for Terraform has died: {self._keeper_log.read_text()[-500:]}"
                    )
                if "failed" in message:
                    raise FileNotFoundError(f"{self._argv[0]} can't be started: {message['failed']}")
                if "exited" in message:
                    out.read(final=True)
                    err.read(final=True)
                    return Finished(
                        exit_code=int(message["exited"]),
                        interrupts=int(message["interrupts"]),
                        killed=bool(message["killed"]),
                        saved=bool(message.get("saved")),
                        unlocked=bool(message.get("unlocked")),
                        kept=message.get("kept"),
                        lock_id=message.get("lock_id"),
                        why=str(message.get("why", "")),
                    )
                if "started" in message:
                    self.pid = int(message["started"])
                else:
                    on_step(message)
        finally:
            out.close()
            err.close()

    def _wait_without_keeper(self) -> None:
        """Take the place of a keeper that was killed: Terraform may still work in the folder."""
        if self.pid is None or self._over:
            return
        self._over = True
        deadlines = [*self._patience, 5.0]
        for seconds, number in zip(deadlines, [signal.SIGINT] * len(self._patience) + [signal.SIGKILL], strict=True):
            until = time.monotonic() + seconds
            with suppress(ProcessLookupError, PermissionError):
                (os.killpg if number == signal.SIGKILL else os.kill)(self.pid, number)
            while not _is_gone(self.pid) and time.monotonic() < until:
                time.sleep(READ_EVERY_SECONDS)
            if _is_gone(self.pid):
                break
        # Of a provisioner that is interrupted, Terraform ends the shell; what that has started would go on.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGTERM)
        if self._rescue is not None:
            Rescue(self._rescue, self._messages.put, self._env).finish()

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            message = json.loads(line)
            self._messages.put(message)
            if "exited" in message:
                self._over = True
                self._ended.set()
        self._ended.set()
        self._messages.put(None)

    def _send(self, data: bytes) -> None:
        # os.write, not the buffered file: this may run in a signal handler, in the middle of another write.
        if self._keeper is not None and self._keeper.stdin is not None:
            with suppress(OSError, ValueError):
                os.write(self._keeper.stdin.fileno(), data)


def _is_gone(pid: int) -> bool:
    """Whether a process that is not our child has ended; also one that nobody has buried."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except OSError:
        # Somebody else's, or a system without /proc.
        return Path("/proc/self").exists() and not Path(f"/proc/{pid}").exists()
    return state in {"Z", "X"}


class _Tail:
    """Reads a growing file line by line.

    :param path: of the file; it need not be there yet.
    :param write: gets each line.
    """

    def __init__(self, path: Path, write: Callable[[str], None]) -> None:
        self._path = path
        self._write = write
        self._file: IO[bytes] | None = None
        self._rest = b""

    def read(self, *, final: bool = False) -> None:
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return
        while chunk := self._file.read(1 << 16):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                self._write(line.decode("utf-8", "replace"))
        if final and self._rest:
            self._write(self._rest.decode("utf-8", "replace"))
            self._rest = b""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
