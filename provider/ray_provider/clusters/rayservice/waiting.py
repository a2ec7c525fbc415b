"""Waiting until a RayService serves what was written, in all of its applications: Serve's own word decides.

KubeRay's alone does not: it tells the new generation before it has sent it to Serve, it says Ready of a service whose
update has failed, and for ever of one whose second cluster can't start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.handle import Access
from ray_provider.clusters.kuberay.readiness import ReadinessOptions, ReadinessWatch
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import UNREACHABLE_SECONDS, Json, Kube, open_kube
from ray_provider.clusters.rayservice import troubles
from ray_provider.clusters.rayservice.reaching import dashboard_of
from ray_provider.clusters.rayservice.record import Kind, Update
from ray_provider.clusters.rayservice.resource import application_configs
from ray_provider.clusters.rayservice.state import Judgement, RayServiceState, judge
from ray_provider.clusters.rayservice.writing import service_path
from ray_provider.exceptions import (
    ConfigurationError,
    KubernetesError,
    RayApiError,
    RayConnectionError,
    ServeTimeoutError,
)
from ray_provider.serve import merge
from ray_provider.serve.client import ServeClient
from ray_provider.serve.state import DEPLOY_FAILED, RUNNING, ApplicationState, ServeState
from ray_provider.serve.waiting import failure, late, progress

Say = Callable[[str], None]

_PAUSE, _FIRST_PAUSE = 1.0, 0.2
#: How long a state may last that may be of the spec before, and one in which KubeRay makes no second cluster.
_DOUBT_SECONDS, _IGNORED_SECONDS = 6.0, 15.0
_EVENTS_SECONDS = 5.0
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Deployed:
    """What was written, and is to be waited for: plain data.

    :param namespace: in which the RayService lies.
    :param name: of it.
    :param generation: of the spec that was written.
    :param id: of the deploy.
    :param kind: what it does.
    :param active: the RayCluster that served before.
    :param service: our Service before it and another RayService (``blue_green``).
    """

    namespace: str
    name: str
    generation: int
    id: str
    kind: Kind = "first"
    active: str = ""
    service: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-able data."""
        return asdict(self)

    @property
    def update(self) -> Update:
        """The deploy."""
        return Update(self.id, "", self.kind, self.active)


@dataclass(frozen=True, slots=True)
class WaitOptions:
    """How a deploy is waited for.

    :param deadline: when (seconds since 1970) waiting ends.
    :param scheduling_seconds: how long a pod may wait for a node.
    :param operator_seconds: how long the operator may take to notice a change.
    """

    deadline: float
    scheduling_seconds: float = 300.0
    operator_seconds: float = 45.0

    def to_dict(self) -> dict[str, Any]:
        """Give them as plain data."""
        return asdict(self)


async def wait_deployed(
    kube_access: KubernetesAccess, deployed: Deployed, options: WaitOptions, *, access: Access = "auto", say: Say
) -> str:
    """Wait until all applications run as they were written, and KubeRay has nothing left to do.

    :param kube_access: to the Kubernetes cluster.
    :param deployed: what was written.
    :param options: until when, and how long its parts may take.
    :param access: the way to dashboards.
    :param say: gets a line when something changes.
    :return: name of the RayCluster that serves.
    :raises ConfigurationError: KubeRay refuses the spec.
    :raises ClusterError: a cluster can't start: the cause is in the message.
    :raises ServeError: an application can't run, or somebody else has changed or deleted the service.
    """
    async with open_kube(kube_access) as kube:
        waiting = _Waiting(kube_access, kube, deployed, options, access, say)
        try:
            return await waiting.run()
        finally:
            await waiting.close()


