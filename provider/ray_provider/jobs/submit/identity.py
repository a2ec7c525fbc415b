"""Who owns a job: the same task attempt always submits under the same id, and Ray can say whose job it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PREFIX = "airflow_"
#: What makes a job this owner's. The try number and the version may differ when another try takes the job over.
_IDENTITY = ("deployment", "dag_id", "run_id", "task_id", "map_index", "attempt")
_OTHER = ("try_number", "provider_version", "detached")

#: Metadata keys that have to agree before a job that exists is taken for ours.
IDENTITY_KEYS = tuple(_PREFIX + name for name in _IDENTITY)


@dataclass(frozen=True, slots=True)
class JobOwner:
    """The logical attempt of a task that a job belongs to.

    :param attempt: counts the jobs that the task instance was to run: it changes when the task is run anew (cleared, or
        retried after a final status), and stays when a retry takes a running job over.
    :param try_number: Airflow's try that submitted the job. For people; not part of the identity.
    :param deployment: tells Airflows apart that share a Ray cluster.
    :param detached: the job was meant to go on when its task ends. Not part of the identity; ``None``: it is not known,
        as of jobs that version 1.0 and older submitted.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    attempt: int = 1
    try_number: int | None = None
    provider_version: str = ""
    deployment: str = ""
    detached: bool | None = None

    def to_metadata(self) -> dict[str, str]:
        """Give the owner as job metadata: text to text."""
        values = {name: getattr(self, name) for name in (*_IDENTITY, *_OTHER)}
        return {_PREFIX + name: str(value) for name, value in values.items() if value not in (None, "")}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> JobOwner | None:
        """Read the owner from a job's metadata, or None if the job is not an Airflow task's.

        :param metadata: as Ray gives it.
        """
        found = {name: metadata.get(_PREFIX + name) for name in (*_IDENTITY, *_OTHER)}
        if not all(found[name] for name in ("dag_id", "run_id", "task_id")):
            return None
        try:
            return cls(
                dag_id=str(found["dag_id"]),
                run_id=str(found["run_id"]),
                task_id=str(found["task_id"]),
                map_index=int(found["map_index"] or -1),
                attempt=int(found["attempt"] or 1),
                try_number=int(found["try_number"]) if found["try_number"] else None,
                provider_version=str(found["provider_version"] or ""),
                deployment=str(found["deployment"] or ""),
                detached={"True": True, "False": False}.get(str(found["detached"])),
            )
        except ValueError:
            return None


def submission_id_for(owner: JobOwner) -> str:
    """Make the id that this owner's job is submitted under.

    It follows from the owner alone, so that whoever repeats the submit meets the job of the first one. It starts with
    names that people know, holds only what file names, URLs and Kubernetes labels may hold, and has at most 63
    characters; a hash of the whole identity makes it unique.

    :param owner: whose job it is.
    """
    identity = "\x1f".join(str(getattr(owner, name)) for name in _IDENTITY)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:20]
    return f"{_slug(owner.dag_id)}-{_slug(owner.task_id)}-{digest}"


def _slug(name: str, length: int = 20) -> str:
    # The end of a name tells more than its beginning: task groups come first.
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[-length:].strip("-") or "x"
