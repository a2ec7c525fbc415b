"""Runs single commands of Terraform (or OpenTofu) so that a task can rely on it.

Import this module only where Terraform is to be run: it imports python-terraform, which builds the command lines.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from python_terraform import IsFlagged, Terraform

from ray_provider._shared.redaction import Redactor
from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure.errors import TerraformInterruptedError, unsaved
from ray_provider.infrastructure.terraform.binary import TerraformBinary
from ray_provider.infrastructure.terraform.environment import build_environment
from ray_provider.infrastructure.terraform.events import EventReader
from ray_provider.infrastructure.terraform.failures import error_for, rescue_text
from ray_provider.infrastructure.terraform.folder import write_private_json
from ray_provider.infrastructure.terraform.process import PATIENCE_SECONDS, CommandProcess, Finished
from ray_provider.infrastructure.terraform.rescue import kept_states

log = logging.getLogger(__name__)

#: Commands that tell their progress as JSON events.
_STREAMING = frozenset({"init", "plan", "apply"})
#: What leaves a state behind.
_WRITING = frozenset({"apply"})
#: How long a command that only reads, or writes one object, may still take when the task is ending.
_LAST_SECONDS = 60.0
#: What Terraform says when only the saving went wrong.
_ONLY_SAVING = frozenset(
    {"Failed to save state", "Failed to persist state to backend", "Error releasing the state lock"}
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said.

    :param exit_code: 0 for success; a plan that would change something gives 2.
    :param out: its output. Of a command that shows its progress: the readable lines, without secrets. Of another one:
        as it came, secrets included.
    :param err: its errors, without secrets.
    """

    exit_code: int
    out: str = field(repr=False)
    err: str


