"""A Ray on this machine as somebody wants it, checked before anything is started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ray_provider.clusters.naming import check_name
from ray_provider.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True)
class LocalClusterSpec:
    """A local Ray as somebody wants it.

    :param name: by which it is found again; one per machine, user and name.
    :param num_cpus: what Ray counts on; unless given, what the machine has.
    :param num_gpus: the same for GPUs.
    :param resources: custom resources of the node.
    :param object_store_memory: in bytes; unless given, Ray's choice.
    :param dashboard_port: unless given, a free one.
    :param env: additions to the environment of Ray and of its jobs.
    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index`` of the task that sets it up.
    :param start_timeout: how many seconds it has until its Jobs API answers.
    """

    name: str
    num_cpus: int | None = None
    num_gpus: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    object_store_memory: int | None = None
    dashboard_port: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    owner: Mapping[str, Any] = field(default_factory=dict)
    start_timeout: float = 180.0

    def validate(self) -> None:
        """Check what can be checked before anything is started.

        :raises ConfigurationError: something can't work; the message names it.
        """
        check_name(self.name)
        for key in ("num_cpus", "num_gpus", "object_store_memory"):
            value = getattr(self, key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ConfigurationError(
                    f"{key} is {value!r}: it must be a whole number, at least 0.",
                    hint="Correct it, or leave it out: Ray then takes what the machine has.",
                    field=key,
                )
        for key, value in self.resources.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ConfigurationError(
                    f"resources[{key!r}] is {value!r}: it must be a number, at least 0.",
                    hint="Say how much of it the node has, or leave it out.",
                    field="resources",
                )
        if self.dashboard_port is not None and not 0 < self.dashboard_port < 65536:
            raise ConfigurationError(
                f"dashboard_port is {self.dashboard_port!r}: no port.",
                hint="Give a number from 1 to 65535, or leave it out: then a free port is found.",
                field="dashboard_port",
            )
        for key, text in self.env.items():
            if not isinstance(text, str):
                # The value may be a secret: only its type is told.
                raise ConfigurationError(
                    f"env[{key!r}] is a {type(text).__name__}: it must be text.",
                    hint="Write it in quotes.",
                    field="env",
                )

    @property
    def settings(self) -> dict[str, Any]:
        """What makes a running Ray another one than wanted. ``env`` may hold secrets: only its names are compared."""
        data = asdict(self)
        return {
            **{key: data[key] for key in ("num_cpus", "num_gpus", "object_store_memory", "dashboard_port")},
            "resources": dict(self.resources),
            "env": sorted(self.env),
        }

    @property
    def options(self) -> dict[str, Any]:
        """The same as options of ``ray start``."""
        return {
            "num-cpus": self.num_cpus,
            "num-gpus": self.num_gpus,
            "object-store-memory": self.object_store_memory,
            "resources": json.dumps(dict(self.resources)) if self.resources else None,
        }
