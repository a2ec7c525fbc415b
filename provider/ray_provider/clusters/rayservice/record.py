"""What a deploy writes down on its RayService: that it is at work, and the version before, for the way back.

It lies on the object itself, as whoever takes a deploy back may know nothing else of it: a trigger, or the next try of
a task whose worker is gone. Specs may hold secrets, so they are in no argument of a trigger, and in no XCom.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ray_provider.clusters.naming import KEYS, PREFIX
from ray_provider.exceptions import ConfigurationError, ServeError

#: Annotations of a RayService while a deploy is at work, or has left a version that was not proven.
UPDATE, FORMER = f"{PREFIX}update", f"{PREFIX}former-version"
#: Kubernetes takes 256 KiB of annotations in all.
_MOST = 200_000
_MOST_UNPACKED = 16 * 1024 * 1024

#: What a deploy does: make the RayService; change applications in the cluster that serves; have a second cluster made;
#: change what replaces nothing (replicas, a group more); nothing.
Kind = Literal["first", "in_place", "new_cluster", "settings", "nothing"]


@dataclass(frozen=True, slots=True)
class Update:
    """A deploy that is at work.

    :param id: of the deploy: the same for all tries of a task in a run.
    :param run: the run that it belongs to, for people.
    :param kind: what it does.
    :param active: the RayCluster that served before it.
    """

    id: str
    run: str = ""
    kind: Kind = "first"
    active: str = ""

    def to_text(self) -> str:
        """Give it as the text of an annotation."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Update | None:
        """Read it; ``None``: no deploy is at work.

        :param metadata: of a RayService.
        """
        text = (metadata.get("annotations") or {}).get(UPDATE)
        try:
            data = json.loads(text) if text else None
            return cls(**{key: str(data.get(key) or "") for key in cls.__dataclass_fields__}) if data else None  # type: ignore[arg-type]
        except (ValueError, AttributeError):
            return None


def deploy_id(owner: Mapping[str, Any]) -> str:
    """Give the id of a task's deploy in one run.

    :param owner: ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``airflow``.
    """
    identity = "\x1f".join(str(owner.get(key, "")) for key in KEYS)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Former:
    """A version that served before a deploy.

    :param spec: of the RayService.
    :param beside: what went beside it, as it was.
    """

    spec: Mapping[str, Any]
    beside: tuple[Mapping[str, Any], ...] = ()

    def to_text(self) -> str:
        """Give it as the text of an annotation.

        :raises ConfigurationError: it is too large for one.
        """
        plain = json.dumps({"spec": self.spec, "beside": list(self.beside)}, separators=(",", ":"))
        text = base64.b64encode(gzip.compress(plain.encode(), mtime=0)).decode()
        if len(text) > _MOST:
            raise ConfigurationError(
                f"The RayService that is there is too large to be kept for the way back. It has {len(text)} bytes "
                f"packed, and {_MOST} is the most.",
                hint="Put what is large in it (code in args, files) into the image or into object storage.",
            )
        return text

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Former | None:
        """Read it; ``None``: there is none.

        :param metadata: of a RayService.
        :raises ServeError: it can't be read: somebody has changed it.
        """
        text = (metadata.get("annotations") or {}).get(FORMER)
        if not text:
            return None
        try:
            unpacker = zlib.decompressobj(wbits=31)
            plain = unpacker.decompress(base64.b64decode(text, validate=True), _MOST_UNPACKED)
            data = json.loads(plain)
            return cls(spec=dict(data["spec"]), beside=tuple(data["beside"]))
        except (ValueError, zlib.error, KeyError, TypeError) as error:
            raise ServeError(
                f"The annotation {FORMER} of the RayService can't be read: the version before is lost.",
                hint="Deploy the former version again by its own task.",
            ) from error
