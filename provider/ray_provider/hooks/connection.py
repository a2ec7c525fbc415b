"""An Airflow connection of type ``ray``, read once into a checked and frozen object."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.jobs.endpoint import TlsOptions

if TYPE_CHECKING:
    from collections.abc import Callable

Access = Literal["auto", "proxy", "service", "ingress", "url"]

BACKENDS = ("local", "kubernetes")
ACCESS_WAYS = ("auto", "proxy", "service", "ingress", "url")

#: How the forms of Airflow before 2.3 stored a field; connections made by the predecessor may still hold it.
_OLD_PREFIX = "extra__ray__"

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}

#: The field that names the cluster of a cloud.
_CLUSTER_FIELDS = {"aws": "eks_cluster", "gcp": "gke_cluster"}
#: Fields that say by whom a cloud's cluster is entered, also one that a task names.
_IDENTITY_FIELDS = ("aws_conn_id", "aws_role_arn", "gcp_conn_id", "gcp_impersonate")

ADDRESS_HINT = (
    "Set the connection's field `address` to the dashboard's URL, such as http://127.0.0.1:8265, "
    "or give the task a cluster: cluster=setup.output."
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
    :param access: how a cluster in Kubernetes is reached: through the API server's proxy, at its service, through its
        Ingress, or by a URL.
    :param namespace: Kubernetes namespace.
    :param kubeconfig_path: path of a kubeconfig file.
    :param kubeconfig: the kubeconfig itself.
    :param cluster_context: name of a context in it.
    :param in_cluster: use the service account of the pod that runs the task.
    :param disable_verify_ssl: don't check the certificate of the Kubernetes API server.
    :param disable_tcp_keepalive: no TCP keep-alive on connections to it.
    :param kubernetes_conn_id: take all of that from this connection of type ``kubernetes``.
    :param cloud: a cluster of EKS or GKE, by its name.
    :param aws_conn_id: connection of type ``aws`` that EKS clusters are entered with; else what the worker has.
    :param aws_role_arn: role that is assumed for it.
    :param gcp_conn_id: connection of type ``google_cloud_platform`` that GKE clusters are entered with; else what the
        worker has.
    :param gcp_impersonate: service account that is acted as.
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
    backend: Literal["local", "kubernetes"] = "kubernetes"
    access: Access = "auto"
    namespace: str | None = None
    kubeconfig_path: str | None = None
    kubeconfig: Mapping[str, Any] | None = field(default=None, repr=False)
    cluster_context: str | None = None
    in_cluster: bool = False
    disable_verify_ssl: bool = False
    disable_tcp_keepalive: bool = False
    kubernetes_conn_id: str | None = None
    cloud: CloudCluster | None = None
    aws_conn_id: str | None = None
    aws_role_arn: str | None = None
    gcp_conn_id: str | None = None
    gcp_impersonate: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

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
        reader = _Reader(conn_id, extra)
        environ = os.environ if environ is None else environ
        source = f"the field `address` of connection {conn_id!r}"
        address = reader.text("address")
        if not address and host:
            address, source = _from_parts(host, port, schema), f"host, port and schema of connection {conn_id!r}"
        if not address and environ.get("RAY_ADDRESS"):
            address, source = environ["RAY_ADDRESS"].strip(), "the environment variable RAY_ADDRESS"
        headers = reader.mapping("headers")
        if address:
            address, basic = check_address(address, source)
            headers = {**basic, **headers}
        tls = reader.tls()
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
                _CLUSTER_FIELDS[cloud.cloud],
                "is given, and so is a kubeconfig, `in_cluster` or `kubernetes_conn_id`",
                "Keep one of them: each says which Kubernetes it is.",
            )
        return cls(
            conn_id=conn_id,
            address=address,
            address_source=source,
            token=reader.text("token") or (password or "").strip() or None,
            headers=headers,
            cookies=reader.cookies(),
            metadata=reader.mapping("metadata"),
            tls=tls,
            backend=cast("Literal['local', 'kubernetes']", reader.choice("backend", BACKENDS, "kubernetes")),
            access=cast("Access", reader.choice("access", ACCESS_WAYS, "auto")),
            namespace=reader.text("namespace"),
            kubeconfig_path=path,
            kubeconfig=kubeconfig,
            cluster_context=reader.text("cluster_context"),
            in_cluster=in_cluster,
            disable_verify_ssl=reader.flag("disable_verify_ssl", default=False),
            disable_tcp_keepalive=reader.flag("disable_tcp_keepalive", default=False),
            kubernetes_conn_id=kubernetes_conn_id,
            cloud=cloud,
            **{name: reader.text(name) for name in _IDENTITY_FIELDS},
            extra=reader.rest(),
        )

    def require_address(self) -> str:
        """Give the address.

        :raises ConfigurationError: there is none.
        """
        if self.address:
            return self.address
        raise ConfigurationError(
            f"The connection {self.conn_id!r} has no Ray address, and the task names no cluster.", hint=ADDRESS_HINT
        )


class _Reader:
    """Takes fields out of a connection's extra, and words the errors."""

    def __init__(self, conn_id: str, extra: Mapping[str, Any]) -> None:
        self.conn_id = conn_id
        self._fields = {
            **{key.removeprefix(_OLD_PREFIX): value for key, value in extra.items() if key.startswith(_OLD_PREFIX)},
            **{key: value for key, value in extra.items() if not key.startswith(_OLD_PREFIX)},
        }
        self._read: set[str] = set()

    def error(self, name: str, what: str, hint: str) -> ConfigurationError:
        return ConfigurationError(f"Connection {self.conn_id!r}: the field `{name}` {what}.", hint=hint, field=name)

    def get(self, name: str) -> Any:
        self._read.add(name)
        value = self._fields.get(name)
        return value.strip() if isinstance(value, str) else value

    def rest(self) -> dict[str, Any]:
        return {key: value for key, value in self._fields.items() if key not in self._read}

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.error(name, f"is a {type(value).__name__}, not text", "Write it as text.")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.get(name)
        if value is None or value == "":
            return default
        if isinstance(value, bool):
            return value
        word = str(value).lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
        raise self.error(name, f"is {value!r}", "Write true or false.")

    def choice(self, name: str, values: tuple[str, ...], default: str) -> str:
        value = (self.text(name) or default).lower()
        if value in values:
            return value
        raise self.error(name, f"is {value!r}", f"It must be one of: {', '.join(values)}.")

    def verify(self) -> tuple[bool, str | None]:
        """Give whether certificates are checked, and by which authorities' file. On, unless switched off by name."""
        ca_file = self.text("ca_file")
        value = self.get("verify")
        if isinstance(value, str) and value and value.lower() not in _TRUE | _FALSE:
            # requests, and with it Ray's own client, takes a path here.
            if ca_file and ca_file != value:
                raise self.error("verify", "names another file than `ca_file`", "Write true, and keep `ca_file`.")
            checked, ca_file = True, value
        else:
            checked = self.flag("verify", default=True)
        if ca_file and not os.path.isfile(ca_file):  # noqa: PTH113
            raise self.error(
                "ca_file", f"names {ca_file!r}, which is no file on this machine", "Give the path of a PEM file."
            )
        return checked, ca_file

    def tls(self) -> TlsOptions:
        """Give how the dashboard's certificate is checked, and which one is shown to it."""
        verify, ca_file = self.verify()
        ca_data = self.text("ca_data")
        if ca_data and ca_file:
            raise self.error("ca_data", "is given, and so is `ca_file`", "Keep one of the two.")
        if ca_data and "-----BEGIN CERTIFICATE-----" not in ca_data:
            raise self.error("ca_data", "is no certificate", "Paste the PEM text, BEGIN and END lines included.")
        files = {name: self.text(name) for name in ("cert_file", "key_file")}
        if files["key_file"] and not files["cert_file"]:
            raise self.error("key_file", "is given without `cert_file`", "A key is shown with its certificate only.")
        for name, path in files.items():
            if path and not os.path.isfile(path):  # noqa: PTH113
                raise self.error(name, f"names {path!r}, which is no file on this machine", "Give a PEM file's path.")
        return TlsOptions(verify=verify, ca_file=ca_file, ca_data=ca_data, **files)

    def mapping(self, name: str, other_form: Callable[[str], dict[str, str] | None] | None = None) -> dict[str, str]:
        value = self.get(name)
        if value is None or value == "":
            return {}
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                read = other_form(value) if other_form else None
                if read is not None:
                    return read
                raise self.error(
                    name, f"is no JSON ({error})", f'Write {name} as a JSON object: {{"name": "value"}}.'
                ) from None
        if not isinstance(value, Mapping):
            raise self.error(name, "is no JSON object", f'Write {name} as a JSON object: {{"name": "value"}}.')
        for key, item in value.items():
            if not isinstance(key, str) or not isinstance(item, str):
                raise self.error(
                    name, f"holds a {type(item).__name__} at {key!r}", "Names and values must be strings: quote them."
                )
        return dict(value)

    def cloud(self) -> CloudCluster | None:
        """Give the cluster of EKS or GKE, if one is named."""
        names = {cloud: self.text(name) for cloud, name in _CLUSTER_FIELDS.items()}
        location, project = self.text("cloud_location"), self.text("gcp_project")
        given = [cloud for cloud, name in names.items() if name]
        if not given:
            for name, value in (("cloud_location", location), ("gcp_project", project)):
                if value:
                    raise self.error(name, "is given without a cluster", "Name it: `eks_cluster` or `gke_cluster`.")
            return None
        if len(given) > 1:
            raise self.error("gke_cluster", "is given, and so is `eks_cluster`", "Keep one of the two.")
        cloud = given[0]
        if not location:
            kind = "region, such as eu-west-1" if cloud == "aws" else "region or zone, such as europe-west4"
            raise self.error("cloud_location", "is empty", f"Give the cluster's {kind}.")
        if cloud == "aws" and project:
            raise self.error("gcp_project", "is given for an EKS cluster", "Leave it out.")
        if cloud == "gcp" and not project and not self.text("gcp_conn_id"):
            raise self.error("gcp_project", "is empty", "Give the project of the GKE cluster.")
        return CloudCluster(
            cloud=cloud,
            name=str(names[cloud]),
            location=location,
            project=project,
            role_arn=self.text("aws_role_arn"),
            impersonate=self.text("gcp_impersonate"),
            aws_conn_id=self.text("aws_conn_id"),
            gcp_conn_id=self.text("gcp_conn_id"),
            namespace=self.text("namespace"),
        )

    def cookies(self) -> dict[str, str]:
        return self.mapping("cookies", _cookie_header)

    def kubeconfig(self) -> Mapping[str, Any] | None:
        value = self.get("kube_config")
        if value is None or value == "":
            return None
        if isinstance(value, str):
            value = _load(value)
        if isinstance(value, Mapping) and isinstance(value.get("clusters"), list):
            return dict(value)
        raise self.error(
            "kube_config",
            "is no kubeconfig (a JSON or YAML object with `clusters`)",
            "Paste the output of: kubectl config view --minify --flatten --output=json",
        )


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        import yaml

        from ray_provider.clusters.yaml_text import load_document

        try:
            return load_document(text)
        except yaml.YAMLError:
            # What is wrong with it is not said: the text of a YAML error quotes what it read.
            return None


