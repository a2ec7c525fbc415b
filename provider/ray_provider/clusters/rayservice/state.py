"""What KubeRay says of a RayService, and what that means for a deploy: it says Ready in states that are not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray_provider.clusters.kubernetes.finding import condition
from ray_provider.clusters.rayservice.record import Update

#: Reasons of its condition Ready.
VALIDATION_FAILED, INITIALIZING_TIMEOUT = "ValidationFailed", "InitializingTimeout"


@dataclass(frozen=True, slots=True)
class RayServiceState:
    """A RayService at one moment. What a later KubeRay may say that is not known here passes as text.

    :param name: of the RayService.
    :param uid: of it.
    :param generation: of its spec.
    :param observed: the one that KubeRay has seen; it says so **before** it has sent new applications to Serve.
    :param known: KubeRay has looked at it once.
    :param ready: its condition Ready: somebody answers, be it the version before.
    :param reason: of that condition.
    :param message: in KubeRay's words.
    :param active: the RayCluster that serves; empty until one does.
    :param pending: the RayCluster that is being made.
    :param deleting: it is on its way out.
    :param update: the deploy that is at work.
    """

    name: str
    uid: str = ""
    generation: int = 0
    observed: int = 0
    known: bool = False
    ready: bool = False
    reason: str = ""
    message: str = ""
    active: str = ""
    pending: str = ""
    deleting: bool = False
    update: Update | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> RayServiceState:
        """Read a RayService.

        :param document: as Kubernetes gives it.
        """
        meta, status = document["metadata"], document.get("status") or {}
        ready = condition(document, "Ready") or {}
        active, pending = status.get("activeServiceStatus") or {}, status.get("pendingServiceStatus") or {}
        return cls(
            name=str(meta["name"]),
            uid=str(meta.get("uid") or ""),
            generation=int(meta.get("generation") or 0),
            observed=int(status.get("observedGeneration") or 0),
            known=bool(status.get("observedGeneration") or ready),
            # KubeRay before 1.3 has no conditions.
            ready=ready.get("status") == "True" if ready else status.get("serviceStatus") == "Running",
            reason=str(ready.get("reason") or ""),
            message=str(ready.get("message") or ""),
            active=str(active.get("rayClusterName") or ""),
            pending=str(pending.get("rayClusterName") or ""),
            deleting=bool(meta.get("deletionTimestamp")),
            update=Update.of(meta),
        )

    @property
    def is_dead(self) -> bool:
        """Whether KubeRay has given it up for good: it looks at no change of it any more."""
        return not self.ready and self.reason == INITIALIZING_TIMEOUT

    @property
    def why(self) -> str:
        """What KubeRay says of it, in one sentence without a full stop."""
        return " ".join(self.message.split()).rstrip(".") or self.reason


#: What is to be done with what KubeRay says: wait; ask Serve in a cluster; it can't become what is wanted.
Step = Literal["wait", "ask", "failed"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the state of a RayService means for a deploy.

    :param step: what is to be done.
    :param cluster: the RayCluster in which the new version is, or is to be.
    :param done: KubeRay has nothing left to do: whether it is so, only Serve can tell.
    :param cause: of a failure, or of a state that may last for a moment only: ``deleted``, ``overwritten``,
        ``invalid spec``, ``initializing timeout``, ``unnoticed``, ``ignored``.
    :param doubtful: the failure may be that of the spec before: it counts when it lasts.
    """

    step: Step
    cluster: str = ""
    done: bool = False
    cause: str = ""
    doubtful: bool = False


def judge(state: RayServiceState, generation: int, update: Update) -> Judgement:
    """Tell what a state means.

    :param state: of the RayService.
    :param generation: of the spec that the deploy has written.
    :param update: what the deploy does.
    """
    if state.deleting:
        return Judgement("failed", cause="deleted")
    # KubeRay 1.6.2 writes all of a new one again, with its finalizer: the same, and another generation.
    is_ours = update.kind == "first" and state.update is not None and state.update.id == update.id
    if state.generation != generation and not is_ours:
        return Judgement("failed", cause="overwritten")
    if state.is_dead:
        return Judgement("failed", cause="initializing timeout")
    if state.reason == VALIDATION_FAILED and not state.ready:
        return Judgement("failed", cause="invalid spec", doubtful=update.kind != "first")
    if not state.known or state.observed < generation:
        return Judgement("wait", cause="unnoticed")
    target = state.pending or state.active
    if update.kind == "new_cluster" and target == update.active:
        # Ready, current generation, no second cluster: KubeRay left the change out (upgradeStrategy None).
        return Judgement("wait", cause="ignored")
    if not target:
        return Judgement("wait")
    return Judgement("ask", target, done=state.ready and not state.pending and target == state.active)
