"""What a set-up of infrastructure hands on: plain data that may lie in XCom, with no secret in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.module.outputs import InfrastructureOutputs


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
    :param providers: settings of the providers, without secrets.
    :param place: where it is: ``region`` and ``account`` on AWS, ``project`` on Google Cloud.
    :param made_by: versions of this package, Terraform and the providers, and the module's git commit.
    :param complete: whether the apply ended well. A handle is handed on before it begins.
    """

    module: str
    backend: Mapping[str, Any]
    workspace: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    aws_conn_id: str | None = None
    gcp_conn_id: str | None = None
    providers: Mapping[str, Any] = field(default_factory=dict)
    place: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True

    @property
    def name(self) -> str | None:
        """The cluster's name: the output, or before there are outputs the module's variable."""
        found = self.outputs.get("cluster_name") or self.variables.get("name")
        return str(found) if found else None

    @property
    def typed_outputs(self) -> InfrastructureOutputs:
        """The outputs as objects."""
        return InfrastructureOutputs.from_values(self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Give the handle as JSON-able data, with the cluster's name and Ray's values where they are easily found."""
        data = asdict(self)
        data["cluster_name"] = self.name
        data["ray_helm_values"] = self.outputs.get("ray_helm_values")
        return data

    @classmethod
    def from_dict(cls, data: Any) -> InfrastructureHandle:
        """Read a handle back.

        :param data: what :meth:`to_dict` gave, of this release or an earlier one.
        :raises ConfigurationError: this is not a handle.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("module"), str) or "backend" not in data:
            raise ConfigurationError(
                "infrastructure: the value given is not the handle that SetupRayInfrastructure returns.",
                hint="Pass its return value, e.g. `infrastructure=setup.output`.",
                field="infrastructure",
            )
        found = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        for key in ("backend", "variables", "outputs", "providers", "place", "made_by"):
            if found.get(key) is None:
                found.pop(key, None)
            elif not isinstance(found[key], Mapping):
                raise ConfigurationError(
                    f"infrastructure: `{key}` of the handle is no mapping.", field="infrastructure"
                )
        found.setdefault("backend", {})
        return cls(**found)
