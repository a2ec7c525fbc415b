"""What a deploy hands on to the tasks after it: plain data that may lie in XCom, with no secret in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ray_provider.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True)
class ServeHandle:
    """An application that was deployed.

    :param name: of the application.
    :param route_prefix: below which it answers.
    :param url: where it answers, as the task that deployed it sees it.
    :param cluster: the handle of its cluster; ``None``: the connection's.
    """

    name: str
    route_prefix: str | None = None
    url: str | None = None
    cluster: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the handle as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> ServeHandle:
        """Read a handle back.

        :param data: what was in XCom.
        :raises ConfigurationError: this is not a handle.
        """
        good = isinstance(data, Mapping) and isinstance(data.get("name"), str) and data["name"]
        if not good or not isinstance(data.get("cluster"), Mapping | None):
            raise ConfigurationError(
                "`application` is not the handle that DeployServeApplication returns.",
                hint="Pass its return value (application=deploy.output), or give name=...",
                field="application",
            )
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})
