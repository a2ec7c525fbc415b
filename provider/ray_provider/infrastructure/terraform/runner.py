"""Terraform (or OpenTofu) as a Python object: python-terraform's, with a way of running that a task can rely on.

Import this module only where Terraform is to be run: it imports python-terraform.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from python_terraform import IsFlagged, IsNotFlagged, Terraform

from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure.terraform.binary import TerraformBinary, find_binary
from ray_provider.infrastructure.terraform.environment import build_environment
from ray_provider.infrastructure.errors import TerraformInterruptedError, unsaved
from ray_provider.infrastructure.terraform.events import EventReader
from ray_provider.infrastructure.terraform.failures import error_for
from ray_provider.infrastructure.terraform.folder import private_folder, write_private_json
from ray_provider.infrastructure.terraform.process import PATIENCE_SECONDS, CommandProcess, Finished
from ray_provider._shared.redaction import Redactor
from ray_provider.infrastructure.terraform.rescue import kept_states

log = logging.getLogger(__name__)

#: Commands that tell their progress as JSON events, and the base's options that each of them does not take.
_STREAMING: dict[str, frozenset[str]] = {
    "init": frozenset({"state", "target", "parallelism"}),
    "plan": frozenset(),
    "apply": frozenset(),
    "destroy": frozenset(),
    "refresh": frozenset({"parallelism"}),
}
#: What leaves a state behind.
_WRITING = frozenset({"apply", "destroy", "refresh"})
#: What Terraform says when only the saving went wrong.
_ONLY_SAVING = frozenset(
    {"Failed to save state", "Failed to persist state to backend", "Error releasing the state lock"}
)
#: An apply of a saved plan has its variables and targets in the plan.
_NOT_WITH_PLAN = frozenset({"state", "target", "var_file", "auto-approve"})


class TerraformRunner(Terraform):  # type: ignore[misc] # python-terraform has no types
    """python-terraform's ``Terraform`` that can be watched, interrupted and trusted with secrets.

    The interface is python-terraform's (``init``, ``plan``, ``apply``, ``destroy``, ``output``, ``cmd`` …, which return
    exit code, output and errors). Differences:

    * progress is passed on line by line while the command runs; secrets are taken out of it;
    * :meth:`interrupt` stops the command so that the state is saved and the lock is released;
    * variables and backend settings go into private files, not into argv, and the files are removed;
    * ``apply`` and ``destroy`` make a plan and apply exactly that; nothing waits for an approval;
    * ``raise_on_error=True`` raises one of :mod:`ray_provider.infrastructure.errors`.

    :param working_dir: the root module's folder.
    :param terraform_bin_path: path or name of ``terraform`` or ``tofu``.
    :param env: environment variables on top of the process' own.
    :param write: gets each line of progress.
    :param redactor: knows the secrets.
    :param lock_timeout: how long to wait for the state's lock, e.g. ``60s``.
    :param patience: seconds to wait after the first and after the second SIGINT, before it is killed.
    :param folder: a private folder of the caller's for this run; a new one for each command if not given.
    :param rescue: what is known of the state, for a backend that does not take it after an apply: ``identity``,
        ``lockable``, ``seconds`` (see :class:`ray_provider.infrastructure.terraform.rescue.Rescue`). Without an identity a state
        that can't be saved stays in the working folder.
    """

    def __init__(
        self,
        working_dir: str | os.PathLike[str] | None = None,
        targets: Sequence[str] | None = None,
        state: str | None = None,
        variables: Mapping[str, Any] | None = None,
        parallelism: int | None = None,
        var_file: str | list[str] | None = None,
        terraform_bin_path: str | None = None,
        is_env_vars_included: bool = True,
        *,
        env: Mapping[str, str] | None = None,
        write: Callable[[str], None] = log.info,
        redactor: Redactor | None = None,
        lock_timeout: str = "60s",
        patience: Sequence[float] = PATIENCE_SECONDS,
        folder: Path | None = None,
        apply_variables: Iterable[str] = (),
        rescue: Mapping[str, Any] | None = None,
    ) -> None:
        # First, because the base's __getattr__ makes a command of every attribute that isn't there.
        self.write = write
        self.redactor = redactor if redactor is not None else Redactor()
        self.lock_timeout = lock_timeout
        self.patience = tuple(patience)
        self.folder = folder
        self.apply_variables = frozenset(apply_variables)
        self.rescue = dict(rescue or {"lockable": False})
        self.env = dict(env or {})
        self.interrupted = False
        self._process: CommandProcess | None = None
        self._binary: TerraformBinary | None = None
        self._warned: set[str] = set()
        super().__init__(
            working_dir=None if working_dir is None else str(working_dir),
            targets=list(targets or ()),
            state=state,
            variables=dict(variables or {}),
            parallelism=parallelism,
            var_file=var_file,
            terraform_bin_path=terraform_bin_path,
            is_env_vars_included=is_env_vars_included,
        )
        self._wanted_binary = terraform_bin_path

    def __getattr__(self, item: str) -> Any:
        # The base logs the arguments of such calls, variables included.
        if item.startswith("_"):
            raise AttributeError(item)
        name = item.removesuffix("_cmd").replace("_", "-")
        return lambda *args, **kwargs: self.cmd(name, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<TerraformRunner in {self.working_dir}>"

    def __enter__(self) -> Self:
        return self

    @property
    def binary(self) -> TerraformBinary:
        """The program, asked for its version once.

        :raises TerraformNotFoundError: missing or too old.
        """
        if self._binary is None:
            self._binary = find_binary(self._wanted_binary, os.environ | self.env)
            self.terraform_bin_path = self._binary.path
        return self._binary

    # ------------------------------------------------------------------ python-terraform's commands, mended
    def plan(self, dir_or_plan: str | None = None, detailed_exitcode: Any = IsFlagged, **kwargs: Any) -> Any:
        """Make a plan. The exit code is 0 if nothing is to be done, 2 if something is."""
        return super().plan(dir_or_plan, detailed_exitcode=detailed_exitcode, **kwargs)

    def apply(
        self,
        dir_or_plan: str | None = None,
        input: bool = False,  # noqa: A002, ARG002 - python-terraform's interface
        skip_plan: bool = False,  # noqa: ARG002 - python-terraform's interface
        no_color: Any = IsFlagged,  # noqa: ARG002 - python-terraform's interface
        **kwargs: Any,
    ) -> Any:
        """Apply a saved plan; without one, make a plan, save it and apply exactly that."""
        if dir_or_plan is not None:
            kept = {
                name: value
                for name, value in self._generate_default_options(kwargs).items()
                if name not in _NOT_WITH_PLAN
            }
            kept["var"] = {
                name: value for name, value in (kept.get("var") or {}).items() if name in self.apply_variables
            }
            return self.cmd("apply", dir_or_plan, **kept)
        return self._plan_and_apply(kwargs)

    def destroy(
        self,
        dir_or_plan: str | None = None,  # noqa: ARG002 - python-terraform's interface
        force: Any = IsFlagged,  # noqa: ARG002 - python-terraform's interface
        **kwargs: Any,
    ) -> Any:
        """Make the plan of a destroy, and apply it. (``force`` has no effect any more.)."""
        return self._plan_and_apply({**kwargs, "destroy": IsFlagged})

    def output(self, *args: str, **kwargs: Any) -> Any:
        """Give one output, or all with type and sensitivity; ``None`` after an error, as python-terraform does."""
        full_value = bool(kwargs.pop("full_value", False))
        exit_code, out, _ = self.cmd("output", **{**kwargs, "json": IsFlagged})
        if exit_code != 0:
            return None
        values = json.loads(out)
        if not args:
            return values
        if args[0] not in values:
            return None
        return values[args[0]] if full_value else values[args[0]]["value"]

    def generate_cmd_string(self, cmd: str, *args: str, **kwargs: Any) -> list[str]:
        """Build the command. Mappings have to be in files by now: see :meth:`cmd`."""
        for name, value in kwargs.items():
            if isinstance(value, Mapping):
                raise TypeError(f"{name} has to go through a file")
        built: list[str] = super().generate_cmd_string(cmd, *args, **kwargs)
        return built

    # ------------------------------------------------------------------ running
    def interrupt(self) -> None:
        """Stop what runs, and let nothing start any more. May be called from a signal handler or another thread."""
        self.interrupted = True
        if self._process is not None:
            self._process.interrupt()

    def cmd(self, cmd: str, *args: str, **kwargs: Any) -> Any:
        """Run a command, and give its exit code, output and errors (both without secrets, if it shows progress).

        :param cmd: the command, e.g. ``plan`` or ``workspace select``.
        :param kwargs: options as in python-terraform; ``synchronous=False`` gives a ``concurrent.futures.Future`` of
            the result as first of three values.
        :raises InfrastructureError: the command failed, and ``raise_on_error`` is set.
        :raises TerraformInterruptedError: likewise, after :meth:`interrupt`.
        """
        if not kwargs.pop("synchronous", True):
            pool = ThreadPoolExecutor(max_workers=1)
            future: Future[Any] = pool.submit(self.cmd, cmd, *args, **kwargs)
            pool.shutdown(wait=False)
            return future, None, None
        raise_on_error = bool(kwargs.pop("raise_on_error", False))
        capture = kwargs.pop("capture_output", True)
        name = cmd.split(maxsplit=1)[0]
        if self.interrupted:
            raise TerraformInterruptedError(
                f"{self.binary.flavour} {cmd} was not started: the run is being stopped.", killed=False
            )
        with ExitStack() as stack:
            folder = self.folder if self.folder is not None else stack.enter_context(private_folder())
            options, files = self._options(name, kwargs, folder)
            _ = self.binary
            argv = self.generate_cmd_string(cmd, *args, **options)
            env = self._environment(folder)
            log.debug("command: %s", " ".join(argv))
            try:
                if name in _STREAMING:
                    return self._stream(cmd, argv, env, folder, raise_on_error=raise_on_error)
                result = self._capture(cmd, argv, env, raise_on_error=raise_on_error)
            finally:
                for file in files:
                    file.unlink(missing_ok=True)
        if capture is not True:
            self.write(self.redactor(result[1]))
            return result[0], None, None
        return result

    def _plan_and_apply(self, kwargs: dict[str, Any]) -> Any:
        raise_on_error = kwargs.pop("raise_on_error", False)
        plan_only = {name: kwargs.pop(name) for name in ("destroy", "refresh", "replace", "target") if name in kwargs}
        for name in ("auto_approve", "auto-approve", "force"):
            kwargs.pop(name, None)
        with ExitStack() as stack:
            folder = self.folder if self.folder is not None else stack.enter_context(private_folder())
            saved = folder / f"{uuid.uuid4().hex}.tfplan"
            try:
                result = self.plan(out=str(saved), raise_on_error=raise_on_error, **plan_only, **kwargs)
                if result[0] not in {0, 2}:
                    return result
                return self.apply(str(saved), raise_on_error=raise_on_error, **kwargs)
            finally:
                saved.unlink(missing_ok=True)

    def _options(self, name: str, given: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[Path]]:
        """Put what must not be seen into files, and leave out what the command does not take."""
        options: dict[str, Any] = {}
        files: list[Path] = []
        unknown = _STREAMING.get(name, frozenset())
        for option, value in given.items():
            if option in unknown or value is None or value is IsNotFlagged or value == []:
                continue
            if isinstance(value, Mapping):
                if not value:
                    continue
                kind = "backend_config" if option.replace("-", "_") == "backend_config" else "var_file"
                suffix = "backend.json" if kind == "backend_config" else "tfvars.json"
                path = write_private_json(folder / f"{uuid.uuid4().hex}.{suffix}", value)
                files.append(path)
                self.redactor.add_named(value)
                before = options.get(kind, [])
                options[kind] = [*(before if isinstance(before, list) else [before]), str(path)]
            elif option == "var_file" and "var_file" in options:
                # The base puts the files before the variables, which win.
                options["var_file"] = [*(value if isinstance(value, list) else [value]), *options["var_file"]]
            else:
                options[option] = value
        if name in _STREAMING:
            options |= {"json": IsFlagged, "input": False, "no_color": IsFlagged}
            if options.get("lock", True) is not False:
                options.setdefault("lock_timeout", self.lock_timeout)
        return options, files

    def _environment(self, folder: Path) -> dict[str, str]:
        def warn(text: str) -> None:
            if text not in self._warned:
                self._warned.add(text)
                self.write(text)

        temporary = folder / "tmp"
        return build_environment(
            self.env,
            inherit=bool(self.is_env_vars_included),
            temporary=temporary if temporary.is_dir() else folder,
            warn=warn,
        )

    def _stream(
        self, cmd: str, argv: list[str], env: dict[str, str], folder: Path, *, raise_on_error: bool
    ) -> tuple[int, str, str]:
        lines: list[str] = []
        errors: list[str] = []

        def keep(line: str) -> None:
            lines.append(line)
            self.write(line)

        reader = EventReader(write=keep, redact=self.redactor, quiet_plan=cmd == "apply")

        def on_stderr(line: str) -> None:
            if line.strip():
                clean = self.redactor(line.rstrip())
                errors.append(clean)
                del errors[:-400]
                self.write(clean)

        output = folder / "output"
        output.mkdir(exist_ok=True)
        started = time.monotonic()
        with CommandProcess(
            argv,
            cwd=self.working_dir,
            env=env,
            output=output,
            folder=folder,
            patience=self.patience,
            rescue=self._rescue_job() if cmd in _WRITING else None,
        ) as process:
            self._process = process
            try:
                if self.interrupted:
                    # Between the question above and here.
                    process.interrupt()
                finished = process.run(reader.feed, on_stderr, lambda step: self._say_step(cmd, step))
            finally:
                self._process = None
        for file in ("stdout", "stderr", "keeper"):
            (output / file).unlink(missing_ok=True)
        finished = self._after_rescue(finished, reader)
        if finished.exit_code == 0:
            self.read_state_file()
        err = "\n".join(
            [*(diagnostic.text for diagnostic in reader.diagnostics if diagnostic.severity == "error"), *errors]
        )
        log.debug(
            "%s %s: exit code %s after %.1f s", self.binary.flavour, cmd, finished.exit_code, time.monotonic() - started
        )
        if raise_on_error:
            self._raise(cmd, finished, reader, "\n".join(errors))
        return finished.exit_code, "\n".join(lines), err

    def _rescue_job(self) -> dict[str, Any]:
        return {
            **self.rescue,
            "program": self.binary.path,
            "cwd": str(self.working_dir or Path.cwd()),
            "kept": str(kept_states(os.environ)),
        }

    def _after_rescue(self, finished: Finished, reader: EventReader) -> Finished:
        """Give a command whose state was saved after all as one that succeeded, if nothing else was wrong."""
        errors = {diagnostic.summary for diagnostic in reader.diagnostics if diagnostic.severity == "error"}
        if (finished.saved or finished.unlocked) and not finished.interrupts and errors and errors <= _ONLY_SAVING:
            return replace(finished, exit_code=0)
        return finished

    def _capture(self, cmd: str, argv: list[str], env: dict[str, str], *, raise_on_error: bool) -> tuple[int, str, str]:
        """Run a command that only reads, with its output in memory alone: it may hold secrets."""
        done = subprocess.run(
            argv,
            cwd=self.working_dir,
            env=env,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        out = done.stdout.decode("utf-8", "replace")
        err = self.redactor(done.stderr.decode("utf-8", "replace"))
        if done.returncode != 0 and raise_on_error:
            raise error_for(
                cmd,
                (),
                stderr=err or self.redactor(out),
                exit_code=done.returncode,
                working_dir=self.working_dir,
                program=self.binary.flavour,
            )
        return done.returncode, out, err

    def _say_step(self, cmd: str, step: Mapping[str, Any]) -> None:
        program = self.binary.flavour
        if "interrupted" in step:
            minutes = self.patience[min(int(step["interrupted"]), len(self.patience)) - 1] / 60
            self.write(
                f"Stopping {program} {cmd} (SIGINT {step['interrupted']}): it finishes the calls under"
                " way, saves the state and"
                f" releases the lock. Waiting up to {minutes:.0f} min."
            )
        elif "killing" in step:
            self.write(
                f"!!! {program} {cmd} did not end after {step.get('interrupts', 'several')} interrupts:"
                " IT IS KILLED. The state"
                " may lack what was made last, and the lock stays behind. Compare the cloud with the"
                " state before the next run."
            )
        elif "rescue" in step:
            self.write(self.redactor(_rescue_text(step, program)))

    def _raise(self, cmd: str, finished: Finished, reader: EventReader, stderr: str) -> None:
        program = self.binary.flavour
        if finished.kept:
            raise unsaved(finished.kept, self.redactor(finished.why), finished.lock_id, program)
        if finished.interrupts or finished.killed:
            done = f" {reader.resources_done} resources were done before that." if cmd in {"apply", "destroy"} else ""
            raise TerraformInterruptedError(
                f"{program} {cmd} was stopped."
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
                command=cmd,
                diagnostics=[diagnostic.to_dict() for diagnostic in reader.diagnostics],
            )
        if finished.exit_code == 0 or (cmd == "plan" and finished.exit_code == 2):
            return
        error: InfrastructureError = error_for(
            cmd,
            reader.diagnostics,
            stderr=stderr,
            exit_code=finished.exit_code,
            working_dir=self.working_dir,
            program=program,
        )
        raise error


def _rescue_text(step: Mapping[str, Any], program: str) -> str:
    why = step.get("why", "")
    kind = step["rescue"]
    if kind == "began":
        return (
            "!!! The backend did not take the state, which tells what was made. It is pushed again for up to"
            f" {step['seconds'] / 60:.0f} min."
        )
    if kind == "waiting":
        return f"The state is not saved yet: {why}"
    if kind == "saved":
        return "The state is saved."
    if kind == "unlocked":
        return f"The lock that {program} left behind ({step['lock_id']}) is released."
    if kind == "locked":
        return f"The lock that {program} left behind ({step['lock_id']}) can't be released: {why}"
    return f"!!! THE STATE IS NOT SAVED. It lies in {step['path']}: {why}"
