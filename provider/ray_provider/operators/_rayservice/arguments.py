"""What a person says of a RayService, read and checked before anything is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ray_provider.clusters.naming import check_length, unique_name
from ray_provider.exceptions import ConfigurationError
from ray_provider.operators._cluster.common import cluster_spec, folders_of, owner_of, where_is
from ray_provider.operators._job.arguments import mapping, number

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.handle import Access
    from ray_provider.clusters.rayservice.deploy import RayServiceSpec
    from ray_provider.clusters.rayservice.manifest import RayServiceManifest
    from ray_provider.clusters.rayservice.proof import Proof
    from ray_provider.hooks.ray import RayHook

_TIMEOUT = 900.0


@dataclass(frozen=True, slots=True)
class Deploy:
    """What an operator is to do.

    :param spec: the RayService.
    :param proof: what is asked of it before it counts.
    :param timeout_seconds: for all of it.
    :param scheduling_seconds: how long a pod may wait for a node.
    """

    spec: RayServiceSpec
    proof: Proof
    timeout_seconds: float
    scheduling_seconds: float


@dataclass(frozen=True, slots=True)
class Named:
    """Which RayService is meant, by a handle or by name.

    :param namespace: in which it lies; unless given, the connection's.
    :param name: of it, or of the Service before two of them.
    :param owner: whose it has to be; ``None``: somebody named it, and means it.
    :param version_id: with ``blue_green``: which version; empty: whichever is there.
    :param version: with ``blue_green``: the RayService of it.
    :param kubernetes: which Kubernetes it is on.
    """

    namespace: str | None
    name: str
    owner: Mapping[str, Any] | None = None
    version_id: str = ""
    version: str = ""
    kubernetes: Mapping[str, Any] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is known to be one RayService without another beside it."""
        return self.owner is not None and not self.version


def named_service(operator: Any, context: Context) -> Named:
    """Read which RayService an operator is to act on. Kubernetes' labels have to say the same of a handle's owner.

    :param operator: with ``service``, ``name``, ``namespace`` and ``infrastructure``.
    :param context: of the task.
    :raises ConfigurationError: none is named, or by its own words it is another DAG's.
    """
    from ray_provider.clusters.rayservice.handle import RayServiceHandle

    if not operator.service:
        if not operator.name:
            raise ConfigurationError(
                "No RayService is named (or the task that was to deploy it returned nothing).",
                hint="Give service=deploy.output, or name=...",
                field="name",
            )
        return Named(operator.namespace or None, operator.name, kubernetes=where_is(operator.infrastructure))
    handle, mine = RayServiceHandle.from_dict(operator.service), service_owner(context)
    if any(handle.owner.get(key) != mine.get(key) for key in ("dag_id", "airflow")):
        raise ConfigurationError(
            f"The handle of RayService {handle.namespace}/{handle.name} is of DAG {handle.owner.get('dag_id')!r}, and "
            f"this is {mine['dag_id']!r}: a handle is for what its own DAG made.",
            hint=f"If it is meant, name it: {type(operator).__name__}(name=..., namespace=...).",
            cause="not ours",
        )
    return Named(handle.namespace, handle.name, handle.owner, handle.version_id, handle.version, handle.kubernetes)


def refuse_local(hook: RayHook) -> None:
    """Refuse a connection to a Ray on this machine: a RayService is KubeRay's.

    :param hook: of the connection.
    :raises ConfigurationError: it is one.
    """
    if hook.config.backend == "local":
        raise ConfigurationError(
            "The backend is local, and a RayService is made by KubeRay.",
            hint="On a local Ray, SetupRayCluster and DeployServeApplication serve the same applications: the version "
            "that is there serves until the new one runs, and is put back if that fails its smoke test.",
            field="backend",
        )


def service_owner(context: Context) -> dict[str, Any]:
    """Give whose a RayService is: a task of a DAG, over all of its runs.

    :param context: of the task.
    """
    return {key: value for key, value in owner_of(context).items() if key != "run_id"}


