"""The RayService resource: what is made of a cluster's values and of the applications that it is to serve."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ray_provider._shared.yaml_text import load_document
from ray_provider.clusters.kuberay.raycluster import Json, head_container, one_cluster
from ray_provider.clusters.kuberay.rayjob import beside, label_pods
from ray_provider.clusters.naming import PREFIX
from ray_provider.exceptions import ConfigurationError
from ray_provider.serve.applications import ServeApplication, unknown_keys

#: Label of all that is made with a RayService, and of its pods: its clusters have names that only KubeRay knows.
LABEL = f"{PREFIX}rayservice"
#: Annotation of the head's pods: it changes where a new cluster is wanted, and nothing else of the cluster changes.
REVISION = f"{PREFIX}revision"
#: Serve's port, in containers and services.
PORT = "serve"
#: Keys of ``serveConfigV2`` (Ray 2.60: ``ServeDeploySchema``).
CONFIG_KEYS = frozenset({
    "applications", "grpc_options", "http_options", "logging_config", "proxy_location", "target_capacity",
})  # fmt: skip
#: Serve's name of an application that has none.
_DEFAULT_NAME = "default"
_OWN_KEYS = ("name", "import_path", "route_prefix", "args", "runtime_env", "deployments")
#: What is on the machine of the worker, and not on the cluster.
_REMOTE = "://"
#: Packages in a cluster's head.
_LOST = "gcs://"


@dataclass(frozen=True, slots=True)
class RayServiceOptions:
    """What a RayService says beside its cluster.

    :param serve_config: its ``serveConfigV2``: YAML text.
    :param own: what a ready manifest says in its spec, without cluster and applications.
    """

    serve_config: str = field(repr=False)
    own: Mapping[str, Any] = field(default_factory=dict, repr=False)


# -- applications ------------------------------------------------------------------------------------------------------


def serve_config_of(applications: Iterable[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Make a ``serveConfigV2`` of applications as a person gives them.

    :param applications: each with ``import_path`` and the other keys of Serve's configuration.
    :return: the text, and lines of warning.
    :raises ConfigurationError: one of them can't work.
    """
    given = list(applications)
    found, lines = _checked(given, "applications")
    text = yaml.safe_dump({"applications": [one.to_config() for one in found]}, sort_keys=False, allow_unicode=True)
    return text, lines


def read_serve_config(text: Any, source: str) -> tuple[dict[str, Any], list[str]]:
    """Read a ``serveConfigV2``: what is no YAML in it, KubeRay would tell by an event only, again and again.

    :param text: YAML, as the manifest has it; may be anything.
    :param source: where it was read from, for messages.
    :return: the configuration, and lines of warning.
    :raises ConfigurationError: it can't work.
    """
    try:
        config = load_document(str(text or ""))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        why = getattr(error, "problem", None) or "it is not plain"
        raise ConfigurationError(
            f"`{source}`: spec.serveConfigV2 is no YAML{where}: {why}.",
            hint="It is text within the manifest: serveConfigV2: |, and below it, indented, applications: ...",
            field="serveConfigV2",
        ) from None
    if not isinstance(config, Mapping):
        raise ConfigurationError(
            f"`{source}`: spec.serveConfigV2 holds no applications.",
            hint="It is text that begins with `applications:`, and below it one entry for each.",
            field="serveConfigV2",
        )
    for key, near in unknown_keys(config, CONFIG_KEYS):
        raise ConfigurationError(
            f"`{source}`: spec.serveConfigV2 has the key {key!r}, which Serve does not know.",
            hint=f"Is {near!r} meant?" if near else f"It knows {', '.join(sorted(CONFIG_KEYS))}.",
            field="serveConfigV2",
        )
    return dict(config), _checked(config.get("applications"), f"{source}, spec.serveConfigV2")[1]


def _checked(given: Any, source: str) -> tuple[list[ServeApplication], list[str]]:
    if not isinstance(given, list | tuple) or not given or not all(isinstance(one, Mapping) for one in given):
        raise ConfigurationError(
            f"`{source}` holds no applications: they have to be a list of dictionaries.",
            hint='For example applications=[{"name": "recommender", "import_path": "model:app"}]. KubeRay never calls '
            "a service ready that serves none.",
            field="applications",
        )
    if len(given) > 1 and (nameless := [one for one in given if not one.get("name")]):
        raise ConfigurationError(
            f"`{source}` holds several applications, and one of them has no name (import_path "
            f"{nameless[0].get('import_path')!r}).",
            hint="Give each a name.",
            field="applications",
        )
    found = [_application(one) for one in given]
    lines = [line for one in found for line in (*one.validate(), *_check_code(one))]
    for what, values in (("name", [one.name for one in found]), ("route_prefix", [one.route_prefix for one in found])):
        twice = sorted({value for value in values if value is not None and values.count(value) > 1})
        if twice:
            raise ConfigurationError(
                f"`{source}`: two applications have the {what} {twice[0]!r}.",
                hint=f"Give each its own {what}.",
                field="applications",
            )
    return found, lines


def _application(given: Mapping[str, Any]) -> ServeApplication:
    return ServeApplication(
        name=given.get("name") or _DEFAULT_NAME,
        import_path=given.get("import_path"),  # type: ignore[arg-type]  # looked at by validate()
        route_prefix=given.get("route_prefix", "/"),
        args=given.get("args") or {},
        runtime_env=given.get("runtime_env") or {},
        deployments=tuple(given.get("deployments") or ()),
        further={key: value for key, value in given.items() if key not in _OWN_KEYS},
    )


