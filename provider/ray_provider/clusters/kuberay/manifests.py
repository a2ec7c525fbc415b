"""A ready RayCluster manifest, as users of KubeRay have it: taken apart, checked, and made into values of the chart.

The cluster is then a Helm release like any other: what was made with it goes with it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ray_provider._shared.yaml_text import load_documents
from ray_provider.clusters.helm.fetch import display_url
from ray_provider.clusters.helm.values import Values, invalid_yaml, looks_like_path, read_file
from ray_provider.clusters.kuberay.placeholders import refuse_helm_template, refuse_placeholders
from ray_provider.clusters.kuberay.raycluster import closed_by_environment, head_container, is_exposed
from ray_provider.clusters.naming import check_name
from ray_provider.exceptions import ConfigurationError

Manifest = dict[str, Any]
Fetch = Callable[[str], str]
_API_GROUP = "ray.io/"
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
_TAG = re.compile(r"\d+\.\d+\.\d+")
_RAY_IMAGE = re.compile(r"(^|/)rayproject/ray(-[a-z-]+)?$")
_LIKELY = re.compile(r"2\.\d{1,3}\.")
#: Since then Ray can ask for tokens; and since then KubeRay can tell it to.
TOKEN_RAY = (2, 52, 0)
TOKEN_KUBERAY = (1, 5, 1)


@dataclass(frozen=True, slots=True)
class RayClusterManifest:
    """A RayCluster and what came with it.

    :param cluster: the RayCluster.
    :param others: the other documents.
    :param source: where it was read from, for messages.
    """

    cluster: Manifest
    others: tuple[Manifest, ...] = field(default=())
    source: str = "ray_cluster_yaml"

    @property
    def name(self) -> str:
        """The cluster's name."""
        return str(self.cluster["metadata"]["name"])

    @property
    def namespace(self) -> str | None:
        """The namespace that it names itself."""
        namespace = self.cluster["metadata"].get("namespace")
        return str(namespace) if namespace else None

    def to_values(
        self, kuberay: tuple[int, int, int] | None, *, auth_is_said: bool = False
    ) -> tuple[Values, list[str]]:
        """Make values for the chart, secure as the chart's own clusters are.

        :param kuberay: the version that is there, if it is known.
        :param auth_is_said: the user's values say ``authOptions`` where the manifest doesn't.
        :return: the values, and what was added or left out and why, in sentences.
        :raises ConfigurationError: nobody says whether the cluster can ask for tokens, nor that it is to be open.
        """
        metadata = self.cluster["metadata"]
        spec = copy.deepcopy(self.cluster["spec"])
        notes: list[str] = []
        values: Values = {"fullnameOverride": self.name, "spec": spec}
        for key in ("labels", "annotations"):
            if metadata.get(key):
                values[key] = {name: str(value) for name, value in metadata[key].items()}
        if not spec.get("workerGroupSpecs"):
            values["headOnly"] = True
        if self.others:
            values["extraObjects"] = [_as_text(other) for other in self.others]
        notes += self._version(spec)
        closed = closed_by_environment(spec)
        if "authOptions" not in spec and closed is not None:
            # Said twice, KubeRay and the environment would contradict each other.
            values["authOptions"] = {"mode": "disabled"}
            notes.append(
                f"{self.source} says by the head's environment ({closed.variable}) how Ray asks for tokens: "
                "spec.authOptions is left out."
            )
        elif "authOptions" not in spec and not auth_is_said:
            reason = self._why_no_token(spec.get("rayVersion"), kuberay)
            if reason is None:
                spec["authOptions"] = {"mode": "token"}
                notes.append(
                    f"{self.source} says nothing of authentication: token authentication is switched on "
                    "(spec.authOptions.mode: token). To switch it off, say spec.authOptions.mode: disabled."
                )
            else:
                values["authOptions"] = {"mode": "disabled"}
                notes.append(
                    f"WARNING: the dashboard of this cluster asks for no token, as {reason}. Whoever reaches it can "
                    "run code in the cluster; the network policy of the release limits who does."
                )
        is_closed = spec.get("authOptions", {}).get("mode") == "token" or (closed is not None and closed.on)
        if not is_closed and is_exposed(spec):
            # The user's own manifest says so itself; the chart would refuse it.
            values["allowUnauthenticatedExposure"] = True
            notes.append("WARNING: the manifest shows the dashboard outside the cluster, without token authentication.")
        return values, notes

    def _version(self, spec: Manifest) -> list[str]:
        """Put Ray's version into the spec, where the head's image tells it and the spec does not."""
        told = version_of_image(str(head_container(spec).get("image") or ""))
        if parse_version(spec.get("rayVersion")) is not None or told is None:
            return []
        before = f"is {spec['rayVersion']!r}, which is no version" if spec.get("rayVersion") else "is not said"
        spec["rayVersion"] = told
        return [f"spec.rayVersion of {self.source} {before}: {told}, as the tag of the head's image says."]

    def _why_no_token(self, ray_version: Any, kuberay: tuple[int, int, int] | None) -> str | None:
        """Say why Ray can't be told to ask for tokens; ``None`` if it can.

        :raises ConfigurationError: nobody can tell: whether the cluster is to be open is for the user to say.
        """
        if kuberay is not None and kuberay < TOKEN_KUBERAY:
            return "the KubeRay operator here is older than 1.5.1, which is needed for tokens"
        ray = parse_version(ray_version)
        if ray is None:
            raise ConfigurationError(
                f"`{self.source}` does not say which Ray it is"
                + (f" (spec.rayVersion is {str(ray_version)!r})" if ray_version else " (no spec.rayVersion)")
                + ", nor does the tag of the head's image: whether its dashboard can ask for tokens is not known.",
                hint="Say spec.rayVersion (2.52.0 or newer has token authentication); or, if whoever reaches the "
                "dashboard may run code in the cluster, spec.authOptions.mode: disabled (also by `values`: "
                "{authOptions: {mode: disabled}}).",
                field="spec.rayVersion",
            )
        if ray < TOKEN_RAY:
            return f"Ray {ray_version} can't ask for tokens (2.52.0 can)"
        return None


