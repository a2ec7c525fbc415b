"""The RayJob resource: a cluster that exists for one job. What is made of values, and what its status means."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ray_provider.clusters.kuberay.queueing import ELASTIC, labels_of, queue_of, refuse_autoscaler
from ray_provider.clusters.kuberay.raycluster import Json, one_cluster
from ray_provider.clusters.kuberay.versions import KubeRay
from ray_provider.clusters.naming import MAX_NAME_OF_OWNER, PREFIX
from ray_provider.exceptions import ConfigurationError

INTERACTIVE = "InteractiveMode"
#: Modes in which KubeRay submits the job itself, and may do so again.
SUBMITTED_BY_KUBERAY = ("K8sJobMode", "HTTPMode", "SidecarMode")

#: Label of all that is made with a RayJob: its cluster has a name that only KubeRay knows.
LABEL = f"{PREFIX}rayjob"
#: Annotations: what a later try of the task has to know.
ATTEMPT, MAX_TRIES, SUBMITTED = f"{PREFIX}attempt", f"{PREFIX}max-tries", f"{PREFIX}submitted"
#: Label of a RayCluster that KubeRay made for a RayJob (KubeRay ≥ 1.1).
ORIGIN_NAME, ORIGIN_KIND = "ray.io/originated-from-cr-name", "ray.io/originated-from-crd"

#: Label of a cluster's pods and services; in a RayJob's selector: which cluster is meant.
CLUSTER = "ray.io/cluster"
_SUSPENDED = ("Suspending", "Suspended")
#: The job itself ended: how, says Ray.
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, slots=True)
class Selector:
    """The cluster that is there already, and on which a RayJob runs; and what its manifest says beside.

    :param cluster: name of the RayCluster.
    :param labels: of the RayJob.
    :param annotations: of it.
    :param others: further objects of the manifest: they go with the RayJob.
    """

    cluster: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    others: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class RayJobOptions:
    """What a RayJob says beside its cluster.

    :param job_id: the id under which the job is submitted.
    :param attempt: the logical attempt of the task, from 1.
    :param max_tries: Airflow's, when it was made: clearing a task raises it.
    :param ttl_seconds: how long the cluster stays after the job's end, for whoever reads log and result.
    :param active_deadline_seconds: the last leash: KubeRay ends all of it so long after its start; ``None``: never.
    :param queue: Kueue's LocalQueue.
    :param priority_class: Kueue's WorkloadPriorityClass.
    :param elastic: Kueue may change the number of workers (its gate ``ElasticJobsViaWorkloadSlices``).
    :param own: what a ready manifest says in its spec, without the cluster.
    :param selector: the cluster that it runs on; unless given, KubeRay makes one for it.
    """

    job_id: str
    attempt: int = 1
    max_tries: int | None = None
    ttl_seconds: int = 300
    active_deadline_seconds: int | None = None
    queue: str | None = None
    priority_class: str | None = None
    elastic: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)
    selector: Selector | None = None

    @property
    def mode(self) -> str:
        """Who submits the job."""
        return str(self.own.get("submissionMode") or INTERACTIVE)


def numbered(name: str, attempt: int) -> str:
    """Give the name of a later attempt's RayJob: that of the first with a number behind, and not too long for KubeRay.

    :param name: of the first attempt's RayJob.
    :param attempt: from 2.
    """
    number = f"-{attempt}"
    return f"{name[: MAX_NAME_OF_OWNER - len(number)].rstrip('-')}{number}"


def make(rendered: Iterable[Json], name: str, options: RayJobOptions) -> tuple[Json, list[Json]]:
    """Make a RayJob of what a chart makes of its values, and give what goes beside it.

    :param rendered: the chart's objects: one RayCluster among them.
    :param name: of the RayJob.
    :param options: of the job, as a person gave them.
    :return: the RayJob, and the other objects: they are its dependents.
    :raises ConfigurationError: something in it can't work in a RayJob.
    """
    documents = [copy.deepcopy(dict(one)) for one in rendered]
    one_cluster(documents, name)
    cluster = next(one for one in documents if one.get("kind") == "RayCluster")
    spec = cluster["spec"]
    # KubeRay refuses it in a RayJob's cluster, which is never changed.
    spec.pop("upgradeStrategy", None)
    metadata = cluster["metadata"]
    elastic = options.elastic or (metadata.get("annotations") or {}).get(ELASTIC) == "true"
    queue = options.queue or queue_of(cluster)
    _check(spec, [one for one in documents if one is not cluster], queue, elastic=elastic)
    label_pods(spec, LABEL, name)
    labels = {
        **(metadata.get("labels") or {}),
        **labels_of(queue, options.priority_class),
        LABEL: name,
        "app.kubernetes.io/managed-by": "airflow-ray",
    }
    annotations = _annotations(metadata.get("annotations"), options)
    if elastic:
        annotations[ELASTIC] = "true"
    job: Json = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": name,
            **({"namespace": metadata["namespace"]} if metadata.get("namespace") else {}),
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {**_job_spec(options), "rayClusterSpec": spec},
    }
    return job, [beside(one, name) for one in documents if one is not cluster]


def label_pods(spec: Json, label: str, name: str) -> None:
    """Have the pods of all groups bear a label of ours.

    :param spec: of a RayCluster; it is changed.
    :param label: its key.
    :param name: the label's value.
    """
    for group in (spec["headGroupSpec"], *(spec.get("workerGroupSpecs") or ())):
        template = group.setdefault("template", {})
        metadata = template.get("metadata") or {}
        template["metadata"] = {**metadata, "labels": {**(metadata.get("labels") or {}), label: name}}


def make_selecting(selector: Selector, name: str, labels: Mapping[str, str], options: RayJobOptions) -> Json:
    """Make a RayJob that runs on a cluster which is there. KubeRay never deletes that one.

    :param selector: says which.
    :param name: of the RayJob.
    :param labels: that say whose it is.
    :param options: of the job. What is of its own cluster is left out.
    """
    spec = _job_spec(options)
    # KubeRay refuses the third one there, and has no cluster to shut down.
    for key in ("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"):
        del spec[key]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "labels": {**selector.labels, **labels, LABEL: name, "app.kubernetes.io/managed-by": "airflow-ray"},
            "annotations": _annotations(selector.annotations, options),
        },
        "spec": {**spec, "clusterSelector": {CLUSTER: selector.cluster}},
    }


def beside(document: Mapping[str, Any], name: str, label: str = LABEL) -> Json:
    """Give an object that goes beside a RayJob: what it says of the cluster's pods, it says by our own label.

    :param document: the object.
    :param name: of the RayJob.
    :param label: our own one; that of a RayService is another.
    """
    changed: Json = _relabelled(document, name, label)
    metadata = changed.setdefault("metadata", {})
    metadata["labels"] = {
        **(metadata.get("labels") or {}),
        label: name,
        "app.kubernetes.io/managed-by": "airflow-ray",
    }
    return changed


def _annotations(given: Mapping[str, str] | None, options: RayJobOptions) -> dict[str, str]:
    tries = {} if options.max_tries is None else {MAX_TRIES: str(options.max_tries)}
    return {**(given or {}), ATTEMPT: str(options.attempt), **tries}


def _job_spec(options: RayJobOptions) -> Json:
    spec: Json = copy.deepcopy(dict(options.own))
    spec["submissionMode"] = options.mode
    spec["jobId"] = options.job_id
    spec["shutdownAfterJobFinishes"] = True
    spec["ttlSecondsAfterFinished"] = max(int(spec.get("ttlSecondsAfterFinished") or 0), options.ttl_seconds)
    if options.active_deadline_seconds is not None and not spec.get("activeDeadlineSeconds"):
        spec["activeDeadlineSeconds"] = options.active_deadline_seconds
    # A second try of KubeRay's would be a second job: tries are Airflow's.
    spec["backoffLimit"] = 0
    if options.mode == INTERACTIVE:
        for key in ("entrypoint", "runtimeEnvYAML", "metadata", "submitterPodTemplate", "submitterConfig"):
            spec.pop(key, None)
        for key in ("entrypointNumCpus", "entrypointNumGpus", "entrypointResources"):
            spec.pop(key, None)
    return spec


def _check(spec: Mapping[str, Any], beside: Iterable[Json], queue: str | None, *, elastic: bool) -> None:
    if (spec.get("authOptions") or {}).get("enableK8sTokenAuth"):
        raise no_token_by_kubernetes()
    if any(one.get("kind") == "Ingress" for one in beside):
        raise ConfigurationError(
            "The values make an Ingress, which can't lead to the cluster of a RayJob: its service gets a name only "
            "when the job starts.",
            hint="Leave `ingress` out, or set the cluster up with SetupRayCluster.",
            field="ingress",
        )
    refuse_autoscaler("RayJob", spec, queue, elastic=elastic)


def refuse_unknown_mode(mode: str, kuberay: KubeRay) -> None:
    """Refuse a mode that an older KubeRay takes, and does nothing with: nobody would ever submit the job.

    :param mode: of submission.
    :param kuberay: what is there.
    :raises ConfigurationError: it is not known there.
    """
    if mode == "SidecarMode" and not kuberay.at_least(1, 5, 1):
        raise ConfigurationError(
            f"SidecarMode needs KubeRay 1.5.1 or newer, and the CRDs here are those of {kuberay.text}.",
            hint="Leave submissionMode out: then the task submits the job; or have KubeRay upgraded.",
            field="submissionMode",
        )


def no_token_by_kubernetes() -> ConfigurationError:
    """Make the error of a cluster whose tokens Kubernetes is to look at."""
    return ConfigurationError(
        "`authOptions.enableK8sTokenAuth` is set, which KubeRay refuses for the cluster of a RayJob.",
        hint="Leave it out: the cluster then asks for a token of its own (authOptions.mode: token).",
        field="authOptions.enableK8sTokenAuth",
    )


def _relabelled(value: Any, name: str, label: str) -> Any:
    if isinstance(value, Mapping):
        return {
            (label if key == CLUSTER and one == name else key): _relabelled(one, name, label)
            for key, one in value.items()
        }
    return [_relabelled(one, name, label) for one in value] if isinstance(value, list) else value


# -- what the status says ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RayJobState:
    """A RayJob at one moment. What a later KubeRay may say that is not known here passes as text.

    :param name: of the RayJob.
    :param uid: of it.
    :param deployment: ``jobDeploymentStatus``; empty until an operator has seen it.
    :param job: ``jobStatus``.
    :param reason: why it failed.
    :param message: in KubeRay's words.
    :param cluster: name of its RayCluster; empty while there is none.
    :param started: when KubeRay began with it, after a queue let it go.
    :param deleting: it is on its way out.
    :param queue: the one in which it waits or has waited.
    :param job_id: the id under which its job is to be submitted.
    :param attempt: the logical attempt that it is for.
    :param max_tries: Airflow's, when it was made.
    :param submitted: the head's session in which the job was submitted; ``None``: it was not.
    :param managed_by: who is to look after it, if not KubeRay's operator.
    :param mode: who submits its job.
    :param selected: name of the cluster that was there before it, if it runs on one.
    """

    name: str
    uid: str = ""
    deployment: str = ""
    job: str = ""
    reason: str = ""
    message: str = ""
    cluster: str = ""
    started: datetime | None = None
    deleting: bool = False
    queue: str | None = None
    job_id: str = ""
    attempt: int = 1
    max_tries: int | None = None
    submitted: str | None = None
    managed_by: str = ""
    mode: str = INTERACTIVE
    selected: str = ""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> RayJobState:
        """Read a RayJob.

        :param document: as Kubernetes gives it.
        """
        meta, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
        notes = meta.get("annotations") or {}
        tries = str(notes.get(MAX_TRIES, ""))
        attempt = str(notes.get(ATTEMPT, ""))
        return cls(
            name=str(meta["name"]),
            uid=str(meta.get("uid") or ""),
            deployment=str(status.get("jobDeploymentStatus") or ""),
            job=str(status.get("jobStatus") or ""),
            reason=str(status.get("reason") or ""),
            message=str(status.get("message") or ""),
            cluster=str(status.get("rayClusterName") or ""),
            started=_time(status.get("startTime")),
            deleting=bool(meta.get("deletionTimestamp")),
            queue=queue_of(document),
            job_id=str(spec.get("jobId") or status.get("jobId") or ""),
            attempt=int(attempt) if attempt.isdigit() else 1,
            max_tries=int(tries) if tries.isdigit() else None,
            submitted=notes.get(SUBMITTED),
            managed_by=str(spec.get("managedBy") or ""),
            selected=str((spec.get("clusterSelector") or {}).get(CLUSTER) or ""),
            mode=str(spec.get("submissionMode") or "K8sJobMode"),  # which is KubeRay's own default
        )

    @property
    def is_suspended(self) -> bool:
        """Whether it has no cluster, and waits to be let go."""
        return self.deployment in _SUSPENDED

    @property
    def has_failed(self) -> bool:
        """Whether KubeRay has given it up, for another reason than how the job ended."""
        return self.deployment == "ValidationFailed" or (
            self.deployment == "Failed" and self.reason != "AppFailed" and self.job not in _ENDED
        )

    @property
    def submitter_has_failed(self) -> bool:
        """Whether KubeRay has given it up by its submitter's end alone: the job may have ended, and Ray knows how."""
        return self.deployment == "Failed" and self.reason == "SubmissionFailed" and self.job not in _ENDED

    @property
    def is_over(self) -> bool:
        """Whether KubeRay does nothing for it any more but delete its cluster."""
        return self.deployment in ("Complete", "Failed", "ValidationFailed")

    @property
    def why(self) -> str:
        """What KubeRay says of its end, in one sentence without a full stop."""
        said = " ".join(self.message.split()).rstrip(".")
        return f"{self.reason or self.deployment}: {said}" if said else (self.reason or self.deployment)


def _time(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