class _Waiting:
    """Looks at one RayService until it serves.

    :param kube_access: to the Kubernetes cluster.
    :param kube: the same, connected.
    :param deployed: what was written.
    :param options: until when, and how long its parts may take.
    :param access: the way to dashboards.
    :param say: gets a line when something changes.
    """

    def __init__(
        self,
        kube_access: KubernetesAccess,
        kube: Kube,
        deployed: Deployed,
        options: WaitOptions,
        access: Access,
        say: Say,
    ) -> None:
        self._kube_access, self._kube, self._access = kube_access, kube, access
        self._deployed, self._options = deployed, options
        self._say = say
        self._began = time.time()
        self._said = ""
        #: Since when a state lasts that may not last.
        self._since: dict[str, float] = {}
        self._away_since: float | None = None
        self._head: asyncio.Task[Json] | None = None
        self._cluster = ""
        self._client: ServeClient | None = None
        self._unasked = ""
        self._told = troubles.Told()
        self._events_at = 0.0

    async def close(self) -> None:
        """End what goes on beside."""
        if self._head is not None:
            self._head.cancel()
            await asyncio.gather(self._head, return_exceptions=True)
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
        self._head, self._client = None, None

    async def run(self) -> str:
        """Wait, and give the RayCluster that serves."""
        pause = _FIRST_PAUSE
        while True:
            document = await self._read()
            if document is not None:
                found = await self._look(document)
                if found is not None:
                    return found
            await asyncio.sleep(max(0.05, min(pause, self._options.deadline - time.time() + 0.05)))
            pause = min(_PAUSE, pause * 1.5)

    async def _read(self) -> Json | None:
        """Read the RayService; ``None``: the API server does not answer for the moment.

        :raises ServeError: it is not there.
        """
        deployed = self._deployed
        try:
            document = await self._kube.find(service_path(deployed.namespace, deployed.name))
        except KubernetesError as error:
            now = time.time()
            self._away_since = self._away_since or now
            passing = error.status is None or error.status >= 500 or error.status == 429
            if not passing or now - self._away_since > UNREACHABLE_SECONDS:
                raise
            return None
        self._away_since = None
        if document is None:
            raise troubles.gone(deployed.namespace, deployed.name)
        return document

    async def _look(self, document: Json) -> str | None:
        """Judge what there is. Gives the RayCluster that serves, when all is as wanted."""
        state = RayServiceState.of(document)
        found = judge(state, self._deployed.generation, self._deployed.update)
        self._check_lasting(state, found)
        applications: list[ApplicationState] = []
        if found.step == "ask":
            wanted = application_configs(str(document["spec"].get("serveConfigV2") or ""))
            applications, as_wanted = await self._ask(found.cluster, wanted)
            if as_wanted and found.done:
                self._say(f"RayService {self._where} serves, after {time.time() - self._began:.1f} s of waiting.")
                return found.cluster
            await self._tell_events(state)
        self._progress(state, found, applications)
        # Who watches the head knows more of why it is not ready, and has the same deadline.
        starting = found.step == "ask" and self._head is not None and not self._head.done()
        if time.time() >= self._options.deadline + (_GRACE_SECONDS if starting else 0.0):
            raise await self._late(state, found, applications)
        return None

    @property
    def _where(self) -> str:
        return f"{self._deployed.namespace}/{self._deployed.name}"

    # -- what KubeRay says ---------------------------------------------------------------------------------------------

    def _check_lasting(self, state: RayServiceState, found: Judgement) -> None:
        """Raise what can't become well; what may be of a moment, when it lasts."""
        now, cause = time.time(), found.cause
        self._since = {cause: self._since.get(cause, now)} if cause else {}
        lasted = now - self._since.get(cause, now)
        if found.step == "failed" and not (found.doubtful and lasted < _DOUBT_SECONDS):
            raise troubles.refusal(state, self._deployed.namespace, cause)
        if cause == "unnoticed" and lasted >= self._options.operator_seconds:
            raise troubles.unnoticed(self._where, lasted)
        if cause == "ignored" and lasted >= _IGNORED_SECONDS:
            raise troubles.ignored(self._where, self._deployed.active)

    async def _tell_events(self, state: RayServiceState) -> None:
        """Tell what KubeRay says by events only: that it can't send the applications, say."""
        if time.time() - self._events_at < _EVENTS_SECONDS:
            return
        self._events_at = time.time()
        for line in await self._told.news(self._kube, self._deployed.namespace, state.uid, self._began):
            self._say(f"WARNING: KubeRay says: {line}")

    # -- what Serve says -----------------------------------------------------------------------------------------------

    async def _ask(self, cluster: str, wanted: list[dict[str, Any]]) -> tuple[list[ApplicationState], bool]:
        """Ask Serve in a cluster, once its head is ready.

        :return: the wanted applications that it has as wanted, and whether all of them run.
        :raises ServeFailedError: one can't run.
        """
        if cluster != self._cluster:
            await self.close()
            self._cluster = cluster
            self._head = asyncio.create_task(self._watch(cluster).wait(), name=f"head of {cluster}")
        if self._head is None or not self._head.done():
            return [], False
        self._head.result()  # raises why the cluster can't start
        state = await self._state(cluster)
        if state is None or self._client is None:
            return [], False
        found = [one for config in wanted if (one := as_wanted(state, config)) is not None]
        for application in found:
            if application.status == DEPLOY_FAILED:
                raise await failure(self._client, application)
        return found, len(found) == len(wanted) and all(one.status == RUNNING for one in found)

    def _watch(self, cluster: str) -> ReadinessWatch:
        options = ReadinessOptions(
            timeout_seconds=max(1.0, self._options.deadline - time.time()),
            # A worker without a replica never becomes ready: its probe asks for Serve's proxy.
            wait_for_workers=False,
            scheduling_seconds=self._options.scheduling_seconds,
            operator_seconds=self._options.operator_seconds,
        )
        return ReadinessWatch(
            self._kube, self._deployed.namespace, cluster, options, say=self._say, deadline=self._options.deadline
        )

    async def _state(self, cluster: str) -> ServeState | None:
        """Ask Serve once; ``None``: nobody answers yet."""
        try:
            if self._client is None:
                client = ServeClient(
                    await dashboard_of(self._kube_access, self._deployed.namespace, cluster, self._access), timeout=15.0
                )
                await client.__aenter__()
                self._client = client
            found = await self._client.state(retry=RetryPolicy.none())
        except (RayConnectionError, RayApiError, KubernetesError) as error:
            if not error.retryable:
                raise
            self._unasked = error.message
            return None
        self._unasked = ""
        return found

    # -- words ---------------------------------------------------------------------------------------------------------

    def _progress(self, state: RayServiceState, found: Judgement, applications: list[ApplicationState]) -> None:
        if applications:
            line = " ".join(progress(one) for one in applications)
        elif found.cause == "unnoticed":
            line = "KubeRay has yet to look at it."
        elif found.cluster:
            line = f"waiting for Serve in the cluster {found.cluster}."
        else:
            line = f"{state.why or 'waiting for its cluster'}."
        if line != self._said:
            self._said = line
            warns = line.startswith("WARNING: ")
            text = f"RayService {self._where}: {line.removeprefix('WARNING: ')}"
            self._say(f"WARNING: {text}" if warns else text)

    async def _late(
        self, state: RayServiceState, found: Judgement, applications: list[ApplicationState]
    ) -> ServeTimeoutError | ConfigurationError:
        """Make the error of a service that does not serve in time, with all that is known of why."""
        seconds = time.time() - self._began
        waiting = next((one for one in applications if one.status != RUNNING), None)
        pods = await troubles.of_pods(self._kube, self._deployed.namespace, found.cluster)
        events = self._told.last
        if waiting is not None and self._client is not None:
            error = await late(self._client, waiting, seconds)
            more = f" {pods}" if pods else ""
            return ServeTimeoutError(f"{error.message}{more}", hint=error.hint, **error.data)
        said = [pods, f"KubeRay says: {events}." if events else "", self._unasked]
        told = " ".join(one for one in said if one) or f"KubeRay says: {state.why or 'nothing'}."
        return ServeTimeoutError(
            f"The RayService {self._where} does not serve the new version after {seconds:.0f} s"
            + (f" (in the cluster {found.cluster})" if found.cluster else "")
            + f". {told}",
            hint=f"kubectl -n {self._deployed.namespace} describe rayservice {self._deployed.name}; give it more "
            "timeout_seconds if it only is slow.",
            name=self._deployed.name,
            cause="timeout",
        )


def as_wanted(state: ServeState, config: Mapping[str, Any]) -> ApplicationState | None:
    """Give an application if Serve has it with this configuration. What it adds by itself does not count.

    :param state: of Serve.
    :param config: of the application.
    """
    found = state.applications.get(str(config["name"]))
    if found is None or found.config is None:
        return None
    differs = merge.difference(config, found.config)
    return None if any(path.partition(".")[0] in config for path in differs.other) else found
