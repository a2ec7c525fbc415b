"""What a handle may name: it has been in XCom, which others may write, so connection and DAG decide, not the handle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ray_provider._compat import in_thread
from ray_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from ray_provider.clusters.handle import ClusterHandle
    from ray_provider.hooks.cloud_cluster import CloudCluster
    from ray_provider.hooks.connection import RayConnectionConfig

#: Fields of a cloud's cluster by which it is entered, and what the connection calls them.
_CONNECTIONS = {"aws_conn_id": "aws_conn_id", "gcp_conn_id": "gcp_conn_id"}
_IDENTITIES = {"role_arn": "aws_role_arn", "impersonate": "gcp_impersonate"}


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a DAG's own code names, beside what the connection does.

    :param namespaces: of Kubernetes, that ``SetupRayCluster`` is given.
    :param any_namespace: the task makes its cluster itself.
    :param backends: that ``SetupRayCluster`` is given.
    :param connections: to clouds, that ``SetupRayInfrastructure`` is given.
    :param projects: of Google Cloud, among its variables.
    :param everything: the handle was looked at before: that of a trigger, whose arguments a task wrote.
    """

    namespaces: frozenset[str] = frozenset()
    any_namespace: bool = False
    backends: frozenset[str] = frozenset()
    connections: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()
    everything: bool = False

    def check(self, config: RayConnectionConfig, handle: ClusterHandle) -> None:
        """Refuse a handle that leads where neither connection nor DAG want to go.

        :param config: the connection's.
        :param handle: of a cluster, out of an XCom or from a user.
        :raises ConfigurationError: it does; the message says what would allow it.
        """
        if self.everything:
            return
        if handle.backend == "local":
            if config.named_backend == "kubernetes" and "local" not in self.backends:
                raise ConfigurationError(
                    f"The handle is that of a local Ray ({handle.name!r}), and the connection {config.conn_id!r} says "
                    "backend: kubernetes.",
                    hint="Where did the handle come from? A connection for local clusters says backend: local.",
                    field="cluster",
                )
            return
        wanted = {*config.allowed_namespaces, *([config.namespace] if config.namespace else ())}
        if not wanted or "*" in wanted or self.any_namespace:
            return
        if handle.namespace not in wanted | self.namespaces:
            raise ConfigurationError(
                f"The handle leads to namespace {handle.namespace!r}, and the connection {config.conn_id!r} to "
                f"{', '.join(map(repr, sorted(wanted)))}.",
                hint="Where did the handle come from? If it is meant: add the namespace to `allowed_namespaces` in the "
                "connection's extra.",
                field="cluster",
            )

    async def enter(self, config: RayConnectionConfig, cluster: CloudCluster) -> CloudCluster:
        """Give a cloud's cluster with the identity by which it is entered: the connection's, or one of the DAG's.

        :param config: the connection's.
        :param cluster: as its handle says.
        :raises ConfigurationError: the handle names another identity, or a project that is not ours.
        """
        entered = replace(config.enter(cluster), namespace=config.namespace)
        if self.everything:
            return entered
        for name, field in {**_CONNECTIONS, **_IDENTITIES}.items():
            value = getattr(cluster, name)
            if value and not getattr(config, field) and not (name in _CONNECTIONS and value in self.connections):
                raise ConfigurationError(
                    f"The handle names {field} {value!r} for its cluster: the connection {config.conn_id!r} does not.",
                    hint=f"Where did the handle come from? If it is meant: set `{field}` in the connection.",
                    field="cluster.kubernetes",
                )
        await self._check_project(config, entered)
        return entered

    async def _check_project(self, config: RayConnectionConfig, cluster: CloudCluster) -> None:
        """A token for Google Cloud counts for all of it: no API server in somebody else's project is shown one."""
        if cluster.cloud != "gcp" or not cluster.project or cluster.project in {config.gcp_project, *self.projects}:
            return
        from ray_provider.hooks.cloud import google_project

        own = await in_thread(google_project, cluster.gcp_conn_id)
        if cluster.project != own:
            raise ConfigurationError(
                f"The handle leads to the Google Cloud project {cluster.project!r}, which is not that of our "
                f"credentials: {own or 'no project'}.",
                hint="Where did the handle come from? If it is meant: set `gcp_project` in the connection.",
                field="cluster.kubernetes",
            )


#: For triggers: the task that deferred has looked at their arguments.
CHECKED = Allowed(everything=True)


def allowed_by(task: Any) -> Allowed:
    """Read what the code of a task's DAG allows. Templates do not count: what they give may be data.

    :param task: an operator.
    """
    tasks = task.dag.tasks if task.has_dag() else [task]
    clusters = [one for one in tasks if _is(one, "SetupRayCluster")]
    infrastructure = [one for one in tasks if _is(one, "SetupRayInfrastructure")]
    variables = [found for one in infrastructure if isinstance(found := _argument(one, "variables"), Mapping)]
    return Allowed(
        namespaces=_literals(_argument(one, "namespace") for one in clusters),
        any_namespace=bool(getattr(task, "ray_cluster_yaml", None) or getattr(task, "has_ray_job", False)),
        backends=_literals(_argument(one, "backend") for one in clusters),
        connections=_literals(_argument(one, name) for one in infrastructure for name in _CONNECTIONS),
        projects=_literals(value for one in variables for key, value in one.items() if "project" in key),
    )


def _is(task: Any, name: str) -> bool:
    """Whether a task, or what it is mapped over, is of a class: by name, as operators are above hooks."""
    kind = getattr(task, "operator_class", None)
    return any(one.__name__ == name for one in (kind if isinstance(kind, type) else type(task)).__mro__)


def _argument(task: Any, name: str) -> Any:
    partial = getattr(task, "partial_kwargs", None)
    return partial.get(name) if isinstance(partial, Mapping) else getattr(task, name, None)


def _literals(values: Iterable[Any]) -> frozenset[str]:
    return frozenset(v for v in values if isinstance(v, str) and v and "{{" not in v and "{%" not in v)
