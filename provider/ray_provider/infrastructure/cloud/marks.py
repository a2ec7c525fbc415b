"""What stands on infrastructure itself: whose it is, until when, and where its state lies. As tags, or Google's labels.

On everything stands what never changes between runs: a changed tag of a launch template would replace each node. On the
cluster alone stands the rest, in words that both clouds take: lower-case letters, digits, dashes and underscores, 63 of
them. Where the text has something else in it, that is written as ``_`` and its bytes in hexadecimal.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ray_provider.infrastructure.module.settings import BACKEND_ARGUMENTS
from ray_provider.infrastructure.terraform.state import StateView

PREFIX = "airflow-ray-"
#: On every resource. ``airflow`` is the address of the deployment's web interface.
OWNER = ("airflow", "dag", "task", "name")
#: On the cluster, from its making on, and not looked at by later plans: see ``ignore_changes`` in the modules.
CHANGING = ("run", "expires", "version", "used")
#: Whether a Ray cluster was ever set up there: ``no`` until one is.
USED = f"{PREFIX}used"
_STATE = f"{PREFIX}state-"
_LONGEST = 63
_PLAIN = re.compile(r"[a-z0-9-]")
_ESCAPED = re.compile(r"(?:_[0-9a-f]{2})+")
_PART = re.compile(r"(?P<name>[a-z0-9_]+)(?:-(?P<part>\d+))?")
_TIME = "%Y-%m-%dt%H-%Mz"
#: Text that means a value of another kind in a backend's arguments.
_VALUE = re.compile(r"true|false|[\[{].*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Marks:
    """What a cluster's tags say.

    :param owner: ``airflow``, ``dag``, ``task``, ``name``, as :func:`word` writes them.
    :param run: id of the run that set it up last.
    :param expires: after this nobody needs it, as the set-up said.
    :param version: of this package that set it up last.
    :param used: whether a Ray cluster was ever set up on it; ``None``: that was not recorded.
    :param module: which module made it.
    :param workspace: Terraform's.
    :param backend: where its state lies; without what only a task may say.
    """

    owner: Mapping[str, str] = field(default_factory=dict)
    run: str | None = None
    expires: datetime | None = None
    version: str | None = None
    used: bool | None = None
    module: str | None = None
    workspace: str | None = None
    backend: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, tags: Mapping[str, str]) -> Marks | None:
        """Read a cluster's tags; ``None`` if it carries none of ours.

        :param tags: tags (AWS) or labels (Google Cloud).
        """
        if f"{PREFIX}name" not in tags or f"{_STATE}type" not in tags:
            return None
        found = {name: tags.get(PREFIX + name) for name in (*CHANGING, "module", "workspace")}
        return cls(
            owner={key: tags[PREFIX + key] for key in OWNER if PREFIX + key in tags},
            run=found["run"],
            expires=_time(found["expires"]),
            version=decode(found["version"]) if found["version"] else None,
            used=None if found["used"] is None else found["used"] != "no",
            module=decode(found["module"]) if found["module"] else None,
            workspace=decode(found["workspace"]) if found["workspace"] else None,
            backend=_backend(tags),
        )

    def is_of(self, key: str, value: str) -> bool:
        """Whether an owner's field (or ``run``) is this one.

        :param key: one of :data:`OWNER`, or ``run``.
        :param value: as the owner has it, not encoded.
        """
        return (self.run if key == "run" else self.owner.get(key)) == word(value)

    def said(self, key: str) -> str:
        """Give an owner's field (or ``run``) for people.

        :param key: one of :data:`OWNER`, or ``run``.
        """
        return decode((self.run if key == "run" else self.owner.get(key)) or "?")


def encode(text: str) -> str:
    """Write a text in the letters that both clouds take.

    :param text: any text.
    """
    return "".join(
        letter if _PLAIN.fullmatch(letter) else "".join(f"_{byte:02x}" for byte in letter.encode()) for letter in text
    )


def decode(text: str) -> str:
    """Read what :func:`encode` wrote; of what :func:`word` cut, the beginning.

    :param text: a tag's value.
    """
    begin, cut, _ = text.partition("__")

    def plain(match: re.Match[str]) -> str:
        return bytes.fromhex(match.group().replace("_", "")).decode("utf-8", errors="replace")

    return _ESCAPED.sub(plain, begin) + ("…" if cut else "")


def word(text: str) -> str:
    """Write a text as one value; a long one is cut, with a hash behind.

    :param text: any text.
    """
    written = encode(text)
    if len(written) <= _LONGEST:
        return written
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{re.sub(r'_[0-9a-f]?$', '', written[:50])}__{digest}"


def owner_tags(owner: Mapping[str, str], name: str) -> dict[str, str]:
    """Give the tags of everything that is made.

    :param owner: ``airflow``, ``dag`` and ``task``.
    :param name: of the infrastructure.
    """
    return {PREFIX + key: word(value) for key in OWNER if (value := {**owner, "name": name}.get(key))}


def state_tags(module: str, backend: Mapping[str, Any], workspace: str | None) -> dict[str, str]:
    """Give the cluster's tags that say where its state lies.

    :param module: which module.
    :param backend: its type and arguments. Of those only what a handle may decide is written down.
    :param workspace: Terraform's.
    """
    kind = str(backend.get("type"))
    found = {f"{PREFIX}module": word(module), f"{_STATE}type": word(kind)}
    if workspace and workspace != "default":
        found[f"{PREFIX}workspace"] = word(workspace)
    for name in sorted(BACKEND_ARGUMENTS.get(kind, frozenset()) & set(backend)):
        value = backend[name]
        if value in (None, ""):
            continue
        text = encode(value if isinstance(value, str) else json.dumps(value))
        for part in range(0, len(text), _LONGEST):
            found[f"{_STATE}{name}" + (f"-{part // _LONGEST + 1}" if part else "")] = text[part : part + _LONGEST]
    return found


def run_tags(run: str, expires: datetime | None, version: str) -> dict[str, str]:
    """Give the cluster's tags that each run writes anew.

    :param run: id of the run.
    :param expires: after this nobody needs it.
    :param version: of this package.
    """
    found = {f"{PREFIX}run": word(run), f"{PREFIX}version": word(version)}
    if expires is not None:
        found[f"{PREFIX}expires"] = expires.astimezone(UTC).strftime(_TIME)
    return found


@dataclass(frozen=True, slots=True)
class Tags:
    """Tags for a module's variables.

    :param everywhere: for all that it makes.
    :param cluster: for its cluster alone.
    """

    everywhere: Mapping[str, str] = field(default_factory=dict)
    cluster: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def in_state(cls, state: StateView) -> Tags:
        """Give those that a state's resources carry: who made something stays its owner, whoever plans it.

        :param state: what is in the state before the run.
        """
        everywhere: dict[str, str] = {}
        cluster: dict[str, str] = {}
        clusters = {resource.address for resource in state.clusters}
        for resource in state.resources:
            found = _ours(resource.values.get("tags") or resource.values.get("labels"))
            if resource.address in clusters:
                cluster = found or _ours(resource.values.get("resource_labels"))
            elif f"{PREFIX}name" in found:
                everywhere = found
        return cls(everywhere, cluster)

    def variables(self, given: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
        """Put them into a module's variables, if it has some for them: ``cluster_tags`` or ``cluster_labels``.

        :param given: the variables of the run; not changed.
        :param declared: what the module declares, by name.
        """
        kind = next((kind for kind in ("tags", "labels") if f"cluster_{kind}" in declared and kind in declared), None)
        if kind is None or not (self.everywhere or self.cluster):
            return dict(given)
        return {
            **given,
            kind: {**(given.get(kind) or {}), **self.everywhere},
            f"cluster_{kind}": {**(given.get(f"cluster_{kind}") or {}), **self.cluster},
        }


def _ours(tags: Any) -> dict[str, str]:
    return {key: value for key, value in (tags or {}).items() if key.startswith(PREFIX)} if tags else {}


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC) if text else None
    except ValueError:
        # Somebody wrote it by hand: no end that we know.
        return None


def _backend(tags: Mapping[str, str]) -> dict[str, Any]:
    parts: dict[str, dict[int, str]] = {}
    for key, value in tags.items():
        if key.startswith(_STATE) and (match := _PART.fullmatch(key.removeprefix(_STATE))):
            parts.setdefault(match["name"], {})[int(match["part"] or 1)] = value
    found: dict[str, Any] = {}
    for name, texts in parts.items():
        text = decode("".join(texts[number] for number in sorted(texts)))
        try:
            found[name] = json.loads(text) if _VALUE.fullmatch(text) else text
        except ValueError:
            found[name] = text
    return found
