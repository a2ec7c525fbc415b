"""Waiting for the end of a RayJob that somebody else looks after. Nothing here changes or deletes anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray_provider._shared.plain_text import clean
from ray_provider.clusters.kuberay.queue_watch import queue_position
from ray_provider.clusters.kuberay.queueing import QueuePosition
from ray_provider.clusters.kuberay.rayjob import INTERACTIVE, RayJobState
from ray_provider.clusters.kuberay.readiness import FIRST_LOOK_SECONDS
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, Kube, open_kube, path_of
from ray_provider.clusters.lifecycle.rayjob_watch import states
from ray_provider.exceptions import (
    ClusterTimeoutError,
    ConfigurationError,
    JobFailedError,
    JobLostError,
    JobStoppedError,
    JobUnreachableError,
    KubernetesError,
    RayApiError,
    RayConnectionError,
    RayProviderError,
)
from ray_provider.jobs.explain import last_lines, what_to_do
from ray_provider.jobs.models import JobDetails

Say = Callable[[str], None]
#: Asks Ray for the job of a RayJob; ``None``: it does not know it.
AskRay = Callable[[RayJobState], Awaitable[JobDetails | None]]

#: So often it is asked what only Ray or Kueue say.
_ASK_SECONDS = 30.0
_QUEUE_SECONDS = 5.0
#: So long Ray may not know the job of a client, whom nobody submits again, before it is given up; asked so often.
_LOST_SECONDS = 10.0
_AGAIN_SECONDS = 3.0
#: So long an operator may take to look at a RayJob before a line says that nobody does.
_OPERATOR_SECONDS = 45.0


class RayJobEnd:
    """Judges a RayJob: how it ended, and whether it still can.

    KubeRay's word alone is not the job's end: Complete may be STOPPED, and Running goes on where the head is lost and
    the job with it. So Ray is asked, too.

    :param namespace: of the RayJob.
    :param name: of it.
    :param ask: asks Ray; unless given, KubeRay's word counts alone.
    :param max_unreachable_seconds: how long (seconds) a Ray that has answered before may not answer, and a job that
        KubeRay submits may be missing.
    :param say: is given each line of progress.
    """

    def __init__(
        self, namespace: str, name: str, *, ask: AskRay | None, max_unreachable_seconds: float, say: Say
    ) -> None:
        self.namespace, self.name = namespace, name
        self._ask = ask
        self._max_unreachable_seconds = max_unreachable_seconds
        self._say = say
        self._line = ""
        self._last: RayJobState | None = None
        self._queued: QueuePosition | None = None
        self._unseen_since: float | None = None
        self._missing_since: float | None = None
        self._silent_since: float | None = None
        self._answered = False
        self._warned = False
        self._next_ask = 0.0
        self._recalled: Mapping[str, Any] = {}
        #: How the job ended, where only Ray says so.
        self.told_by_ray: RayJobState | None = None

    def memory(self) -> dict[str, Any]:
        """Give what a judge needs to know that looks at the RayJob later, as plain data."""
        return {
            "uid": self._last.uid if self._last else "",
            "answered": self._answered,
            "missing_since": self._missing_since,
            "silent_since": self._silent_since,
        }

    def recall(self, memory: Any) -> None:
        """Go on where another judge ended.

        :param memory: what :meth:`memory` gave; of another RayJob, or something else, it counts for nothing.
        """
        self._recalled = memory if isinstance(memory, Mapping) else {}

    @property
    def where(self) -> str:
        """Which RayJob it is, for people."""
        return f"{self.namespace}/{self.name}"

    @property
    def seen(self) -> str:
        """What was told of it last."""
        return self._line or "nothing is known of it yet"

    def judge(self, state: RayJobState | None) -> RayJobState | None:
        """Say whether it has ended.

        :param state: ``None``: there is no such RayJob.
        :return: how it ended, if its job succeeded; ``None``: it goes on.
        :raises JobError: it did not succeed, or can't any more.
        """
        before, self._last = self._last, state or self._last
        if state is None or (state.deleting and not state.is_over):
            if self._last is not None and self._last.job == "SUCCEEDED":
                return self._last
            raise self._gone(state, before)
        if not state.is_over:
            return None
        if state.job == "SUCCEEDED":
            if state.deployment != "Complete":
                self._say(f"WARNING: RayJob {self.where}: its job succeeded, and KubeRay says {state.why}.")
            return state
        raise self._ended_badly(state)

    def _gone(self, state: RayJobState | None, before: RayJobState | None) -> JobLostError:
        if before is None and state is None:
            return JobLostError(
                f"There is no RayJob {self.where}.",
                hint=f"Is the name right, and the namespace? kubectl -n {self.namespace} get rayjobs. One that has "
                "ended may have been deleted since: by its owner, or by KubeRay (ttlSecondsAfterFinished).",
            )
        was = f" It was {_short(before)} when it was seen last." if before else ""
        return JobLostError(
            f"The RayJob {self.where} {'is being' if state else 'was'} deleted before its job's end was seen.{was}",
            hint="Somebody deleted it, and its job with it.",
            submission_id=(state or before or RayJobState(self.name)).job_id,
        )

    def _ended_badly(self, state: RayJobState) -> RayProviderError:
        data = {"submission_id": state.job_id, "status": state.job or state.deployment}
        look = f"kubectl -n {self.namespace} describe rayjob {self.name}"
        if state.deployment == "ValidationFailed":
            return JobFailedError(
                f"KubeRay refuses the RayJob {self.where}, for good: {state.why.removeprefix('ValidationFailed: ')}.",
                hint="Correct it, delete it and make it anew: KubeRay does not look at it again.",
                **data,
            )
        if state.job == "STOPPED":
            return JobStoppedError(
                f"The job of RayJob {self.where} was stopped before it had finished; KubeRay calls that "
                f"{state.deployment}. Ray says: {last_lines(state.message) or '(nothing)'}",
                hint="Somebody stopped it, in Ray's dashboard or by its API.",
                **data,
            )
        if state.job == "FAILED" or state.reason == "AppFailed":
            said = last_lines(state.message)
            return JobFailedError(
                f"The job of RayJob {self.where} failed." + (f" Ray says:\n{said}" if said else ""),
                hint=what_to_do(None, None, state.message) or look,
                **data,
            )
        if state.deployment == "Complete":
            return JobFailedError(
                f"The RayJob {self.where} is Complete without a success: KubeRay does not say that its job succeeded "
                f"(jobStatus is {state.job or 'empty'}).",
                hint=look,
                **data,
            )
        return JobFailedError(f"KubeRay ended the RayJob {self.where}: {state.why}.", hint=look, **data)

    # -- while it goes on ----------------------------------------------------------------------------------------------

    async def look_closer(self, kube: Kube, state: RayJobState) -> float:
        """Find out what KubeRay does not say of a RayJob that goes on, and tell what it waits for.

        :param kube: where.
        :param state: the RayJob as it is now.
        :return: in how many seconds to look again, if nothing changes before.
        :raises JobLostError: its head is gone, and the job with it.
        :raises JobUnreachableError: Ray can't be asked any more.
        """
        now = time.time()
        memory, self._recalled = self._recalled, {}
        if memory.get("uid") == state.uid:
            self._answered = bool(memory.get("answered"))
            self._missing_since, self._silent_since = memory.get("missing_since"), memory.get("silent_since")
        if state.is_suspended:
            await self._tell_suspended(kube, state)
            return _QUEUE_SECONDS if state.queue else _ASK_SECONDS
        self._queued = None
        if not state.deployment:
            self._unseen_since = self._unseen_since or now
            left = self._unseen_since + _OPERATOR_SECONDS - now
            if left <= 0:
                self._tell(self._unnoticed(state))
            return max(left, 1.0) if left > 0 else _ASK_SECONDS
        self._unseen_since = None
        if self._missing_since is None:
            self._tell(_short(state))
        is_starting = state.deployment == "Initializing" and state.mode == "SidecarMode" and bool(state.cluster)
        goes_on = state.deployment == "Running" and state.job in ("PENDING", "RUNNING")
        if self._ask is None or not (is_starting or goes_on):
            return _ASK_SECONDS
        if now >= self._next_ask:
            asking = self._ask_at_start(state, self._ask) if is_starting else self._ask_ray(state, now, self._ask)
            self._next_ask = now + await asking
        return max(0.1, self._next_ask - time.time())

    async def _ask_at_start(self, state: RayJobState, ask: AskRay) -> float:
        """Ask for a job that may have ended before its head was ready: KubeRay says Initializing for good then.

        The submitter is a container of the head's pod, and has ended with the job.
        """
        try:
            details = await ask(state)
        except (RayApiError, RayConnectionError, KubernetesError, ConfigurationError):
            return _ASK_SECONDS  # it starts
        if details is not None and details.is_final:
            failed = details.status == "FAILED"
            self.told_by_ray = replace(
                state,
                deployment="Failed" if failed else "Complete",
                job=details.status,
                reason="AppFailed" if failed else "",
                message=details.message or "",
            )
        return _ASK_SECONDS

    async def _ask_ray(self, state: RayJobState, now: float, ask: AskRay) -> float:
        try:
            details = await ask(state)
        except (RayApiError, RayConnectionError, KubernetesError, ConfigurationError) as error:
            self._not_answered(state, error, now)
            return _ASK_SECONDS if not self._answered else _AGAIN_SECONDS
        self._answered, self._silent_since = True, None
        if details is not None:
            self._missing_since = None
            return _ASK_SECONDS
        self._missing_since = self._missing_since or now
        lasted = now - self._missing_since
        # Interactive, nobody but its client submits it; else KubeRay does so again, or gives it up, but takes its time.
        limit = _LOST_SECONDS if state.mode == INTERACTIVE else self._max_unreachable_seconds
        if lasted < limit:
            self._tell(f"Ray does not know its job {state.job_id} any more; KubeRay still says {_short(state)}")
            return _AGAIN_SECONDS
        raise JobLostError(
            f"Job {state.job_id} of RayJob {self.where} was lost: Ray has not known it for {lasted:.0f} s, though "
            f"KubeRay goes on saying {_short(state)}. The Ray head restarted while it ran, and forgot its jobs.",
            hint=f"Delete the RayJob, and make it anew: kubectl -n {self.namespace} delete rayjob {self.name}",
            submission_id=state.job_id,
        )

    def _not_answered(self, state: RayJobState, error: RayProviderError, now: float) -> None:
        """Ray did not answer. One that never has may not be reached from here at all: KubeRay's word has to do then."""
        if not self._answered:
            if not self._warned:
                self._warned = True
                self._say(
                    f"WARNING: Ray can't be asked about the job of RayJob {self.where}: a head that is lost would not "
                    f"be noticed, as KubeRay goes on saying Running. {error.message}"
                )
            return
        self._silent_since = self._silent_since or now
        if now - self._silent_since >= self._max_unreachable_seconds:
            raise JobUnreachableError(
                f"The Ray of RayJob {self.where} has not answered for {now - self._silent_since:.0f} s, though KubeRay "
                f"says {_short(state)}: {error.message}",
                hint="The job may still run. Does the head's pod? "
                f"kubectl -n {self.namespace} get pods -l ray.io/cluster={state.cluster}",
                submission_id=state.job_id,
            )

    async def _tell_suspended(self, kube: Kube, state: RayJobState) -> None:
        if not state.queue:
            self._tell("suspended, and in no queue: somebody has to resume it (spec.suspend: false)")
            return
        self._queued = await queue_position(kube, self.namespace, state.uid, self._queued)
        said = self._queued.text if self._queued else "Kueue has not looked at it"
        self._tell(f"waits in Kueue's queue {state.queue!r}: {said}")

    @staticmethod
    def _unnoticed(state: RayJobState) -> str:
        if state.managed_by and state.managed_by != "ray.io/kuberay-operator":
            return f"nobody has looked at it yet (managedBy: {state.managed_by})"
        return "no KubeRay operator has looked at it yet: does one run, and watch this namespace?"

    def _tell(self, line: str) -> None:
        if line != self._line:
            self._line = line
            self._say(clean(f"RayJob {self.where}: {line}."))

    def timed_out(self, seconds: float) -> ClusterTimeoutError:
        """Make the error of a wait whose time is over.

        :param seconds: how long it was.
        """
        return ClusterTimeoutError(
            f"The RayJob {self.where} has not ended after {seconds:.0f} s: {self.seen}.",
            hint="Raise `timeout`, or find out what holds it up: "
            f"kubectl -n {self.namespace} describe rayjob {self.name}",
            namespace=self.namespace,
            name=self.name,
        )


