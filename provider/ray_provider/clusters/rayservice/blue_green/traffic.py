"""The Service before two RayServices, and what is written down on it: which has the traffic, what the other one is.

KubeRay writes the cluster that serves into the selector of the service that a RayService names (``spec.serveService``),
whoever made that service, and each time another of its clusters serves. So the RayService that has the traffic names
ours, and no other does: it stays right with no task running. The labels of pods alone would not do: KubeRay also marks
the head of a cluster that is still being made with ``ray.io/serve: "true"``, as soon as Serve's proxy is up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ray_provider.clusters.kubernetes.client import Json, Kube, path_of
from ray_provider.clusters.naming import MAX_NAME_OF_OWNER, PREFIX
from ray_provider.clusters.rayservice.resource import LABEL, PORT
from ray_provider.clusters.rayservice.writing import service_path
from ray_provider.exceptions import ConfigurationError, KubernetesError

#: Annotation of our Service: what :class:`Traffic` holds.
TRAFFIC = f"{PREFIX}traffic"
#: Annotation of a RayService: which version it is.
VERSION = f"{PREFIX}version"
COLOURS = ("blue", "green")
#: What no pod bears.
NOBODY = {f"{PREFIX}traffic": "none"}
_SERVING = "ray.io/serve"
_CLUSTER = "ray.io/cluster"
_PORTS = [{"name": PORT, "port": 8000}]
_CONFLICT = 409

#: What the RayService without the traffic is: a version that waits for it; the one that had it before; one that it was
#: taken from again.
Other = Literal["", "candidate", "former", "rejected"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who has the traffic.

    :param namespace: of all three.
    :param name: of our Service.
    :param active: the RayService that has the traffic; empty: none.
    :param version: of that one.
    :param other_version: of the RayService beside it; empty: there is none.
    :param other_is: what that one is.
    :param ending: all of it is being deleted.
    :param document: our Service, as it was read.
    """

    namespace: str
    name: str
    active: str = ""
    version: str = ""
    other_version: str = ""
    other_is: Other = ""
    ending: bool = False
    document: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def names(self) -> tuple[str, str]:
        """The names of the two RayServices."""
        return (f"{self.name}-{COLOURS[0]}", f"{self.name}-{COLOURS[1]}")

    @property
    def other(self) -> str:
        """The name of the RayService that has not got the traffic."""
        return next(name for name in self.names if name != self.active)

    @property
    def is_open(self) -> bool:
        """Whether our Service leads to pods."""
        return bool(self.document["spec"].get("selector") != NOBODY)

    def to_text(self) -> str:
        """Give it as the text of an annotation."""
        keys = ("active", "version", "other_version", "other_is", "ending")
        return json.dumps({key: getattr(self, key) for key in keys}, sort_keys=True)


def check_name(name: str) -> None:
    """Make sure that two RayServices can be named after it.

    :param name: of our Service.
    :raises ConfigurationError: it is too long.
    """
    most = MAX_NAME_OF_OWNER - max(len(colour) for colour in COLOURS) - 1
    if len(name) > most:
        raise ConfigurationError(
            f"The name {name!r} has {len(name)} characters. With strategy blue_green, {most} is the most: its "
            f"RayServices are called NAME-{COLOURS[0]} and NAME-{COLOURS[1]}.",
            hint="Shorten it, or leave it out: then one is made of the DAG and the task.",
            field="name",
        )


def version_of(service: Mapping[str, Any]) -> str:
    """Give the version of a RayService; empty: it is not one of two.

    :param service: the RayService.
    """
    return str((service["metadata"].get("annotations") or {}).get(VERSION) or "")


async def look(kube: Kube, namespace: str, name: str) -> Traffic | None:
    """Read who has the traffic; ``None``: there is no such Service of ours.

    :param kube: the API.
    :param namespace: in which it is.
    :param name: of our Service.
    :return: who has it.
    :raises ConfigurationError: what is written down on it can't be read.
    """
    document = await kube.find(path_of("services", namespace, name))
    text = ((document or {}).get("metadata") or {}).get("annotations", {}).get(TRAFFIC)
    if document is None or not text:
        return None
    try:
        data = json.loads(text)
        told = {key: str(data.get(key) or "") for key in ("active", "version", "other_version", "other_is")}
        return Traffic(namespace, name, **told, ending=bool(data.get("ending")), document=document)  # type: ignore[arg-type]
    except (ValueError, AttributeError):
        raise ConfigurationError(
            f"The annotation {TRAFFIC} of the Service {namespace}/{name} can't be read: somebody has changed it.",
            hint=f"Delete that Service: kubectl -n {namespace} delete service {name}. KubeRay makes it again, with the "
            "annotation, for the RayService that has the traffic.",
        ) from None


