"""What Airflow reads of the provider when it starts. Imports nothing but the version."""

from __future__ import annotations

from typing import Any

from ray_provider._version import __version__

_TEXT = ["string", "null"]
_FLAG = ["boolean", "null"]

_DASHBOARD = "Ray dashboard"
_CLUSTERS = "Ray clusters"
_KUBERNETES = "Kubernetes"
_CLOUD = "Cloud (EKS, GKE)"
_TLS = "TLS of the dashboard"


def _text(section: str, label: str, about: str, **schema: Any) -> dict[str, Any]:
    return {"label": label, "description": about, "schema": {"type": _TEXT, "section": section, **schema}}


def _flag(section: str, label: str, about: str, *, default: bool) -> dict[str, Any]:
    return {"label": label, "description": about, "schema": {"type": _FLAG, "section": section, "default": default}}


#: The fields of the connection form that lie in the connection's extra, grouped by the schema's ``section``.
#: Airflow 3.2 and later read them from the metadata; for older ones the hook makes widgets of them.
CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "backend": _text(
        _CLUSTERS,
        "Backend",
        "Where tasks make Ray clusters. kubernetes (the default), or local: a Ray on the worker, for a laptop.",
        enum=["kubernetes", "local"],
    ),
    "namespace": _text(
        _CLUSTERS, "Kubernetes namespace", "Of the Ray clusters. Default: the kubeconfig's, else the pod's own."
    ),
    "allowed_namespaces": _text(
        _CLUSTERS,
        "Further namespaces",
        "Where a cluster handle may lead beside the namespace above. Separated by commas; * is any. Default: none.",
    ),
    "access": _text(
        _CLUSTERS,
        "Access to Ray clusters",
        "proxy (through the Kubernetes API server), service (inside the cluster), ingress, or url (the dashboard URL "
        "below). Default: auto, which is service inside the cluster and proxy outside.",
        enum=["auto", "proxy", "service", "ingress", "url"],
    ),
    "address": _text(
        _DASHBOARD,
        "Dashboard URL",
        "Of a Ray cluster that exists, such as http://127.0.0.1:8265. Empty where tasks make their clusters.",
    ),
    "token": _text(
        _DASHBOARD, "Ray token", "RAY_AUTH_TOKEN of that cluster, if it requires one. Default: none.", format="password"
    ),
    "headers": _text(
        _DASHBOARD,
        "Headers",
        'Sent with each request. A JSON object: {"X-Team": "maps"}. Default: none.',
        format="password",
    ),
    "cookies": _text(
        _DASHBOARD,
        "Cookies",
        'Sent with each request. A JSON object, or as a browser shows them: {"session": "..."}. Default: none.',
        format="password",
    ),
    "metadata": _text(
        _DASHBOARD, "Job metadata", 'Added to the metadata of each job. A JSON object of strings: {"team": "maps"}.'
    ),
    "allow_plain_http": _flag(
        _DASHBOARD,
        "Allow credentials over plain HTTP",
        "Suppresses the warning where credentials go over plain http to another machine. Default: off.",
        default=False,
    ),
    "verify": _flag(
        _TLS,
        "Verify TLS certificates",
        "Of the dashboard, and of dashboards behind an ingress. Default: on.",
        default=True,
    ),
    "ca_file": _text(
        _TLS,
        "CA file",
        "Path of a PEM file with CA certificates, on workers and triggerers. Default: the system's CAs.",
    ),
    "ca_data": _text(
        _TLS, "CA certificates (PEM)", "The CA certificates as text, instead of a file.", format="multiline"
    ),
    "cert_file": _text(
        _TLS,
        "Client certificate file",
        "Path of a PEM file on workers and triggerers, if the dashboard requires a client certificate.",
    ),
    "key_file": _text(_TLS, "Client key file", "Path of its private key. Default: in the certificate's file."),
    "kube_config_path": _text(
        _KUBERNETES, "Kubeconfig path", "On workers and triggerers. Default: KUBECONFIG, else ~/.kube/config."
    ),
    "kube_config": _text(
        _KUBERNETES,
        "Kubeconfig (YAML or JSON)",
        "The kubeconfig itself, instead of its path. Whoever may edit this connection sees it; a Kubernetes connection "
        "or a path keeps it out of here.",
        format="multiline",
    ),
    "cluster_context": _text(_KUBERNETES, "Kubeconfig context", "Default: the kubeconfig's current context."),
    "in_cluster": _flag(
        _KUBERNETES,
        "In-cluster configuration",
        "Use the service account of the pod that runs the task. Default: off.",
        default=False,
    ),
    "kubernetes_conn_id": _text(
        _KUBERNETES,
        "Kubernetes connection",
        "Take access to Kubernetes from this Airflow connection of type kubernetes. Default: none.",
    ),
    "disable_verify_ssl": _flag(
        _KUBERNETES,
        "Disable TLS verification of the API server",
        "Accepts any certificate of the Kubernetes API server. Default: off.",
        default=False,
    ),
    "eks_cluster": _text(
        _CLOUD, "EKS cluster", "Its name, instead of a kubeconfig. AWS issues the credentials, which are renewed."
    ),
    "gke_cluster": _text(
        _CLOUD,
        "GKE cluster",
        "Its name, instead of a kubeconfig. Google Cloud issues the credentials, which are renewed.",
    ),
    "cloud_location": _text(_CLOUD, "Location", "Region of the EKS cluster; region or zone of the GKE cluster."),
    "gcp_project": _text(_CLOUD, "Google Cloud project", "Of the GKE cluster. Default: the Google Cloud connection's."),
    "aws_conn_id": _text(
        _CLOUD,
        "AWS connection",
        "Airflow connection of type aws that authenticates to EKS clusters. Default: the worker's own AWS credentials.",
    ),
    "aws_role_arn": _text(_CLOUD, "AWS role", "ARN of a role to assume for EKS clusters. Default: none."),
    "gcp_conn_id": _text(
        _CLOUD,
        "Google Cloud connection",
        "Airflow connection of type google_cloud_platform that authenticates to GKE clusters. Default: the worker's "
        "own Google credentials.",
    ),
    "gcp_impersonate": _text(_CLOUD, "Google service account", "To impersonate for GKE clusters. Default: none."),
    "gke_dns_endpoint": _flag(
        _CLOUD,
        "Reach GKE clusters by their DNS name",
        "Needs no access to the cluster's network: IAM decides who may use it. Default: off.",
        default=False,
    ),
}