class TerraformRunner:
    """Runs one module's commands: watched, interruptible, trusted with secrets.

    * Progress is passed on line by line while a command runs; secrets are taken out of it.
    * :meth:`interrupt` stops a command so that the state is saved and the lock is released.
    * Variables go into private files, not into argv, and the files are removed.

    python-terraform is used for its command lines alone (docs/decisions/python-terraform.md).

    :param working_dir: the root module's folder.
    :param binary: the program.
    :param folder: a private folder of the caller's, for files of variables and output.
    :param env: environment variables on top of the process' own.
    :param write: gets each line of progress.
    :param redactor: knows the secrets; it learns those in ``variables``.
    :param lock_timeout: how long to wait for the state's lock, e.g. ``60s``.
    :param patience: seconds to wait after the first and after the second SIGINT, before it is killed.
    :param parallelism: of a plan and of an apply; Terraform's own (10) if not given.
    :param rescue: what is known of the state, for a backend that does not take it after an apply: ``identity``,
        ``lockable``, ``seconds`` (see :class:`ray_provider.infrastructure.terraform.rescue.Rescue`). Without an
        identity a state that can't be saved stays in the working folder.
    """

    def __init__(
        self,
        working_dir: Path,
        *,
        binary: TerraformBinary,
        folder: Path,
        env: Mapping[str, str] | None = None,
        write: Callable[[str], None] = log.info,
        redactor: Redactor | None = None,
        lock_timeout: str = "60s",
        patience: Sequence[float] = PATIENCE_SECONDS,
        parallelism: int | None = None,
        rescue: Mapping[str, Any] | None = None,
    ) -> None:
        self.working_dir = working_dir
        self.binary = binary
        self.folder = folder
        self.env = dict(env or {})
        self.write = write
        self.redactor = redactor if redactor is not None else Redactor()
        self.lock_timeout = lock_timeout
        self.patience = tuple(patience)
        self.parallelism = parallelism
        self.rescue = dict(rescue or {"lockable": False})
        self.interrupted = False
        # It reads the state that lies in its working_dir, secrets included: none lies in this one.
        self._commands = Terraform(working_dir=str(folder), terraform_bin_path=binary.path)
        self._process: CommandProcess | None = None
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"<TerraformRunner in {self.working_dir}>"

    # ------------------------------------------------------------------ commands
    def init(self, *, upgrade: bool = False) -> Answer:
        """Fetch the module's parts and providers, and reach its backend.

        :param upgrade: choose versions anew. Default: those of the lock file.
        :raises InfrastructureError: it failed.
        """
        return self.run("init", reconfigure=True, upgrade=upgrade or None)

    def plan(
        self,
        out: Path,
        *,
        var_file: Path | None = None,
        variables: Mapping[str, Any] | None = None,
        destroy: bool = False,
        lock: bool = True,
        refresh: bool = True,
    ) -> Answer:
        """Make a plan and save it.

        :param out: where it is saved.
        :param var_file: a file of variables.
        :param variables: more of them; they win.
        :param destroy: the plan of a destroy.
        :param lock: lock the state.
        :param refresh: ask the cloud what has changed.
        :return: exit code 0 if nothing is to be done, 2 if something is.
        :raises InfrastructureError: it failed.
        """
        return self.run(
            "plan",
            variables=variables,
            detailed_exitcode=True,
            parallelism=self.parallelism,
            out=out,
            var_file=[] if var_file is None else [var_file],
            destroy=destroy or None,
            lock=None if lock else False,
            refresh=None if refresh else False,
        )

    def apply(self, plan: Path, *, variables: Mapping[str, Any] | None = None) -> Answer:
        """Apply a saved plan, and exactly that: it has its variables and targets in it.

        :param plan: the file.
        :param variables: the ephemeral ones, which a plan does not keep.
        :raises InfrastructureError: it failed; what was made is in the state.
        """
        return self.run("apply", plan, variables=variables, parallelism=self.parallelism)

    def run(
        self,
        command: str,
        *arguments: str | Path,
        check: bool = True,
        variables: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Answer:
        """Run a command.

        :param command: e.g. ``plan`` or ``workspace select``.
        :param arguments: what stands behind its options.
        :param check: raise if it fails.
        :param variables: the module's variables, passed by a private file.
        :param options: by their names with underscores. ``True`` sets one without a value, ``False`` says ``false``,
            ``None`` leaves it out, a list repeats it.
        :raises InfrastructureError: the command failed, and ``check`` is set: one of
            :mod:`ray_provider.infrastructure.errors`.
        :raises TerraformInterruptedError: likewise, after :meth:`interrupt`.
        """
        if self.interrupted:
            raise TerraformInterruptedError(
                f"{self.binary.flavour} {command} was not started: the run is being stopped.", killed=False
            )
        file: Path | None = None
        try:
            if variables:
                file = write_private_json(self.folder / f"{uuid.uuid4().hex}.tfvars.json", variables)
                self.redactor.add_named(variables)
                options["var_file"] = [*options.get("var_file", ()), file]
            argv = self._command_line(command, arguments, options)
            log.debug("command: %s", " ".join(argv))
            if command in _STREAMING:
                return self._stream(command, argv, check=check)
            return self._capture(command, argv, check=check)
        finally:
            if file is not None:
                file.unlink(missing_ok=True)

    def interrupt(self) -> None:
        """Stop what runs, and let nothing start any more. May be called from a signal handler or another thread."""
        self.interrupted = True
        if self._process is not None:
            self._process.interrupt()

    # ------------------------------------------------------------------ running
    def _command_line(self, command: str, arguments: Sequence[str | Path], options: Mapping[str, Any]) -> list[str]:
        given = {name: IsFlagged if value is True else value for name, value in options.items()}
        if command in _STREAMING:
            given |= {"json": IsFlagged, "input": False, "no_color": IsFlagged}
            if given.get("lock") is not False:
                given.setdefault("lock_timeout", self.lock_timeout)
        argv: list[str] = self._commands.generate_cmd_string(command, *map(str, arguments), **given)
        return argv

    def _environment(self) -> dict[str, str]:
        def warn(text: str) -> None:
            if text not in self._warned:
                self._warned.add(text)
                self.write(text)

        return build_environment(self.env, temporary=self.folder / "tmp", warn=warn)

    def _stream(self, command: str, argv: list[str], *, check: bool) -> Answer:
        lines: list[str] = []
        errors: list[str] = []

        def keep(line: str) -> None:
            lines.append(line)
            self.write(line)

        reader = EventReader(write=keep, redact=self.redactor, quiet_plan=command == "apply")

        def on_stderr(line: str) -> None:
            if line.strip():
                clean = self.redactor(line.rstrip())
                errors.append(clean)
                del errors[:-400]
                self.write(clean)

        output = self.folder / "output"
        started = time.monotonic()
        with CommandProcess(
            argv,
            cwd=self.working_dir,
            env=self._environment(),
            output=output,
            folder=self.folder,
            patience=self.patience,
            rescue=self._rescue_job() if command in _WRITING else None,
        ) as process:
            self._process = process
            try:
                if self.interrupted:
                    # Between the question above and here.
                    process.interrupt()
                finished = process.run(reader.feed, on_stderr, lambda step: self._say_step(command, step))
            finally:
                self._process = None
        for file in ("stdout", "stderr", "keeper"):
            (output / file).unlink(missing_ok=True)
        finished = self._after_rescue(finished, reader)
        err = "\n".join(
            [*(diagnostic.text for diagnostic in reader.diagnostics if diagnostic.severity == "error"), *errors]
        )
        log.debug(
            "%s %s: exit code %s after %.1f s",
            self.binary.flavour,
            command,
            finished.exit_code,
            time.monotonic() - started,
        )
        if check:
            self._raise(command, finished, reader, "\n".join(errors))
        return Answer(finished.exit_code, "\n".join(lines), err)

    def _rescue_job(self) -> dict[str, Any]:
        return {
            **self.rescue,
            "program": self.binary.path,
            "cwd": str(self.working_dir),
            "kept": str(kept_states(os.environ)),
        }

    def _after_rescue(self, finished: Finished, reader: EventReader) -> Finished:
        """Give a command whose state was saved after all as one that succeeded, if nothing else was wrong."""
        errors = {diagnostic.summary for diagnostic in reader.diagnostics if diagnostic.severity == "error"}
        if (finished.saved or finished.unlocked) and not finished.interrupts and errors and errors <= _ONLY_SAVING:
            return replace(finished, exit_code=0)
        return finished

    def _capture(self, command: str, argv: list[str], *, check: bool) -> Answer:
        """Run a command that only reads, with its output in memory alone: it may hold secrets."""
        process = subprocess.Popen(
            argv,
            cwd=self.working_dir,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            raw, raw_err = process.communicate()
        except BaseException:
            # A time limit of the task's, say. Some of these commands lock the state for a moment (a new workspace's
            # first state, a push): killed, they would leave the lock behind.
            _let_end(process)
            raise
        out = raw.decode("utf-8", "replace")
        err = self.redactor(raw_err.decode("utf-8", "replace"))
        if process.returncode != 0 and check:
            raise error_for(
                command,
                (),
                stderr=err or self.redactor(out),
                exit_code=process.returncode,
                working_dir=str(self.working_dir),
                program=self.binary.flavour,
            )
        return Answer(process.returncode, out, err)

    def _say_step(self, command: str, step: Mapping[str, Any]) -> None:
        program = self.binary.flavour
        if "interrupted" in step:
            minutes = self.patience[min(int(step["interrupted"]), len(self.patience)) - 1] / 60
            self.write(
                f"Stopping {program} {command} (SIGINT {step['interrupted']}): it finishes the calls under"
                " way, saves the state and"
                f" releases the lock. Waiting up to {minutes:.0f} min."
            )
        elif "killing" in step:
            self.write(
                f"!!! {program} {command} did not end after {step.get('interrupts', 'several')} interrupts:"
                " IT IS KILLED. The state"
                " may lack what was made last, and the lock stays behind. Compare the cloud with the"
                " state before the next run."
            )
        elif "rescue" in step:
            self.write(self.redactor(rescue_text(step, program)))

    def _raise(self, command: str, finished: Finished, reader: EventReader, stderr: str) -> None:
        program = self.binary.flavour
        if finished.kept:
            raise unsaved(finished.kept, self.redactor(finished.why), finished.lock_id, program)
        if finished.interrupts or finished.killed:
            done = f" {reader.resources_done} resources were done before that." if command in _WRITING else ""
            raise TerraformInterruptedError(
                f"{program} {command} was stopped."
                + (
                    " It had to be KILLED: the state may lack what was made last, and the lock was left behind."
                    if finished.killed
                    else " The state was saved, and the lock released."
                )
                + done,
                hint="Compare the cloud with the state, and remove the lock by `force-unlock`."
                if finished.killed
                else "Run the task again: it goes on from where this one stopped.",
                killed=finished.killed,
                command=command,
                diagnostics=[diagnostic.to_dict() for diagnostic in reader.diagnostics],
            )
        if finished.exit_code == 0 or (command == "plan" and finished.exit_code == 2):
            return
        error: InfrastructureError = error_for(
            command,
            reader.diagnostics,
            stderr=stderr,
            exit_code=finished.exit_code,
            working_dir=str(self.working_dir),
            program=program,
        )
        raise error


def _let_end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a command that nobody waits for any more; end it only when it hangs."""
    try:
        process.communicate(timeout=_LAST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
