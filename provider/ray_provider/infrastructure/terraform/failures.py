"""From what Terraform said to one of our errors: cause, whether another try can help, and what to do next.

A held lock, a stale plan, a crash and wrong variables are known here; all else by the table in
:mod:`ray_provider.infrastructure.terraform.causes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure.errors import (
    ModuleError,
    ProviderCrashError,
    StalePlanError,
    StateLockedError,
    VariableError,
)
from ray_provider.infrastructure.terraform.causes import IN_STATE, any_of, cause_of
from ray_provider.infrastructure.terraform.events import Diagnostic
from ray_provider.infrastructure.terraform.rescue import lock_holder

_STALE = any_of(r"Saved plan is stale", r"plan file can no longer be applied")
_CRASH = any_of(
    r"Plugin did not respond",
    r"The plugin encountered an error, and failed to respond",
    r"plugin process exited",
    r"Failed to (?:load plugin schemas|instantiate provider)",
    r"Unrecognized remote plugin message",
    r"Request cancelled: .*plugin",
    r"TERRAFORM CRASH",
    r"OPENTOFU CRASH",
    r"^panic: ",
    r"Plugin crashed",
    r"Could not load the schema for provider",
    flags=re.MULTILINE,
)
#: A plugin that can't even be started: its file is not what it should be.
DAMAGED = any_of(
    r"Unrecognized remote plugin message",
    r"exec format error",
    r"Failed to (?:load plugin schemas|instantiate provider)",
    r"doesn't match any of the checksums",
    r"does not match any of the checksums",
    r"fork/exec \S*terraform-provider",
    # OpenTofu, of its cache.
    r"does not match the content of the downloaded package",
)
_VARIABLE_SUMMARY = any_of(
    r"Invalid value for (?:input )?variable",
    r"No value for required variable",
    r"Value for undeclared variable",
    r"Invalid variable",
)
#: What a module checks across variables, or against what the cloud says of a machine type.
_PRECONDITION = any_of(r"(?:Resource|Module output value) precondition failed")
_VARIABLE = re.compile(r"\bvar\.([A-Za-z_][\w-]*)|\bvariable(?: named)? \"([A-Za-z_][\w-]*)\"")


def variable_names(diagnostics: Sequence[Diagnostic]) -> list[str]:
    """Give the names of the variables that diagnostics speak of.

    :param diagnostics: what Terraform said.
    """
    names: dict[str, None] = {}
    for diagnostic in diagnostics:
        for match in _VARIABLE.finditer(f"{diagnostic.summary}\n{diagnostic.detail}\n{diagnostic.traversals}"):
            names[match.group(1) or match.group(2)] = None
        for name in diagnostic.variables:
            names[name] = None
    return list(names)


def error_for(
    command: str,
    diagnostics: Sequence[Diagnostic],
    *,
    stderr: str = "",
    exit_code: int | None = None,
    working_dir: str | None = None,
    program: str = "terraform",
) -> InfrastructureError:
    """Make the error for a command that failed. All texts given have to be redacted already.

    :param command: e.g. ``plan``.
    :param diagnostics: what Terraform said; only errors count.
    :param stderr: what it wrote beside that. Default: nothing.
    :param exit_code: its exit status, if it is known.
    :param working_dir: where it ran, for the data of the error.
    :param program: ``terraform`` (default) or ``tofu``.
    """
    errors = [diagnostic for diagnostic in diagnostics if diagnostic.severity == "error"]
    text = "\n".join(diagnostic.text for diagnostic in errors) or stderr.strip()[-4000:] or "it gave no reason"
    everything = f"{text}\n{stderr}"
    data: dict[str, Any] = {
        "command": command,
        "exit_code": exit_code,
        "working_dir": working_dir,
        "diagnostics": [diagnostic.to_dict() for diagnostic in errors],
    }
    said = f"{program} {command} failed: {text}"

    holder = lock_holder(everything)
    if holder and "ID" in holder:
        return _locked(holder, f"{program} {command}", text, data, program)
    if _STALE.search(everything):
        return StalePlanError(
            f"The state was changed by somebody else between the plan and its apply; nothing was done. {text}",
            hint="Run the task again: it makes a new plan.",
            **data,
        )
    if _CRASH.search(everything):
        last = stderr.strip()[-1500:]
        return ProviderCrashError(
            f"A provider plugin crashed during {program} {command}: {text}"
            + (f"\n{last}" if last and last not in text else ""),
            hint="What was made before the crash is in the state: another try goes on from there. If it crashes again,"
            " pin another version of the provider, and look at the machine's memory.",
            damaged=DAMAGED.search(everything) is not None,
            **data,
        )
    if (wrong := _wrong_input(errors, text, data)) is not None:
        return wrong
    cause = cause_of([f"{diagnostic.text}\n{diagnostic.traversals}" for diagnostic in errors] or [stderr])
    if cause is not None:
        return cause.error(cause.lead + said, hint=cause.hint, **data)
    if command in {"init", "validate"}:
        return ModuleError(f"The module can't be used (field `module`): {said}", hint="Correct the module.", **data)
    return InfrastructureError(said, hint=IN_STATE.strip(), **data)


def _wrong_input(errors: Sequence[Diagnostic], text: str, data: dict[str, Any]) -> VariableError | None:
    names = variable_names(errors)
    if any(_VARIABLE_SUMMARY.search(diagnostic.summary) for diagnostic in errors):
        return VariableError(
            f"Wrong input for {', '.join(names) or 'a variable'}: {text}",
            hint=f"Correct {'the variable' if len(names) == 1 else 'the variables'} in `variables`.",
            variables=names,
            **data,
        )
    if errors and all(_PRECONDITION.search(diagnostic.summary) for diagnostic in errors):
        return VariableError(f"Wrong input: {text}", hint="Correct it in `variables`.", variables=names, **data)
    return None


def _locked(holder: dict[str, str], command: str, text: str, data: dict[str, Any], program: str) -> StateLockedError:
    lock_id, who = holder["ID"], holder.get("Who")
    return StateLockedError(
        f"The state is locked by {who or 'somebody else'} since {holder.get('Created') or 'an unknown time'}. {command}"
        f" could not wait any longer (lock id {lock_id}).\n{text}",
        hint="Wait until that run has ended, or raise `lock_timeout`. Only if it's certain that nobody works on it:"
        f" `{program} force-unlock {lock_id}` in a folder with the same backend.",
        lock_id=lock_id,
        who=who,
        **data,
    )


def rescue_text(step: Mapping[str, Any], program: str) -> str:
    """Say what the supervisor does about a state that the backend did not take.

    :param step: as it tells of it.
    :param program: Terraform or OpenTofu.
    """
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
