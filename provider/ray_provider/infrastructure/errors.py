"""What can go wrong with Terraform, told apart, because the next step differs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ray_provider.exceptions import ConfigurationError, InfrastructureError
from ray_provider.infrastructure.events import Diagnostic


class TerraformNotFoundError(ConfigurationError, InfrastructureError):
    """There is no Terraform or OpenTofu here, or it is too old."""

    retryable = False


class ModuleError(ConfigurationError, InfrastructureError):
    """The module is not there, can't be read, or is wrong in itself."""

    retryable = False


class VariableError(ConfigurationError, InfrastructureError):
    """A variable is missing, unknown, of the wrong type or value. ``data`` holds ``variables``: their names."""

    retryable = False


class BackendError(ConfigurationError, InfrastructureError):
    """The place for the state is not there, or holds the state of something else."""

    retryable = False


class TerraformCredentialsError(InfrastructureError):
    """The cloud does not accept who we are, or what we may do."""

    retryable = False


class PlanRefusedError(InfrastructureError):
    """The plan would destroy or replace what must not be. ``data`` holds ``destroy`` and ``replace``: addresses."""

    retryable = False


class UnsavedStateError(InfrastructureError):
    """The backend did not take the state of an apply. ``data`` holds ``path``: where it lies."""

    # A try on another worker would not find it, and would make everything once more.
    retryable = False


class StateLockedError(InfrastructureError):
    """Somebody else works on this state. ``data`` holds ``lock_id`` and ``who``."""


class CapacityError(InfrastructureError):
    """The cloud has no such machines now, or the account's quota is used up."""


class StalePlanError(InfrastructureError):
    """The state changed between the plan and its apply."""


class TerraformInterruptedError(InfrastructureError):
    """We stopped it (the task was killed). ``data`` holds ``killed``: true if it had to be killed at the end."""


class ProviderCrashError(InfrastructureError):
    """A provider plugin (or Terraform itself) crashed."""


_LOCK_ID = re.compile(r"^\s*ID:\s*(\S+)", re.MULTILINE)
_LOCK_WHO = re.compile(r"^\s*Who:\s*(\S.*?)\s*$", re.MULTILINE)
_LOCK_WHEN = re.compile(r"^\s*Created:\s*(\S.*?)\s*$", re.MULTILINE)
_VARIABLE = re.compile(r"\bvar\.([A-Za-z_][\w-]*)|\bvariable(?: named)? \"([A-Za-z_][\w-]*)\"")

_LOCK = re.compile(
    r"Error acquiring the state lock|state already locked|ConditionalCheckFailed.*lock|lock is already held",
    re.IGNORECASE,
)
_STALE = re.compile(r"Saved plan is stale|plan file can no longer be applied", re.IGNORECASE)
_CRASH = re.compile(
    r"Plugin did not respond|The plugin encountered an error, and failed to respond|plugin process exited|"
    r"Failed to (?:load plugin schemas|instantiate provider)|Unrecognized remote plugin message|"
    r"Request cancelled: .*plugin|"
    r"TERRAFORM CRASH|OPENTOFU CRASH|^panic: |Plugin crashed|Could not load the schema for provider",
    re.IGNORECASE | re.MULTILINE,
)
_CREDENTIALS = re.compile(
    r"No valid credential sources|failed to refresh cached credentials|could not find default credentials|"
    r"InvalidClientTokenId|UnrecognizedClientException|SignatureDoesNotMatch|ExpiredToken|AuthFailure|"
    r"AccessDenied|UnauthorizedOperation|is not authorized to perform|"
    r"Attempted to load application default credentials|"
    r"invalid_grant|Error 401|Error 403|PERMISSION_DENIED|oauth2: cannot fetch token|"
    r"Retrieving AWS account details|no EC2 IMDS role found|Cannot assume IAM Role",
    re.IGNORECASE,
)
_CAPACITY = re.compile(
    r"InsufficientInstanceCapacity|InsufficientFreeAddresses|InsufficientCapacity|VcpuLimitExceeded|LimitExceeded|"
    r"quota(?:s)?\b.{0,80}(?:exceed|limit|insufficient)|exceeded? .{0,40}quota|QUOTA_EXCEEDED|Quota exceeded|"
    r"ZONE_RESOURCE_POOL_EXHAUSTED|RESOURCE_EXHAUSTED|GCE_STOCKOUT|does not have enough resources|"
    r"capacity[- ]block.{0,60}(?:not|expired|no )|UnsupportedAvailabilityZone|MaxSpotInstanceCountExceeded|"
    r"could not launch.*capacity|SpotMaxPriceTooLow|no available capacity",
    re.IGNORECASE | re.DOTALL,
)
_BACKEND = re.compile(
    r"Failed to get existing workspaces|Error loading state|S3 bucket \"[^\"]*\" does not exist|NoSuchBucket|"
    r"bucket doesn't exist|Backend initialization required|Error configuring (?:the )?backend|Unsupported backend type|"
    r"Backend configuration|Failed to (?:get|load|read|save|persist) state|error configuring .*backend|"
    r"Invalid backend configuration|Missing region value|Unable to access object .* in S3 bucket|"
    r"Unable to list objects in S3 bucket|storage: bucket|Error inspecting states|Error refreshing state|"
    r"The backend configuration|Error (?:reading|writing) (?:local )?state|Failed to create.*state",
    re.IGNORECASE,
)
_PROTECTED = re.compile(r"deletion[_ ]protection|prevent_destroy|Instance cannot be destroyed", re.IGNORECASE)
_VARIABLE_SUMMARY = re.compile(
    r"Invalid value for (?:input )?variable|No value for required variable|Value for undeclared variable|"
    r"Invalid variable",
    re.IGNORECASE,
)
#: What a module checks across variables, or against what the cloud says of a machine type.
_PRECONDITION = re.compile(r"(?:Resource|Module output value) precondition failed", re.IGNORECASE)
_MODULE = re.compile(
    r"Unsupported Terraform Core version|Unsupported argument|Unsupported block type|Missing required argument|"
    r"Reference to undeclared|Unclosed configuration block|Argument or block definition required|Invalid resource type|"
    r"Module not (?:installed|found)|Unreadable module|Failed to (?:install|query) (?:available )?provider|"
    r"Inconsistent dependency lock file|problems during initiali[sz]ation|Invalid block definition|Duplicate|"
    r"Invalid single-argument block definition|Missing newline after",
    re.IGNORECASE,
)


