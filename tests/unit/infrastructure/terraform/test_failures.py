"""What Terraform, providers and clouds say when something fails, word for word, and what we make of it."""

from __future__ import annotations

import pytest

from ray_provider.exceptions import InfrastructureError
from ray_provider.infrastructure import errors
from ray_provider.infrastructure.terraform.events import Diagnostic
from ray_provider.infrastructure.terraform.failures import error_for

NO_HOST = "dial tcp: lookup registry.terraform.io on 10.0.0.2:53: no such host"
DISCOVERY = 'failed to request discovery document: Get "https://registry.terraform.io/.well-known/terraform.json"'
S3 = 'Unable to list objects in S3 bucket "b" with prefix "env:/": operation error S3: ListObjectsV2'
STS = "retrieving caller identity from STS: operation error STS: GetCallerIdentity, https response error"

TABLE: list[tuple[str, str, str, type[InfrastructureError], bool, str]] = [
    # command, summary, detail, class, retryable, part of the hint
    (
        "init",
        "Failed to query available provider packages",
        (
            "Could not retrieve the list of available versions for provider hashicorp/random: could not connect to"
            f" registry.terraform.io: {DISCOVERY}: {NO_HOST}"
        ),
        errors.UnreachableError,
        True,
        "Nothing is wrong with the module",
    ),
    (
        "init",
        "Error accessing remote module registry",
        (
            f'Failed to retrieve available versions for module "x" (main.tf:1) from registry.terraform.io: {DISCOVERY}:'
            f" {NO_HOST}."
        ),
        errors.UnreachableError,
        True,
        "Nothing is wrong with the module",
    ),
    (
        "init",
        "Failed to download module",
        (
            'Could not download module "x" (main.tf:1) source code from "https://m.example.org/x.zip": Get'
            ' "https://m.example.org/x.zip": dial tcp 203.0.113.9:443: connect: connection refused'
        ),
        errors.UnreachableError,
        True,
        "Nothing is wrong with the module",
    ),
    (
        "init",
        "Failed to install provider",
        (
            "Error while installing hashicorp/aws v5.100.0: could not query provider registry for"
            " registry.terraform.io/hashicorp/aws: failed to retrieve authentication checksums for provider: the request"
            " failed after 2 attempts, please try again later: 502 Bad Gateway returned from github.com"
        ),
        errors.UnreachableError,
        True,
        "Try again later",
    ),
    (
        "init",
        "Failed to query available provider packages",
        (
            "Could not retrieve the list of available versions for provider hashicorp/awz: provider registry"
            " registry.terraform.io does not have a provider named registry.terraform.io/hashicorp/awz"
        ),
        errors.ModuleError,
        False,
        "Correct the module",
    ),
    (
        "init",
        "Failed to query available provider packages",
        (
            "Could not retrieve the list of available versions for provider hashicorp/aws: no available releases match the"
            " given constraints ~> 99.0"
        ),
        errors.ModuleError,
        False,
        "Correct the module",
    ),
    (
        "init",
        (
            f"Failed to get existing workspaces: {S3}, https response error StatusCode: 0, RequestID: , HostID: , request"
            f' send failed, Get "http://b.example.org/?list-type=2": {NO_HOST}'
        ),
        "",
        errors.UnreachableError,
        True,
        "Another try can help",
    ),
    (
        "init",
        (
            f"Failed to get existing workspaces: {S3}, https response error StatusCode: 503, RequestID: X, HostID: Y, api"
            " error SlowDown: Please reduce your request rate."
        ),
        "",
        errors.UnreachableError,
        True,
        "fewer requests",
    ),
    (
        "init",
        (
            f"Failed to get existing workspaces: {S3}, https response error StatusCode: 403, RequestID: X, HostID: Y, api"
            " error AccessDenied: Access Denied"
        ),
        "",
        errors.TerraformCredentialsError,
        False,
        "aws_conn_id",
    ),
    (
        "init",
        'Failed to get existing workspaces: S3 bucket "b" does not exist.',
        "",
        errors.BackendError,
        False,
        "Check `backend`",
    ),
    (
        "init",
        (
            f"validating provider credentials: {STS} StatusCode: 0, RequestID: , request send failed, Post"
            f' "https://sts.us-east-1.amazonaws.com/": {NO_HOST}'
        ),
        "",
        errors.UnreachableError,
        True,
        "DNS",
    ),
    (
        "init",
        "No valid credential sources found",
        (
            "Error: failed to refresh cached credentials, no EC2 IMDS role found, operation error ec2imds: GetMetadata,"
            ' request send failed, Get "http://169.254.169.254/latest/meta-data/iam/security-credentials/": dial tcp'
            " 169.254.169.254:80: connect: connection refused"
        ),
        errors.TerraformCredentialsError,
        False,
        "aws_conn_id",
    ),
    (
        "plan",
        (
            f"validating provider credentials: {STS} StatusCode: 403, RequestID: X, api error InvalidClientTokenId: The"
            " security token included in the request is invalid."
        ),
        "",
        errors.TerraformCredentialsError,
        False,
        "aws_conn_id",
    ),
    (
        "apply",
        (
            "waiting for EKS Node Group (ray:cpu) create: operation error EKS: DescribeNodegroup, https response error"
            " StatusCode: 403, RequestID: X, api error ExpiredTokenException: The security token included in the request is"
            " expired"
        ),
        "",
        errors.ExpiredCredentialsError,
        True,
        "Another try gets new credentials",
    ),
    (
        "apply",
        "Failed to save state",
        (
            "Error saving state: failed to upload state: operation error S3: PutObject, https response error StatusCode:"
            " 400, RequestID: X, HostID: Y, api error ExpiredToken: The provided token has expired."
        ),
        errors.ExpiredCredentialsError,
        True,
        "role to assume",
    ),
    (
        "apply",
        "Error reading GCS state",
        (
            'googleapi: got HTTP response code 401 with body: {"error": {"status": "UNAUTHENTICATED", "details":'
            ' [{"reason": "ACCESS_TOKEN_EXPIRED"}]}}'
        ),
        errors.ExpiredCredentialsError,
        True,
        "Another try gets new credentials",
    ),
    (
        "apply",
        (
            "creating EC2 VPC: operation error EC2: CreateVpc, exceeded maximum number of attempts, 25, https response error"
            " StatusCode: 503, RequestID: X, api error RequestLimitExceeded: Request limit exceeded."
        ),
        "",
        errors.UnreachableError,
        True,
        "fewer requests",
    ),
    (
        "apply",
        (
            'Error waiting for creating GKE cluster: Get "https://container.googleapis.com/v1/projects/p/operations/o": read'
            " tcp 10.0.0.3:41234->203.0.113.1:443: read: connection reset by peer"
        ),
        "",
        errors.UnreachableError,
        True,
        "is in the state",
    ),
    (
        "apply",
        "Error creating NodePool: googleapi: Error 503: The service is currently unavailable., backendError",
        "",
        errors.UnreachableError,
        True,
        "Another try can help",
    ),
    (
        "apply",
        "Error creating Network: googleapi: Error 403: Quota exceeded for quota metric 'Queries', rateLimitExceeded",
        "",
        errors.UnreachableError,
        True,
        "parallelism",
    ),
    (
        "apply",
        "Error creating NodePool: googleapi: Error 403: Required 'container.clusters.update' permission(s)., forbidden",
        "",
        errors.TerraformCredentialsError,
        False,
        "gcp_conn_id",
    ),
    (
        "plan",
        "Error acquiring the state lock",
        "Error message: Failed to lock: LOCK http://states.example.org/s giving up after 2 attempt(s)",
        errors.UnreachableError,
        True,
        "Another try can help",
    ),
    (
        "plan",
        "Error acquiring the state lock",
        "Error message: HTTP remote state already locked:\nID=the-holders\nLock Info:\n  ID:        our-own\n  Path:",
        errors.StateLockedError,
        True,
        "force-unlock the-holders",
    ),
    (
        "plan",
        "Error refreshing state: HTTP remote state endpoint returned 503",
        "",
        errors.UnreachableError,
        True,
        "Another try can help",
    ),
    (
        "apply",
        (
            "creating EKS Cluster (ray): operation error EKS: CreateCluster, https response error StatusCode: 400, api error"
            " UnsupportedAvailabilityZoneException: Cannot create cluster 'ray' because us-east-1e does not have capacity"
        ),
        "",
        errors.CapacityError,
        True,
        "other zones",
    ),
]


@pytest.mark.parametrize(
    ("command", "summary", "detail", "kind", "retryable", "hint"),
    TABLE,
    ids=[f"{row[3].__name__}-{n}" for n, row in enumerate(TABLE)],
)
def test_real_texts(
    command: str, summary: str, detail: str, kind: type[InfrastructureError], retryable: bool, hint: str
) -> None:
    error = error_for(command, [Diagnostic("error", summary, detail)], exit_code=1)
    assert type(error) is kind
    assert error.retryable is retryable
    assert hint in str(error.hint)


@pytest.mark.parametrize("order", [1, -1])
def test_what_another_try_can_not_help_decides(order: int) -> None:
    said = [
        Diagnostic("error", "creating A: read tcp: connection reset by peer"),
        Diagnostic("error", "creating B: api error AccessDenied: no"),
    ]
    error = error_for("apply", said[::order])
    assert type(error) is errors.TerraformCredentialsError
    assert "connection reset" in str(error)
