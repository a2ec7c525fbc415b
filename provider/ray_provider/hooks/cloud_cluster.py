"""Which cluster of a cloud: plain data that a connection, a handle or a trigger may carry. No secret is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.handle import InfrastructureHandle

CLOUDS = ("aws", "gcp")
#: ``CloudCluster.endpoint`` of a cluster that is reached by its DNS name.
DNS = "dns"


@dataclass(frozen=True, slots=True)
class CloudCluster:
    """A cluster of a cloud, by name.

    :param cloud: ``aws`` or ``gcp``.
    :param name: of the cluster.
    :param location: its region (or, on Google Cloud, zone).
    :param project: Google Cloud's project.
    :param role_arn: a role to assume (AWS).
    :param impersonate: a service account to act as (Google Cloud).
    :param aws_conn_id: Airflow connection; without one, what boto3 finds.
    :param gcp_conn_id: Airflow connection; without one, the application default credentials.
    :param namespace: used where a task names none.
    :param endpoint: ``dns``: reached by its DNS name (GKE); else by its IP address.
    """

    cloud: str
    name: str
    location: str
    project: str | None = None
    role_arn: str | None = None
    impersonate: str | None = None
    aws_conn_id: str | None = None
    gcp_conn_id: str | None = None
    namespace: str | None = None
    endpoint: str | None = None

    @classmethod
    def of(cls, infrastructure: InfrastructureHandle | Mapping[str, Any], **more: Any) -> CloudCluster:
        """Find the cluster in the outputs of ``SetupRayInfrastructure``.

        :param infrastructure: the handle of the set-up, or its plain data.
        :param more: fields that count more than what the handle says.
        :raises ConfigurationError: the outputs don't name a cluster.
        """
        if not isinstance(infrastructure, InfrastructureHandle):
            infrastructure = InfrastructureHandle.from_dict(infrastructure)
        outputs = infrastructure.typed_outputs
        missing = [name for name in ("cloud", "cluster_name", "location") if not getattr(outputs, name)]
        if missing:
            raise ConfigurationError(
                f"infrastructure: the module {infrastructure.module} has no output {', '.join(missing)}.",
                hint="A module of your own needs the outputs `cloud` (aws or gcp), `cluster_name`, `location`, and on"
                " Google Cloud `project`; or name the cluster in the connection.",
                field="infrastructure",
            )
        if outputs.cloud not in CLOUDS:
            raise ConfigurationError(
                f"infrastructure: the output cloud is {outputs.cloud!r}: it must be one of {', '.join(CLOUDS)}.",
                field="infrastructure",
            )
        found = cls(
            cloud=str(outputs.cloud),
            name=str(outputs.cluster_name),
            location=str(outputs.location),
            project=outputs.project,
            aws_conn_id=infrastructure.aws_conn_id,
            gcp_conn_id=infrastructure.gcp_conn_id,
            endpoint=DNS if outputs.cloud == "gcp" and outputs.values.get("dns_endpoint") else None,
        )
        return replace(found, **{name: value for name, value in more.items() if value is not None})

    def to_dict(self) -> dict[str, str]:
        """Give it as JSON-able data, without what is not set."""
        fields = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return {name: value for name, value in fields if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CloudCluster:
        """Read it back.

        :param data: what :meth:`to_dict` gave, of this release or an earlier one.
        :raises ConfigurationError: this is not such a cluster.
        """
        try:
            found = cls(**data)
            for name in cls.__dataclass_fields__:
                if not isinstance(getattr(found, name), str | None):
                    raise TypeError(f"{name} is no text")
        except TypeError as error:
            raise ConfigurationError(
                f"The cluster's handle does not say which Kubernetes it runs on: {error}.",
                hint="Pass on what SetupRayCluster returned, as it is: cluster=setup.output.",
                field="cluster",
            ) from None
        if found.cloud not in CLOUDS:
            raise ConfigurationError(
                f"cloud: {found.cloud!r} is not one of {', '.join(CLOUDS)}.", field="cluster.kubernetes.cloud"
            )
        if found.endpoint not in (None, DNS):
            raise ConfigurationError(
                f"endpoint: {found.endpoint!r} is not {DNS!r}.", field="cluster.kubernetes.endpoint"
            )
        return found