#: Fields of former forms. They are read, and have no effect.
FORMER_FIELDS = ("disable_tcp_keepalive",)

HIDDEN_FIELDS = ["host", "port", "schema", "login", "password", "extra"]

PLACEHOLDERS = {
    "address": "http://127.0.0.1:8265",
    "backend": "kubernetes",
    "access": "auto",
    "headers": '{"X-Team": "maps"}',
}


def get_provider_info() -> dict[str, Any]:
    """Describe the provider: Airflow's provider manager calls this."""
    return {
        "package-name": "airflow-ray",
        "name": "Ray",
        "description": "Ray clusters by Terraform and Helm, Ray jobs watched from a trigger, and @task.ray.",
        "versions": [__version__],
        "integrations": [
            {"integration-name": "Ray", "external-doc-url": "https://docs.ray.io/", "tags": ["software"]},
        ],
        "hooks": [_modules("hooks", "ray")],
        "operators": [
            _modules(
                "operators",
                "addons",
                "cluster",
                "cluster_delete",
                "infrastructure",
                "job",
                "promotion",
                "rayjob",
                "rayservice",
                "serve",
            )
        ],
        "sensors": [_modules("sensors", "cluster", "infrastructure", "job", "serve")],
        "triggers": [_modules("triggers", "cluster", "job", "rayjob", "rayservice", "serve")],
        "connection-types": [
            {
                "connection-type": "ray",
                "hook-class-name": "ray_provider.hooks.RayHook",
                "hook-name": "Ray",
                "ui-field-behaviour": {"hidden-fields": HIDDEN_FIELDS, "relabeling": {}, "placeholders": PLACEHOLDERS},
                "conn-fields": CONNECTION_FIELDS,
            }
        ],
        "task-decorators": [{"name": "ray", "class-name": "ray_provider.decorators.ray_task"}],
        "extra-links": ["ray_provider.links.RayDashboardLink"],
    }


def _modules(kind: str, *names: str) -> dict[str, Any]:
    return {"integration-name": "Ray", "python-modules": [f"ray_provider.{kind}.{name}" for name in names]}
