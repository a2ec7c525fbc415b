"""Which application of Ray Serve a task means, by its handle or by its name."""

from __future__ import annotations

from typing import Any

from ray_provider.clusters.handle import ClusterHandle, named_cluster
from ray_provider.exceptions import ConfigurationError
from ray_provider.serve.handle import ServeHandle


def which_application(application: Any, name: Any, cluster: Any) -> tuple[str, ClusterHandle | None]:
    """Give which application is meant, and its cluster.

    :param application: a handle, if there is one.
    :param name: of the application, if there is none.
    :param cluster: the handle of its cluster; unless given, the application's.
    :raises ConfigurationError: none is named.
    """
    if application:
        handle = ServeHandle.from_dict(application)
        return handle.name, named_cluster(cluster or handle.cluster)
    if not name or not isinstance(name, str):
        raise ConfigurationError(
            "No application is named (or the task that was to deploy it returned nothing).",
            hint="Give application=deploy.output, or name=...",
            field="name",
        )
    return name, named_cluster(cluster)
