"""What a set-up hands on to the tasks after it: plain data that may lie in XCom, with no secret in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ray_provider.exceptions import ConfigurationError

Backend = Literal["local", "kubernetes"]
#: The way to the dashboards of Kubernetes, as a user chooses it.
Access = Literal["auto", "proxy", "service", "ingress", "url"]


@dataclass(frozen=True, slots=True)
class AuthReference:
    """Where Ray's token is found; never the token itself.

    :param kind: ``none`` (no token, or the connection's), ``file`` (local backend), ``secret`` (Kubernetes) or
        ``kubernetes`` (Ray asks Kubernetes whose token it is: ours for Kubernetes is sent).
    :param path: of the file.
    :param secret_name: of the Secret, in the cluster's namespace.
    :param secret_key: in it; KubeRay's is ``auth_token``.
    """

    kind: Literal["none", "file", "secret", "kubernetes"] = "none"
    path: str | None = None
    secret_name: str | None = None
    secret_key: str = "auth_token"  # noqa: S105 - the name of a key, not a secret


@dataclass(frozen=True, slots=True)
class ClusterHandle:
    """A Ray cluster that somebody set up.

    :param backend: ``local`` or ``kubernetes``.
    :param name: of the cluster (the RayCluster's, or the local folder's).
    :param address: base URL of its dashboard as tasks reach it.
    :param namespace: Kubernetes namespace.
    :param release: Helm release; ``None`` for a cluster made from a manifest.
    :param service: Kubernetes Service of the head.
    :param auth: where its token is found.
    :param owner: which DAG, run and task it belongs to (``dag_id``, ``run_id``, ``task_id``, ``map_index``).
    :param created: whether the task that returned this made it (true) or found it (false).
    :param kubernetes: which Kubernetes it runs on (plain data that the hook reads); unless given, the connection's.
    :param rayjob: the RayJob that the cluster belongs to, if it is one's: KubeRay makes and deletes it.
    """

    backend: Backend
    name: str
    address: str
    namespace: str | None = None
    release: str | None = None
    service: str | None = None
    auth: AuthReference = field(default_factory=AuthReference)
    owner: Mapping[str, Any] = field(default_factory=dict)
    created: bool = True
    kubernetes: Mapping[str, Any] | None = None
    rayjob: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the handle as JSON-able data."""
        data = asdict(self)
        data["owner"] = dict(self.owner)
        for optional in ("kubernetes", "rayjob"):
            if data[optional] is None:
                del data[optional]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClusterHandle:
        """Read a handle back.

        :param data: what :meth:`to_dict` gave, as it comes out of XCom. Keys that are not known are passed over.
        :raises ConfigurationError: this is not a handle.
        """
        try:
            known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
            known["auth"] = AuthReference(**known.get("auth") or {})
            handle = cls(**known)
            handle._check_types()
        except (TypeError, KeyError) as error:
            raise ConfigurationError(
                f"The value given as a Ray cluster is not the handle that SetupRayCluster returns: {error}.",
                hint="Pass SetupRayCluster's return value, e.g. `cluster=setup.output`.",
            ) from error
        if handle.backend not in ("local", "kubernetes"):
            raise ConfigurationError(f"The cluster's backend is {handle.backend!r}: it must be local or kubernetes.")
        return handle

    def _check_types(self) -> None:
        """Refuse what a set-up does not write: the data has been in a database, and may come from elsewhere."""
        texts = {"name": self.name, "address": self.address, "auth.secret_key": self.auth.secret_key}
        further = {"namespace": self.namespace, "release": self.release, "service": self.service}
        further |= {"rayjob": self.rayjob}
        further |= {"auth.path": self.auth.path, "auth.secret_name": self.auth.secret_name}
        for field_name, value in texts.items():
            if not isinstance(value, str):
                raise TypeError(f"{field_name} is no text")
        for field_name, optional in further.items():
            if optional is not None and not isinstance(optional, str):
                raise TypeError(f"{field_name} is no text")
        if not isinstance(self.owner, Mapping):
            raise TypeError("owner is no mapping")


def named_cluster(given: Any) -> ClusterHandle | None:
    """Give the handle that a task was given; ``None``: none.

    :param given: a handle, or its data out of XCom.
    :raises ConfigurationError: this is not one.
    """
    if not given:
        return None
    if isinstance(given, ClusterHandle):
        return given
    if isinstance(given, Mapping):
        return ClusterHandle.from_dict(given)
    raise ConfigurationError(
        f"cluster is a {type(given).__name__}, not the handle that SetupRayCluster returns.",
        hint="Pass cluster=setup.output.",
        field="cluster",
    )
