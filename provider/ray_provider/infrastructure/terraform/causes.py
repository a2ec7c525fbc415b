"""Why a command of Terraform failed: what Terraform, providers and clouds say, and what to do then.

The table :data:`CAUSES` is read from above. Of several diagnostics, the one that another try can't help decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure.errors import (
    BackendError,
    CapacityError,
    ExpiredCredentialsError,
    ModuleError,
    ProviderChangedError,
    TerraformCredentialsError,
    UnreachableError,
)

#: What every failure of an apply may say.
IN_STATE = " What was made so far is in the state: another try goes on from there."


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


def any_of(*texts: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """Give a pattern that finds any of these, in capitals or not.

    :param texts: regular expressions.
    :param flags: besides ``re.IGNORECASE``. Default: none.
    """
    return re.compile("|".join(texts), re.IGNORECASE | flags)


CAUSES: tuple[Cause, ...] = (
    Cause(
        "a provider that is not what it was",
        any_of(r"does(?:n't| not) match any of the\s+checksums\s+(?:previously\s+)?recorded in the\s+dependency lock"),
        ProviderChangedError,
        "Find out why it changed before you trust it: it gets the cloud's credentials. A version that was published"
        " keeps its content.",
        "A provider is not what the lock file says that it is; it was not started. ",
    ),
    Cause(
        "credentials that ended",
        any_of(
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
        + IN_STATE
        + " For runs that take longer than credentials are good for, give"
        " a connection that Terraform can renew: a role to assume, a key, a federation (docs/infrastructure.md).",
    ),
    Cause(
        "no credentials at all",
        # Before "unreachable": a worker without a role can't reach the metadata server, and never will.
        any_of(
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
        any_of(
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
        any_of(
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
        "The cloud asks for fewer requests: another try, later, can help; so does a lower `parallelism`." + IN_STATE,
        "Too many requests. ",
    ),
    Cause(
        "the provider registry, or a module's server, does not answer",
        any_of(
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
        any_of(
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
        "Another try can help: it was the network or the other side, not what you gave." + IN_STATE + " If it stays so,"
        " look at the address in the text, at DNS, proxies and firewalls of this worker.",
        "No answer, or a failing server. ",
    ),
    Cause(
        "credentials, of which no more is known",
        any_of(
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
        any_of(
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
        "Ask for more quota, or try other zones, machine types or another `capacity` of the pool." + IN_STATE,
    ),
    Cause(
        "protected",
        any_of(r"deletion[_ ]protection", r"prevent_destroy", r"Instance cannot be destroyed"),
        InfrastructureError,
        "Something is protected against deletion. Apply once with `deletion_protection = false`, then delete.",
    ),
    Cause(
        "the backend is not there",
        any_of(
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
        any_of(
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


def cause_of(texts: Sequence[str]) -> Cause | None:
    """Give the cause that decides: one that another try can't help, else the first that is known.

    :param texts: what was said, by diagnostic.
    """
    found = [next((cause for cause in CAUSES if cause.pattern.search(text)), None) for text in texts]
    known = [cause for cause in found if cause is not None]
    return next((cause for cause in known if not cause.error.retryable), known[0] if known else None)