def _short(state: RayJobState) -> str:
    """Give KubeRay's words for where a RayJob is."""
    cluster = f", cluster {state.cluster}" if state.cluster else ""
    return f"{state.deployment or 'not looked at'}{f', job {state.job}' if state.job else ''}{cluster}"


async def look(kube_access: KubernetesAccess, end: RayJobEnd) -> RayJobState | None:
    """Look at a RayJob once.

    :param kube_access: to the Kubernetes cluster.
    :param end: judges it; kept from look to look, it knows more.
    :return: how it ended, if its job succeeded; ``None``: it goes on.
    :raises JobError: it did not succeed, or can't any more.
    :raises KubernetesError: it could not be asked for.
    """
    path = path_of("rayjobs", end.namespace, end.name, api=RAY)
    async with open_kube(kube_access) as kube:
        until = time.time() + 2 * _LOST_SECONDS
        while True:
            found = await kube.find(path)
            state = RayJobState.of(found) if found else None
            ended = end.judge(state)
            if ended is not None or state is None:
                return ended
            pause = await end.look_closer(kube, state)
            if end.told_by_ray is not None:
                return end.judge(end.told_by_ray)
            # Only a job that Ray does not know is looked at again at once: KubeRay may be about to say why.
            if pause > _AGAIN_SECONDS or state.mode != INTERACTIVE or time.time() + pause > until:
                return None
            await asyncio.sleep(pause)


