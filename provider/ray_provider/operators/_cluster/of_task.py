"""The cluster that a job's task makes for itself: when it does, and what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.own_cluster import OwnCluster
from ray_provider.operators._cluster.common import folders_of, owner_of
from ray_provider.operators._job import memory as task_memory
from ray_provider.operators._job.arguments import JobArguments

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.hooks.connection import RayConnectionConfig

#: Arguments that only a cluster of the task's own, on Kubernetes, has a use for, and their defaults.
_ONLY_OWN = {
    "kuberay_version": "1.0.0",
    "update_if_exists": True,
    "gpu_device_plugin_yaml": "",
    "local_queue": None,
    "priority_class": None,
}


class ClusterArguments(JobArguments, Protocol):
    """What an operator was given for the cluster of its job."""

    makes_cluster: ClassVar[bool]
    names_cluster: Any
    xcom_task_key: Any
    update_if_exists: Any
    gpu_device_plugin_yaml: Any

    def render_template(self, content: Any, context: Context) -> Any:
        """Fill in a template.

        :param content: a text, or lists and dictionaries with texts in them.
        :param context: of the task.
        """
        ...


def own_cluster(
    operator: ClusterArguments, context: Context, memory: task_memory.TaskMemory, config: RayConnectionConfig
) -> OwnCluster | None:
    """Give the cluster that the task is to make for itself; ``None``: it uses one that is there.

    It makes one of a manifest (``ray_cluster_yaml``). A function makes one without a manifest, too, where nothing names
    a cluster and the connection says where clusters are made (``backend``, or a Kubernetes cluster).

    :param operator: its arguments say what the cluster is to be.
    :param context: of the task.
    :param memory: tells the attempt, of which the cluster's name is made.
    :param config: of the connection.
    :raises ConfigurationError: the task would not wait for the job, which would go with the cluster.
    """
    makes = bool(operator.ray_cluster_yaml) or (
        operator.makes_cluster and not _names_one(operator) and not config.address and config.makes_clusters
    )
    _tell_unused(operator, config, makes=makes)
    if not makes:
        return None
    if not operator.wait_for_completion:
        raise ConfigurationError(
            "wait_for_completion is off, and the job would go with the Ray cluster that the task makes for itself: it "
            "goes when the task ends.",
            hint="Leave wait_for_completion on, or set the cluster up with SetupRayCluster (cluster=setup.output).",
            field="wait_for_completion",
        )
    if not operator.ray_cluster_yaml:
        where = "on this machine" if config.backend == "local" else "on Kubernetes"
        operator.log.info(
            "Nothing names a Ray cluster: the task makes one for itself %s, and deletes it when it ends.", where
        )
        if operator.num_gpus and config.backend != "local":
            raise ConfigurationError(
                f"num_gpus is {operator.num_gpus}, but a cluster that the task makes without a manifest has no GPUs.",
                hint='Set one up that has: SetupRayCluster(profile="gpu-eks") or "gpu-gke", and give the task '
                "cluster=setup.output.",
                field="num_gpus",
            )
    from ray_provider.jobs.submit.identity import submission_id_for

    return OwnCluster(
        name="task-" + submission_id_for(task_memory.owner_of(context, memory.next_attempt())).rpartition("-")[2],
        ray_cluster_yaml=operator.ray_cluster_yaml or None,
        owner=owner_of(context),
        update_if_exists=operator.update_if_exists,
        gpu_device_plugin_yaml=operator.gpu_device_plugin_yaml or "",
        folders=folders_of(context),
        render=lambda text: str(operator.render_template(text, context)),
    )


def _names_one(operator: ClusterArguments) -> bool:
    """Tell whether the DAG names a cluster, be it one of which there is nothing in XCom."""
    return bool(operator.names_cluster or operator.cluster or operator.xcom_task_key)


def _tell_unused(operator: ClusterArguments, config: RayConnectionConfig, *, makes: bool) -> None:
    """Say which arguments were given that have no effect here."""
    given = [name for name, default in _ONLY_OWN.items() if getattr(operator, name, None) not in (default, None, "")]
    local = config.backend == "local"
    if makes and local and operator.ray_cluster_yaml:
        given.insert(0, "ray_cluster_yaml")
    if not given or (makes and not local):
        return
    why = (
        "the backend is local, a Ray on this machine with all that it has"
        if makes
        else "the task makes no cluster, it uses one that is there"
    )
    operator.log.warning("No effect of %s: %s.", ", ".join(f"`{name}`" for name in given), why)
