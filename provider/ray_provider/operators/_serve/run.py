"""One try of a task and its application: the steps that an operator takes, each of which can be killed at any time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ray_provider.exceptions import ConfigurationError, RayProviderError, ServeError
from ray_provider.operators._serve.arguments import Deploy, environments
from ray_provider.operators.background import Steps
from ray_provider.serve.handle import ServeHandle
from ray_provider.triggers.watching import tell

if TYPE_CHECKING:
    from ray_provider.clusters.handle import ClusterHandle
    from ray_provider.hooks.ray import RayHook
    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.serve.client import ServeClient
    from ray_provider.serve.deploy import Deploying, Written
    from ray_provider.serve.state import ApplicationState
    from ray_provider.triggers.watching import Log

T = TypeVar("T")

#: Airflow 3 sends SIGKILL 5 s after SIGTERM: what a signal handler waits for has to be done before.
_HANDLER_SECONDS = 4.0
#: After an exception in the main thread (``execution_timeout``) there is more time.
_GRACE_SECONDS = 90.0
_LOCAL_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Waits:
    """A deploy that is written and that the triggerer is to wait for.

    :param written: what was written, without secrets.
    """

    written: Mapping[str, Any]


class ServeRun:
    """Runs coroutines beside the task's main thread. A kill cancels them, and puts back what was there before.

    :param hook: of the connection.
    :param log: the task's.
    :param cluster: the cluster, if not the connection's.
    :param keep: leave a deploy that fails as it is.
    """

    def __init__(self, hook: RayHook, log: Log, cluster: ClusterHandle | None, *, keep: bool = False) -> None:
        self.hook = hook
        self.log = log
        self.cluster = cluster
        self.keep = keep
        self.dashboard: str | None = None
        self._open: Deploying | None = None
        self._steps = Steps(grace=_GRACE_SECONDS, handler=_HANDLER_SECONDS)

    def say(self, line: str) -> None:
        """Log a line of progress.

        :param line: that begins with ``WARNING:`` if it is one.
        """
        tell(self.log, line)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def deploy(
        self, wanted: Deploy, *, deadline: float, defer: bool, before: Written | None = None, allow: list[str]
    ) -> ServeHandle | Waits:
        """Write the application, and wait until it runs, unless the triggerer is to.

        :param wanted: what is wanted.
        :param deadline: when (seconds since 1970) waiting ends.
        :param defer: the triggerer waits.
        :param before: what an earlier part of this deploy found.
        :param allow: files that may be packed without a warning.
        """

        async def step(client: ServeClient) -> ServeHandle | Waits:
            from ray_provider.serve.deploy import Deploying

            config = await self._uploaded(client, wanted, allow)
            options = wanted.http_options or self._local_options()
            deploying = Deploying(
                client, config, say=self.say, http_options=options, insists=bool(wanted.http_options), before=before
            )
            self._open = deploying
            async with self._answering_for(deploying):
                written = await deploying.write()
                if defer and (packed := await self._to_wait_for(client, deploying, written)) is not None:
                    return Waits(packed)
                found = await deploying.wait(deadline, max_unreachable_seconds=wanted.max_unreachable_seconds)
                return await self._conclude(client, found, wanted)

        return self._run(step)

    def conclude(self, wanted: Deploy, written: Written) -> ServeHandle:
        """Go on when the triggerer has seen the application run: the smoke test, and where it answers.

        :param wanted: what is wanted.
        :param written: what was written.
        """

        async def step(client: ServeClient) -> ServeHandle:
            from ray_provider.serve.deploy import take_back, with_way_back

            try:
                found = (await client.state()).applications.get(written.name)
                if found is None:
                    raise ServeError(f"The application {written.name!r} was deleted meanwhile.", name=written.name)
                return await self._conclude(client, found, wanted)
            except asyncio.CancelledError:
                self.say(await take_back(client, written, wait=False, say=self.say))
                raise
            except RayProviderError as error:
                raise await with_way_back(
                    error, lambda: take_back(client, written, say=self.say), keep=self.keep
                ) from error

        return self._run(step)

    def take_back(self, written: Written) -> str:
        """Put back what was there before a deploy that nobody watches any more.

        :param written: what was written.
        """

        async def step(client: ServeClient) -> str:
            from ray_provider.serve.deploy import take_back

            return await take_back(client, written, wait=False, say=self.say)

        return self._run(step)

    def delete(self, name: str, timeout: float) -> bool:
        """Remove an application, and wait until it is gone. Gives whether there was one.

        :param name: of the application.
        :param timeout: seconds for all of it.
        """

        async def step(client: ServeClient) -> bool:
            from ray_provider.serve.removal import remove_application

            return await remove_application(client, name, timeout=timeout, say=self.say)

        return self._run(step)

    def kill(self) -> None:
        """End what is going on. Called by ``on_kill``: in a signal handler, in the middle of the main thread."""
        deploying = self._open

        async def between() -> None:
            if deploying is not None and deploying.has_written:
                async with self._client() as client:
                    deploying.client = client
                    self.say(await deploying.take_back(wait=False))

        self._steps.kill(between if deploying is not None else None)

    # -- parts ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _answering_for(self, deploying: Deploying) -> AsyncIterator[None]:
        """Put back what was there before, where a step fails or the task is killed in it."""
        from ray_provider.serve.deploy import with_way_back

        try:
            yield
        except asyncio.CancelledError:
            self._open = None
            if deploying.has_written:
                self.say(await deploying.take_back(wait=False))
            raise
        except RayProviderError as error:
            self._open = None
            if not deploying.has_written:
                raise
            raise await with_way_back(error, deploying.take_back, keep=self.keep) from error

    async def _to_wait_for(self, client: ServeClient, deploying: Deploying, written: Written) -> dict[str, Any] | None:
        """Give what a trigger has to know; ``None``: there is nothing to wait for, or it may not lie in a database."""
        found = (await client.state()).applications.get(written.name)
        if found is not None and found.status == "RUNNING" and time.time() >= written.settled_at:
            return None
        packed = written.packed(deploying.config)
        if packed is None:
            self.say(
                "WARNING: The former version's configuration holds secrets that the new one does not have. So that "
                "they are not kept in Airflow's database, the task waits on the worker instead of deferring."
            )
        return packed

    async def _uploaded(self, client: ServeClient, wanted: Deploy, allow: list[str]) -> dict[str, Any]:
        """Give the configuration with what lies on this machine uploaded, as a job's is."""
        from ray_provider.jobs.client import RayJobsClient
        from ray_provider.jobs.submit.packaging import needs_packaging, package_runtime_env

        application = wanted.application
        deployments = tuple(
            {**one, "ray_actor_options": dict(one["ray_actor_options"])} if "ray_actor_options" in one else dict(one)
            for one in application.deployments
        )
        config = replace(application, deployments=deployments).to_config()
        for environment in environments(config):
            if needs_packaging(environment):
                async with RayJobsClient(client.endpoint) as jobs:
                    packed = await package_runtime_env(
                        jobs, environment, allow=allow, warn=lambda line: self.log.warning("%s", line)
                    )
                environment.clear()
                environment.update(packed)
        return config

    def _local_options(self) -> dict[str, Any] | None:
        """Give where Serve listens that this task starts beside a local Ray: on loopback, a port of its own."""
        if self.cluster is None or self.cluster.backend != "local":
            return None
        from ray_provider.clusters.local.head import free_ports

        return {"host": _LOCAL_HOST, "port": free_ports(1)[0]}

    async def _conclude(self, client: ServeClient, found: ApplicationState, wanted: Deploy) -> ServeHandle:
        from ray_provider.serve.smoke import smoke
        from ray_provider.serve.urls import application_url, serve_endpoint

        state = await client.state()
        serve = serve_endpoint(client.endpoint, state.http_options, wanted.serve_url)
        route = wanted.application.route_prefix
        if wanted.smoke_test is not None:
            if serve is None:
                raise ConfigurationError(
                    "smoke_test: the dashboard's address does not tell where Serve answers.",
                    hint="Say it: serve_url='https://serve.example.com'.",
                    field="serve_url",
                )
            took = await smoke(serve, found.name, route, wanted.smoke_test)
            self.say(f"The smoke test of {found.name!r} passed: an answer after {1000 * took:.0f} ms.")
        self._open = None
        return ServeHandle(
            name=found.name,
            route_prefix=route,
            url=application_url(serve, route) if serve else None,
            cluster=self.cluster.to_dict() if self.cluster else None,
        )

    # -- machinery -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[ServeClient]:
        from ray_provider.serve.client import ServeClient

        endpoint: RayEndpoint = await self.hook.endpoint(self.cluster)
        self.dashboard = endpoint.display_url.rstrip("/")
        async with ServeClient(endpoint) as client:
            yield client

    def _run(self, make: Callable[[ServeClient], Coroutine[Any, Any, T]]) -> T:
        """Run a step to its end.

        :raises ServeError: the task was killed meanwhile.
        """

        async def step() -> T:
            async with self._client() as client, self.hook.using(self.cluster):
                return await make(client)

        return self._steps.run(step, ServeError)
