"""What the operators that make and delete Ray clusters have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ray_provider import _compat
from ray_provider.clusters.handle import Backend
from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.allowed import allowed_by
from ray_provider.hooks.ray import RayHook
from ray_provider.operators._cluster.run import ClusterRun
from ray_provider.operators._job.memory import identity

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.handle import Access, ClusterHandle
    from ray_provider.clusters.lifecycle.spec import KubernetesClusterSpec

#: Arguments that the local backend has no use for, and what they are unless given.
_ONLY_KUBERNETES: dict[str, Any] = {
    "namespace": None,
    "values": None,
    "profile": None,
    "infrastructure_values": None,
    "chart": "ray-cluster",
    "chart_repo": None,
    "chart_version": None,
    "strict": False,
    "create_namespace": False,
    "kuberay_version": None,
    "kuberay_operator": "require",
    "operator_chart": None,
    "operator_values": None,
    "gpu_device_plugin_yaml": "",
    "access": None,
    "wait_for_workers": True,
    "local_queue": None,
    "priority_class": None,
    "queue_timeout_seconds": None,
}

#: Arguments that astro-provider-ray 0.1 had, and what is there instead.
GONE = {"use_gpu": "give gpu_device_plugin_yaml to have a missing device plugin installed, and GPUs to the workers."}


def hook_of(operator: Any) -> RayHook:
    """Give the hook of a task's connection.

    :param operator: of the task.
    """
    return RayHook(operator.conn_id, allowed=allowed_by(operator))


def new_run(operator: Any, where: Mapping[str, Any] | None = None) -> ClusterRun:
    """Begin what can be killed.

    :param operator: of the task.
    :param where: which Kubernetes it is about, as a handle says it; unless given, what ``infrastructure`` or the
        connection says.
    """
    return ClusterRun(operator.hook, operator.log, where or where_is(operator.infrastructure))


def backend_of(operator: Any, run: ClusterRun) -> str:
    """Tell where clusters are: as the task says, else as the connection does.

    :param operator: of the task.
    :param run: knows the connection.
    :return: ``kubernetes`` or ``local``.
    :raises ConfigurationError: there is no such backend.
    """
    backend: str = operator.backend or run.hook.config.backend
    if backend not in get_args(Backend):
        raise ConfigurationError(
            f"The argument `backend` is {backend!r}: no such backend.",
            hint=f"Give one of {', '.join(get_args(Backend))}, or leave it out: then the connection says which.",
            field="backend",
        )
    return backend


def warn_of_unused(operator: Any) -> None:
    """Tell which arguments were given that only a cluster on Kubernetes has a use for.

    :param operator: of a set-up.
    """
    given = [name for name, default in _ONLY_KUBERNETES.items() if getattr(operator, name) not in (default, None, "")]
    if given:
        operator.log.warning(
            "The backend is local: %s %s no effect there. What a local Ray has is said by `local`, e.g. "
            "local={'num_cpus': 4}.",
            ", ".join(f"`{name}`" for name in given),
            "has" if len(given) == 1 else "have",
        )


def where_is(infrastructure: Any) -> dict[str, str] | None:
    """Tell which Kubernetes ``SetupRayInfrastructure`` made, as handles of Ray clusters say it.

    :param infrastructure: the handle; ``None``: there is none.
    :return: ``None``: the connection's.
    :raises ConfigurationError: this is not its handle, or its module does not tell.
    """
    if infrastructure is None:
        return None
    from ray_provider.hooks.cloud_cluster import CloudCluster

    return CloudCluster.of(infrastructure).to_dict()


def device_plugin_of(given: Any, infrastructure: Any, field: str = "gpu_device_plugin_yaml") -> Any:
    """Give what is to be installed so that pods with GPUs get nodes.

    :param given: the argument; ``infrastructure`` means what the module of that hands out.
    :param infrastructure: the handle of ``SetupRayInfrastructure``.
    :param field: the argument's name.
    :raises ConfigurationError: there is no handle, or its module hands nothing out and yet needs something.
    """
    if given != "infrastructure":
        return given or None
    if infrastructure is None:
        raise ConfigurationError(
            f'`{field}` is "infrastructure", and `infrastructure` is not given.',
            hint="Pass on what SetupRayInfrastructure returned: infrastructure=setup.output; or name a manifest.",
            field=field,
        )
    from ray_provider.infrastructure.handle import InfrastructureHandle

    handle = InfrastructureHandle.from_dict(infrastructure)
    manifests = handle.outputs.get("kubernetes_manifests")
    if manifests is None and handle.typed_outputs.nvidia_device_plugin_required:
        raise ConfigurationError(
            f"The module {handle.module} has no output kubernetes_manifests, where `{field}` looks. It"
            " says that the device plugin is required.",
            hint="Set the infrastructure up once more with this release's module, give your own module that output (a"
            " Kubernetes List), or name a manifest.",
            field=field,
        )
    if manifests is not None and not (isinstance(manifests, Mapping) and isinstance(manifests.get("items"), list)):
        raise ConfigurationError(
            f"The output kubernetes_manifests of the module {handle.module} is no Kubernetes List.",
            hint="It has to be {apiVersion: v1, kind: List, items: [...]}.",
            field=field,
        )
    return manifests


def cluster_spec(
    given: Any,
    context: Context,
    *,
    manifest: Any,
    namespace: str | None,
    access: Access,
    render: Callable[[str], str],
    **further: Any,
) -> KubernetesClusterSpec:
    """Make of what a task was given for a cluster on Kubernetes what is to be made of it: read and checked.

    :param given: has the arguments that set-ups and RayJobs have in common, as attributes.
    :param context: of the task.
    :param manifest: a ready RayCluster, if there is one.
    :param namespace: where; ``None``: the manifest's or the connection's.
    :param access: the way to the dashboard.
    :param render: renders templates in files.
    :param further: what only one of the two says, as ``ClusterRequest`` takes it.
    :raises ConfigurationError: an argument that can't work; the message names it.
    """
    from ray_provider.clusters.helm.fetch import fetch_text
    from ray_provider.clusters.helm.releases import HelmOptions
    from ray_provider.clusters.lifecycle.spec import ClusterRequest

    return ClusterRequest(
        owner=owner_of(context),
        namespace=namespace,
        values=given.values,
        profile=given.profile or None,
        infrastructure_values=_infrastructure_values(given, manifest),
        ray_cluster_yaml=manifest,
        chart=given.chart,
        chart_repo=given.chart_repo or None,
        chart_version=given.chart_version or None,
        strict=given.strict,
        create_namespace=given.create_namespace,
        kuberay_operator=given.kuberay_operator,
        kuberay_version=given.kuberay_version or None,
        operator_chart=given.operator_chart or None,
        operator_chart_repo=given.operator_chart_repo or None,
        operator_values=given.operator_values,
        operator_namespace=given.operator_namespace or None,
        helm=HelmOptions(path=given.helm_path),
        access=access,
        gpu_device_plugin_yaml=device_plugin_of(given.gpu_device_plugin_yaml, given.infrastructure),
        folders=folders_of(context),
        render=render,
        fetch=fetch_text,
        **further,
    ).spec()


def _infrastructure_values(given: Any, manifest: Any) -> Any:
    """Give the values between a profile's and the user's: those that the infrastructure's module hands out.

    :raises ConfigurationError: both say them.
    """
    if given.infrastructure is None or manifest:
        return given.infrastructure_values  # a manifest takes no values
    if given.infrastructure_values:
        raise ConfigurationError(
            "`infrastructure_values` are given, and so is `infrastructure`, whose outputs have them.",
            hint="Give more values, or other ones, by `values`: they count more.",
            field="infrastructure_values",
        )
    from ray_provider.infrastructure.handle import InfrastructureHandle

    return InfrastructureHandle.from_dict(given.infrastructure).outputs.get("ray_helm_values")


def owner_of(context: Context) -> dict[str, Any]:
    """Give whose a cluster is that this task makes: the task instance, and which Airflow it belongs to.

    :param context: of the task.
    """
    return {**identity(context), "airflow": _compat.deployment_name()}


def owned_here(handle: ClusterHandle, context: Context) -> ClusterHandle:
    """Give a handle whose owner is this run, as which it may be deleted. Kubernetes' labels have to say the same.

    :param handle: as it came by XCom: whoever writes that can write anything into it.
    :param context: of the task.
    :raises ConfigurationError: by its own words it is another run's, or names another release than its own.
    """
    mine = owner_of(context)
    where = f"{handle.namespace}/{handle.name}" if handle.namespace else handle.name
    by_name = "If it is meant, name it: DeleteRayCluster(name=..., namespace=...)."
    if any(handle.owner.get(key) != mine[key] for key in ("dag_id", "run_id")):
        whose = f"of run {handle.owner.get('run_id')!r} of DAG {handle.owner.get('dag_id')!r}"
        raise ConfigurationError(
            f"The handle of Ray cluster {where} is {whose if handle.owner else 'of nobody'}, and this is run "
            f"{mine['run_id']!r} of {mine['dag_id']!r}: a handle deletes only what its own run made.",
            hint=by_name,
            cause="not ours",
        )
    if handle.release not in (None, handle.name):
        raise ConfigurationError(
            f"The handle of Ray cluster {where} names another Helm release ({handle.release!r}).",
            hint=by_name,
            cause="not ours",
        )
    return replace(handle, owner={**handle.owner, "airflow": mine["airflow"]})


def folders_of(context: Context) -> tuple[Path, ...]:
    """Give the folder of the DAG's file: relative paths begin there.

    :param context: of the task.
    :return: empty, where nothing tells it.
    """
    location = getattr(context.get("dag"), "fileloc", None)
    return (Path(location).parent,) if location else ()
