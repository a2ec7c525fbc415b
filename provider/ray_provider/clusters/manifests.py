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

from ray_provider.clusters.fetch import display_url
from ray_provider.clusters.naming import check_name
from ray_provider.clusters.values import Values, invalid_yaml, looks_like_path, read_file
from ray_provider.clusters.yaml_text import load_documents
from ray_provider.exceptions import ConfigurationError

Manifest = dict[str, Any]
Fetch = Callable[[str], str]
_API_GROUP = "ray.io/"
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
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

    def to_values(self, kuberay: tuple[int, int, int] | None) -> tuple[Values, list[str]]:
        """Make values for the chart, secure as the chart's own clusters are.

        :param kuberay: the version that is there, if it is known.
        :return: the values, and what was added or left out and why, in sentences.
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
            values["extraObjects"] = [copy.deepcopy(other) for other in self.others]
        if "authOptions" not in spec:
            reason = _why_no_token(spec.get("rayVersion"), kuberay)
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
        if spec.get("authOptions", {}).get("mode") != "token" and _is_exposed(spec):
            # The user's own manifest says so itself; the chart would refuse it.
            values["allowUnauthenticatedExposure"] = True
            notes.append("WARNING: the manifest shows the dashboard outside the cluster, without token authentication.")
        return values, notes


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
    checked, source = _documents(given, what, folders, render, fetch)
    clusters = [document for document in checked if document["kind"] == "RayCluster"]
    if len(clusters) != 1:
        kinds = ", ".join(document["kind"] for document in checked) or "nothing"
        raise ConfigurationError(
            f"`{source}` has to hold one RayCluster, and holds: {kinds}.",
            hint="A RayJob goes with RayJobOperator, a RayService with its own operator; two clusters need two tasks.",
        )
    cluster = _check_cluster(clusters[0], source)
    namespace = cluster["metadata"].get("namespace")
    others = tuple(document for document in checked if document is not clusters[0])
    for other in others:
        elsewhere = other["metadata"].get("namespace")
        if elsewhere and elsewhere != namespace:
            raise ConfigurationError(
                f"`{source}` puts the {other['kind']} {other['metadata']['name']!r} into namespace {elsewhere!r}, and "
                f"the RayCluster into {namespace or 'the namespace of the task'!r}.",
                hint="A release lies in one namespace: leave `namespace` out of all documents, or give all the same.",
            )
    return RayClusterManifest(cluster=cluster, others=others, source=source)


def read_documents(
    given: str | Path | Mapping[str, Any], *, what: str, folders: Iterable[Path] = (), fetch: Fetch | None = None
) -> list[Manifest]:
    """Read any Kubernetes objects.

    :raises ConfigurationError: they can't be read.
    """
    return _documents(given, what, folders, None, fetch)[0]


def _documents(
    given: str | Path | Mapping[str, Any],
    what: str,
    folders: Iterable[Path],
    render: Callable[[str], str] | None,
    fetch: Fetch | None,
) -> tuple[list[Manifest], str]:
    source: str = what
    documents: list[Any] = [given]
    if not isinstance(given, Mapping):
        text, source = _text_of(given, what, folders, render, fetch)
        try:
            documents = [document for document in load_documents(text) if document]
        except yaml.YAMLError as error:
            raise invalid_yaml(error, source) from None
    return [_check_document(document, source) for document in _flatten(documents)], source


def parse_version(text: Any) -> tuple[int, int, int] | None:
    """Read a version's numbers; ``None`` where there are none."""
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
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
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


def _why_no_token(ray_version: Any, kuberay: tuple[int, int, int] | None) -> str | None:
    ray = parse_version(ray_version)
    if ray is None:
        return "the manifest has no spec.rayVersion, without which KubeRay refuses token authentication"
    if ray < TOKEN_RAY:
        return f"Ray {ray_version} can't ask for tokens (2.52.0 can)"
    if kuberay is not None and kuberay < TOKEN_KUBERAY:
        return "the KubeRay operator here is older than 1.5.1, which is needed for tokens"
    return None


def _is_exposed(spec: Mapping[str, Any]) -> bool:
    head = spec.get("headGroupSpec") or {}
    service = ((head.get("headService") or {}).get("spec") or {}).get("type")
    return any(kind in ("LoadBalancer", "NodePort") for kind in (head.get("serviceType"), service)) or bool(
        head.get("enableIngress")
    )
