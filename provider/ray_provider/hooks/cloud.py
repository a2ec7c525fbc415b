"""From Airflow's ``aws`` and ``google_cloud_platform`` connections to the clusters that Terraform made.

Where the amazon or the google provider is installed, its hook reads the connection, with all that it knows. Without it
the usual fields are read here. Everything is kept in memory. The functions block: call them in a thread from a loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ray_provider._compat import BaseHook, in_thread, mask_secrets
from ray_provider.exceptions import ConfigurationError, InfrastructureError, KubernetesError
from ray_provider.hooks.cloud_cluster import DNS, CloudCluster

if TYPE_CHECKING:
    from ray_provider.clusters.kubernetes.access import KubernetesAccess
    from ray_provider.infrastructure.cloud.credentials import ClusterCredentials
    from ray_provider.infrastructure.cloud.presence import Cloud
    from ray_provider.infrastructure.run import InfrastructureRun

_GOOGLE_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_OLD_GOOGLE_PREFIX = "extra__google_cloud_platform__"


async def cloud_credentials(cluster: CloudCluster) -> ClusterCredentials:
    """Ask the cloud where the cluster is, and make credentials for it.

    :param cluster: which one, and by which connection or role.
    :raises ConfigurationError: there is no such cluster, or the connection can't be used.
    :raises TerraformCredentialsError: the cloud denies access.
    """
    if cluster.cloud == "aws":
        from ray_provider.infrastructure.cloud.eks import EksCluster, eks_credentials

        session = None
        if cluster.aws_conn_id:
            session = await in_thread(aws_session, cluster.aws_conn_id, cluster.location)
        return await eks_credentials(
            EksCluster(cluster.name, cluster.location, role_arn=cluster.role_arn), session=session
        )
    if cluster.cloud == "gcp":
        from ray_provider.infrastructure.cloud.gke import GkeCluster, gke_credentials

        credentials, project = None, cluster.project
        if cluster.gcp_conn_id:
            credentials, own_project = await in_thread(google_credentials, cluster.gcp_conn_id)
            project = project or own_project
        return await gke_credentials(
            GkeCluster(
                cluster.name,
                cluster.location,
                project or "",
                impersonate=cluster.impersonate,
                dns_endpoint=cluster.endpoint == DNS,
            ),
            credentials=credentials,
        )
    raise ConfigurationError(f"cloud: {cluster.cloud!r} is not one of aws, gcp.", field="cloud")


async def cloud_access(cluster: CloudCluster) -> KubernetesAccess:
    """Give access to a cloud's cluster.

    This process makes its tokens itself, and renews them before they end. With the worker's own identity, programs like
    helm get a kubeconfig with an exec plugin, and no token is written anywhere. With an Airflow connection only this
    process has the credentials: its tokens are handed on, in memory where the system can do that.

    :param cluster: which one, and by which connection or role.
    :raises ConfigurationError: as :func:`cloud_credentials`.
    """
    from ray_provider.clusters.kubernetes.access import KubernetesAccess

    found = await cloud_credentials(cluster)
    if found.exec_arguments is not None:
        return KubernetesAccess(
            kubeconfig=found.kubeconfig(),
            token_provider=found.token_provider,
            identity=cluster,
            namespace=cluster.namespace,
            name=found.name,
        )
    return KubernetesAccess(
        server=found.endpoint,
        ca_data=found.ca_data,
        token_provider=found.token_provider,
        identity=cluster,
        namespace=cluster.namespace,
        name=found.name,
    )


def aws_session(conn_id: str, region: str | None = None) -> Any:
    """Make a boto3 session from an ``aws`` connection. Blocking.

    :param conn_id: of the connection.
    :param region: if not the connection's own.
    :raises ConfigurationError: it can't be used.
    """
    try:
        hook = import_module("airflow.providers.amazon.aws.hooks.base_aws").AwsBaseHook
    except ImportError:
        return _plain_aws_session(conn_id, region)
    return hook(aws_conn_id=conn_id, client_type="eks").get_session(region_name=region)


def aws_environment(conn_id: str, region: str | None = None) -> dict[str, str]:
    """Give the variables from which Terraform's provider takes the credentials of an ``aws`` connection. Blocking.

    :param conn_id: of the connection.
    :param region: if not the connection's own.
    :raises ConfigurationError: the connection has no credentials.
    """
    session = aws_session(conn_id, region)
    credentials = session.get_credentials()
    if credentials is None:
        raise ConfigurationError(f"aws_conn_id: the connection {conn_id!r} has no credentials.", field="aws_conn_id")
    frozen = credentials.get_frozen_credentials()
    found = {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key}
    if frozen.token:
        found["AWS_SESSION_TOKEN"] = frozen.token
    if region or session.region_name:
        found["AWS_REGION"] = found["AWS_DEFAULT_REGION"] = str(region or session.region_name)
    mask_secrets([value for name, value in found.items() if "KEY" in name or "TOKEN" in name])
    return found


def google_credentials(conn_id: str) -> tuple[Any, str | None]:
    """Make google-auth credentials from a ``google_cloud_platform`` connection, and give its project. Blocking.

    :param conn_id: of the connection.
    :raises ConfigurationError: it can't be used.
    """
    try:
        hook = import_module("airflow.providers.google.common.hooks.base_google").GoogleBaseHook
    except ImportError:
        return _plain_google_credentials(conn_id)
    credentials, project = hook(gcp_conn_id=conn_id).get_credentials_and_project_id()
    return credentials, project


def google_project(conn_id: str | None) -> str | None:
    """Give the project that our credentials are of: those of a connection, else the worker's. Blocking.

    :param conn_id: of the connection; ``None`` for what the worker has.
    """
    if conn_id:
        return google_credentials(conn_id)[1]
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    find: Any = google.auth.default  # google-auth has no types
    try:
        project: str | None = find(scopes=_GOOGLE_SCOPES)[1]
    except GoogleAuthError:
        return None
    return project


def google_environment(conn_id: str) -> dict[str, str]:
    """Give the variables from which Terraform's provider takes the credentials of such a connection. Blocking.

    A service account's key goes on as it is; other credentials as an access token, which is good for an hour.

    :param conn_id: of the connection.
    :raises ConfigurationError: the connection can't be used.
    """
    key = google_key(google_extra(conn_id))
    credentials, project = google_credentials(conn_id)
    if key is not None:
        found = {"GOOGLE_CREDENTIALS": json.dumps(key)}
        mask_secrets([str(key[name]) for name in ("private_key", "private_key_id") if key.get(name)])
    else:
        from google.auth.transport.requests import Request

        credentials.refresh(Request())
        found = {"GOOGLE_OAUTH_ACCESS_TOKEN": str(credentials.token)}
        mask_secrets([str(credentials.token)])
    if project:
        found["GOOGLE_PROJECT"] = project
    return found


def google_extra(conn_id: str) -> dict[str, Any]:
    """Give what a connection says besides login and password.

    :param conn_id: of the connection.
    """
    extra = BaseHook.get_connection(conn_id).extra_dejson
    return extra if isinstance(extra, dict) else {}


def _plain_aws_session(conn_id: str, region: str | None) -> Any:
    """Read the common fields of an ``aws`` connection."""
    connection = BaseHook.get_connection(conn_id)
    extra = connection.extra_dejson
    if extra.get("assume_role_method", "assume_role") != "assume_role":
        raise ConfigurationError(
            f"aws_conn_id: the amazon provider is not installed. The connection {conn_id!r} needs it: it assumes its"
            f" role by {extra['assume_role_method']}.",
            hint="pip install apache-airflow-providers-amazon",
            field="aws_conn_id",
        )
    from ray_provider.infrastructure.cloud.eks import boto3_for

    boto3 = boto3_for("an aws connection")
    region = region or extra.get("region_name")
    session = boto3.Session(
        aws_access_key_id=connection.login or extra.get("aws_access_key_id"),
        aws_secret_access_key=connection.password or extra.get("aws_secret_access_key"),
        aws_session_token=extra.get("aws_session_token"),
        profile_name=extra.get("profile_name"),
        region_name=region,
    )
    role = extra.get("role_arn")
    if not role:
        return session
    from ray_provider.infrastructure.cloud.eks import assume_role

    return assume_role(session, str(role), region=region, external_id=extra.get("external_id"))


def _plain_google_credentials(conn_id: str) -> tuple[Any, str | None]:
    """Read the common fields of a ``google_cloud_platform`` connection."""
    try:
        import google.auth
        from google.oauth2.service_account import Credentials
    except ImportError as error:
        raise ConfigurationError(
            "google-auth is needed for a Google connection, and is not installed.",
            hint="pip install 'airflow-ray[google]'",
        ) from error
    make: Any = Credentials  # google-auth has no types
    extra = google_extra(conn_id)
    project = extra.get("project") or extra.get(f"{_OLD_GOOGLE_PREFIX}project")
    key = google_key(extra)
    path = extra.get("key_path") or extra.get(f"{_OLD_GOOGLE_PREFIX}key_path")
    try:
        if key is not None:
            credentials = make.from_service_account_info(key, scopes=_GOOGLE_SCOPES)
        elif path:
            credentials = make.from_service_account_file(path, scopes=_GOOGLE_SCOPES)
        else:
            credentials, found = google.auth.default(scopes=_GOOGLE_SCOPES)
            project = project or found
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"gcp_conn_id: the key in the connection {conn_id!r} can't be used ({type(error).__name__}).",
            field="gcp_conn_id",
        ) from None
    return credentials, project or getattr(credentials, "project_id", None)


def google_field(extra: Mapping[str, Any], name: str) -> Any:
    """Give a field of a Google connection, by its name or by the one that it had in old Airflows.

    :param extra: the connection's.
    :param name: the field's.
    """
    return extra.get(name) or extra.get(f"{_OLD_GOOGLE_PREFIX}{name}")


def google_key(extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the key in a Google connection.

    :param extra: the connection's.
    :raises ConfigurationError: it is not JSON.
    """
    text = extra.get("keyfile_dict") or extra.get(f"{_OLD_GOOGLE_PREFIX}keyfile_dict")
    if not text:
        return None
    try:
        key = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        key = None
    if not isinstance(key, dict):
        # Not with the parser's error, which quotes the key.
        raise ConfigurationError("gcp_conn_id: `keyfile_dict` of the connection is not JSON.", field="gcp_conn_id")
    return key


