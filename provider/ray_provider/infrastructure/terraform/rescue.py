"""Saves a state that its backend refused at the end of an apply.

Terraform writes such a state to ``errored.tfstate`` in its working folder and ends. That folder is a private copy that
is removed, so the file has to go first: it is pushed again, with patience and with the credentials that Terraform finds
then; else it is kept in a lasting place, where the next run on the same state finds it.

Terraform's own lock may be left behind by the same failure. Nothing of Terraform's output tells the id of the lock that
an apply holds, so it is asked for while the apply works: a second command is refused, and told the holder, which then
is our apply. Only a lock known in this way, or one that says itself that our apply made it, is released.

The supervisor of a command (``keeper.py``) loads this file without the package: standard library only.
"""

from __future__ import annotations

import calendar
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

#: What Terraform and OpenTofu write where they run.
ERRORED = "errored.tfstate"
#: How long a state is pushed again, in seconds, before it is kept.
PATIENCE_SECONDS = 900.0
#: In a private folder: whose state is being worked on, for whoever finds the folder after a crash.
IDENTITY = ".identity.json"

_PAUSE_SECONDS = (1.0, 30.0)
_COMMAND_SECONDS = 120.0
#: Asks for the lock, and changes nothing: no state has such a resource.
_ASK = ("taint", "-lock-timeout=0s", "terraform_data.airflow_ray_is_not_in_this_state")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_BORDER = re.compile(r"^[╷│╵] ?", re.MULTILINE)
_LOCKED = re.compile(r"Error acquiring the state lock|already locked", re.IGNORECASE)
#: The http backend shows the lock that it wanted to make as "Lock Info", and the holder's id only here.
_HTTP_HOLDER = re.compile(r"remote state already locked:\s+ID=(\S+)")
_REFUSED = re.compile(r"cannot (?:import|overwrite) (?:existing )?state|over newer state|unrelated state")
_INFO = re.compile(r"^\s*(ID|Operation|Who|Created):[ \t]*(\S.*?)\s*$", re.MULTILINE)


def plain(text: str) -> str:
    """Give what a command said, without colours and frames.

    :param text: as it was printed.
    """
    return _BORDER.sub("", _COLORS.sub("", text)).strip()


def lock_holder(text: str) -> dict[str, str] | None:
    """Give who holds the lock, from the text of a command that did not get it; ``None`` if it failed otherwise.

    :param text: as it was printed.
    """
    text = plain(text)
    if not _LOCKED.search(text):
        return None
    if found := _HTTP_HOLDER.search(text):
        return {"ID": found.group(1)}
    return dict(_INFO.findall(text))


def kept_states(env: Mapping[str, str]) -> Path:
    """Give the lasting folder for states that could not be saved.

    :param env: environment variables; ``RAY_PROVIDER_KEPT_STATES`` names the folder.
    """
    if own := env.get("RAY_PROVIDER_KEPT_STATES"):
        return Path(own)
    home = env.get("HOME") or "/"
    return Path(env.get("XDG_STATE_HOME") or f"{home}/.local/state") / "airflow-ray" / "kept-states"


def last_resort() -> Path:
    """Give a folder that outlives the run, for when there is no better one. Whose it is has to be looked at."""
    return Path(f"/var/tmp/airflow-ray-kept-states-{os.getuid()}")  # noqa: S108 # nosec B108


def keep(state: Path, identity: Mapping[str, Any], folder: Path) -> Path:
    """Move a state to a lasting place, readable by its owner only.

    :param state: the file.
    :param identity: what :func:`ray_provider.infrastructure.terraform.kept.identity_of` gave.
    :param folder: the lasting place; made if it is not there.
    :return: where it lies now.
    :raises OSError: it could be written nowhere; it lies where it was.
    """
    content = state.read_bytes()
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{hashlib.sha256(content).hexdigest()[:8]}"
    problem: OSError | None = None
    for base in (folder, last_resort()):
        target = base / str(identity["key"]) / f"{name}.tfstate"
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            if base.stat().st_uid != os.getuid():
                raise PermissionError(None, f"{base} is somebody else's")
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = json.dumps(dict(identity), indent=2).encode()
            for path, data in ((target.with_suffix(".json"), about), (target, content)):
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            problem = error
            continue
        state.unlink()
        return target
    raise problem or OSError("no place")