def read_manifest(
    given: str | Path | Mapping[str, Any],
    *,
    what: str = "ray_cluster_yaml",
    folders: Iterable[Path] = (),
    render: Callable[[str], str] | None = None,
    fetch: Fetch | None = None,
) -> RayClusterManifest:
    """Read a manifest with a RayCluster in it.

    :param given: the path of a file, a URL, YAML text, or a mapping.
    :param what: the argument's name, for messages.
    :param folders: where relative paths are looked for, beside the working directory.
    :param render: renders a template, for what is read from files; what comes from a URL is never one.
    :param fetch: gets the text behind a URL.
    :raises ConfigurationError: it can't be read, or holds anything but one RayCluster that can be installed.
    """
    checked, source = documents_of(given, what, folders, render, fetch)
    clusters = [document for document in checked if document["kind"] == "RayCluster"]
    if len(clusters) != 1:
        kinds = ", ".join(document["kind"] for document in checked) or "nothing"
        raise ConfigurationError(
            f"`{source}` has to hold one RayCluster, and holds: {kinds}.",
            hint="A RayJob is run by RunRayJob(ray_job_yaml=...); two clusters need two tasks.",
        )
    refuse_placeholders(clusters[0], source)
    cluster = _check_cluster(clusters[0], source)
    namespace = cluster["metadata"].get("namespace")
    others = tuple(document for document in checked if document is not clusters[0])
    for other in others:
        elsewhere = other["metadata"].get("namespace")
        if elsewhere and elsewhere != namespace:
            raise ConfigurationError(
                f"`{source}` names two namespaces: {elsewhere!r} for the {other['kind']} {other['metadata']['name']!r} "
                f"and {namespace or 'that of the task'!r} for the RayCluster.",
                hint="A release lies in one namespace: leave `namespace` out of all documents, or give all the same.",
            )
    return RayClusterManifest(cluster=cluster, others=others, source=source)


def read_documents(
    given: str | Path | Mapping[str, Any], *, what: str, folders: Iterable[Path] = (), fetch: Fetch | None = None
) -> list[Manifest]:
    """Read any Kubernetes objects.

    :param given: YAML text, a path, a URL, or one object as a dict.
    :param what: the argument's name, for messages.
    :param folders: where relative paths are looked for.
    :param fetch: gets the text behind a URL; ``None``: URLs are not taken.
    :raises ConfigurationError: they can't be read.
    """
    return documents_of(given, what, folders, None, fetch)[0]