async def users_of_cluster(cluster: CloudCluster) -> list[str]:
    """Name the Ray clusters in a cloud's cluster, and what it made that costs money and that Terraform does not know.

    :param cluster: which one, and by which connection or role.
    :return: nothing if the cluster itself is gone, or was never finished.
    :raises InfrastructureError: it can't be asked.
    :raises ConfigurationError: the cluster can't be reached by what is given.
    """
    from ray_provider.clusters.kubernetes.client import open_kube

    try:
        kube_access = await cloud_access(cluster)
    except ConfigurationError as error:
        if error.data.get("gone") or error.data.get("no_server"):
            return []
        raise
    try:
        async with open_kube(kube_access) as kube:
            found: list[str] = []
            for path, describe, must in _LIVING:
                try:
                    items = (await kube.request("GET", path))["items"]
                except KubernetesError as error:
                    # KubeRay or Karpenter was never installed; or whoever may delete need not see all kinds.
                    if error.data.get("status") == 404 or (error.data.get("status") == 403 and not must):
                        continue
                    raise
                found += [words for item in items if (words := describe(item))]
            return found
    except KubernetesError as error:
        raise InfrastructureError(
            f"The cluster {cluster.name} can't be asked whether Ray clusters live there: {error.message}",
            hint='Let this task reach the cluster, or set `live_clusters="ignore"`.',
        ) from error


