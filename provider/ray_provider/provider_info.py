"""What Airflow reads of the provider when it starts. Imports nothing but the version."""

from __future__ import annotations

from typing import Any

from ray_provider import __version__

_TEXT = ["string", "null"]

#: The fields of the connection form that lie in the connection's extra. Airflow 3.2 and later read them from the
#: metadata; for older ones the hook makes widgets of them.
CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "address": {
        "label": "Ray dashboard URL",
        "description": "Such as http://127.0.0.1:8265. Empty where tasks set up their clusters themselves.",
        "schema": {"type": _TEXT},
    },
    "backend": {
        "label": "Backend",
        "description": "Where clusters are set up: local (a Ray on the worker) or kubernetes.",
        "schema": {"type": _TEXT, "enum": ["kubernetes", "local"]},
    },
    "token": {
        "label": "Ray token",
        "description": "RAY_AUTH_TOKEN of the cluster, where it wants one.",
        "schema": {"type": _TEXT, "format": "password"},
    },
    "headers": {
        "label": "Headers",
        "description": "A JSON object, sent with each request.",
        "schema": {"type": _TEXT, "format": "password"},
    },
    "cookies": {
        "label": "Cookies",
        "description": "A JSON object, sent with each request.",
        "schema": {"type": _TEXT, "format": "password"},
    },
    "metadata": {
        "label": "Job metadata",
        "description": "A JSON object of strings, added to each job's metadata.",
        "schema": {"type": _TEXT},
    },
    "verify": {
        "label": "Verify TLS certificates",
        "description": "Of the dashboard. On, unless switched off here.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
    "ca_file": {
        "label": "CA file",
        "description": "Path of a PEM file on the workers and triggerers with the authorities to trust.",
        "schema": {"type": _TEXT},
    },
    "ca_data": {
        "label": "CA certificates (PEM)",
        "description": "The authorities to trust themselves, instead of a file with them.",
        "schema": {"type": _TEXT},
    },
    "cert_file": {
        "label": "Client certificate file",
        "description": "Path of a PEM file on the workers and triggerers, where the dashboard asks for a certificate.",
        "schema": {"type": _TEXT},
    },
    "key_file": {
        "label": "Client key file",
        "description": "Path of the certificate's key, if it is not in the same file.",
        "schema": {"type": _TEXT},
    },
    "access": {
        "label": "Access to clusters in Kubernetes",
        "description": "auto, proxy (by the API server), service (from inside), ingress, or url (the address above).",
        "schema": {"type": _TEXT, "enum": ["auto", "proxy", "service", "ingress", "url"]},
    },
    "namespace": {"label": "Kubernetes namespace", "schema": {"type": _TEXT}},
    "allowed_namespaces": {
        "label": "Further namespaces",
        "description": "Separated by commas: where the handle of a cluster may lead as well. * is any.",
        "schema": {"type": _TEXT},
    },
    "kube_config_path": {
        "label": "Kubeconfig path",
        "description": "On the workers and triggerers.",
        "schema": {"type": _TEXT},
    },
    "kube_config": {
        "label": "Kubeconfig (JSON or YAML)",
        "description": "The file's content, instead of its path.",
        "schema": {"type": _TEXT, "format": "password"},
    },
    "cluster_context": {"label": "Kubeconfig context", "schema": {"type": _TEXT}},
    "in_cluster": {
        "label": "In-cluster configuration",
        "description": "Use the service account of the pod that runs the task.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "kubernetes_conn_id": {
        "label": "Kubernetes connection",
        "description": "Take the Kubernetes access from this connection of type kubernetes.",
        "schema": {"type": _TEXT},
    },
    "eks_cluster": {
        "label": "EKS cluster",
        "description": "Its name, instead of a kubeconfig: credentials come from AWS, and are renewed.",
        "schema": {"type": _TEXT},
    },
    "gke_cluster": {
        "label": "GKE cluster",
        "description": "Its name, instead of a kubeconfig: credentials come from Google Cloud, and are renewed.",
        "schema": {"type": _TEXT},
    },
    "cloud_location": {
        "label": "Location of the EKS or GKE cluster",
        "description": "Its region or, on Google Cloud, zone.",
        "schema": {"type": _TEXT},
    },
    "gcp_project": {"label": "Google Cloud project of the GKE cluster", "schema": {"type": _TEXT}},
    "aws_conn_id": {
        "label": "AWS connection",
        "description": "Enter EKS clusters with this connection (aws); else as the worker.",
        "schema": {"type": _TEXT},
    },
    "aws_role_arn": {"label": "AWS role to assume for EKS", "schema": {"type": _TEXT}},
    "gcp_conn_id": {
        "label": "Google Cloud connection",
        "description": "Enter GKE clusters with this connection (google_cloud_platform); else as the worker.",
        "schema": {"type": _TEXT},
    },
    "gcp_impersonate": {"label": "Service account to act as for GKE", "schema": {"type": _TEXT}},
    "gke_dns_endpoint": {
        "label": "Reach GKE clusters by their DNS name",
        "description": "Needs no way into the cluster's network: IAM decides who gets in.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "disable_verify_ssl": {
        "label": "Disable TLS verification of Kubernetes",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "allow_plain_http": {
        "label": "Plain HTTP is meant",
        "description": "No warning where credentials go over plain http to another machine.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "disable_tcp_keepalive": {
        "label": "Disable TCP keep-alive to Kubernetes",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
}

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
        "hooks": [{"integration-name": "Ray", "python-modules": ["ray_provider.hooks.ray"]}],
        "operators": [
            {
                "integration-name": "Ray",
                "python-modules": ["ray_provider.operators.cluster", "ray_provider.operators.job"],
            },
        ],
        "sensors": [{"integration-name": "Ray", "python-modules": ["ray_provider.sensors.job"]}],
        "triggers": [{"integration-name": "Ray", "python-modules": ["ray_provider.triggers.job"]}],
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