async def found_again(kube: Kube, namespace: str, name: str) -> Traffic:
    """Tell who has the traffic where our Service is gone: the RayService that names it. KubeRay is about to make it.

    :param kube: the API.
    :param namespace: in which it was.
    :param name: of our Service.
    :return: who has it.
    """
    traffic = Traffic(namespace, name)
    for each in traffic.names:
        there = await kube.find(service_path(namespace, each))
        if there is not None and names_ours(there, name):
            return Traffic(namespace, name, each, version_of(there))
    return traffic


async def make(kube: Kube, traffic: Traffic, labels: Mapping[str, str]) -> Traffic:
    """Make our Service; until a version is promoted, it leads nowhere.

    :param kube: the API.
    :param traffic: what is to stand there.
    :param labels: that say whose it is.
    :return: the same, with our Service.
    :raises ConfigurationError: another Service has this name.
    :raises KubernetesError: somebody else has made it at the same moment (409).
    """
    meta = {
        "name": traffic.name,
        "namespace": traffic.namespace,
        "labels": {**labels, LABEL: traffic.name, "app.kubernetes.io/managed-by": "airflow-ray"},
        "annotations": {TRAFFIC: traffic.to_text()},
    }
    document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"selector": NOBODY, "ports": _PORTS},
    }
    try:
        made = await kube.create(path_of("services", traffic.namespace), document)
    except KubernetesError as error:
        if error.status == _CONFLICT and await look(kube, traffic.namespace, traffic.name) is None:
            raise ConfigurationError(
                f"The Service {traffic.namespace}/{traffic.name} is there, and is not this provider's.",
                hint="Give the RayService another name: with strategy blue_green, its Service is called so.",
                field="name",
                cause="not ours",
            ) from None
        raise
    return replace(traffic, document=made)


async def write(kube: Kube, traffic: Traffic, *, to: Mapping[str, Any] | None = None) -> Traffic:
    """Write down who has the traffic, only if nobody else has since it was read; in the same moment it moves.

    :param kube: the API.
    :param traffic: what is to stand there, with the Service as it was read.
    :param to: our Service's spec changes to this: selector and ports. Unless given, the traffic stays where it is.
    :return: the same, with our Service as it is now.
    :raises KubernetesError: it was changed meanwhile (409).
    """
    meta = traffic.document["metadata"]
    annotations = {**(meta.get("annotations") or {}), TRAFFIC: traffic.to_text()}
    change: list[Json] = [
        # Kubernetes refuses a change of what is not any more as it was read.
        {"op": "replace", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
        {"op": "add", "path": "/metadata/annotations", "value": annotations},
    ]
    if meta.get("ownerReferences"):
        # KubeRay has made it again for one of the two: it would go with that one.
        change.append({"op": "remove", "path": "/metadata/ownerReferences"})
    change += [{"op": "add", "path": f"/spec/{key}", "value": value} for key, value in (to or {}).items()]
    path = path_of("services", traffic.namespace, traffic.name)
    query = {"fieldManager": "airflow-ray", "fieldValidation": "Strict"}
    done = await kube.request("PATCH", path, body=change, query=query, content_type="application/json-patch+json")
    return replace(traffic, document=done)


async def way_to(kube: Kube, traffic: Traffic, name: str, cluster: str) -> Json:
    """Give the spec by which our Service leads to a RayService: as KubeRay will write it.

    :param kube: the API.
    :param traffic: with our Service as it is.
    :param name: of the RayService.
    :param cluster: the RayCluster of it that serves.
    """
    spec: Json = {"selector": {_CLUSTER: cluster, _SERVING: "true"}}
    own = await kube.find(path_of("services", traffic.namespace, f"{name}-serve-svc"))
    wanted = [_plain(one) for one in ((own or {}).get("spec") or {}).get("ports") or ()]
    if wanted and wanted != [_plain(one) for one in traffic.document["spec"].get("ports") or ()]:
        spec["ports"] = wanted
    return spec


def names_ours(service: Mapping[str, Any], name: str) -> bool:
    """Whether a RayService has KubeRay point our Service at its pods.

    :param service: the RayService.
    :param name: of our Service.
    """
    given = (service["spec"].get("serveService") or {}).get("metadata") or {}
    return bool(given.get("name") == name)


def named(traffic: Traffic) -> Json:
    """Give the ``serveService`` that names our Service: KubeRay makes it again of that, if somebody deletes it.

    :param traffic: with our Service as it is.
    """
    labels = {
        key: value
        for key, value in (traffic.document["metadata"].get("labels") or {}).items()
        if key.startswith(PREFIX) or key == "app.kubernetes.io/managed-by"
    }
    return {"metadata": {"name": traffic.name, "labels": labels, "annotations": {TRAFFIC: traffic.to_text()}}}


def _plain(port: Mapping[str, Any]) -> Json:
    return {key: port[key] for key in ("name", "port", "protocol", "appProtocol") if port.get(key)}
