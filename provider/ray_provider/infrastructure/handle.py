"""What a set-up of infrastructure hands on: plain data that may lie in XCom, with no secret in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.outputs import InfrastructureOutputs


@dataclass(frozen=True, slots=True)
class InfrastructureHandle:
    """Infrastructure that somebody set up.

    :param module: a bundled module's name, a path, or a git URL (without a password).
    :param backend: where its state lies, without secrets.
    :param workspace: Terraform workspace.
    :param variables: of the module, without those that are secret.
    :param outputs: of the module, without the sensitive ones.
    :param aws_conn_id: the Airflow connection with which it was made, for the tasks after it.
    :param gcp_conn_id: likewise.
    """

    module: str
    backend: Mapping[str, Any]
    workspace: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    aws_conn_id: str | None = None
    gcp_conn_id: str | None = None

    @property
    def typed_outputs(self) -> InfrastructureOutputs:
        """The outputs as objects."""
        return InfrastructureOutputs.from_values(self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Give the handle as JSON-able data, with the cluster's name and Ray's values where they are easily found."""
        data = asdict(self)
        data["cluster_name"] = self.outputs.get("cluster_name")
        data["ray_helm_values"] = self.outputs.get("ray_helm_values")
        return data

    @classmethod
    def from_dict(cls, data: Any) -> InfrastructureHandle:
        """Read a handle back.

        :raises ConfigurationError: this is not a handle.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("module"), str) or "backend" not in data:
            raise ConfigurationError(
                "infrastructure: the value given is not the handle that SetupRayInfrastructure returns.",
                hint="Pass its return value, e.g. `infrastructure=setup.output`.",
                field="infrastructure",
            )
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})