class _Patience:
    """Longer and longer pauses until the time is over; the last try is at its end (docs/decisions/retries.md).

    :param seconds: how long to go on.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._pause, self._longest = _PAUSE_SECONDS

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._until

    def pause(self) -> None:
        time.sleep(max(0.0, min(self._pause, self._until - time.monotonic())))
        self._pause = min(self._pause * 2, self._longest)


class Rescue:
    """Watches over the state of one apply, and saves it when the backend did not take it.

    :param job: ``program`` and ``cwd`` of the apply, ``stdout`` (the file with its JSON events), ``seconds`` of
        patience, ``kept`` (the lasting folder) and ``identity`` (without it a state that can't be saved stays where it
        is), ``lockable`` (whether a lock can outlive its process).
    :param tell: gets what happens, as plain data.
    :param env: the environment of Terraform's commands; this process' own if not given.
    """

    def __init__(
        self, job: Mapping[str, Any], tell: Callable[[dict[str, Any]], None], env: Mapping[str, str] | None = None
    ) -> None:
        self._env = None if env is None else dict(env)
        self.program = str(job["program"])
        self.cwd = str(job["cwd"])
        self.stdout = Path(job["stdout"])
        self.seconds = float(job.get("seconds", PATIENCE_SECONDS))
        self.kept = job.get("kept")
        self.identity: Mapping[str, Any] | None = job.get("identity")
        self.tell = tell
        self.lock_id: str | None = None
        self.began = time.time()
        self._probe: subprocess.Popen[bytes] | None = None
        self._watching = bool(job.get("lockable", True))
        self._seen = 0

    # ------------------------------------------------------------------ while the apply works
    @property
    def every(self) -> float | None:
        """How often :meth:`look` wants to be called, in seconds."""
        return 0.2 if self._watching else None

    def look(self, *, running: bool) -> None:
        """Learn the id of the lock as soon as the apply surely holds it.

        :param running: the command still runs.
        """
        if not self._watching:
            return
        if self._probe is None:
            if running and self._has_begun():
                self._probe = self._start(*_ASK)
            return
        if self._probe.poll() is None and running:
            return
        self._watching = False
        # It comes to its own end: after a short apply it may be the one that holds the lock, which killed it would
        # leave behind.
        text = self._end(self._probe)
        # Somebody else may have taken the lock after the apply: what it says then proves nothing.
        if running and (holder := lock_holder(text)):
            self.lock_id = holder.get("ID")

    def _has_begun(self) -> bool:
        with suppress(OSError), self.stdout.open("rb") as file:
            file.seek(self._seen)
            data = file.read()
            # A line may be there in part only.
            self._seen += data.rfind(b"\n") + 1
            return b'"type":"apply_start"' in data
        return False

    # ------------------------------------------------------------------ after it
    def finish(self) -> dict[str, Any]:
        """Save what is to be saved, and release our lock.

        :return: ``saved`` (a refused state is in the backend now), ``unlocked`` (Terraform saved the state itself, and
            its lock is gone now, too), ``kept`` (where the state lies instead), ``why``.
        """
        ended = time.time()
        self.look(running=False)
        state = Path(self.cwd) / ERRORED
        if not state.is_file():
            if self._said(b"Error releasing the state lock"):
                return {"unlocked": self._release(ended)}
            return {}
        os.chmod(state, 0o600)  # noqa: PTH101
        self.tell({"rescue": "began", "seconds": self.seconds})
        why = self._push(ended)
        if why is None:
            state.unlink()
            self.tell({"rescue": "saved"})
            return {"saved": True}
        kept = str(state)
        if self.identity is not None and self.kept:
            try:
                kept = str(keep(state, {**self.identity, "lock_id": self.lock_id}, Path(self.kept)))
            except OSError as error:
                # The caller does not remove a folder in which a state lies.
                why += f" It can't be kept elsewhere either ({error.strerror})."
        self.tell({"rescue": "kept", "path": kept, "why": why, "lock_id": self.lock_id})
        return {"kept": kept, "why": why, "lock_id": self.lock_id}

    def _push(self, ended: float) -> str | None:
        """Push until it is taken; give why not, if it never was."""
        patience = _Patience(self.seconds)
        while True:
            if (other := self._other_in_backend()) is not None:
                return other
            code, text = self._run("state", "push", "-lock-timeout=0s", ERRORED)
            if code == 0:
                return None
            ours = self._held_by_us(text, ended)
            if ours is not None:
                # It is our apply's: the state is saved under it, so that nobody comes in between.
                self.lock_id = ours
                code, text = self._run("state", "push", "-lock=false", ERRORED)
                if code == 0:
                    self._unlock(ours)
                    return None
            if final(text):
                return last_words(text)
            if patience.is_over:
                return last_words(text)
            self.tell({"rescue": "waiting", "why": last_words(text)})
            patience.pause()

    def _other_in_backend(self) -> str | None:
        """Say what a push would overwrite that Terraform itself does not look for."""
        mine = (Path(self.cwd) / ERRORED).read_text(encoding="utf-8")
        if json.loads(mine).get("lineage"):
            return None
        process = self._start("state", "pull", errors=subprocess.DEVNULL)
        out = self._end(process)
        # What can't be read can't be written either: the push will say why.
        return None if process.returncode != 0 else would_overwrite(mine, out)

    def _held_by_us(self, text: str, ended: float) -> str | None:
        holder = lock_holder(text)
        if not holder or "ID" not in holder:
            return None
        if self.lock_id is not None:
            return holder["ID"] if holder["ID"] == self.lock_id else None
        # A lock keeps all others out, so one that an apply made on this host while ours worked is ours.
        made = created(holder.get("Created", ""))
        ours = (
            holder.get("Operation") == "OperationTypeApply"
            and holder.get("Who", "").rpartition("@")[2] == socket.gethostname()
            and made is not None
            and self.began - 2 <= made <= ended
        )
        return holder["ID"] if ours else None

    def _release(self, ended: float) -> bool:
        """Release the lock that the apply could not release, with patience; nobody else's."""
        patience = _Patience(self.seconds)
        while True:
            text = self._run(*_ASK)[1]
            ours = self._held_by_us(text, ended)
            if self._unlock(ours):
                return True
            holder = lock_holder(text)
            taken = ours is None and holder is not None and "ID" in holder
            if taken or patience.is_over:
                return False
            patience.pause()

    def _unlock(self, lock_id: str | None) -> bool:
        if lock_id is None:
            return False
        code, text = self._run("force-unlock", "-force", lock_id)
        self.tell({"rescue": "unlocked" if code == 0 else "locked", "lock_id": lock_id, "why": last_words(text)})
        return code == 0

    def _said(self, text: bytes) -> bool:
        with suppress(OSError):
            return text in self.stdout.read_bytes()
        return False

    def _start(self, *arguments: str, errors: int = subprocess.STDOUT) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.program, *arguments],
            cwd=self.cwd,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )

    def _run(self, *arguments: str) -> tuple[int, str]:
        process = self._start(*arguments)
        out = self._end(process)
        return process.returncode, plain(out)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> str:
        try:
            out, _ = process.communicate(timeout=_COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return f"no answer in {_COMMAND_SECONDS:.0f} s"
        return out.decode("utf-8", "replace")


def would_overwrite(state: str, backend: str) -> str | None:
    """Say what a push would overwrite that Terraform itself does not look for.

    Terraform compares lineage and serial; but the state of a first apply that was never saved has neither, and would
    replace any other (Terraform 1.11).

    :param state: the state that is to be pushed.
    :param backend: what the backend holds, from ``state pull``.
    """
    if json.loads(state).get("lineage") or not backend.strip():
        return None
    there = json.loads(backend)
    if not there.get("resources"):
        return None
    return (
        f"it holds a newer state, with {len(there['resources'])} resources (serial {there.get('serial')}), which"
        " another run made since"
    )


def final(text: str) -> bool:
    """Whether pushing again can't help: the backend holds a newer state, or another one.

    :param text: what the push said.
    """
    return _REFUSED.search(text) is not None


def last_words(text: str) -> str:
    """Give the gist of what a command said, on one line.

    :param text: as it was printed.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    begin = next((index for index, line in enumerate(lines) if line.startswith("Error: ")), 0)
    return " ".join(lines[begin : begin + 4])[:400]


def created(text: str) -> float | None:
    """Read the time of a lock, ``2026-11-28 16:37:43.8441 +0000 UTC``, as seconds since the epoch.

    :param text: ``Created`` of a lock's information.
    """
    found = re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d+)? \+0000 UTC", text)
    if found is None:
        return None
    return calendar.timegm(time.strptime(found[1], "%Y-%m-%d %H:%M:%S")) + float(found[2] or 0)


def remove_folder(folder: str | os.PathLike[str], kept: str | None) -> None:
    """Remove a private folder, after the states that lie in it were kept.

    :param folder: the private one.
    :param kept: the lasting folder for states; if ``None``, the one that the environment names.
    """
    path = Path(folder)
    identity: Mapping[str, Any] | None = None
    with suppress(OSError, ValueError):
        identity = json.loads((path / IDENTITY).read_text(encoding="utf-8"))
    # Not Path.rglob, which fails if a folder goes while it is walked: a Terraform that is ending removes its own.
    for state in [Path(found, ERRORED) for found, _, files in os.walk(path) if ERRORED in files]:
        if identity is None:
            return
        keep(state, identity, Path(kept) if kept else kept_states(os.environ))
    shutil.rmtree(path, ignore_errors=True)
