"""What Serve says of itself and its applications, as frozen objects. Unknown statuses survive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RUNNING, DEPLOYING, NOT_STARTED = "RUNNING", "DEPLOYING", "NOT_STARTED"
DEPLOY_FAILED, UNHEALTHY, DELETING = "DEPLOY_FAILED", "UNHEALTHY", "DELETING"
#: Of an application that a job made with ``serve.run``.
IMPERATIVE = "imperative"


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A replica: where its log lies.

    :param state: such as ``RUNNING``.
    :param node_id: the node that it runs on.
    :param log_file_path: below the log folder of the Ray session.
    """

    state: str
    node_id: str | None = None
    log_file_path: str | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ReplicaState:
        """Read what Serve says.

        :param data: of one replica.
        """
        return cls(str(data.get("state") or ""), _text(data.get("node_id")), _text(data.get("log_file_path")))


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """A deployment of an application.

    :param name: of the deployment.
    :param status: such as ``HEALTHY``.
    :param message: why it is not.
    :param replicas: those that there are, dead ones last.
    :param surges: in an update, new replicas start before old ones are stopped.
    """

    name: str
    status: str
    message: str = ""
    replicas: tuple[ReplicaState, ...] = ()
    surges: bool = False

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any]) -> DeploymentState:
        """Read what Serve says.

        :param name: of the deployment.
        :param data: of it.
        """
        replicas = [*(data.get("replicas") or ()), *(data.get("recent_dead_replicas") or ())]
        return cls(
            name=name,
            status=str(data.get("status") or ""),
            message=str(data.get("message") or ""),
            replicas=tuple(ReplicaState.from_json(one) for one in replicas if isinstance(one, Mapping)),
            surges=bool((data.get("deployment_config") or {}).get("max_surge_percent")),
        )


@dataclass(frozen=True, slots=True)
class ApplicationState:
    """An application that there is.

    :param name: of the application.
    :param status: such as ``RUNNING``.
    :param message: why it is not.
    :param route_prefix: below which it answers; ``None``: it does not, or not yet.
    :param config: as it was written; ``None``: a job made it, or it is being deleted.
    :param source: ``declarative`` or ``imperative``; empty: this Ray does not tell.
    :param deployments: by name.
    """

    name: str
    status: str
    message: str = ""
    route_prefix: str | None = None
    config: Mapping[str, Any] | None = field(default=None, repr=False)
    source: str = ""
    deployments: Mapping[str, DeploymentState] = field(default_factory=dict)

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any]) -> ApplicationState:
        """Read what Serve says.

        :param name: of the application.
        :param data: of it.
        """
        config = data.get("deployed_app_config")
        deployments = data.get("deployments") or {}
        return cls(
            name=name,
            status=str(data.get("status") or ""),
            message=str(data.get("message") or ""),
            route_prefix=_text(data.get("route_prefix")),
            config=config if isinstance(config, Mapping) else None,
            source=str(data.get("source") or ""),
            deployments={
                str(one): DeploymentState.from_json(str(one), told)
                for one, told in deployments.items()
                if isinstance(told, Mapping)
            },
        )

    @property
    def has_replicas(self) -> bool:
        """Whether a replica of it runs, be it of the version before."""
        return any(one.state == "RUNNING" for each in self.deployments.values() for one in each.replicas)

    @property
    def is_there(self) -> bool:
        """Whether it is not about to go."""
        return self.status != DELETING

    @property
    def is_imperative(self) -> bool:
        """Whether a job made it, with ``serve.run``: Serve has no configuration of it that could be written."""
        return self.source == IMPERATIVE

    @property
    def routes(self) -> set[str]:
        """Below what it answers, or is to."""
        wanted = self.config.get("route_prefix", "/") if self.config is not None else None
        return {route for route in (self.route_prefix, wanted) if isinstance(route, str)}


@dataclass(frozen=True, slots=True)
class ServeState:
    """Serve on one cluster.

    :param http_options: of its proxies; empty: Serve does not run.
    :param proxy_location: where it has proxies.
    :param target_capacity: in per cent, if somebody has set it: it goes with each write.
    :param applications: by name.
    :param controller: where Serve's own log lies.
    """

    http_options: Mapping[str, Any] = field(default_factory=dict)
    proxy_location: str | None = None
    target_capacity: float | None = None
    applications: Mapping[str, ApplicationState] = field(default_factory=dict)
    controller: ReplicaState = ReplicaState("")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ServeState:
        """Read Serve's answer.

        :param data: the answer.
        """
        applications = data.get("applications") or {}
        return cls(
            http_options=dict(data.get("http_options") or {}),
            proxy_location=_text(data.get("proxy_location")),
            target_capacity=data.get("target_capacity"),
            applications={
                str(name): ApplicationState.from_json(str(name), told)
                for name, told in applications.items()
                if isinstance(told, Mapping)
            },
            controller=ReplicaState.from_json(data.get("controller_info") or {}),
        )

    @property
    def runs(self) -> bool:
        """Whether Serve runs on the cluster."""
        return bool(self.http_options)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
