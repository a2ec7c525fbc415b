"""Asking Kubernetes whether it would take what is about to be installed: strictly, and before anything is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ray_provider.clusters.kuberay.versions import KubeRay, since
from ray_provider.clusters.kubernetes.client import Json, Kube
from ray_provider.clusters.kubernetes.namespaces import new_namespace
from ray_provider.clusters.kubernetes.refusals import ending_namespace
from ray_provider.exceptions import ConfigurationError, KubernetesAccessError, KubernetesError

_UNKNOWN = re.compile(r'unknown field "(?P<field>[^"]+)"')


async def check_objects(kube: Kube, namespace: str, objects: Iterable[Json], kuberay: KubeRay) -> None:
    """Have all objects checked by a strict dry run.

    Without that, fields that an older definition does not know would be dropped without a word, and a right or a
    namespace that is missing would show when half of it is made.

    :param kube: where.
    :param namespace: of objects that name none.
    :param objects: all that is to be made. Nothing of it is made here.
    :param kuberay: what Kubernetes knows of RayClusters, for the message.
    :raises ConfigurationError: an object is not what Kubernetes takes; says which field, and what would know it.
    :raises KubernetesAccessError: one of them may not be made by us.
    :raises KubernetesError: it could not be asked.
    """
    for one in objects:
        path = await kube.collection(one, namespace)
        try:
            await kube.create(path, one, dryRun="All", fieldValidation="Strict", fieldManager="airflow-ray")
        except KubernetesAccessError:
            raise
        except KubernetesError as error:
            if error.status == 409:  # it is there already, so this is an update; it was checked before that showed
                continue
            if error.status in {400, 404, 422}:
                raise explained(one, error, namespace, kuberay) from error
            raise


def explained(one: Json, error: KubernetesError, namespace: str, kuberay: KubeRay) -> ConfigurationError:
    """Say what Kubernetes refuses of an object, and what would know it.

    :param one: the object.
    :param error: the refusal.
    :param namespace: of the object.
    :param kuberay: the KubeRay that is there.
    """
    what = f"{one.get('kind')} {one['metadata'].get('name')}"
    if error.status == 404:
        return missing_namespace(namespace, error.message)
    fields = sorted({found["field"] for found in _UNKNOWN.finditer(error.message)})
    if not fields:
        return ConfigurationError(f"Kubernetes refuses the {what}: {error.message.rstrip('.')}.", cause="invalid")
    told = [f"`{field}`" + (f" (KubeRay {known} and newer)" if (known := since(field)) else "") for field in fields]
    newer = [field for field in fields if one.get("kind") == "RayCluster" and since(field)]
    return ConfigurationError(
        f"Kubernetes does not know {', '.join(told)} of the {what}, and would drop it without a word.",
        hint=f"The CRDs here are those of KubeRay {kuberay.text}: have the operator and them upgraded, "
        "or leave the field out."
        if newer
        else "Correct the field's name or place; `kubectl explain` tells what there is.",
        cause="definitions too old" if newer else "unknown field",
        fields=fields,
    )


def missing_namespace(namespace: str, message: str = "") -> ConfigurationError:
    """Say that a namespace is not there.

    :param namespace: its name.
    :param message: Kubernetes' own: it may say that something else is not there. Default: none, and it is the
        namespace.
    """
    if message and "namespaces" not in message:
        return ConfigurationError(f"Kubernetes refuses it: {message}", cause="not found")
    return ConfigurationError(
        f"The namespace {namespace!r} does not exist.",
        hint=f"kubectl create namespace {namespace}; or set create_namespace=True; or name another one.",
        cause="namespace",
    )


async def check_namespace(kube: Kube, namespace: str, *, create: bool | str, say: Callable[[str], None]) -> None:
    """Make sure that the namespace is there, where we may look; else it shows in the dry run.

    :param kube: where.
    :param namespace: its name.
    :param create: make it if it is missing; a text is its Pod Security level.
    :param say: is told when it was made.
    :raises ConfigurationError: it is not there.
    :raises KubernetesError: it is being deleted.
    """
    try:
        found = await kube.find(f"/api/v1/namespaces/{namespace}")
    except KubernetesAccessError:
        return
    if found is not None:
        if found["metadata"].get("deletionTimestamp"):
            raise ending_namespace(namespace)
        return
    if not create:
        raise missing_namespace(namespace)
    await kube.create("/api/v1/namespaces", new_namespace(namespace, create))
    say(f"Namespace {namespace} was made. It stays when the cluster goes.")


async def path_beside(kube: Kube, namespace: str, document: Json, kind: str) -> str:
    """Give the collection of an object that Kubernetes is to delete together with another.

    :param kube: where.
    :param namespace: of the other one.
    :param document: the object.
    :param kind: of the other one, which lies in the namespace.
    :raises ConfigurationError: it does not lie in that namespace.
    """
    path = await kube.collection(document, namespace)
    if f"/namespaces/{namespace}/" not in f"{path}/":
        raise ConfigurationError(
            f"The {document['kind']} {document['metadata']['name']} lies outside the namespace {namespace!r}: it could "
            f"not be deleted with the {kind}.",
            hint="Make it once by other means, and leave it out of `extraObjects` (or the manifest).",
            field="extraObjects",
        )
    return path
