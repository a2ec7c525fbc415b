"""Changes of a RayService: whole, checked strictly, and only if it is still as it was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, path_of
from ray_provider.exceptions import KubernetesError

Say = Callable[[str], None]

_CONFLICT, _NOT_FOUND = 409, 404


def service_path(namespace: str, name: str) -> str:
    """Give the path of a RayService.

    :param namespace: of the RayService.
    :param name: of the RayService.
    """
    return path_of("rayservices", namespace, name, api=RAY)


async def replace_spec(
    kube: Kube, document: Json, spec: Mapping[str, Any], notes: Mapping[str, str | None], *, dry: bool = False
) -> Json:
    """Put another spec in the place of a RayService's, and change annotations; all of it or nothing.

    A merge would leave in what the new spec does not say.

    :param kube: where.
    :param document: the RayService, as it was read.
    :param spec: the new one.
    :param notes: annotations; ``None``: it goes.
    :param dry: have it checked only.
    :return: the RayService as it is then.
    :raises KubernetesError: it was changed meanwhile (409), or is refused.
    """
    meta = document["metadata"]
    annotations = {**(meta.get("annotations") or {}), **notes}
    change = [
        # Kubernetes refuses a change of what is not any more as it was read.
        {"op": "replace", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
        {
            "op": "add",
            "path": "/metadata/annotations",
            "value": {k: v for k, v in annotations.items() if v is not None},
        },
        {"op": "replace", "path": "/spec", "value": dict(spec)},
    ]
    query = {"fieldManager": "airflow-ray", "fieldValidation": "Strict", **({"dryRun": "All"} if dry else {})}
    done: Json = await kube.request(
        "PATCH",
        service_path(meta["namespace"], meta["name"]),
        body=change,
        query=query,
        content_type="application/json-patch+json",
    )
    return done


async def annotate(kube: Kube, namespace: str, name: str, notes: Mapping[str, str | None]) -> Json:
    """Change annotations of a RayService.

    :param kube: where.
    :param namespace: of the RayService.
    :param name: of the RayService.
    :param notes: by name; ``None``: it goes.
    :return: the RayService as it is then.
    :raises KubernetesError: it is not there (404), or we may not change it.
    """
    return await kube.merge(service_path(namespace, name), {"metadata": {"annotations": dict(notes)}})


async def put_beside(kube: Kube, namespace: str, document: Json, service: Json, label: str) -> Json | None:
    """Make an object that Kubernetes deletes together with a RayService, or change the one that is there.

    :param kube: where.
    :param namespace: for a document that names none.
    :param document: the object.
    :param service: the RayService, as it was read.
    :param label: says whose it is.
    :return: what was there before, if that was changed.
    :raises KubernetesError: it is somebody else's (409).
    """
    meta = service["metadata"]
    owner = {"apiVersion": service["apiVersion"], "kind": "RayService", "name": meta["name"], "uid": meta["uid"]}
    document = {**document, "metadata": {**document["metadata"], "ownerReferences": [owner]}}
    path = await kube.collection(document, namespace)
    there = await kube.find(f"{path}/{document['metadata']['name']}")
    if there is not None and (there["metadata"].get("labels") or {}).get(label) != meta["name"]:
        raise KubernetesError(
            f"The {document['kind']} {document['metadata']['name']} is there already, and not this RayService's. "
            f"It lies in namespace {namespace!r}.",
            hint="Give it another name, or leave it out.",
            cause="not ours",
            status=_CONFLICT,
        )
    await kube.apply(f"{path}/{document['metadata']['name']}", document)
    return there


def plain(document: Json) -> Json:
    """Give an object as it would be made again: without what Kubernetes has added.

    :param document: as it was read.
    """
    meta = document["metadata"]
    kept = {key: meta[key] for key in ("name", "namespace", "labels", "annotations") if meta.get(key)}
    return {**{key: value for key, value in document.items() if key != "status"}, "metadata": kept}


def is_conflict(error: KubernetesError) -> bool:
    """Whether it was changed, or made, by somebody else at the same moment.

    :param error: of a request that was to change it.
    """
    return error.status == _CONFLICT and error.data.get("cause") != "not ours"


def is_missing(error: KubernetesError) -> bool:
    """Whether it is not there.

    :param error: of a request that was about it.
    """
    return error.status == _NOT_FOUND