def _where(item: Mapping[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _load_balancer(item: Mapping[str, Any]) -> str | None:
    return f"load balancer {_where(item)}" if item.get("spec", {}).get("type") == "LoadBalancer" else None


def _machine(item: Mapping[str, Any]) -> str | None:
    """Name a machine that Karpenter made. EKS ends those of Auto Mode itself, with the cluster."""
    if item["spec"].get("nodeClassRef", {}).get("group") == "eks.amazonaws.com":
        return None
    pool = (item["metadata"].get("labels") or {}).get("karpenter.sh/nodepool", "-")
    return f"machine {item['metadata']['name']} of Karpenter's node pool {pool}"


def _volume(item: Mapping[str, Any]) -> str | None:
    """Name a disk that was made for a claim and that goes with it, unless the cluster is gone by then."""
    spec = item["spec"]
    if (spec.get("csi") or {}).get("driver") not in _DISKS or spec.get("persistentVolumeReclaimPolicy") != "Delete":
        return None
    claim = spec.get("claimRef") or {}
    return f"disk of the volume claim {claim.get('namespace', '-')}/{claim.get('name', '-')}"


#: Drivers whose volumes are disks of the cloud.
_DISKS = {"ebs.csi.aws.com", "ebs.csi.eks.amazonaws.com", "pd.csi.storage.gke.io"}
#: What is looked for: where, how it is named (``None``: it does not count), and whether we have to be allowed to look.
_LIVING: tuple[tuple[str, Callable[[Mapping[str, Any]], str | None], bool], ...] = (
    ("/apis/ray.io/v1/rayclusters", lambda item: f"Ray cluster {_where(item)}", True),
    ("/api/v1/services", _load_balancer, True),
    ("/apis/karpenter.sh/v1/nodeclaims", _machine, False),
    ("/api/v1/persistentvolumes", _volume, False),
)


def cloud_of_run(run: InfrastructureRun, *, aws_conn_id: str | None, gcp_conn_id: str | None) -> Cloud | None:
    """Give the cloud that a run of Terraform works in, with the identity that Terraform has. Blocking.

    :param run: entered.
    :param aws_conn_id: of the task, if it names one.
    :param gcp_conn_id: of the task, if it names one.
    :return: ``None`` if no cloud is known: a module of one's own that names none.
    :raises ConfigurationError: a connection can't be used, or a package is missing.
    """
    from ray_provider.infrastructure.cloud.eks import boto3_for
    from ray_provider.infrastructure.cloud.presence import aws_in
    from ray_provider.infrastructure.cloud.presence_google import Google
    from ray_provider.infrastructure.module.settings import bundled_cloud

    place, env, spec = run.place(), run.runner.env, run.spec
    kind = bundled_cloud(spec.module) or ("aws" if place.get("region") else "gcp" if place.get("project") else None)
    if kind == "aws" and place.get("region"):
        region, provider = place["region"], spec.providers.get("aws")
        settings = provider if isinstance(provider, Mapping) else {}
        given = spec.given_env
        boto3 = boto3_for("AWS")
        if settings.get("access_key") or given.get("AWS_ACCESS_KEY_ID"):
            session: Any = boto3.Session(
                aws_access_key_id=settings.get("access_key") or given.get("AWS_ACCESS_KEY_ID"),
                aws_secret_access_key=settings.get("secret_key") or given.get("AWS_SECRET_ACCESS_KEY"),
                aws_session_token=settings.get("token") or given.get("AWS_SESSION_TOKEN"),
                region_name=region,
            )
        elif aws_conn_id:
            session = aws_session(aws_conn_id, region)
        else:
            session = boto3.Session(
                profile_name=settings.get("profile") or given.get("AWS_PROFILE"), region_name=region
            )
        return aws_in(session, region, provider, env)
    if kind == "gcp" and place.get("project"):
        credentials = google_credentials(gcp_conn_id)[0] if gcp_conn_id else None
        return Google(credentials, place["project"])
    return None
