"""Names and labels: which task a cluster belongs to, and a name that no other run has."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from ray_provider.exceptions import ConfigurationError

#: KubeRay refuses the name of a RayCluster beyond this; Helm's own limit for releases is the same.
MAX_NAME = 53
#: The same for a RayJob and a RayService: KubeRay makes the names of cluster, service and
#: submitter of theirs (KubeRay ≥ 1.2).
MAX_NAME_OF_OWNER = 47
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")

PREFIX = "airflow-ray/"
MANAGED = f"{PREFIX}managed"
#: What an owner consists of. ``airflow`` tells two Airflows apart that share a cluster: its web interface's address.
KEYS = ("dag_id", "run_id", "task_id", "map_index", "airflow")
#: Whether somebody chose the name of a cluster: it may be meant to outlive the run that made it.
NAMED = f"{PREFIX}named"


def check_name(name: str, what: str = "name") -> str:
    """Make sure that a cluster can have this name.

    :param name: at most 53 lower-case letters, digits and ``-``, as KubeRay takes them.
    :param what: which argument it came by, for the message.
    :return: the name.
    :raises ConfigurationError: it can't.
    """
    if not name or len(name) > MAX_NAME:
        raise ConfigurationError(
            f"The {what} {name!r} has {len(name)} characters: KubeRay allows 1 to {MAX_NAME} for a RayCluster.",
            hint="Shorten it, or leave it out: then a name is made that is unique for the run.",
        )
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"The {what} {name!r} can't name a RayCluster.",
            hint="Use lower case letters, digits and '-', beginning with a letter and not ending with '-'.",
        )
    return name


def check_length(name: str, kind: str) -> str:
    """Make sure that what makes a cluster of its own can have this name. Its form is looked at with the cluster's.

    :param name: of the resource.
    :param kind: of the resource: ``RayJob`` or ``RayService``.
    :raises ConfigurationError: it is too long.
    """
    if len(name) > MAX_NAME_OF_OWNER:
        raise ConfigurationError(
            f"The name {name!r} has {len(name)} characters: KubeRay allows {MAX_NAME_OF_OWNER} for a {kind}.",
            hint="Shorten it, or leave it out: then one is made.",
            field="name",
        )
    return name


def unique_name(owner: Mapping[str, Any]) -> str:
    """Make the name of the cluster of one task in one run: the same for each try of it, and for no other.

    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``airflow``.
    """
    identity = "\x1f".join(str(owner.get(key, "")) for key in KEYS)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    slug = re.sub(r"[^a-z0-9]+", "-", str(owner.get("dag_id", "")).lower()).strip("-")[:24].strip("-")
    return f"ray-{slug}-{digest}" if slug else f"ray-{digest}"


def was_named(name: str, recorded: Mapping[str, Any]) -> bool:
    """Tell whether somebody chose a cluster's name, by what was recorded when it was made.

    :param name: of the RayCluster.
    :param recorded: the owner, and ``named`` if that was written down. Where it was not (by an older release), the name
        is compared with the one that this owner's cluster would have been given. In doubt somebody chose it.
    """
    if recorded.get("named") in ("true", "false"):
        return bool(recorded["named"] == "true")
    return name != unique_name({"map_index": -1, **recorded})


def owner_labels(owner: Mapping[str, Any], *, is_named: bool | None = None) -> dict[str, str]:
    """Give the labels that say whose a cluster is. Values that no label can have are shortened, with a hash behind.

    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``airflow``; what is missing has no label.
    :param is_named: whether somebody chose its name; ``None`` says nothing of it.
    """
    labels = {MANAGED: "true"}
    if is_named is not None:
        labels[NAMED] = "true" if is_named else "false"
    for key in KEYS:
        value = owner.get(key)
        if value not in (None, "") and not (key == "map_index" and int(value) < 0):
            labels[PREFIX + key] = label_value(str(value))
    return labels


def owner_annotations(owner: Mapping[str, Any]) -> dict[str, str]:
    """Give the same as annotations, unshortened: for people.

    :param owner: as for :func:`owner_labels`.
    """
    return {PREFIX + key: str(owner[key]) for key in KEYS if owner.get(key) not in (None, "", -1)}


def label_value(text: str) -> str:
    """Make a text into the value of a label.

    :param text: of any length. What is a label's value already (at most 63 characters) stays; else it gets a hash
        behind.
    """
    if len(text) <= 63 and re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:54].strip("_.-") or "x"
    return f"{slug}_{digest}"


def same_owner(labels: Mapping[str, str] | None, owner: Mapping[str, Any], *, run: bool = True) -> bool:
    """Tell whether labels are those of an owner.

    :param labels: of an object of Kubernetes; ``None``: it has none.
    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``airflow``.
    :param run: also of the same run and task, not only of the same DAG of the same Airflow.
    """
    wanted = owner_labels(owner)
    keys = [MANAGED, *(PREFIX + key for key in (KEYS if run else ("dag_id", "airflow")))]
    return bool(labels) and all((labels or {}).get(key) == wanted.get(key) for key in keys)


def describe_owner(labels: Mapping[str, str] | None) -> str:
    """Say in words whose a cluster is.

    :param labels: of the cluster; ``None``: it has none.
    """
    labels = labels or {}
    if labels.get(MANAGED) != "true":
        return "not made by this provider"
    parts = [f"{key.removesuffix('_id')} {labels[PREFIX + key]}" for key in KEYS[:4] if labels.get(PREFIX + key)]
    if labels.get(f"{PREFIX}airflow"):
        parts.append(f"of Airflow {labels[f'{PREFIX}airflow']}")
    return "made by " + ", ".join(parts) if parts else "made by this provider"
