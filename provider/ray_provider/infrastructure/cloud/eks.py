"""Credentials for an EKS cluster: boto3 says where it is, and a presigned address says who we are."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.cloud.credentials import ClusterCredentials, RenewedToken, Token, decode_ca, required
from ray_provider.infrastructure.errors import TerraformCredentialsError

if TYPE_CHECKING:
    import boto3

_T = TypeVar("_T")

#: The authenticator in the cluster takes no address older than 15 minutes, whatever the address says of its own end.
TOKEN_SECONDS = 15 * 60
#: What the address says: aws-cli and aws-iam-authenticator sign for a minute.
_SIGNED_SECONDS = 60
_PREFIX = "k8s-aws-v1."
_CLUSTER_HEADER = "x-k8s-aws-id"
_ROLE_SESSION = "airflow-ray"


@dataclass(frozen=True, slots=True)
class EksCluster:
    """Which cluster, and by whom it is entered.

    :param name: of the cluster.
    :param region: where it is.
    :param role_arn: a role to assume first.
    :param external_id: for that role, if it wants one.
    :param profile: a profile of the shared AWS configuration.
    """

    name: str
    region: str
    role_arn: str | None = None
    external_id: str | None = field(default=None, repr=False)
    profile: str | None = None

    def arguments(self) -> tuple[str, ...]:
        """Give the exec plugin's arguments. An external id stays out of argv, though AWS takes it for no secret."""
        found = ["eks", "--name", self.name, "--region", self.region]
        for option, value in (("--role-arn", self.role_arn), ("--profile", self.profile)):
            if value:
                found += [option, value]
        return tuple(found)


async def eks_credentials(cluster: EksCluster, *, session: boto3.Session | None = None) -> ClusterCredentials:
    """Ask AWS for the cluster, and make the credentials for it.

    :param cluster: which one, and by which identity.
    :param session: whose session; by default what boto3 finds (environment, profile, the pod's or machine's role).
    :raises ConfigurationError: there is no such cluster, or it is not ready.
    :raises TerraformCredentialsError: AWS denies access.
    """
    required({"cluster_name": cluster.name, "region": cluster.region})
    return await asyncio.to_thread(_credentials, cluster, session)


def _credentials(cluster: EksCluster, given: boto3.Session | None) -> ClusterCredentials:
    own = _session(cluster, given)

    def describe() -> Any:
        return own.client("eks", region_name=cluster.region).describe_cluster(name=cluster.name)

    found = _call(cluster, describe)
    described = found["cluster"]
    endpoint = described.get("endpoint")
    if not endpoint:
        raise ConfigurationError(
            f"The EKS cluster {cluster.name} in {cluster.region} has no API server yet:"
            f" it is {described.get('status')}.",
            hint="Wait until it is ACTIVE.",
            no_server=True,
        )
    portable = given is None and cluster.external_id is None
    return ClusterCredentials(
        name=cluster.name,
        endpoint=str(endpoint).rstrip("/"),
        ca_data=decode_ca((described.get("certificateAuthority") or {}).get("data"), cluster.name),
        token_provider=RenewedToken(lambda: eks_token(cluster, session=own)),
        exec_arguments=cluster.arguments() if portable else None,
    )


def eks_token(cluster: EksCluster, *, session: boto3.Session | None = None) -> Token:
    """Make a token: a presigned address of STS with the cluster's name among what is signed. Blocking.

    :param cluster: which one, and by which identity.
    :param session: a session with the cluster's role in it; made if not given.
    :raises TerraformCredentialsError: there are no credentials to sign with.
    """
    own = session or _session(cluster, None)
    return _call(cluster, lambda: _sign(cluster, own))


