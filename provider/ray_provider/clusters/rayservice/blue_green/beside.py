"""What goes beside a version: a ConfigMap with its code is its own; the other version keeps the one it has. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from ray_provider.clusters.kubernetes.client import Json

#: What is told apart, and how pods name it: by which key, and under it by which.
_REFERENCES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "ConfigMap": (("configMap", "name"), ("configMapRef", "name"), ("configMapKeyRef", "name")),
    "Secret": (("secret", "secretName"), ("secret", "name"), ("secretRef", "name"), ("secretKeyRef", "name")),
}


def told_apart(service: Json, beside: Iterable[Json]) -> tuple[Json, list[Json]]:
    """Give ConfigMaps and Secrets with a fixed name one with the version's before it, and have the pods name them so.

    :param service: the RayService.
    :param beside: what goes beside it.
    :return: both, changed.
    """
    name = str(service["metadata"]["name"])
    names: dict[tuple[str, str], str] = {}
    found = []
    for document in beside:
        kind, own = str(document.get("kind")), str(document["metadata"]["name"])
        if kind in _REFERENCES and name not in own:
            names[kind, own] = f"{name}-{own}"
            document = {**document, "metadata": {**document["metadata"], "name": names[kind, own]}}  # noqa: PLW2901
        found.append(document)
    changed = copy.deepcopy(service)
    _rename(changed["spec"]["rayClusterConfig"], names)
    return changed, found


def _rename(value: Any, names: Mapping[tuple[str, str], str]) -> None:
    if isinstance(value, list):
        for each in value:
            _rename(each, names)
    if not isinstance(value, dict):
        return
    for kind, references in _REFERENCES.items():
        for key, field in references:
            named = value.get(key)
            if isinstance(named, dict) and (kind, str(named.get(field))) in names:
                named[field] = names[kind, str(named[field])]
    for each in value.values():
        _rename(each, names)
