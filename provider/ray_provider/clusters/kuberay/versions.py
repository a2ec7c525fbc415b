"""What the versions of KubeRay know, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["require", "install", "upgrade"]
MODES = ("require", "install", "upgrade")
Version = tuple[int, int, int]

RELEASE = "kuberay-operator"
NAMESPACE = "kuberay-system"
REPOSITORY = "https://ray-project.github.io/kuberay-helm/"
#: What is installed unless something else is asked for.
VERSION = "1.6.1"

#: Fields of a RayCluster and the version that brought them, the newest first: what is known tells the version.
FIELDS: tuple[tuple[str, Any, Version, str], ...] = (
    ("networkPolicy", {}, (1, 7, 0), "a network policy, TLS and a history server of its own"),
    ("upgradeStrategy", {"type": "None"}, (1, 6, 0), "rolling changed pods out (upgradeStrategy)"),
    ("authOptions", {"mode": "disabled"}, (1, 5, 1), "token authentication (authOptions)"),
    ("managedBy", "ray.io/kuberay-operator", (1, 4, 0), "being handed to Kueue (managedBy)"),
)


@dataclass(frozen=True, slots=True)
class KubeRay:
    """What Kubernetes knows of RayClusters.

    :param version: the version whose fields it knows; the real one may be a little newer.
    :param lacks: what it can't do, in words.
    """

    version: Version
    lacks: tuple[str, ...] = ()

    def at_least(self, *version: int) -> bool:
        """Whether its CRDs are those of a version, or newer.

        :param version: its numbers, the major one first.
        """
        return self.version >= version

    @property
    def text(self) -> str:
        """The version as text."""
        return ".".join(map(str, self.version))


def since(field: str) -> str | None:
    """Say from which version on a field of ``spec`` is known.

    :param field: its path, with or without ``spec.`` before it.
    :return: such as ``1.6.0``; ``None``: it has always been known, or is not known to us.
    """
    top = field.removeprefix("spec.").split(".", 1)[0]
    newer = {"tlsOptions": "1.7.0", "historyServerOptions": "1.7.0", "ingressOptions": "1.7.0"}
    known = {name: ".".join(map(str, version)) for name, _, version, _ in FIELDS}
    if field.removeprefix("spec.") in {"authOptions.secretName", "authOptions.enableK8sTokenAuth"}:
        return "1.6.0"
    if field.endswith((".labels", ".resources")) and top in {"headGroupSpec", "workerGroupSpecs[0]"}:
        return "1.5.0"
    return newer.get(top) or known.get(top)
