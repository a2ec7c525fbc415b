"""Credentials for a GKE cluster: google-cloud-container says where it is, google-auth says who we are."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, TypeVar

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.cloud.credentials import ClusterCredentials, RenewedToken, Token, decode_ca, required
from ray_provider.infrastructure.errors import TerraformCredentialsError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud.container_v1 import ClusterManagerClient

_T = TypeVar("_T")

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_IMPERSONATED_SECONDS = 3600
_REQUEST_SECONDS = 60.0
#: gcloud's variable for another address of the API (a private endpoint). Plain ``http://`` is for emulators.
ENDPOINT_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER"
#: If google-auth does not say when a token ends.
_UNKNOWN_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class GkeCluster:
    """Which cluster, and by whom it is entered.

    :param name: of the cluster.
    :param location: its region or zone.
    :param project: its project.
    :param impersonate: a service account to act as.
    :param dns_endpoint: use the DNS endpoint instead of the IP address.
    """

    name: str
    location: str
    project: str
    impersonate: str | None = None
    dns_endpoint: bool = False

    @property
    def path(self) -> str:
        """The cluster's name in Google's API."""
        return f"projects/{self.project}/locations/{self.location}/clusters/{self.name}"

    def arguments(self) -> tuple[str, ...]:
        """Give the exec plugin's arguments."""
        found = ["gke", "--name", self.name, "--location", self.location, "--project", self.project]
        if self.impersonate:
            found += ["--impersonate", self.impersonate]
        return tuple(found)


async def gke_credentials(
    cluster: GkeCluster, *, credentials: Credentials | None = None, client: ClusterManagerClient | None = None
) -> ClusterCredentials:
    """Ask Google Cloud for the cluster, and make the credentials for it.

    :param cluster: which one, and by which identity.
    :param credentials: whose; by default the application default credentials.
    :param client: a client of the container API, if it is not the usual one.
    :raises ConfigurationError: there is no such cluster, or it is not ready.
    :raises TerraformCredentialsError: Google Cloud denies access.
    """
    required({"cluster_name": cluster.name, "location": cluster.location, "project": cluster.project})
    return await asyncio.to_thread(_credentials, cluster, credentials, client)


def _credentials(cluster: GkeCluster, given: Credentials | None, client: Any) -> ClusterCredentials:
    own = acting_as(cluster, given)
    described = _call(cluster, lambda: _get(cluster, own, client))
    address = str(described.endpoint or "")
    ca_data = described.master_auth.cluster_ca_certificate or None
    if cluster.dns_endpoint:
        address = str(described.control_plane_endpoints_config.dns_endpoint_config.endpoint or "")
        # Its certificate is one of Google's public ones.
        ca_data = None
    if not address:
        raise ConfigurationError(
            f"The GKE cluster {cluster.path} has no API server yet: it is {described.status.name}.",
            hint="Wait until it is RUNNING.",
            no_server=True,
        )
    return ClusterCredentials(
        name=cluster.name,
        endpoint=address if "://" in address else f"https://{address}",
        ca_data=decode_ca(ca_data, cluster.name),
        token_provider=RenewedToken(lambda: gke_token(cluster, credentials=own)),
        exec_arguments=cluster.arguments() if given is None else None,
    )


def gke_token(cluster: GkeCluster, *, credentials: Credentials | None = None) -> Token:
    """Get a token, good for an hour. Blocking.

    :param cluster: which one, and by which identity.
    :param credentials: renewed if they have ended; made anew if ``None``.
    :raises TerraformCredentialsError: there are no credentials.
    """
    own = credentials or acting_as(cluster, None)
    return _call(cluster, lambda: _refresh(own))


def _refresh(credentials: Any) -> Token:
    from google.auth.transport.requests import Request

    credentials.refresh(Request())
    ends = credentials.expiry
    expires = time.time() + _UNKNOWN_SECONDS if ends is None else ends.replace(tzinfo=UTC).timestamp()
    return Token(str(credentials.token), expires)


def _get(cluster: GkeCluster, credentials: Any, client: Any) -> Any:
    with client or container_client(credentials) as own:
        return own.get_cluster(name=cluster.path, timeout=_REQUEST_SECONDS)


def container_client(credentials: Any) -> Any:
    """Give a client of Google's container API.

    :param credentials: google-auth credentials; ``None`` for the application default ones.
    """
    from google.cloud import container_v1

    endpoint = os.environ.get(ENDPOINT_VARIABLE, "").rstrip("/")
    if endpoint.startswith("http://"):
        import grpc  # type: ignore[import-untyped]
        from google.cloud.container_v1.services.cluster_manager.transports import ClusterManagerGrpcTransport

        channel = grpc.insecure_channel(endpoint.removeprefix("http://"))
        return container_v1.ClusterManagerClient(transport=ClusterManagerGrpcTransport(channel=channel))
    options = {"api_endpoint": endpoint.removeprefix("https://")} if endpoint else None
    return container_v1.ClusterManagerClient(credentials=credentials, client_options=options)


def acting_as(cluster: GkeCluster, given: Credentials | None) -> Any:
    """Give the credentials that authenticate to a cluster, as its service account if it names one.

    :param cluster: which one, and by which identity.
    :param given: unless given, the application default ones.
    :raises ConfigurationError: google-cloud-container is not installed.
    :raises TerraformCredentialsError: there are no default ones.
    """
    try:
        import google.auth
        from google.auth import impersonated_credentials
        from google.cloud import container_v1  # noqa: F401 - asked for here, with a word of advice
    except ImportError as error:
        raise ConfigurationError(
            "google-cloud-container is needed for GKE, and is not installed.", hint="pip install 'airflow-ray[google]'"
        ) from error
    own = given
    if own is None:
        own = _call(cluster, lambda: google.auth.default(scopes=_SCOPES))[0]
    if not cluster.impersonate:
        return own
    return impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]
        source_credentials=own,
        target_principal=cluster.impersonate,
        target_scopes=list(_SCOPES),
        lifetime=_IMPERSONATED_SECONDS,
    )


def _call(cluster: GkeCluster, call: Callable[[], _T]) -> _T:
    """Turn Google's errors into ours."""
    from google.api_core.exceptions import GoogleAPICallError, NotFound
    from google.auth.exceptions import GoogleAuthError

    try:
        return call()
    except NotFound as error:
        raise ConfigurationError(
            f"There is no GKE cluster {cluster.path} (cluster_name, location, project).",
            hint="Check the name, the region or zone, and the project.",
            gone=True,
        ) from error
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise TerraformCredentialsError(
            f"Google Cloud denies access to the GKE cluster {cluster.path}: {str(error)[:500]}",
            hint="The identity needs the role roles/container.developer. Give it by `gcp_conn_id`, by the worker's"
            " workload identity, or by GOOGLE_APPLICATION_CREDENTIALS.",
            cluster=cluster.name,
        ) from error
