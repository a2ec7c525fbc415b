"""Delete a Ray cluster: all of it, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ray_provider._compat import BaseOperator, without_gone
from ray_provider._shared import xcom_keys
from ray_provider.airflow_errors import errors_for_airflow
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.ray import RayHook
from ray_provider.operators._cluster.common import GONE, backend_of, folders_of, hook_of, new_run, owned_here, owner_of
from ray_provider.operators._cluster.run import ClusterRun

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class DeleteRayCluster(BaseOperator):
    """Deletes a Ray cluster, and waits until nothing of it is left: release, pods, services, secrets.

    No error where there is none. Never deletes what is another's: by a handle only what the task that returned it made
    or uses; by name what the name says. As long as other runs use the cluster (each set-up writes itself down on it),
    this one's entry is taken away and the cluster stays: the last one deletes it. The KubeRay operator stays. Use it as
    a teardown: ``DeleteRayCluster(cluster=setup.output, ...).as_teardown(setups=setup)``. With
    ``trigger_rule="all_done"`` it also takes away what a deferred set-up left that somebody ended before anything
    watched it.

    :param conn_id: connection of type ``ray``.
    :param ray_cluster_yaml: manifest whose cluster is to go: its name and namespace count.
    :param gpu_device_plugin_yaml: kept for astro-provider-ray's sake: a device plugin is shared, and stays.
    :param cluster: the handle that ``SetupRayCluster`` returned.
    :param name: of the release or the cluster, where there is no handle.
    :param namespace: Kubernetes namespace, with ``name``.
    :param infrastructure: with ``name``: the handle that ``SetupRayInfrastructure`` returned, of the Kubernetes that
        the cluster runs on; else the connection's. A cluster's handle says by itself where it is.
    :param timeout_seconds: until all has to be gone; unless given, 300, and 360 more where KubeRay clears Redis.
    :param force: delete it at once, even if other runs use it.
    :param helm_path: Helm's executable.
    :param backend: ``kubernetes`` or ``local``; else the handle's, or as the connection says.
    :param kwargs: arguments of any operator.
    """

    template_fields: Sequence[str] = (
        "conn_id",
        "ray_cluster_yaml",
        "gpu_device_plugin_yaml",
        "cluster",
        "name",
        "namespace",
        "infrastructure",
        "backend",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"cluster": "json", "ray_cluster_yaml": "yaml"}
    ui_color = "#d6f0ff"

    def __init__(
        self,
        conn_id: str = RayHook.default_conn_name,
        ray_cluster_yaml: str | dict[str, Any] | None = None,
        gpu_device_plugin_yaml: str = "",
        *,
        cluster: Any = None,
        name: str | None = None,
        namespace: str | None = None,
        infrastructure: Any = None,
        timeout_seconds: float | None = None,
        force: bool = False,
        helm_path: str | None = None,
        backend: str | None = None,
        **kwargs: Any,
    ) -> None:
        without_gone(type(self).__name__, kwargs, GONE)
        super().__init__(**kwargs)
        self._run: ClusterRun | None = None
        self.conn_id = conn_id
        self.ray_cluster_yaml = ray_cluster_yaml
        self.gpu_device_plugin_yaml = gpu_device_plugin_yaml
        self.cluster = cluster
        self.name = name
        self.namespace = namespace
        self.infrastructure = infrastructure
        self.timeout_seconds = timeout_seconds
        self.force = force
        self.helm_path = helm_path
        self.backend = backend

    #: The connection's hook.
    hook = property(hook_of)

    def on_kill(self) -> None:
        """End what is going on."""
        if self._run is not None:
            self._run.kill()

    def execute(self, context: Context) -> bool:
        """Delete the cluster.

        :param context: of the task.
        :return: whether there was one, and it was deleted.
        """
        with errors_for_airflow():
            if self.gpu_device_plugin_yaml:
                self.log.info("The GPU device plugin stays: others may use it.")
            return self._delete(context)

    def _delete(self, context: Context) -> bool:
        if self.cluster:
            return self._delete_handle(self.cluster, context)
        run = self._run = new_run(self)
        if self.name or self.ray_cluster_yaml:
            name, namespace = self._named(context)
            if backend_of(self, run) == "local":
                return run.delete_local(name)
            return self._delete_named(run, name, namespace, context)
        left = self._left_by_set_ups(context)
        if left:
            deleted = [self._delete_handle(one, context) for one in left]
            return any(deleted)
        raise ConfigurationError(
            "No cluster is named (or the task that was to set it up returned nothing).",
            hint="Give cluster=setup.output, or name=..., or ray_cluster_yaml=...",
        )

    def _left_by_set_ups(self, context: Context) -> list[Mapping[str, Any]]:
        """Find what a set-up before this task made that was ended while it was deferred, and so returned nothing.

        Ended before its trigger had begun, nobody else would take it away. Asked for by ``trigger_rule="all_done"``.
        """
        ti = context["ti"]
        found = (ti.xcom_pull(task_ids=one, key=xcom_keys.HANDLE) for one in sorted(self.upstream_task_ids))
        return [one for one in found if isinstance(one, Mapping)]

    def _delete_handle(self, cluster: Any, context: Context) -> bool:
        if not isinstance(cluster, Mapping):
            raise ConfigurationError(
                f"`cluster` is a {type(cluster).__name__}, not the handle that SetupRayCluster returns.",
                hint="Pass its return value: cluster=setup.output.",
            )
        handle = owned_here(ClusterHandle.from_dict(cluster), context)
        run = self._run = new_run(self, handle.kubernetes)
        if handle.backend == "local":
            if not handle.created:
                self.log.info("Ray cluster %s was there before its set-up: it is left as it is.", handle.name)
                return False
            return run.delete_local(handle.name, owner=handle.owner)
        from ray_provider.clusters.lifecycle.removal import Leaving

        return run.delete(
            name=handle.name,
            namespace=handle.namespace,
            release=handle.release,
            who=Leaving(owner=handle.owner, found=not handle.created, force=self.force),
            timeout=self.timeout_seconds,
            helm_path=self.helm_path,
        )

    def _delete_named(self, run: ClusterRun, name: str, namespace: str | None, context: Context) -> bool:
        from ray_provider.clusters.lifecycle.removal import Leaving

        return run.delete(
            name=name,
            namespace=namespace,
            release=name,
            who=Leaving(run=owner_of(context), force=self.force),
            timeout=self.timeout_seconds,
            helm_path=self.helm_path,
        )

    def _named(self, context: Context) -> tuple[str, str | None]:
        if not self.ray_cluster_yaml:
            return str(self.name), self.namespace
        from ray_provider.clusters.helm.fetch import fetch_text
        from ray_provider.clusters.kuberay.manifests import read_manifest

        manifest = read_manifest(
            self.ray_cluster_yaml,
            folders=folders_of(context),
            render=lambda text: str(self.render_template(text, context)),
            fetch=fetch_text,
        )
        if self.name and self.name != manifest.name:
            raise ConfigurationError(
                f"The task names the cluster {self.name!r}, and its manifest {manifest.name!r}.",
                hint="Leave one of them out.",
            )
        return manifest.name, self.namespace or manifest.namespace
