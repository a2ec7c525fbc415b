"""Why a RayService does not serve, in sentences: what its status, its events and the pods of its clusters tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from ray_provider._shared.plain_text import clean
from ray_provider.clusters.kubernetes.client import Kube, path_of
from ray_provider.clusters.kubernetes.pod_diagnosis import pod_findings
from ray_provider.clusters.rayservice.state import RayServiceState
from ray_provider.exceptions import (
    ClusterFailedError,
    ConfigurationError,
    KubernetesError,
    RayProviderError,
    ServeError,
)

#: Normal once or twice: the operator's time-out is shorter than Serve's first answer, its cache behind what it made.
_NORMAL = ("Client.Timeout exceeded", "context deadline exceeded", "connection refused", "already exists")
_LENGTH = 400


def gone(namespace: str, name: str) -> ServeError:
    """Make the error of a RayService that somebody has deleted.

    :param namespace: of the RayService.
    :param name: of the RayService.
    """
    return ServeError(
        f"The RayService {namespace}/{name} was deleted while it was waited for.",
        hint="Somebody deleted it. Clear the task to deploy it anew.",
        name=name,
        cause="deleted",
    )


def refusal(state: RayServiceState, namespace: str, cause: str) -> RayProviderError:
    """Make the error of a state that waiting does not mend.

    :param state: the RayService as it is now.
    :param namespace: of the RayService.
    :param cause: as it was judged.
    """
    where, hint = f"{namespace}/{state.name}", f"kubectl -n {namespace} describe rayservice {state.name}"
    if cause == "deleted":
        return gone(namespace, state.name)
    if cause == "overwritten":
        return ServeError(
            f"Somebody else has changed the RayService {where} since this task wrote it: whether that serves, its own "
            "task says.",
            hint="Who else writes it? Another run of this DAG (max_active_runs=1 has one at a time), kubectl, Argo CD.",
            name=state.name,
            cause="overwritten",
        )
    if cause == "invalid spec":
        return ConfigurationError(
            f"KubeRay refuses the RayService {where}: {state.why}.",
            hint="Correct the values (or the manifest).",
            name=state.name,
            cause=cause,
        )
    return ClusterFailedError(
        f"KubeRay has given up the RayService {where}: {state.why}.",
        hint=f"It looks at no change of it any more; the next deploy makes it anew. {hint}",
        name=state.name,
        namespace=namespace,
        cause=cause,
    )


def unnoticed(where: str, seconds: float) -> ClusterFailedError:
    """Make the error of a RayService that no operator looks at.

    :param where: namespace and name.
    :param seconds: since it was written.
    """
    return ClusterFailedError(
        f"No KubeRay operator has taken notice of the RayService {where} for {seconds:.0f} s: it does not run, or does "
        "not watch this namespace.",
        hint="kubectl get deployments -A -l app.kubernetes.io/name=kuberay-operator; look at its replicas, its log and "
        "its value watchNamespace.",
        cause="operator not running",
    )


def ignored(where: str, cluster: str) -> ConfigurationError:
    """Make the error of a changed cluster that KubeRay makes no second one for: it says Ready all the same.

    :param where: namespace and name.
    :param cluster: name of the RayCluster that goes on.
    """
    return ConfigurationError(
        f"KubeRay makes no second cluster for the RayService {where}, and leaves its change out: {cluster} goes on as "
        "it was.",
        hint="Its operator is set to ENABLE_ZERO_DOWNTIME=false. Have that changed, give "
        "upgradeStrategy: {type: NewCluster}, or delete the RayService and deploy it anew (with an outage).",
        cause="ignored",
    )


async def of_pods(kube: Kube, namespace: str, cluster: str) -> str:
    """Say what is wrong with the pods of a cluster; empty: nothing that is known.

    :param kube: where.
    :param namespace: of the cluster.
    :param cluster: name of the RayCluster.
    """
    if not cluster:
        return ""
    try:
        found = await kube.get(path_of("pods", namespace), labelSelector=f"ray.io/cluster={cluster}")
    except KubernetesError:
        return ""
    told = [finding.text for pod in found.get("items") or [] for finding in pod_findings(pod)]
    return " ".join(f"{clean(text).strip().rstrip('.')}." for text in dict.fromkeys(told))


@dataclass
class Told:
    """What KubeRay has told by events: an application that it can't send stands nowhere else."""

    last: str = ""
    _seen: set[str] = field(default_factory=set)

    async def news(self, kube: Kube, namespace: str, uid: str, since: float) -> list[str]:
        """Give what is new, in KubeRay's words. Nothing where events can't be read: then less is known.

        :param kube: where.
        :param namespace: of the RayService.
        :param uid: of the RayService.
        :param since: (seconds since 1970) what is older is of a version before.
        """
        try:
            found = await kube.get(path_of("events", namespace), fieldSelector=f"involvedObject.uid={uid}", limit="100")
        except KubernetesError:
            return []
        lines = []
        for event in found.get("items") or []:
            message = " ".join(clean(str(event.get("message") or "")).split())
            old = _seconds(event.get("lastTimestamp") or event.get("eventTime")) < since - 1.0
            if event.get("type") != "Warning" or old or any(words in message for words in _NORMAL):
                continue
            # Before the cause it says where its documentation is.
            cause = message.rpartition(" err: ")[2][:_LENGTH].rstrip(".")
            self.last = f"{event.get('reason')}: {cause}"
            if self.last not in self._seen:
                self._seen.add(self.last)
                lines.append(self.last)
        return lines


def _seconds(text: str | None) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
