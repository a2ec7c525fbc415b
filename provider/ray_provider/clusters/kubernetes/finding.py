"""What keeps a Ray cluster from becoming ready, as it is told; and how Kubernetes' conditions are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]

#: How long a cause has to last before waiting is given up (seconds); by the kind of patience it deserves.
NOW, SHORT, IMAGE, SCHEDULING, OPERATOR = "now", "short", "image", "scheduling", "operator"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that keeps a cluster from becoming ready.

    :param cause: in one or two words, for programs.
    :param text: what is wrong, as a sentence without its full stop.
    :param hint: what to do about it.
    :param patience: how long it may last: ``now``, ``short``, ``image``, ``scheduling`` or ``operator``.
    :param subject: which object it is about.
    :param container: whose log tells more, if one does.
    :param previous: the log of its last run, not of the present one.
    """

    cause: str
    text: str
    hint: str
    patience: str = NOW
    subject: str = ""
    container: str | None = None
    previous: bool = False


def condition(obj: Json, kind: str) -> Json | None:
    """Give a condition of an object's status.

    :param obj: any object that has conditions.
    :param kind: the condition's ``type``.
    :return: ``None``: it has no such condition.
    """
    found: Iterable[Json] = (obj.get("status") or {}).get("conditions") or ()
    return next((one for one in found if one.get("type") == kind), None)


def is_true(obj: Json, kind: str) -> bool:
    """Whether a condition is there and true.

    :param obj: any object that has conditions.
    :param kind: the condition's ``type``. One that is not there is not true.
    """
    return (condition(obj, kind) or {}).get("status") == "True"