async def wait_ended(kube_access: KubernetesAccess, end: RayJobEnd, *, deadline: float, since: float) -> RayJobState:
    """Watch a RayJob until it has ended.

    :param kube_access: to the Kubernetes cluster.
    :param end: judges it.
    :param deadline: when (seconds since 1970) waiting ends.
    :param since: when (seconds since 1970) it began.
    :return: how it ended: its job succeeded.
    :raises JobError: it did not, or can't any more.
    :raises ClusterTimeoutError: it has not in time.
    :raises KubernetesError: the API server stayed away, or we may not look.
    """
    async with open_kube(kube_access) as kube, aclosing(states(kube, end.namespace, end.name)) as told:
        following = asyncio.ensure_future(anext(told))
        state: RayJobState | None = None
        pause, began = _ASK_SECONDS, time.time()
        try:
            while True:
                left = (deadline if state is not None else max(deadline, began + FIRST_LOOK_SECONDS)) - time.time()
                if left <= 0:
                    raise end.timed_out(time.time() - since)
                await asyncio.wait([following], timeout=min(left, pause))
                if following.done():
                    state = following.result()
                    following = asyncio.ensure_future(anext(told))
                    if (ended := end.judge(state)) is not None:
                        return ended
                if state is not None:
                    pause = await end.look_closer(kube, state)
                    if end.told_by_ray is not None and (ended := end.judge(end.told_by_ray)) is not None:
                        return ended
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
