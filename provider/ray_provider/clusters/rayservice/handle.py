"""What a deploy of a RayService hands on to the tasks after it: plain data that may lie in XCom, with no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ray_provider.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True)
class RayServiceHandle:
    """A RayService that was deployed.

    :param name: of the RayService; with strategy ``blue_green`` of the Service before two of them.
    :param namespace: in which it lies.
    :param cluster: name of the RayCluster that serves; another one after an update that changes the cluster.
    :param url: where it answers, as the task that deployed it sees it; ``None``: that is not known.
    :param applications: by name the path below which each answers.
    :param owner: whose it is: ``dag_id``, ``task_id``, ``map_index``, ``airflow``. It belongs to no run.
    :param kubernetes: which Kubernetes it is on (plain data that the hook reads); unless given, the connection's.
    :param version: with ``blue_green``: the RayService that is meant, of the two.
    :param version_id: with ``blue_green``: which version that is.
    :param version_url: with ``blue_green``: where this version answers, whoever has the traffic.
    """

    name: str
    namespace: str
    cluster: str = ""
    url: str | None = None
    applications: Mapping[str, str | None] = field(default_factory=dict)
    owner: Mapping[str, Any] = field(default_factory=dict)
    kubernetes: Mapping[str, Any] | None = None
    version: str = ""
    version_id: str = ""
    version_url: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the handle as JSON-able data."""
        further = ("kubernetes", "version", "version_id", "version_url")
        return {key: value for key, value in asdict(self).items() if value or key not in further}

    @classmethod
    def from_dict(cls, data: Any) -> RayServiceHandle:
        """Read a handle back.

        :param data: what was in XCom.
        :raises ConfigurationError: this is not a handle.
        """
        good = isinstance(data, Mapping) and all(
            isinstance(data.get(key), str) and data[key] for key in ("name", "namespace")
        )
        mappings = ("applications", "owner", "kubernetes")
        texts = all(isinstance(data.get(key, ""), str) for key in ("version", "version_id")) if good else False
        if not texts or not all(isinstance(data.get(key), Mapping | None) for key in mappings):
            raise ConfigurationError(
                "`service` is not the handle that DeployRayService returns.",
                hint="Pass its return value (service=deploy.output), or give name=... and namespace=...",
                field="service",
            )
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if data.get(key) is not None})