def _check_code(application: ServeApplication) -> list[str]:
    """Refuse code that a head which starts again would not have, or that Ray can't fetch.

    :return: lines of warning.
    """
    from ray_provider.jobs.submit import runtime_env

    options = [one.get("ray_actor_options") for one in application.deployments]
    environments = [application.runtime_env, *(one.get("runtime_env") for one in options if isinstance(one, Mapping))]
    lines = []
    for environment in environments:
        if not isinstance(environment, Mapping):
            continue
        modules = environment.get("py_modules") or ()
        for path in (environment.get("working_dir"), *(modules if isinstance(modules, list | tuple) else ())):
            if isinstance(path, str) and path and (_REMOTE not in path or path.startswith(_LOST)):
                where = "in a cluster" if path.startswith(_LOST) else "on this machine"
                raise ConfigurationError(
                    f"The application {application.name!r} names code {where} ({path}). A RayService starts "
                    "again without this task: what had been uploaded to the head of its cluster would be lost with it.",
                    hint="Give package_path='s3://bucket/code': the code of `applications` is packed and put there. Or "
                    "put it into the image, or into object storage: runtime_env={'working_dir': "
                    "'s3://bucket/code.zip'}.",
                    field="runtime_env",
                )
        lines += runtime_env.check(environment)
    return lines


def application_configs(serve_config: str) -> list[dict[str, Any]]:
    """Give the applications of a ``serveConfigV2`` that was checked before, each with its name.

    :param serve_config: the text.
    """
    config = load_document(serve_config) or {}
    return [{"name": _DEFAULT_NAME, **one} for one in config.get("applications") or ()]


# -- the resource ------------------------------------------------------------------------------------------------------


def make(rendered: Iterable[Json], name: str, options: RayServiceOptions) -> tuple[Json, list[Json]]:
    """Make a RayService of what a chart makes of its values, and give what goes beside it.

    :param rendered: the chart's objects: one RayCluster among them.
    :param name: of the RayService.
    :param options: of the service, as a person gave them.
    :return: the RayService, and the other objects: they are its dependents.
    :raises ConfigurationError: something in it can't work in a RayService.
    """
    documents = [copy.deepcopy(dict(one)) for one in rendered]
    one_cluster(documents, name)
    cluster = next(one for one in documents if one.get("kind") == "RayCluster")
    spec, metadata = cluster["spec"], cluster["metadata"]
    # It is about a RayCluster that somebody changes; here KubeRay makes another one.
    spec.pop("upgradeStrategy", None)
    _check(spec, options.own)
    label_pods(spec, LABEL, name)
    service: Json = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": name,
            **({"namespace": metadata["namespace"]} if metadata.get("namespace") else {}),
            "labels": {
                **(metadata.get("labels") or {}),
                LABEL: name,
                "app.kubernetes.io/managed-by": "airflow-ray",
            },
            "annotations": dict(metadata.get("annotations") or {}),
        },
        "spec": {**copy.deepcopy(dict(options.own)), "serveConfigV2": options.serve_config, "rayClusterConfig": spec},
    }
    return service, [beside(one, name, LABEL) for one in documents if one is not cluster]


def _check(spec: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if (spec.get("authOptions") or {}).get("enableK8sTokenAuth"):
        raise ConfigurationError(
            "`authOptions.enableK8sTokenAuth` is set, which KubeRay refuses for the clusters of a RayService.",
            hint="Leave it out: the cluster then asks for a token of its own (authOptions.mode: token).",
            field="authOptions.enableK8sTokenAuth",
        )
    head_service = (spec["headGroupSpec"].get("headService") or {}).get("metadata") or {}
    if head_service.get("name"):
        raise ConfigurationError(
            f"The head's service is given the name {head_service['name']!r}, which KubeRay refuses in a RayService.",
            hint="Leave headGroupSpec.headService.metadata.name out: KubeRay makes NAME-head-svc.",
            field="headService",
        )
    ports = [one for one in head_container(spec).get("ports") or () if isinstance(one, Mapping)]
    named = any(str(one.get("name")) == PORT or str(one.get("name")).startswith(f"{PORT}-") for one in ports)
    if ports and not named and not own.get("serveService"):
        raise ConfigurationError(
            "The head's container names its ports, and none of them `serve`: KubeRay would make no service for the "
            "applications, and never call it ready.",
            hint="Add {name: serve, containerPort: 8000} to its ports, or name none: KubeRay then adds its own.",
            field="ports",
        )


def revision_of(spec: Mapping[str, Any]) -> str | None:
    """Give the mark of a RayService's spec by which a new cluster was asked for, if there is one.

    :param spec: of the RayService.
    """
    metadata = ((spec["rayClusterConfig"]["headGroupSpec"].get("template") or {}).get("metadata")) or {}
    found = (metadata.get("annotations") or {}).get(REVISION)
    return str(found) if found else None


def with_revision(spec: Mapping[str, Any], revision: str | None) -> Json:
    """Give a RayService's spec with such a mark; ``None``: without.

    :param spec: of the RayService.
    :param revision: the mark.
    """
    changed: Json = copy.deepcopy(dict(spec))
    template = changed["rayClusterConfig"]["headGroupSpec"].setdefault("template", {})
    metadata = template.setdefault("metadata", {})
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != REVISION}
    if revision:
        annotations[REVISION] = revision
    if annotations:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    return changed
