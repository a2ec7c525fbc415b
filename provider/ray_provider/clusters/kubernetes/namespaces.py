"""Namespaces that we make: what their pods may do is limited by Kubernetes' Pod Security admission.

Whoever may create RayClusters in a namespace may have privileged pods there, with the node's file system and network.
"""

from __future__ import annotations

from typing import Any

from ray_provider.clusters.naming import MANAGED
from ray_provider.exceptions import ConfigurationError

#: Pod Security Standards, from closed to open.
LEVELS = ("restricted", "baseline", "privileged")
_LABEL = "pod-security.kubernetes.io/enforce"


def security_level(create: bool | str) -> str | None:
    """Give the level of a namespace that is to be made if it is missing; ``None``: it is not.

    :param create: true is ``baseline``.
    :raises ConfigurationError: there is no such level.
    """
    if not create:
        return None
    level = "baseline" if create is True else str(create).lower()
    if level not in LEVELS:
        raise ConfigurationError(
            f"`create_namespace` is {create!r}: it must be true, false, or one of {', '.join(LEVELS)}.",
            hint="True is baseline: no privileged pods, no files or network of the node. The chart's own pods are "
            "allowed in restricted, too; pods with the node's file system need privileged.",
            field="create_namespace",
        )
    return level


def new_namespace(name: str, create: bool | str) -> dict[str, Any]:
    """Give the object of a namespace that we make.

    :param name: of the namespace.
    :param create: as for :func:`security_level`; not false.
    :raises ConfigurationError: there is no such level.
    """
    labels = {MANAGED: "true", _LABEL: str(security_level(create))}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