def variable_names(diagnostics: Sequence[Diagnostic]) -> list[str]:
    """Give the names of the variables that diagnostics speak of."""
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
    """Make the error for a command that failed. All texts given have to be redacted already."""
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

    if _LOCK.search(everything):
        lock_id, who, when = (_first(pattern, everything) for pattern in (_LOCK_ID, _LOCK_WHO, _LOCK_WHEN))
        return StateLockedError(
            f"The state is locked by {who or 'somebody else'} since {when or 'an unknown time'} (lock id"
            f" {lock_id}), and"
            f" {program} {command} could not wait any longer.\n{text}",
            hint="Wait until that run has ended, or raise `lock_timeout`. Only if it's certain that nobody works on it:"
            f" `{program} force-unlock {lock_id or '<lock id>'}` in a folder with the same backend.",
            lock_id=lock_id,
            who=who,
            **data,
        )
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
            **data,
        )
    if any(_VARIABLE_SUMMARY.search(diagnostic.summary) for diagnostic in errors):
        names = variable_names(errors)
        return VariableError(
            f"Wrong input for {', '.join(names) or 'a variable'}: {text}",
            hint=f"Correct {'the variable' if len(names) == 1 else 'the variables'} in `variables`.",
            variables=names,
            **data,
        )
    if errors and all(_PRECONDITION.search(diagnostic.summary) for diagnostic in errors):
        return VariableError(
            f"Wrong input: {text}", hint="Correct it in `variables`.", variables=variable_names(errors), **data
        )
    if _CREDENTIALS.search(everything):
        return TerraformCredentialsError(
            said,
            hint="Give the task credentials that may do this: `aws_conn_id` or `gcp_conn_id`, or the"
            " worker's own identity.",
            **data,
        )
    if _CAPACITY.search(everything):
        return CapacityError(
            said,
            hint="Ask for more quota, or try other zones, machine types or another `capacity` of the pool."
            " What was made so far is in the state: another try goes on from there.",
            **data,
        )
    if _PROTECTED.search(everything):
        return InfrastructureError(
            said,
            hint="Something is protected against deletion. Apply once with `deletion_protection = false`, then delete.",
            **data,
        )
    if _BACKEND.search(everything):
        return BackendError(
            f"The backend can't be used (field `backend`): {said}",
            hint="Check `backend`: the bucket or folder has to exist, and the task has to be allowed to"
            " read and write it.",
            **data,
        )
    if command in {"init", "validate"} or _MODULE.search(everything):
        return ModuleError(f"The module can't be used (field `module`): {said}", hint="Correct the module.", **data)
    return InfrastructureError(
        said, hint="What was made so far is in the state: another try goes on from there.", **data
    )


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match.group(1) if match else None
