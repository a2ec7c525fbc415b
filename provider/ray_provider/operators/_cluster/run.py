"""Steps of a task that makes or deletes a Ray cluster, each of which can be killed at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ray_provider.exceptions import ClusterError
from ray_provider.operators.background import Steps
from ray_provider.triggers.watching import tell

if TYPE_CHECKING:
    from ray_provider.clusters.handle import ClusterHandle
    from ray_provider.clusters.kuberay.readiness import ReadinessOptions
    from ray_provider.clusters.kubernetes.access import KubernetesAccess
    from ray_provider.clusters.lifecycle.removal import Leaving
    from ray_provider.clusters.lifecycle.setup import Applied
    from ray_provider.clusters.lifecycle.spec import KubernetesClusterSpec
    from ray_provider.clusters.local.spec import LocalClusterSpec
    from ray_provider.hooks.ray import RayHook
    from ray_provider.triggers.watching import Log

T = TypeVar("T")

#: Airflow 3 sends SIGKILL 5 s after SIGTERM: what a signal handler waits for has to be done before.
_HANDLER_SECONDS = 4.5
#: After an exception in the main thread (``execution_timeout``) there is more time.
_GRACE_SECONDS = 120.0


class ClusterRun:
    """Runs coroutines beside the task's main thread. A kill cancels them, and they take back what they made.

    :param hook: of the connection.
    :param log: the task's.
    :param where: which Kubernetes it is about, as handles say it; unless given, the connection's.
    """

    def __init__(self, hook: RayHook, log: Log, where: Mapping[str, Any] | None = None) -> None:
        self.hook = hook
        self.log = log
        self.where = where
        self._steps = Steps(grace=_GRACE_SECONDS, handler=_HANDLER_SECONDS)

    def say(self, line: str) -> None:
        """Log a line of progress.

        :param line: that begins with ``WARNING:`` if it is one.
        """
        tell(self.log, line)

    # -- Kubernetes ----------------------------------------------------------------------------------------------------

    def set_up(
        self, spec: KubernetesClusterSpec, readiness: ReadinessOptions, *, keep_on_failure: bool
    ) -> ClusterHandle:
        """Make a cluster and wait until it is ready.

        :param spec: what it is to be.
        :param readiness: how long its parts may take.
        :param keep_on_failure: leave what was made for inspection when it does not become ready.
        :raises ConfigurationError: it can't work; nothing was made.
        :raises ClusterError: it can't become ready, or the task was killed.
        """
        from ray_provider.clusters.lifecycle.setup import set_up_cluster

        async def step() -> ClusterHandle:
            kube_access = await self._access_for_use()
            made = await set_up_cluster(kube_access, spec, readiness, keep_on_failure=keep_on_failure, say=self.say)
            return replace(made, kubernetes=self.where)

        return self.run(step)

    async def _access_for_use(self) -> KubernetesAccess:
        """Give access to Kubernetes, after it is written down that a Ray cluster is about to be there."""
        from ray_provider.hooks.cloud_marks import record_use

        kube_access = await self.hook.akubernetes_access(self.where)
        await record_use(kube_access.identity, self.say)
        return kube_access

    def apply(self, spec: KubernetesClusterSpec, *, keep_on_failure: bool) -> Applied:
        """Make a cluster, and don't wait.

        :param spec: what it is to be.
        :param keep_on_failure: leave what was made for inspection when it fails.
        :raises ConfigurationError: it can't work; nothing was made.
        :raises ClusterError: it was not made, or the task was killed.
        """
        from ray_provider.clusters.lifecycle.setup import apply_cluster

        async def step() -> Applied:
            kube_access = await self._access_for_use()
            applied = await apply_cluster(kube_access, spec, keep_on_failure=keep_on_failure, say=self.say)
            return replace(applied, handle=replace(applied.handle, kubernetes=self.where))

        return self.run(step)

    def take_back(self, handle: ClusterHandle, error: BaseException, *, keep: bool, helm_path: str | None) -> None:
        """Remove what the task made and that did not become ready.

        :param handle: of the cluster.
        :param error: why it is taken back; it gets a note where that fails, too.
        :param keep: leave what the task made for inspection.
        :param helm_path: Helm's executable; ``None``: the one that is found.
        """
        from ray_provider.clusters.helm.releases import HelmOptions
        from ray_provider.clusters.lifecycle.removal import take_back

        async def step() -> None:
            kube_access = await self.hook.akubernetes_access(self.where)
            await take_back(kube_access, handle, error, keep=keep, helm=HelmOptions(path=helm_path), say=self.say)

        self.run(step)

    def delete(
        self,
        *,
        name: str,
        namespace: str | None,
        release: str | None,
        who: Leaving,
        timeout: float | None,
        helm_path: str | None,
    ) -> bool:
        """Delete a cluster, and wait until nothing of it is left; unless others use it.

        :param name: of the RayCluster.
        :param namespace: where it is; ``None``: the connection's.
        :param release: of Helm; ``None``: none holds it.
        :param who: asks.
        :param timeout: seconds; ``None``: 300, and more where KubeRay clears Redis.
        :param helm_path: Helm's executable; ``None``: the one that is found.
        :return: whether there was one, and it was deleted.
        :raises ClusterError: it is another's, or not gone in time.
        """
        from ray_provider.clusters.helm.releases import HelmOptions
        from ray_provider.clusters.lifecycle.removal import delete_cluster

        async def step() -> bool:
            kube_access = await self.hook.akubernetes_access(self.where)
            where = await asyncio.to_thread(kube_access.namespace_or_default, namespace)
            return await delete_cluster(
                kube_access,
                name=name,
                namespace=where,
                release=release,
                who=who,
                timeout=timeout,
                helm=HelmOptions(path=helm_path),
                say=self.say,
            )

        return self.run(step)

    # -- this machine --------------------------------------------------------------------------------------------------

    def start_local(self, spec: LocalClusterSpec, *, update_if_exists: bool) -> ClusterHandle:
        """Start a Ray on this machine, or find the one of that name.

        :param spec: what it is to be.
        :param update_if_exists: replace one that runs with other settings.
        :raises ClusterError: it did not start, or the task was killed.
        """
        from ray_provider.clusters.local.cluster import start_local

        return self.run(lambda: start_local(spec, update_if_exists=update_if_exists, say=self.say))

    def delete_local(self, name: str, *, owner: Mapping[str, Any] | None = None) -> bool:
        """End a Ray on this machine.

        :param name: of the cluster.
        :param owner: whose it has to be; unless given, anybody's.
        :return: whether there was something to end.
        """
        from ray_provider.clusters.local.cluster import delete_local

        return self.run(lambda: delete_local(name, owner=owner, say=self.say))

    # -- machinery -----------------------------------------------------------------------------------------------------

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine to its end.

        :param make: makes the coroutine.
        :raises ClusterError: the task was killed meanwhile.
        """
        return self._steps.run(make, ClusterError)

    def kill(self) -> None:
        """End what is going on. Called by ``on_kill``: in a signal handler, in the middle of the main thread."""
        self._steps.kill()
