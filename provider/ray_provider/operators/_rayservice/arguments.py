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

    from ray_provider.clusters.kuberay.endpoints import How
    from ray_provider.clusters.rayservice.deploy import RayServiceSpec
    from ray_provider.clusters.rayservice.manifest import RayServiceManifest
    from ray_provider.clusters.rayservice.proof import Proof

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


def service_owner(context: Context) -> dict[str, Any]:
    """Give whose a RayService is: a task of a DAG, over all of its runs."""
    return {key: value for key, value in owner_of(context).items() if key != "run_id"}


def deploy_of(operator: Any, context: Context) -> Deploy:
    """Read and check what an operator was given.

    :param operator: ``DeployRayService``.
    :param context: of the task.
    :raises ConfigurationError: an argument that can't work; the message names it.
    """
    from ray_provider.clusters.rayservice.deploy import RayServiceSpec, check_strategy
    from ray_provider.clusters.rayservice.proof import Proof
    from ray_provider.clusters.rayservice.record import deploy_id
    from ray_provider.clusters.rayservice.resource import RayServiceOptions
    from ray_provider.serve.smoke import SmokeTest

    how = cast("How", operator.access or operator.hook.config.access)
    manifest = _manifest(operator, context)
    serve_config = manifest.serve_config if manifest is not None else _serve_config(operator)
    owner = service_owner(context)
    cluster = cluster_spec(
        operator,
        context,
        manifest=manifest.cluster if manifest else (operator.ray_cluster_yaml or None),
        namespace=operator.namespace or (manifest.namespace if manifest else None),
        how=how,
        render=lambda text: str(operator.render_template(text, context)),
    )
    chosen = operator.name or (manifest.name if manifest else None)
    name = check_length(chosen or unique_name(owner), "RayService")
    whole = owner_of(context)
    smoke_test = mapping("smoke_test", operator.smoke_test)
    timeout = number("timeout_seconds", operator.timeout_seconds, above=True)
    scheduling = number("scheduling_timeout_seconds", operator.scheduling_timeout_seconds, above=True)
    where = where_is(operator.infrastructure)
    return Deploy(
        spec=RayServiceSpec(
            cluster=replace(cluster.renamed(name), owner=owner, is_named=bool(chosen)),
            options=RayServiceOptions(serve_config, manifest.own if manifest else {}),
            id=deploy_id(whole),
            run=str(whole.get("run_id") or ""),
            strategy=check_strategy(operator.strategy),
        ),
        proof=Proof(
            owner=owner,
            smoke_test=SmokeTest.from_dict(smoke_test) if smoke_test else None,
            serve_url=operator.serve_url or None,
            how=how,
            kubernetes=where,
        ),
        timeout_seconds=_TIMEOUT if timeout is None else float(timeout),
        scheduling_seconds=300.0 if scheduling is None else float(scheduling),
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


def _serve_config(operator: Any) -> str:
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
    text, lines = serve_config_of(given)
    for line in lines:
        operator.log.warning("%s", line)
    return text