def documents_of(
    given: str | Path | Mapping[str, Any],
    what: str,
    folders: Iterable[Path],
    render: Callable[[str], str] | None,
    fetch: Fetch | None,
) -> tuple[list[Manifest], str]:
    """Read any Kubernetes objects, and say where from.

    :param given: YAML text, a path, a URL, or one object as a dict.
    :param what: the argument's name, for messages.
    :param folders: where relative paths are looked for.
    :param render: renders templates in files; ``None``: they are taken as they are.
    :param fetch: gets the text behind a URL; ``None``: URLs are not taken.
    :return: the documents; and the path, the URL or ``what``, for messages.
    :raises ConfigurationError: they can't be read.
    """
    source: str = what
    documents: list[Any] = [given]
    if not isinstance(given, Mapping):
        text, source = _text_of(given, what, folders, render, fetch)
        refuse_helm_template(text, source)
        try:
            documents = [document for document in load_documents(text) if document]
        except yaml.YAMLError as error:
            raise invalid_yaml(error, source) from None
    return [_check_document(document, source) for document in _flatten(documents)], source


def the_one(
    kind: str, documents: Iterable[Manifest], source: str, *, not_beside: Iterable[str] = (), others: str, aside: str
) -> tuple[Manifest, list[Manifest]]:
    """Give the one resource that a manifest is about, and what is beside it.

    :param kind: of the resource.
    :param documents: all that the manifest holds.
    :param source: where the manifest was read from, for messages.
    :param not_beside: kinds that would make a cluster of their own.
    :param others: what to do where there is none of it, or several.
    :param aside: what to do with one that may not be beside it.
    :raises ConfigurationError: there is none, or more than one, or one that may not be beside it.
    """
    documents = list(documents)
    found = [one for one in documents if one["kind"] == kind]
    field = source.partition(" ")[0]
    if len(found) != 1:
        kinds = ", ".join(one["kind"] for one in documents) or "nothing"
        raise ConfigurationError(f"`{source}` has to hold one {kind}, and holds: {kinds}.", hint=others, field=field)
    beside = [one for one in documents if one is not found[0]]
    if strangers := [one for one in beside if one["kind"] in tuple(not_beside)]:
        raise ConfigurationError(
            f"`{source}` holds a {strangers[0]['kind']} beside its {kind}, whose cluster is another one.",
            hint=aside,
            field=field,
        )
    return found[0], beside


def cluster_within(
    resource: Manifest, key: str, beside: Iterable[Manifest], source: str, *, unnamed: str | None = None
) -> RayClusterManifest:
    """Read the cluster in the spec of a resource as if it were a manifest of its own.

    :param resource: a RayJob or a RayService.
    :param key: of its spec, which holds the cluster's.
    :param beside: what came with it in the manifest.
    :param source: where the manifest was read from, for messages.
    :param unnamed: the cluster's name where the resource has none yet.
    :raises ConfigurationError: see :func:`read_manifest`.
    """
    taken = ("name", "namespace", "labels", "annotations")
    metadata = {name: value for name, value in resource["metadata"].items() if name in taken}
    cluster = {
        "apiVersion": resource["apiVersion"],
        "kind": "RayCluster",
        "metadata": {"name": unnamed, **metadata} if unnamed else metadata,
        "spec": dict(resource["spec"][key]),
    }
    documents = {"apiVersion": "v1", "kind": "List", "items": [cluster, *beside]}
    return read_manifest(documents, what=f"{source}, spec.{key}")


def parse_version(text: Any) -> tuple[int, int, int] | None:
    """Read a version's numbers; ``None`` where there are none.

    :param text: ``v1.2.3``, ``1.2`` or nothing of the kind. Numbers that are missing are 0.
    """
    found = _VERSION.match(str(text or ""))
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def _text_of(
    given: str | Path,
    what: str,
    folders: Iterable[Path],
    render: Callable[[str], str] | None,
    fetch: Fetch | None,
) -> tuple[str, str]:
    if isinstance(given, str) and given.startswith(("http://", "https://")):
        if fetch is None:
            raise ConfigurationError(
                f"`{what}` is a URL, which is not read here.", hint="Put the file beside the DAG and name its path."
            )
        # Never rendered: whoever writes what is there could have connections and variables shown to them.
        return fetch(given), f"{what} ({display_url(given)})"
    if looks_like_path(given):
        path, text = read_file(given, what, folders)
        refuse_helm_template(text, f"{what} ({path})")
        return render(text) if render else text, f"{what} ({path})"
    text = str(given)
    if "\n" not in text and ":" not in text:
        raise ConfigurationError(
            f"`{what}` is {text!r}: neither YAML text nor the path of a .yaml or .yml file.",
            hint="Give the path of a manifest, its text, or a dict.",
        )
    return text, what