def _cookie_header(text: str) -> dict[str, str] | None:
    """Read the form in which a browser shows cookies: ``a=1; b=2``."""
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    if not pairs or any(not name.strip() or not middle for name, middle, _ in pairs):
        return None
    return {name.strip(): value.strip() for name, _, value in pairs}


def _from_parts(host: str, port: int | None, schema: str | None) -> str:
    if "://" in host:
        return host
    scheme = schema if schema in {"http", "https"} else "http"
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{scheme}://{name}:{port or (443 if scheme == 'https' else 8265)}"


def check_address(address: str, source: str) -> tuple[str, dict[str, str]]:
    """Check a dashboard's URL.

    :param address: what was given.
    :param source: where, for the message.
    :return: the URL without a user and without a final slash, and the header that stands for the user.
    :raises ConfigurationError: it is no such URL; the message says what it looks like instead.
    """
    hint = "Give the URL of Ray's dashboard, such as http://127.0.0.1:8265 (`ray start` prints it)."
    if not isinstance(address, str) or not address.strip():
        raise ConfigurationError(f"The Ray address in {source} is empty.", hint=hint, field="address")
    address = address.strip()
    scheme, separator, rest = address.partition("://")
    if separator and scheme.lower() == "ray":
        host = rest.partition("/")[0].rpartition("@")[2].partition(":")[0] or "host"
        raise ConfigurationError(
            f"The Ray address in {source} is {address!r}: that is a Ray Client address. Jobs are submitted over HTTP.",
            hint=f"Give the dashboard's URL: http://{host}:8265 unless the cluster says otherwise.",
            field="address",
        )
    if address in {"auto", "local"}:
        raise ConfigurationError(
            f"The Ray address in {source} is {address!r}, which only a program on the Ray machine understands.",
            hint=hint,
            field="address",
        )
    if not separator:
        host, _, port = address.partition(":")
        known = f"{host}:{port}" if port and port != "6379" else f"{host}:8265"
        raise ConfigurationError(
            f"The Ray address in {source} is {address!r}: it has no scheme.",
            hint=f"Write http://{known} (or https://).",
            field="address",
        )
    try:
        parts = urlsplit(address)
        port_number = parts.port
    except ValueError as error:
        raise ConfigurationError(
            f"The Ray address in {source} is no URL: {error}.", hint=hint, field="address"
        ) from None
    if parts.scheme.lower() not in {"http", "https"}:
        raise ConfigurationError(
            f"The Ray address in {source} has the scheme {parts.scheme!r}: only http and https work.",
            hint=hint,
            field="address",
        )
    if not parts.hostname or any(character.isspace() for character in address):
        raise ConfigurationError(f"The Ray address in {source} names no host.", hint=hint, field="address")
    if parts.query or parts.fragment:
        raise ConfigurationError(
            f"The Ray address in {source} has a query or a fragment.",
            hint="Give the dashboard's base URL, without what follows `?` or `#`.",
            field="address",
        )
    basic: dict[str, str] = {}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        basic = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if port_number is None else f"{host}:{port_number}"
    return urlunsplit((parts.scheme.lower(), netloc, parts.path.rstrip("/"), "", "")), basic