def _sign(cluster: EksCluster, session: boto3.Session) -> Token:
    from botocore.signers import RequestSigner

    client = session.client("sts", region_name=cluster.region)
    credentials = session.get_credentials()
    signer = RequestSigner(
        client.meta.service_model.service_id, cluster.region, "sts", "v4", credentials, client.meta.events
    )
    signed = time.time()
    url = signer.generate_presigned_url(
        {
            "method": "GET",
            "url": f"{client.meta.endpoint_url.rstrip('/')}/?Action=GetCallerIdentity&Version=2011-06-15",
            "body": {},
            "headers": {_CLUSTER_HEADER: cluster.name},
            "context": {},
        },
        region_name=cluster.region,
        expires_in=_SIGNED_SECONDS,
        operation_name="",
    )
    value = _PREFIX + base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")
    expires = signed + TOKEN_SECONDS
    ends = getattr(credentials, "_expiry_time", None)
    if ends is not None:
        # A role's own end comes first: an address that was signed by ended credentials is refused.
        expires = min(expires, ends.timestamp())
    return Token(value, expires)


def boto3_for(what: str) -> Any:
    """Import boto3.

    :param what: what it is needed for.
    :raises ConfigurationError: it is not installed.
    """
    try:
        import boto3
    except ImportError as error:
        raise ConfigurationError(
            f"boto3 is needed for {what}, and is not installed.", hint="pip install 'airflow-ray[aws]'"
        ) from error
    return boto3


def _session(cluster: EksCluster, given: boto3.Session | None) -> boto3.Session:
    boto3 = boto3_for("EKS")
    base = given or _call(cluster, lambda: boto3.Session(profile_name=cluster.profile, region_name=cluster.region))
    if not cluster.role_arn:
        return base
    return assume_role(base, cluster.role_arn, region=cluster.region, external_id=cluster.external_id)


def assume_role(
    base: boto3.Session, role_arn: str, *, region: str | None = None, external_id: str | None = None
) -> boto3.Session:
    """Make a session in a role, which is assumed again before its time is over.

    :param base: the session that may assume it.
    :param role_arn: the role.
    :param region: of the new session, and of STS; what AWS's usual settings say if ``None``.
    :param external_id: what the role's trust asks for, if it does.
    :raises TerraformCredentialsError: there are no credentials to begin with.
    """
    import boto3
    import botocore.session
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

    source = base.get_credentials()
    if source is None:
        raise TerraformCredentialsError(
            f"No AWS credentials were found with which {role_arn} could be assumed.",
            hint="Give them by `aws_conn_id`, by the worker's role, or by the usual AWS variables.",
        )
    extra: dict[str, Any] = {"RoleSessionName": _ROLE_SESSION}
    if external_id:
        extra["ExternalId"] = external_id
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=lambda service, **arguments: base.client(
            service, **{**arguments, "region_name": arguments.get("region_name") or region}
        ),
        source_credentials=source,
        role_arn=role_arn,
        extra_args=extra,
    )
    inner = botocore.session.Session()
    inner._credentials = DeferredRefreshableCredentials(  # noqa: SLF001 - botocore has no other door for it
        method="assume-role", refresh_using=fetcher.fetch_credentials
    )
    return boto3.Session(botocore_session=inner, region_name=region)


def _call(cluster: EksCluster, call: Callable[[], _T]) -> _T:
    """Turn botocore's errors into ours."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        message = str(error.response.get("Error", {}).get("Message", ""))
        if code == "ResourceNotFoundException":
            raise ConfigurationError(
                f"There is no EKS cluster {cluster.name} in {cluster.region} (cluster_name, region).",
                hint="Check the name, the region, and the AWS account of the credentials.",
                gone=True,
            ) from error
        raise _refused(cluster, f"{code} {message}") from error
    except BotoCoreError as error:
        raise _refused(cluster, str(error)) from error


def _refused(cluster: EksCluster, why: str) -> TerraformCredentialsError:
    who = f" as {cluster.role_arn}" if cluster.role_arn else ""
    return TerraformCredentialsError(
        f"AWS denies access to the EKS cluster {cluster.name} in {cluster.region}{who}: {why[:500]}",
        hint="The identity needs eks:DescribeCluster and an access entry in the cluster. Give it by `aws_conn_id`,"
        " by the worker's role, or by the usual AWS variables.",
        cluster=cluster.name,
        region=cluster.region,
    )
