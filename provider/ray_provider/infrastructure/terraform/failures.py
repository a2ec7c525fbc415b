"""From what Terraform said to one of our errors: cause, whether another try can help, and what to do next.

The table :data:`CAUSES` is read from above. Of several diagnostics, the one that another try can't help decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure.errors import (
    BackendError,
    CapacityError,
    ExpiredCredentialsError,
    ModuleError,
    ProviderChangedError,
    ProviderCrashError,
    StalePlanError,
    StateLockedError,
    TerraformCredentialsError,
    UnreachableError,
    VariableError,
)
from ray_provider.infrastructure.terraform.events import Diagnostic
from ray_provider.infrastructure.terraform.rescue import lock_holder

_IN_STATE = " What was made so far is in the state: another try goes on from there."


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a command failed.

    :param name: for people.
    :param pattern: what Terraform, a provider or a cloud says then.
    :param error: the class, which says whether another try can help.
    :param hint: what to do next.
    :param lead: put before what was said.
    """

    name: str
    pattern: re.Pattern[str]
    error: type[InfrastructureError]
    hint: str
    lead: str = ""


def _any(*texts: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    return re.compile("|".join(texts), re.IGNORECASE | flags)


CAUSES: tuple[Cause, ...] = (
    Cause(
        "a provider that is not what it was",
        _any(r"does(?:n't| not) match any of the\s+checksums\s+(?:previously\s+)?recorded in the\s+dependency lock"),
        ProviderChangedError,
        "Find out why it changed before you trust it: it gets the cloud's credentials. A version that was published"
        " keeps its content.",
        "A provider is not what the lock file says that it is; it was not started. ",
    ),
    Cause(
        "credentials that ended",
        _any(
            r"ExpiredToken",
            r"RequestExpired",
            r"security token included in the request is expired",
            r"provided token has expired",
            r"oauth2: token expired and refresh token is not set",
            r"token (?:has )?expired",
            r"ACCESS_TOKEN_EXPIRED",
        ),
        ExpiredCredentialsError,
        "Another try gets new credentials."
        + _IN_STATE
        + " For runs that take longer than credentials are good for, give"
        " a connection that Terraform can renew: a role to assume, a key, a federation (docs/infrastructure.md).",
    ),
    Cause(
        "no credentials at all",
        # Before "unreachable": a worker without a role can't reach the metadata server, and never will.
        _any(
            r"no EC2 IMDS role found",
            r"169\.254\.169\.254",
            r"could not find default credentials",
            r"Attempted to load application default credentials",
        ),
        TerraformCredentialsError,
        "Give the task credentials: `aws_conn_id` or `gcp_conn_id`, or the worker's own identity.",
    ),
    Cause(
        "credentials that are refused",
        _any(
            r"InvalidClientTokenId",
            r"UnrecognizedClientException",
            r"SignatureDoesNotMatch",
            r"InvalidAccessKeyId",
            r"AuthFailure",
            r"AccessDenied",
            r"UnauthorizedOperation",
            r"is not authorized to perform",
            r"invalid_grant",
            r"Error 401",
            r"Error 403(?!.{0,400}(?:rateLimitExceeded|quotaExceeded))",
            r"PERMISSION_DENIED",
            r"Cannot assume IAM Role.{0,400}StatusCode: 403",
            flags=re.DOTALL,
        ),
        TerraformCredentialsError,
        "Give the task credentials that may do this: `aws_conn_id` or `gcp_conn_id`, or the worker's own identity.",
    ),
    Cause(
        "too many requests",
        _any(
            r"ThrottlingException",
            r"Throttling:",
            r"RequestLimitExceeded",
            r"TooManyRequests",
            r"Too Many Requests",
            r"Rate exceeded",
            r"SlowDown",
            r"rateLimitExceeded",
            r"StatusCode: 429",
            r"Error 429(?!.{0,400}RESOURCE_EXHAUSTED.{0,200}(?:GPU|TPU|CPU))",
            flags=re.DOTALL,
        ),
        UnreachableError,
        "The cloud asks for fewer requests: another try, later, can help; so does a lower `parallelism`." + _IN_STATE,
        "Too many requests. ",
    ),
    Cause(
        "the provider registry, or a module's server, does not answer",
        _any(
            r"(?:Failed to query available provider|Failed to install provider|accessing remote module registry|"
            r"Failed to download module|could not connect to \S+: failed to request discovery|"
            r"retrieve the list of available versions).{0,1500}(?:"
            r"no such host|failure in name resolution|server misbehaving|connection refused|connection reset|"
            r"i/o timeout|TLS handshake timeout|deadline exceeded|unexpected EOF|\bEOF\b|Client\.Timeout|"
            r"network is unreachable|no route to host|giving up after|please try again later|the request failed after|"
            r"\b50[0234]\b|\b429\b|bad response code: 5)",
            flags=re.DOTALL,
        ),
        UnreachableError,
        "Nothing is wrong with the module: its providers or parts can't be fetched now. Try again later. A worker"
        " without a way to the registry needs a mirror (`provider_installation` in TF_CLI_CONFIG_FILE) or a filled"
        " cache.",
        "The registry can't be reached. ",
    ),
    Cause(
        "no answer, or a server's own error",
        _any(
            r"no such host",
            r"failure in name resolution",
            r"server misbehaving",
            r"connection refused",
            r"connection reset",
            r"broken pipe",
            r"i/o timeout",
            r"TLS handshake timeout",
            r"Client\.Timeout exceeded",
            r"context deadline exceeded",
            r"http2: (?:client connection lost|server sent GOAWAY)",
            r"unexpected EOF",
            r"\": EOF\b",
            r"network is unreachable",
            r"no route to host",
            r"giving up after \d+ attempt",
            r"StatusCode: 50[0234]",
            r"Error 50[0234]\b",
            r"HTTP response code:? 50[0234]",
            r"HTTP error: 50[0234]",
            r"HTTP remote state endpoint (?:returned|requires).{0,40}50[0234]",
            r"\b50[234] (?:Bad Gateway|Service Unavailable|Gateway Timeout)",
            r"\b500 Internal Server Error",
            r"api error (?:InternalError|InternalFailure|ServiceUnavailable|RequestTimeout|InternalServerException)",
            r"\bbackendError\b",
            r"code = (?:Unavailable|DeadlineExceeded)",
        ),
        UnreachableError,
        "Another try can help: it was the network or the other side, not what you gave."
        + _IN_STATE
        + " If it stays so,"
        " look at the address in the text, at DNS, proxies and firewalls of this worker.",
        "No answer, or a failing server. ",
    ),
    Cause(
        "credentials, of which no more is known",
        _any(
            r"No valid credential sources",
            r"failed to refresh cached credentials",
            r"oauth2: cannot fetch token",
            r"Retrieving AWS account details",
            r"Cannot assume IAM Role",
        ),
        TerraformCredentialsError,
        "Give the task credentials that may do this: `aws_conn_id` or `gcp_conn_id`, or the worker's own identity.",
    ),
    Cause(
        "no machines or no quota",
        _any(
            r"InsufficientInstanceCapacity",
            r"InsufficientFreeAddresses",
            r"InsufficientCapacity",
            r"VcpuLimitExceeded",
            r"LimitExceeded",
            r"quota(?:s)?\b.{0,80}(?:exceed|limit|insufficient)",
            r"exceeded? .{0,40}quota",
            r"QUOTA_EXCEEDED",
            r"quotaExceeded",
            r"ZONE_RESOURCE_POOL_EXHAUSTED",
            r"RESOURCE_EXHAUSTED",
            r"GCE_STOCKOUT",
            r"does not have enough resources",
            r"capacity[- ]block.{0,60}(?:not|expired|no )",
            r"UnsupportedAvailabilityZone",
            r"MaxSpotInstanceCountExceeded",
            r"could not launch.*capacity",
            r"SpotMaxPriceTooLow",
            r"no available capacity",
            flags=re.DOTALL,
        ),
        CapacityError,
        "Ask for more quota, or try other zones, machine types or another `capacity` of the pool." + _IN_STATE,
    ),
    Cause(
        "protected",
        _any(r"deletion[_ ]protection", r"prevent_destroy", r"Instance cannot be destroyed"),
        InfrastructureError,
        "Something is protected against deletion. Apply once with `deletion_protection = false`, then delete.",
    ),
    Cause(
        "the backend is not there",
        _any(
            r"Failed to get existing workspaces",
            r"Error loading state",
            r"S3 bucket \"[^\"]*\" does not exist",
            r"NoSuchBucket",
            r"bucket doesn't exist",
            r"Backend initialization required",
            r"Error configuring (?:the )?backend",
            r"Unsupported backend type",
            r"Backend configuration",
            r"Failed to (?:get|load|read|save|persist) state",
            r"error configuring .*backend",
            r"Invalid backend configuration",
            r"Missing region value",
            r"Unable to (?:access object .* in|list objects in) S3 bucket",
            r"storage: bucket",
            r"Error inspecting states",
            r"Error refreshing state",
            r"The backend configuration",
            r"Error (?:reading|writing) (?:local )?state",
            r"Failed to create.*state",
        ),
        BackendError,
        "Check `backend`: the bucket or folder has to exist, and the task has to be allowed to read and write it.",
        "The backend can't be used (field `backend`): ",
    ),
    Cause(
        "the module",
        _any(
            r"Unsupported Terraform Core version",
            r"Unsupported argument",
            r"Unsupported block type",
            r"Missing required argument",
            r"Reference to undeclared",
            r"Unclosed configuration block",
            r"Argument or block definition required",
            r"Invalid resource type",
            r"Module not (?:installed|found)",
            r"Unreadable module",
            r"Failed to (?:install|query) (?:available )?provider",
            r"Inconsistent dependency lock file",
            r"problems during initiali[sz]ation",
            r"Invalid block definition",
            r"Duplicate",
            r"Invalid single-argument block definition",
            r"Missing newline after",
        ),
        ModuleError,
        "Correct the module.",
        "The module can't be used (field `module`): ",
    ),
)
_STALE = _any(r"Saved plan is stale", r"plan file can no longer be applied")
_CRASH = _any(
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
DAMAGED = _any(
    r"Unrecognized remote plugin message",
    r"exec format error",
    r"Failed to (?:load plugin schemas|instantiate provider)",
    r"doesn't match any of the checksums",
    r"does not match any of the checksums",
    r"fork/exec \S*terraform-provider",
    # OpenTofu, of its cache.
    r"does not match the content of the downloaded package",
)
_VARIABLE_SUMMARY = _any(
    r"Invalid value for (?:input )?variable",
    r"No value for required variable",
    r"Value for undeclared variable",
    r"Invalid variable",
)
#: What a module checks across variables, or against what the cloud says of a machine type.
_PRECONDITION = _any(r"(?:Resource|Module output value) precondition failed")
_VARIABLE = re.compile(r"\bvar\.([A-Za-z_][\w-]*)|\bvariable(?: named)? \"([A-Za-z_][\w-]*)\"")


def variable_names(diagnostics: Sequence[Diagnostic]) -> list[str]:
    """Give the names of the variables that diagnostics speak of."""
    names: dict[str, None] = {}
    for diagnostic in diagnostics:
        for match in _VARIABLE.finditer(f"{diagnostic.summary}\n{diagnostic.detail}\n{diagnostic.traversals}"):
            names[match.group(1) or match.group(2)] = None
        for name in diagnostic.variables:
            names[name] = None
    return list(names)


def cause_of(texts: Sequence[str]) -> Cause | None:
    """Give the cause that decides: one that another try can't help, else the first that is known.

    :param texts: what was said, by diagnostic.
    """
    found = [next((cause for cause in CAUSES if cause.pattern.search(text)), None) for text in texts]
    known = [cause for cause in found if cause is not None]
    return next((cause for cause in known if not cause.error.retryable), known[0] if known else None)


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
    cause = cause_of([f"{diagnostic.text}\n{diagnostic.traversals}" for diagnostic in errors] or [stderr])
    if cause is not None:
        return cause.error(cause.lead + said, hint=cause.hint, **data)
    if command in {"init", "validate"}:
        return ModuleError(f"The module can't be used (field `module`): {said}", hint="Correct the module.", **data)
    return InfrastructureError(said, hint=_IN_STATE.strip(), **data)


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
