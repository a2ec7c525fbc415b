"""Objects that belong to no Ray cluster: applied if they are missing or ours, and removed. Others' are left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.clusters.kubernetes.client import Json, Kube
from ray_provider.clusters.kubernetes.gone import remaining
from ray_provider.clusters.naming import MANAGED
from ray_provider.exceptions import (
    ClusterError,
    ClusterTimeoutError,
    ConfigurationError,
    KubernetesAccessError,
    KubernetesError,
)

Say = Callable[[str], None]


def is_ours(document: Mapping[str, Any]) -> bool:
    """Whether an object bears the label of this provider, or of one of its modules.

    :param document: the object.
    """
    labels = (document.get("metadata") or {}).get("labels") or {}
    return labels.get("app.kubernetes.io/managed-by") == "airflow-ray" or labels.get(MANAGED) == "true"


@dataclass(frozen=True, slots=True)
class _Place:
    """An object, and where it is."""

    document: Json
    collection: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.collection}/{self.name}"

    @property
    def words(self) -> str:
        """As a person names it."""
        parts = self.collection.split("/")
        inside = f"{parts[parts.index('namespaces') + 1]}/" if "namespaces" in parts[:-1] else ""
        return f"{self.document['kind']} {inside}{self.name}"


async def apply_all(kube: Kube, namespace: str, documents: Iterable[Mapping[str, Any]], say: Say) -> list[str]:
    """Apply objects server-side, after all of them have passed a strict dry run; each then bears our label.

    What somebody else made under the same name stays as it is.

    :param kube: where.
    :param namespace: of objects that name none.
    :param documents: the objects, in the order in which they are made.
    :param say: is given a line for each that is made, changed or left.
    :return: what is there of ours now, in words.
    :raises ConfigurationError: Kubernetes refuses one; nothing was changed.
    :raises KubernetesAccessError: one of them may not be made by us; nothing was changed.
    :raises ClusterError: one of them is being deleted; nothing was changed.
    """
    wanted: list[tuple[_Place, Json | None]] = []
    for document in documents:
        place = await _place(kube, namespace, document)
        there = await kube.find(place.path)
        if there is not None and there["metadata"].get("deletionTimestamp"):
            raise ClusterError(
                f"{place.words} is being deleted. Nothing was changed.",
                hint="Run the task again when it is gone.",
                cause="being deleted",
            )
        if there is not None and not is_ours(there):
            say(f"{place.words} is there already, and somebody else's: it is left as it is.")
            continue
        wanted.append((place, there))
    for place, _ in wanted:
        await _check(kube, place)
    for place, there in wanted:
        done = await kube.apply(place.path, place.document)
        if there is None:
            say(f"{place.words} was made.")
        elif there["metadata"]["resourceVersion"] != done["metadata"]["resourceVersion"]:
            say(f"{place.words} was brought up to date.")
    return [place.words for place, _ in wanted]


async def remove_all(
    kube: Kube, namespace: str, documents: Iterable[Mapping[str, Any]], timeout: float, say: Say
) -> list[str]:
    """Delete what :func:`apply_all` made, the last one first, and wait until it is gone.

    :param kube: where.
    :param namespace: of objects that name none.
    :param documents: the objects, as they were given to be made.
    :param timeout: seconds.
    :param say: is given a line for each that is deleted or left.
    :return: what was deleted, in words.
    :raises ClusterTimeoutError: some of it is still there.
    """
    deleted: list[_Place] = []
    for document in reversed(list(documents)):
        try:
            place = await _place(kube, namespace, document)
        except ConfigurationError:
            continue  # the kind is gone, and all objects of it with it
        there = await kube.find(place.path)
        if there is None:
            continue
        if not is_ours(there):
            say(f"{place.words} is somebody else's: it stays.")
            continue
        await kube.delete(place.path)
        deleted.append(place)
    places = [(one.words, one.collection, {"fieldSelector": f"metadata.name={one.name}"}) for one in deleted]
    left = {words: found for words, found in (await remaining(kube, places, timeout)).items() if found}
    if left:
        held = sorted({name for found in left.values() for one in found.values() for name in _finalizers(one)})
        raise ClusterTimeoutError(
            f"Still there after {timeout:.0f} s: {', '.join(left)}"
            + (f" (finalizers: {', '.join(held)})." if held else "."),
            hint="Whoever sets a finalizer takes it away when it has cleaned up: see whether that controller runs. Run"
            " the task again afterwards.",
            cause="not gone",
        )
    for one in deleted:
        say(f"{one.words} was deleted.")
    return [one.words for one in deleted]


async def _place(kube: Kube, namespace: str, document: Mapping[str, Any]) -> _Place:
    meta = document.get("metadata") or {}
    labels = {**(meta.get("labels") or {}), MANAGED: "true"}
    own = {**document, "metadata": {**meta, "labels": labels}}
    return _Place(own, await kube.collection(own, namespace), str(meta["name"]))


async def _check(kube: Kube, place: _Place) -> None:
    try:
        await kube.apply(place.path, place.document, dryRun="All", fieldValidation="Strict")
    except KubernetesAccessError:
        raise
    except KubernetesError as error:
        # A field that is misspelt is an error of the server's own, to a server-side apply.
        if error.status not in {400, 404, 422} and "not declared in schema" not in error.message:
            raise
        raise ConfigurationError(
            f"Kubernetes refuses the {place.words}: {error.message.rstrip('.')}. Nothing was changed.",
            hint="Correct it where it comes from; `kubectl apply --server-side --dry-run=server` says the same of it.",
            cause="invalid",
        ) from error


def _finalizers(document: Mapping[str, Any]) -> list[str]:
    return [str(one) for one in document["metadata"].get("finalizers") or ()]