def deploy_of(operator: Any, context: Context) -> Deploy:
    """Read and check what an operator was given.

    :param operator: ``DeployRayService``.
    :param context: of the task.
    :raises ConfigurationError: an argument that can't work; the message names it.
    """
    from ray_provider.clusters.rayservice.deploy import RayServiceSpec, check_strategy
    from ray_provider.clusters.rayservice.record import deploy_id
    from ray_provider.clusters.rayservice.resource import RayServiceOptions

    access = cast("Access", operator.access or operator.hook.config.access)
    manifest = _manifest(operator, context)
    serve_config = manifest.serve_config if manifest is not None else _serve_config(operator, context)
    owner = service_owner(context)
    cluster = cluster_spec(
        operator,
        context,
        manifest=manifest.cluster if manifest else (operator.ray_cluster_yaml or None),
        namespace=operator.namespace or (manifest.namespace if manifest else None),
        access=access,
        render=lambda text: str(operator.render_template(text, context)),
    )
    chosen = operator.name or (manifest.name if manifest else None)
    name = check_length(chosen or unique_name(owner), "RayService")
    whole = owner_of(context)
    strategy = check_strategy(operator.strategy)
    if strategy == "blue_green" and manifest is not None and manifest.own.get("serveService"):
        raise ConfigurationError(
            f"`{manifest.source}` has a spec.serveService: with strategy blue_green, this provider says that.",
            hint="Leave spec.serveService out, or the strategy.",
            field="serveService",
        )
    timeout = number("timeout_seconds", operator.timeout_seconds, above=True)
    scheduling = number("scheduling_timeout_seconds", operator.scheduling_timeout_seconds, above=True)
    return Deploy(
        spec=RayServiceSpec(
            cluster=replace(cluster.renamed(name), owner=owner, is_named=bool(chosen)),
            options=RayServiceOptions(serve_config, manifest.own if manifest else {}),
            id=deploy_id(whole),
            run=str(whole.get("run_id") or ""),
            strategy=strategy,
        ),
        proof=_proof(operator, owner, access),
        timeout_seconds=_TIMEOUT if timeout is None else float(timeout),
        scheduling_seconds=300.0 if scheduling is None else float(scheduling),
    )


def proof_of(operator: Any, context: Context) -> Proof:
    """Read what is asked of a service before it counts; what is served, and its code, is not looked at again.

    :param operator: ``DeployRayService``.
    :param context: of the task.
    """
    access = cast("Access", operator.access or operator.hook.config.access)
    return _proof(operator, service_owner(context), access)


def _proof(operator: Any, owner: Mapping[str, Any], access: Access) -> Proof:
    from ray_provider.clusters.rayservice.proof import Proof
    from ray_provider.serve.smoke import SmokeTest

    smoke_test = mapping("smoke_test", operator.smoke_test)
    return Proof(
        owner=owner,
        smoke_test=SmokeTest.from_dict(smoke_test) if smoke_test else None,
        serve_url=operator.serve_url or None,
        access=access,
        kubernetes=where_is(operator.infrastructure),
        promote=operator.promote,
        keep_former=operator.keep_former,
        drain_seconds=float(number("drain_seconds", operator.drain_seconds) or 0.0),
    )


def _manifest(operator: Any, context: Context) -> RayServiceManifest | None:
    if not operator.ray_service_yaml:
        return None
    for name in ("applications", "ray_cluster_yaml"):
        if getattr(operator, name):
            raise ConfigurationError(
                f"Both ray_service_yaml and {name} are given.", hint="Keep one of the two.", field="ray_service_yaml"
            )
    from ray_provider.clusters.helm.fetch import fetch_text
    from ray_provider.clusters.rayservice.manifest import read_ray_service

    found = read_ray_service(
        operator.ray_service_yaml,
        folders=folders_of(context),
        render=lambda text: str(operator.render_template(text, context)),
        fetch=fetch_text,
    )
    for line in found.warnings:
        operator.log.warning("%s", line)
    return found


def _serve_config(operator: Any, context: Context) -> str:
    from ray_provider.clusters.rayservice.resource import serve_config_of

    given = operator.applications
    if isinstance(given, str) and given:
        try:
            given = json.loads(given)
        except ValueError:
            given = None
    if isinstance(given, Mapping):
        given = [given]
    if not given:
        raise ConfigurationError(
            "No applications are given, nor a manifest that has some.",
            hint='Give applications=[{"name": "recommender", "import_path": "model:app"}], or ray_service_yaml.',
            field="applications",
        )
    if operator.package_path:
        from ray_provider.operators._rayservice.packages import with_packages

        given = with_packages(operator, given, folders_of(context))
    text, lines = serve_config_of(given)
    for line in lines:
        operator.log.warning("%s", line)
    return text
