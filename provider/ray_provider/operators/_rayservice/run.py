"""One try of a task and its RayService: the steps that an operator takes, each of which can be killed at any time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ray_provider.exceptions import RayProviderError, ServeError
from ray_provider.operators.background import Steps
from ray_provider.triggers.watching import tell

if TYPE_CHECKING:
    from ray_provider.clusters.handle import Access
    from ray_provider.clusters.kubernetes.access import KubernetesAccess
    from ray_provider.clusters.rayservice.blue_green.traffic import Traffic
    from ray_provider.clusters.rayservice.handle import RayServiceHandle
    from ray_provider.clusters.rayservice.proof import Proof
    from ray_provider.clusters.rayservice.waiting import Deployed
    from ray_provider.hooks.ray import RayHook
    from ray_provider.operators._rayservice.arguments import Deploy, Named
    from ray_provider.triggers.watching import Log

T = TypeVar("T")

#: Airflow 3 sends SIGKILL 5 s after SIGTERM: what a signal handler waits for has to be done before.
_HANDLER_SECONDS = 4.5
#: After an exception in the main thread (``execution_timeout``) there is more time.
_GRACE_SECONDS = 120.0


class RayServiceRun:
    """Runs coroutines beside the task's main thread. A kill cancels them, and puts back what was there before.

    :param hook: of the connection.
    :param log: the task's.
    :param where: which Kubernetes it is about, as handles say it; unless given, the connection's.
    :param keep: leave a deploy that fails as it is.
    """

    def __init__(self, hook: RayHook, log: Log, where: Mapping[str, Any] | None = None, *, keep: bool = False) -> None:
        self.hook = hook
        self.log = log
        self.where = where
        self.keep = keep
        self.dashboard: str | None = None
        self._open: Deployed | None = None
        self._steps = Steps(grace=_GRACE_SECONDS, handler=_HANDLER_SECONDS)

    def say(self, line: str) -> None:
        """Log a line of progress.

        :param line: that begins with ``WARNING:`` if it is one.
        """
        tell(self.log, line)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def deploy(self, wanted: Deploy, deadline: float, *, defer: bool) -> RayServiceHandle | Deployed:
        """Make or change the RayService, and wait until it serves, unless the triggerer is to.

        :param wanted: what is wanted.
        :param deadline: when (seconds since 1970) waiting ends.
        :param defer: the triggerer waits.
        """

        async def step() -> RayServiceHandle | Deployed:
            from ray_provider.clusters.rayservice.deploy import deploy
            from ray_provider.clusters.rayservice.waiting import Deployed, WaitOptions, wait_deployed
            from ray_provider.hooks.cloud_marks import record_use

            kube_access = await self.hook.akubernetes_access(self.where)
            await record_use(kube_access.identity, self.say)
            spec = wanted.spec
            namespace = await asyncio.to_thread(kube_access.namespace_or_default, spec.cluster.namespace)
            # From here on a kill takes it back, whether the answer has come or not.
            front = spec.cluster.name if spec.strategy == "blue_green" else ""
            self._open = Deployed(namespace, spec.cluster.name, 0, spec.id, service=front)
            async with self._answering_for(kube_access, wanted.proof.access):
                deployed = self._open = await deploy(kube_access, spec, say=self.say)
                if defer:
                    return deployed
                options = WaitOptions(deadline, wanted.scheduling_seconds)
                cluster = await wait_deployed(kube_access, deployed, options, access=wanted.proof.access, say=self.say)
                return await self._prove(kube_access, deployed, cluster, wanted.proof)

        return self._run(step)

    def conclude(self, deployed: Deployed, cluster: str, proof: Proof) -> RayServiceHandle:
        """Go on when the triggerer has seen the service serve: the smoke test, and where it answers.

        :param deployed: what was written.
        :param cluster: name of the RayCluster that serves.
        :param proof: what is asked of it.
        """

        async def step() -> RayServiceHandle:
            self._open = deployed
            kube_access = await self.hook.akubernetes_access(self.where)
            async with self._answering_for(kube_access, proof.access):
                return await self._prove(kube_access, deployed, cluster, proof)

        return self._run(step)

    def take_back(self, deployed: Deployed) -> str:
        """Put back what was there before a deploy that nobody watches any more.

        :param deployed: what was written.
        """

        async def step() -> str:
            from ray_provider.clusters.rayservice.going_back import go_back

            return await go_back(await self.hook.akubernetes_access(self.where), deployed, wait=False, say=self.say)

        return self._run(step)

    def delete(self, named: Named, timeout: float, drain_seconds: float) -> bool:
        """Delete a RayService, or two and the Service before them, and wait until nothing of it is left.

        :param named: which.
        :param timeout: seconds until all has to be gone.
        :param drain_seconds: how long requests in flight have to end, where a Service of ours is before it.
        """

        async def step() -> bool:
            from ray_provider.clusters.rayservice.blue_green.removal import delete_both
            from ray_provider.clusters.rayservice.removal import delete_service

            kube_access = await self.hook.akubernetes_access(self.where)
            place = await asyncio.to_thread(kube_access.namespace_or_default, named.namespace)
            if not named.is_plain and await delete_both(
                kube_access,
                namespace=place,
                name=named.name,
                owner=named.owner,
                drain_seconds=drain_seconds,
                timeout=timeout,
                say=self.say,
            ):
                return True
            return await delete_service(
                kube_access, namespace=place, name=named.name, owner=named.owner, timeout=timeout, say=self.say
            )

        return self._run(step)

    def move(self, named: Named, *, back: bool, keep: bool, timeout: float, drain_seconds: float) -> Traffic:
        """Promote a version, or take its traffic back.

        :param named: which.
        :param back: to the version before.
        :param keep: what has lost the traffic stays.
        :param timeout: seconds until the version that is to have it has to say that it serves.
        :param drain_seconds: how long requests in flight have to end, where it does not stay.
        """

        async def step() -> Traffic:
            from ray_provider.clusters.rayservice.blue_green.promotion import Moving, promote, roll_back, take_down

            kube_access = await self.hook.akubernetes_access(self.where)
            place = await asyncio.to_thread(kube_access.namespace_or_default, named.namespace)
            access = (await self.hook.aconfig()).access
            moving = Moving(place, named.name, named.version_id, named.owner, timeout_seconds=timeout, access=access)
            traffic = await (roll_back if back else promote)(kube_access, moving, say=self.say)
            loser = traffic.other_version
            # Beside what was promoted before may be a later version by now.
            if not keep and (traffic.other_is == ("rejected" if back else "former") or loser == named.version_id):
                await take_down(kube_access, place, named.name, loser, drain_seconds=drain_seconds, say=self.say)
            return traffic

        return self._run(step)

    def kill(self) -> None:
        """End what is going on. Called by ``on_kill``: in a signal handler, in the middle of the main thread."""
        deployed = self._open

        async def between() -> None:
            from ray_provider.clusters.rayservice.going_back import go_back

            if deployed is not None:
                kube_access = await self.hook.akubernetes_access(self.where)
                self.say(await go_back(kube_access, deployed, wait=False, say=self.say))

        self._steps.kill(between if deployed is not None else None)

    # -- machinery -----------------------------------------------------------------------------------------------------

    async def _prove(
        self, kube_access: KubernetesAccess, deployed: Deployed, cluster: str, proof: Proof
    ) -> RayServiceHandle:
        from ray_provider.clusters.rayservice.proof import prove

        handle, self.dashboard = await prove(kube_access, deployed, cluster, proof, say=self.say)
        if deployed.service:
            await self._promote(kube_access, deployed, handle, proof)
        self._open = None
        return handle

    async def _promote(
        self, kube_access: KubernetesAccess, deployed: Deployed, handle: RayServiceHandle, proof: Proof
    ) -> None:
        """Give the version that was proven the traffic, or leave it for a person to do."""
        from ray_provider.clusters.rayservice.blue_green.promotion import Moving, promote, take_down
        from ray_provider.clusters.rayservice.deploy import finish

        where = f"{handle.namespace}/{handle.name}"
        if not proof.promote:
            await finish(kube_access, deployed)
            self.say(f"{handle.version} is proven, and has no traffic: PromoteRayService gives it that of {where}.")
            return
        moving = Moving(handle.namespace, handle.name, handle.version_id, deploy=deployed.id, timeout_seconds=0.0)
        traffic = await promote(kube_access, moving, say=self.say)
        self._open = None
        if traffic.other_is != "former":
            return
        if proof.keep_former:
            self.say(f"{traffic.other}, the version before, stays for RollbackRayService until the next deploy.")
            return
        before, seconds = traffic.other_version, proof.drain_seconds
        await take_down(kube_access, handle.namespace, handle.name, before, drain_seconds=seconds, say=self.say)

    @asynccontextmanager
    async def _answering_for(self, kube_access: KubernetesAccess, access: Access) -> AsyncIterator[None]:
        """Put back what was there before, where a step fails or the task is killed in it."""
        from ray_provider.clusters.rayservice.going_back import go_back
        from ray_provider.serve.deploy import with_way_back

        try:
            yield
        except asyncio.CancelledError:
            deployed, self._open = self._open, None
            if deployed is not None:
                self.say(await go_back(kube_access, deployed, wait=False, say=self.say))
            raise
        except RayProviderError as error:
            deployed, self._open = self._open, None
            if deployed is None or (deployed.generation == 0 and not error.retryable):
                raise  # it was refused: nothing was changed
            raise await with_way_back(
                error, lambda: go_back(kube_access, deployed, access=access, say=self.say), keep=self.keep
            ) from error

    def _run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a step to its end.

        :raises ServeError: the task was killed meanwhile.
        """
        return self._steps.run(make, ServeError)
