"""A ready RayService manifest, as users of KubeRay have it: its cluster, its applications, and what else it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_provider.clusters.kuberay.manifests import Fetch, RayClusterManifest, cluster_within, documents_of, the_one
from ray_provider.clusters.kuberay.placeholders import refuse_placeholders
from ray_provider.clusters.rayservice.resource import read_serve_config
from ray_provider.exceptions import ConfigurationError

_CLUSTER = "rayClusterConfig"
_OPERATOR = "ray.io/kuberay-operator"
#: How KubeRay (1.6) may be told to update a RayService, as far as this can be carried through.
NEW_CLUSTER, NONE = "NewCluster", "None"
_INCREMENTAL = "NewClusterWithIncrementalUpgrade"


@dataclass(frozen=True, slots=True)
class RayServiceManifest:
    """A RayService as somebody wrote it.

    :param name: of the RayService.
    :param namespace: that it names itself.
    :param cluster: its cluster, as of a manifest of its own, with what came with the RayService.
    :param serve_config: its ``serveConfigV2``.
    :param own: the rest of its spec.
    :param warnings: what is to be told of it.
    :param source: where it was read from, for messages.
    """

    name: str
    namespace: str | None
    cluster: RayClusterManifest
    serve_config: str = field(repr=False)
    own: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    source: str = "ray_service_yaml"


def read_ray_service(
    given: str | Path | Mapping[str, Any],
    *,
    folders: Iterable[Path] = (),
    render: Callable[[str], str] | None = None,
    fetch: Fetch | None = None,
) -> RayServiceManifest:
    """Read a manifest with a RayService in it.

    :param given: the path of a file, a URL, YAML text, or a mapping.
    :param folders: where relative paths are looked for, beside the working directory.
    :param render: renders a template, for what is read from files; what comes from a URL is never one.
    :param fetch: gets the text behind a URL.
    :raises ConfigurationError: it can't be read, or says something that can't be carried through; it names that.
    """
    documents, source = documents_of(given, "ray_service_yaml", folders, render, fetch)
    service, others = the_one(
        "RayService",
        documents,
        source,
        not_beside=("RayCluster", "RayJob"),
        others="A RayCluster goes by SetupRayCluster(ray_cluster_yaml=...); two services need two tasks.",
        aside="Leave it out, and make it by a task of its own.",
    )
    spec = service.get("spec")
    if not isinstance(spec, Mapping) or not isinstance(spec.get(_CLUSTER), Mapping):
        raise ConfigurationError(f"`{source}`: the RayService has no spec.{_CLUSTER}.", field=_CLUSTER)
    refuse_placeholders(service, source)
    _refuse(spec, source)
    _, lines = read_serve_config(spec.get("serveConfigV2"), source)
    return RayServiceManifest(
        name=service["metadata"]["name"],
        namespace=service["metadata"].get("namespace"),
        cluster=cluster_within(service, _CLUSTER, others, source),
        serve_config=str(spec["serveConfigV2"]),
        own={key: value for key, value in spec.items() if key not in (_CLUSTER, "serveConfigV2")},
        warnings=tuple(lines),
        source=source,
    )


def _refuse(spec: Mapping[str, Any], source: str) -> None:
    """Refuse what can't be carried through, by its name."""
    strategy = spec.get("upgradeStrategy") or {}
    kind = strategy.get("type") if isinstance(strategy, Mapping) else strategy
    if kind == _INCREMENTAL:
        raise ConfigurationError(
            f"`{source}` has traffic moved step by step (spec.upgradeStrategy.type: {kind}). KubeRay does that with a "
            "feature gate and the Gateway API only; without them it takes it, and never updates the cluster.",
            hint=f"Leave spec.upgradeStrategy out: then KubeRay makes a second cluster, and switches when it serves "
            f"({NEW_CLUSTER}).",
            field="upgradeStrategy",
        )
    if kind not in (None, NEW_CLUSTER, NONE):
        raise ConfigurationError(
            f"`{source}`: spec.upgradeStrategy.type is {kind!r}, which KubeRay does not know.",
            hint=f"Leave it out, or say {NEW_CLUSTER} or {NONE}.",
            field="upgradeStrategy",
        )
    if spec.get("managedBy") not in (None, "", _OPERATOR):
        raise ConfigurationError(
            f"`{source}` says spec.managedBy: {spec['managedBy']}: KubeRay leaves it to that one, and says nothing of "
            "it that could be waited for.",
            hint="Leave it out.",
            field="managedBy",
        )
