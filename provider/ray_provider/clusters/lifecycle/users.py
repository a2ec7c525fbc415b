"""Who uses a cluster: kept on its RayCluster, as one annotation for each task that set it up, with an end.

A cluster with a fixed name may serve several runs. Each set-up writes itself down, each delete takes its own entry
away, and only the last one deletes the cluster, whoever installed it. An entry whose end has passed counts as none, so
that a run that died keeps no cluster for ever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ray_provider.clusters.kubernetes.client import Json, Kube
from ray_provider.clusters.naming import KEYS, PREFIX, label_value
from ray_provider.exceptions import KubernetesError

#: Says that users are recorded on this cluster: before this was done, nobody was.
RECORDED = f"{PREFIX}users"
_ENTRY = f"{PREFIX}user."
#: How long a user counts who neither renews its entry nor takes it away (seconds).
LEASE_SECONDS = 86400.0
_RUN = ("airflow", "dag_id", "run_id")
#: In an entry: the RayJob for which it was made. Those of set-ups have none.
RAYJOB = "rayjob"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who uses a cluster.

    :param key: of the annotation.
    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``airflow``, as far as they are known; ``rayjob``
        where it is the task of a RayJob that runs on the cluster.
    :param until: when the entry ends; ``None``: never.
    :param lease_seconds: by how much it is moved on when it is renewed.
    """

    key: str
    owner: Mapping[str, str]
    until: datetime | None
    lease_seconds: float | None = None

    def counts(self, now: datetime | None = None) -> bool:
        """Whether the entry has not ended.

        :param now: with a time zone; unless given, the present.
        """
        return self.until is None or self.until > (now or datetime.now(tz=UTC))

    def is_of_run(self, owner: Mapping[str, Any]) -> bool:
        """Whether it is of the same run.

        :param owner: of it count ``airflow``, ``dag_id`` and ``run_id``.
        """
        return all(self.owner.get(key, "") == _text(owner.get(key)) for key in _RUN)

    def is_of(self, key: str, value: str) -> bool:
        """Tell whether a part of the user is this one, be it shortened or not.

        :param key: of the owner: ``dag_id``, ``run_id`` …
        :param value: the whole one. Labels hold long values shortened.
        """
        return self.owner.get(key) in {value, label_value(value)}

    @property
    def words(self) -> str:
        """Who it is and how long it counts, for people."""
        who = ", ".join(f"{key.removesuffix('_id')} {self.owner[key]}" for key in KEYS[:3] if self.owner.get(key))
        end = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "without an end"
        return f"{who or 'somebody'} ({end})"


def entry_key(owner: Mapping[str, Any]) -> str:
    """Give the annotation of a task instance.

    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``airflow``.
    """
    identity = "\x1f".join(_text(owner.get(key)) for key in KEYS)
    return f"{_ENTRY}{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def entry(owner: Mapping[str, Any], lease_seconds: float | None, now: datetime | None = None) -> dict[str, str]:
    """Give the annotations by which a task says that it uses a cluster.

    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``airflow``; a RayJob's also has its name.
    :param lease_seconds: how long it counts unless it is renewed; ``None``: for ever.
    :param now: when it begins, with a time zone; unless given, the present.
    """
    until = None
    if lease_seconds is not None:
        until = ((now or datetime.now(tz=UTC)) + timedelta(seconds=lease_seconds)).isoformat(timespec="seconds")
    said = {key: _text(owner.get(key)) for key in (*KEYS, RAYJOB) if _text(owner.get(key))}
    return {
        RECORDED: "recorded",
        entry_key(owner): json.dumps({**said, "until": until, "lease_seconds": lease_seconds}),
    }


def users_of(meta: Mapping[str, Any]) -> list[User]:
    """Read who uses a cluster from its metadata. What can't be read is a user without an end: in doubt it is kept.

    :param meta: metadata of the RayCluster.
    """
    annotations: Mapping[str, str] = meta.get("annotations") or {}
    return [_read(key, text) for key, text in sorted(annotations.items()) if key.startswith(_ENTRY)]


def is_recorded(meta: Mapping[str, Any]) -> bool:
    """Whether users are recorded on a cluster.

    :param meta: metadata of the RayCluster. Not so where somebody made it by other means, or an older release did.
    """
    return RECORDED in (meta.get("annotations") or {})


def others(users: Iterable[User], mine: Iterable[str]) -> list[User]:
    """Give who uses it, but for one's own entries and those that have ended.

    :param users: all that are recorded.
    :param mine: keys of one's own entries.
    """
    own = set(mine)
    return [user for user in users if user.key not in own and user.counts()]


def renewed(meta: Mapping[str, Any], owner: Mapping[str, Any]) -> dict[str, str]:
    """Give the annotations that move the end of a task's entry on; none if that is not due, or there is no entry.

    :param meta: metadata of the RayCluster.
    :param owner: of the entry.
    """
    key = entry_key(owner)
    own = next((user for user in users_of(meta) if user.key == key), None)
    if own is None or own.until is None or own.lease_seconds is None:
        return {}
    due = own.until - timedelta(seconds=own.lease_seconds * 3 / 4)
    return entry({**own.owner, **owner}, own.lease_seconds) if datetime.now(tz=UTC) > due else {}


async def give_up(kube: Kube, path: str, cluster: Json, keys: Iterable[str]) -> Json | None:
    """Take entries away, and give the RayCluster as it is then; ``None`` if it is gone.

    :param kube: where.
    :param path: of the RayCluster.
    :param cluster: the RayCluster as it was read: it is given back where no entry is to go.
    :param keys: of the entries.
    :raises KubernetesError: we may not change it.
    """
    gone = dict.fromkeys(keys)
    if not gone:
        return cluster
    try:
        return await kube.merge(path, {"metadata": {"annotations": gone}})
    except KubernetesError as error:
        if error.status == 404:
            return None
        raise


def _read(key: str, text: str) -> User:
    try:
        said = json.loads(text)
        until, lease = said.pop("until"), said.pop("lease_seconds", None)
        end = datetime.fromisoformat(until) if until is not None else None
        if end is not None and end.tzinfo is None:
            end = end.replace(tzinfo=UTC)
        return User(key, {name: str(value) for name, value in said.items()}, end, lease and float(lease))
    except (ValueError, KeyError, TypeError, AttributeError):
        return User(key, {}, None)


def _text(value: Any) -> str:
    return "" if value in (None, "", -1, "-1") else str(value)
