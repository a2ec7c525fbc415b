"""An Airflow connection of type ``ray``, read once into a checked and frozen object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast, get_args

from ray_provider.clusters.handle import Access, Backend
from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.address import address_of_parts, check_address
from ray_provider.hooks.cloud_cluster import DNS, CloudCluster
from ray_provider.hooks.connection_fields import CLUSTER_FIELDS, ConnectionFields
from ray_provider.jobs.endpoint import TlsOptions

#: Fields that say by whom a cloud's cluster is entered, also one that a task names.
_IDENTITY_FIELDS = ("aws_conn_id", "aws_role_arn", "gcp_conn_id", "gcp_impersonate", "gcp_project")

ADDRESS_HINT = (
    "Set the connection's field `address` to the dashboard's URL, such as http://127.0.0.1:8265, "
    "or give the task a cluster: cluster=setup.output. Where `backend` is `local` or `kubernetes`, a task of @task.ray "
    "makes a cluster for itself, and SetupRayCluster makes one for other tasks."
)


@dataclass(frozen=True, slots=True)
class RayConnectionConfig:
    """What a connection says, checked.

    :param conn_id: of the connection.
    :param address: URL of a Ray dashboard, or ``None``: then a task has to name a cluster.
    :param address_source: where the address came from, for messages.
    :param token: Ray's token.
    :param headers: sent with each request.
    :param cookies: sent with each request.
    :param metadata: added to the metadata of each job.
    :param tls: how a certificate of the dashboard is checked.
    :param backend: where clusters are set up.
    :param named_backend: the same if the connection says it, else ``None``.
    :param access: how a cluster in Kubernetes is reached: through the API server's proxy, at its service, through its
        Ingress, or by a URL.
    :param namespace: Kubernetes namespace.
    :param allowed_namespaces: others that a cluster's handle may lead to; ``*`` is any.
    :param kubeconfig_path: path of a kubeconfig file.
    :param kubeconfig: the kubeconfig itself.
    :param cluster_context: name of a context in it.
    :param in_cluster: use the service account of the pod that runs the task.
    :param disable_verify_ssl: don't check the certificate of the Kubernetes API server.
    :param allow_plain_http: credentials may go over plain http: no warning.
    :param kubernetes_conn_id: take all of that from this connection of type ``kubernetes``.
    :param cloud: a cluster of EKS or GKE, by its name.
    :param aws_conn_id: connection of type ``aws`` for EKS clusters; else what the worker has.
    :param aws_role_arn: role that is assumed for it.
    :param gcp_conn_id: connection of type ``google_cloud_platform`` for GKE clusters; else what the
        worker has.
    :param gcp_impersonate: service account that is acted as.
    :param gcp_project: project of Google Cloud that GKE clusters may be in.
    :param gke_dns_endpoint: reach GKE clusters by their DNS names, which need no access to their network.
    :param extra: fields that are none of the above.
    """

    conn_id: str
    address: str | None = None
    address_source: str = "the connection"
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    tls: TlsOptions = field(default_factory=TlsOptions)
    backend: Backend = "kubernetes"
    named_backend: str | None = None
    access: Access = "auto"
    namespace: str | None = None
    allowed_namespaces: tuple[str, ...] = ()
    kubeconfig_path: str | None = None
    kubeconfig: Mapping[str, Any] | None = field(default=None, repr=False)
    cluster_context: str | None = None
    in_cluster: bool = False
    disable_verify_ssl: bool = False
    allow_plain_http: bool = False
    kubernetes_conn_id: str | None = None
    cloud: CloudCluster | None = None
    aws_conn_id: str | None = None
    aws_role_arn: str | None = None
    gcp_conn_id: str | None = None
    gcp_impersonate: str | None = None
    gcp_project: str | None = None
    gke_dns_endpoint: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def enter(self, cluster: CloudCluster) -> CloudCluster:
        """Give a cloud's cluster with the identity and the namespace that are named here; the rest stays as it is.

        :param cluster: as its handle says.
        """
        return replace(
            cluster,
            role_arn=self.aws_role_arn or cluster.role_arn,
            impersonate=self.gcp_impersonate or cluster.impersonate,
            aws_conn_id=self.aws_conn_id or cluster.aws_conn_id,
            gcp_conn_id=self.gcp_conn_id or cluster.gcp_conn_id,
            namespace=self.namespace or cluster.namespace,
            endpoint=cluster.endpoint or (DNS if self.gke_dns_endpoint and cluster.cloud == "gcp" else None),
        )

    @classmethod
    def from_connection(
        cls,
        conn_id: str,
        *,
        extra: Mapping[str, Any],
        host: str | None = None,
        port: int | None = None,
        schema: str | None = None,
        password: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> RayConnectionConfig:
        """Read and check a connection's fields.

        :param conn_id: of the connection.
        :param extra: its extra field, as a mapping.
        :param host: its host; with ``port`` and ``schema`` used where ``extra`` holds no address.
        :param port: its port.
        :param schema: ``http`` or ``https``.
        :param password: Ray's token, unless ``extra`` holds one.
        :param environ: the process's environment: ``RAY_ADDRESS`` is the last resort for the address.
        :raises ConfigurationError: a field that can't work; the message names it.
        """
        reader = ConnectionFields(conn_id, extra)
        environ = os.environ if environ is None else environ
        address, source = _address(reader, address_of_parts(host, port, schema) if host else None, environ)
        headers = reader.headers()
        password = (password or "").strip()
        reader.check_header("password", password)
        if address:
            address, basic = check_address(address, source)
            headers = {**basic, **headers}
        reader.flag("disable_tcp_keepalive", default=False)  # of astro-provider-ray: no effect
        tls = reader.tls()
        kubernetes = _which_kubernetes(reader)
        identity: dict[str, Any] = {name: reader.text(name) for name in _IDENTITY_FIELDS}
        return cls(
            conn_id=conn_id,
            address=address,
            address_source=source,
            token=reader.secret("token") or password or None,
            headers=headers,
            cookies=reader.cookies(),
            metadata=reader.mapping("metadata"),
            tls=tls,
            named_backend=reader.text("backend") and str(reader.text("backend")).lower(),
            backend=cast("Backend", reader.choice("backend", get_args(Backend), "kubernetes")),
            access=cast("Access", reader.choice("access", get_args(Access), "auto")),
            namespace=reader.text("namespace"),
            allowed_namespaces=reader.names("allowed_namespaces"),
            cluster_context=reader.text("cluster_context"),
            disable_verify_ssl=reader.flag("disable_verify_ssl", default=False),
            allow_plain_http=reader.flag("allow_plain_http", default=False),
            gke_dns_endpoint=reader.flag("gke_dns_endpoint", default=False),
            **kubernetes,
            **identity,
            extra=reader.rest(),
        )

    @property
    def makes_clusters(self) -> bool:
        """Whether the connection itself says where clusters are made: by its backend, or by a Kubernetes cluster."""
        kubernetes = (self.kubeconfig_path, self.kubeconfig, self.in_cluster, self.kubernetes_conn_id, self.cloud)
        return bool(self.named_backend or any(kubernetes))

    def require_address(self) -> str:
        """Give the address.

        :raises ConfigurationError: there is none.
        """
        if self.address:
            return self.address
        raise ConfigurationError(
            f"The connection {self.conn_id!r} has no Ray address, and the task names no cluster.", hint=ADDRESS_HINT
        )


def _address(reader: ConnectionFields, parts: str | None, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """Give the address of Ray and where it was said, for messages.

    :param parts: as host, port and schema say it.
    """
    conn_id = reader.conn_id
    if address := reader.text("address"):
        return address, f"the field `address` of connection {conn_id!r}"
    if parts:
        return parts, f"host, port and schema of connection {conn_id!r}"
    if environ.get("RAY_ADDRESS"):
        return environ["RAY_ADDRESS"].strip(), "the environment variable RAY_ADDRESS"
    return None, f"the field `address` of connection {conn_id!r}"


def _which_kubernetes(reader: ConnectionFields) -> dict[str, Any]:
    """Give the fields that say which Kubernetes it is.

    :raises ConfigurationError: several do.
    """
    path, kubeconfig = reader.text("kube_config_path"), reader.kubeconfig()
    if path and kubeconfig:
        raise reader.error(
            "kube_config", "is given, and so is `kube_config_path`", "Keep one of the two: both say the same."
        )
    in_cluster = reader.flag("in_cluster", default=False)
    if in_cluster and (path or kubeconfig):
        raise reader.error("in_cluster", "is set together with a kubeconfig", "Keep one of the two.")
    kubernetes_conn_id = reader.text("kubernetes_conn_id")
    cloud = reader.cloud()
    if cloud and (path or kubeconfig or in_cluster or kubernetes_conn_id):
        raise reader.error(
            CLUSTER_FIELDS[cloud.cloud],
            "is given, and so is a kubeconfig, `in_cluster` or `kubernetes_conn_id`",
            "Keep one of them: each says which Kubernetes it is.",
        )
    return {
        "kubeconfig_path": path,
        "kubeconfig": kubeconfig,
        "in_cluster": in_cluster,
        "kubernetes_conn_id": kubernetes_conn_id,
        "cloud": cloud,
    }