def _flatten(documents: Iterable[Any]) -> Iterable[Any]:
    for document in documents:
        if isinstance(document, Mapping) and document.get("kind") == "List":
            yield from document.get("items") or []
        else:
            yield document


def _check_document(document: Any, source: str) -> Manifest:
    if not isinstance(document, Mapping):
        raise ConfigurationError(
            f"`{source}` holds a document that is no Kubernetes object, but {type(document).__name__}."
        )
    metadata = document.get("metadata")
    missing = [key for key in ("apiVersion", "kind") if not isinstance(document.get(key), str)]
    # A RayJob may leave its name to Kubernetes: then it gets one that is unique for the run.
    names = ("name", "generateName") if document.get("kind") == "RayJob" else ("name",)
    if not isinstance(metadata, Mapping) or not any(isinstance(metadata.get(key), str) for key in names):
        missing.append("metadata.name")
    if missing:
        kind = document.get("kind") or "document"
        raise ConfigurationError(f"`{source}`: the {kind} in it has no {', '.join(missing)}.")
    return copy.deepcopy(dict(document))


def _check_cluster(cluster: Manifest, source: str) -> Manifest:
    if not cluster["apiVersion"].startswith(_API_GROUP):
        raise ConfigurationError(
            f"`{source}`: a RayCluster has apiVersion ray.io/v1, and this one {cluster['apiVersion']!r}."
        )
    check_name(cluster["metadata"]["name"], f"metadata.name of {source}")
    spec = cluster.get("spec")
    if not isinstance(spec, Mapping) or not isinstance(spec.get("headGroupSpec"), Mapping):
        raise ConfigurationError(f"`{source}`: the RayCluster has no spec.headGroupSpec.")
    metadata = cluster["metadata"]
    for where, value in (
        ("metadata.labels", metadata.get("labels")),
        ("metadata.annotations", metadata.get("annotations")),
        ("metadata.namespace", metadata.get("namespace")),
        ("spec.authOptions", spec.get("authOptions")),
        ("spec.headGroupSpec.headService", spec["headGroupSpec"].get("headService")),
        ("spec.headGroupSpec.headService.spec", _inner(spec["headGroupSpec"].get("headService"), "spec")),
    ):
        wanted = str if where.endswith("namespace") else Mapping
        if value is not None and not isinstance(value, wanted):
            raise ConfigurationError(
                f"`{source}`: {where} of the RayCluster is a {type(value).__name__}.",
                hint=f"It has to be {'text' if wanted is str else 'a mapping'}; leave it out to say nothing.",
            )
    cluster["spec"] = dict(spec)
    if spec.get("authOptions") is None:
        cluster["spec"].pop("authOptions", None)  # nothing said is not a choice to go without a token
    return cluster


def _inner(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def version_of_image(image: str) -> str | None:
    """Tell Ray's version by an image's tag, by the chart's rule: images of one's own count where it is a 2.x.

    :param image: with its registry, tag and digest, as a pod names it.
    :return: ``None``: the tag does not tell.
    """
    name = image.partition("@")[0]
    repository, colon, tag = name.rpartition(":")
    found = _TAG.match(tag) if colon and "/" not in tag else None
    if found is None:
        return None
    own = _RAY_IMAGE.search(repository) is not None
    return found[0] if own or _LIKELY.match(found[0]) else None


def _as_text(value: Any) -> Any:
    """Give an object so that the chart, which takes ``extraObjects`` for templates, makes the same of it again."""
    if isinstance(value, str):
        return value.replace("{{", "{{`{{`}}")
    if isinstance(value, Mapping):
        return {_as_text(key): _as_text(one) for key, one in value.items()}
    return [_as_text(one) for one in value] if isinstance(value, (list, tuple)) else value
