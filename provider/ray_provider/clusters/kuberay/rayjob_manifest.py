"""A ready RayJob manifest, as users of KubeRay have it: its cluster, its job, and what else it says."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ray_provider.clusters.kuberay.manifests import (
    Fetch,
    Manifest,
    RayClusterManifest,
    cluster_within,
    documents_of,
    the_one,
)
from ray_provider.clusters.kuberay.placeholders import refuse_placeholders
from ray_provider.clusters.kuberay.queueing import queue_of
from ray_provider.clusters.kuberay.rayjob import (
    CLUSTER,
    INTERACTIVE,
    SUBMITTED_BY_KUBERAY,
    Selector,
    no_token_by_kubernetes,
)
from ray_provider.exceptions import ConfigurationError

#: What a job's own arguments say instead.
_OF_THE_JOB = (
    "entrypoint",
    "runtimeEnvYAML",
    "metadata",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "entrypointResources",
    "jobId",
    "rayClusterSpec",
    "clusterSelector",
)
#: Its modes paste the entrypoint into a shell.
_BY_SHELL = ("K8sJobMode", "SidecarMode")
#: What a number has to be in.
_NUMBERS = (
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "activeDeadlineSeconds",
    "entrypointNumCpus",
    "entrypointNumGpus",
)
_CLUSTER_SPEC = "rayClusterSpec"
#: The name in the cluster's documents where the RayJob leaves its own to Kubernetes: it is replaced.
_UNNAMED = "rayjob"


@dataclass(frozen=True, slots=True)
class RayJobManifest:
    """A RayJob as somebody wrote it.

    :param name: of the RayJob; empty where it leaves that to Kubernetes (``generateName``).
    :param namespace: that it names itself.
    :param cluster: its cluster, as of a manifest of its own, with what came with the RayJob; ``None``: it runs on one
        that is there.
    :param selector: that one.
    :param own: the rest of its spec, for the RayJob that is made.
    :param entrypoint: the command.
    :param runtime_env: Ray's runtime environment.
    :param metadata: of the job.
    :param num_cpus: reserved for the entrypoint.
    :param num_gpus: reserved for the entrypoint.
    :param resources: custom ones reserved for the entrypoint.
    :param source: where it was read from, for messages.
    """

    name: str
    namespace: str | None
    cluster: RayClusterManifest | None
    selector: Selector | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    entrypoint: str = ""
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    source: str = "ray_job_yaml"

    @property
    def is_submitted_by_kuberay(self) -> bool:
        """Whether the manifest says by name that KubeRay is to submit the job."""
        return self.own.get("submissionMode") in SUBMITTED_BY_KUBERAY


def read_ray_job(
    given: str | Path | Mapping[str, Any],
    *,
    folders: Iterable[Path] = (),
    render: Callable[[str], str] | None = None,
    fetch: Fetch | None = None,
) -> RayJobManifest:
    """Read a manifest with a RayJob in it.

    :param given: the path of a file, a URL, YAML text, or a mapping.
    :param folders: where relative paths are looked for, beside the working directory.
    :param render: renders a template, for what is read from files; what comes from a URL is never one.
    :param fetch: gets the text behind a URL.
    :raises ConfigurationError: it can't be read, or says something that can't be carried through; it names that.
    """
    documents, source = documents_of(given, "ray_job_yaml", folders, render, fetch)
    job, others = the_one(
        "RayJob",
        documents,
        source,
        not_beside=("RayCluster", "RayService"),
        others="A RayCluster goes by ray_cluster_yaml; two jobs need two tasks.",
        aside="Leave it out; a cluster that several jobs share is made by SetupRayCluster(ray_cluster_yaml=...).",
    )
    spec = job.get("spec")
    if not isinstance(spec, Mapping):
        raise ConfigurationError(f"`{source}`: the RayJob has no spec.", field="spec")
    refuse_placeholders(job, source)
    if selects := bool(spec.get("clusterSelector")):
        _refuse_with_selector(job, source)
    _refuse(spec, source)
    found = RayJobManifest(
        name=job["metadata"].get("name") or "",
        namespace=job["metadata"].get("namespace"),
        cluster=None if selects else cluster_within(job, _CLUSTER_SPEC, others, source, unnamed=_UNNAMED),
        selector=_selector(job, others) if selects else None,
        own={key: value for key, value in spec.items() if key not in _OF_THE_JOB},
        entrypoint=str(spec.get("entrypoint") or ""),
        runtime_env=_yaml(spec.get("runtimeEnvYAML"), source),
        metadata=_metadata(spec.get("metadata"), source),
        num_cpus=spec.get("entrypointNumCpus"),
        num_gpus=spec.get("entrypointNumGpus"),
        resources=_resources(spec.get("entrypointResources"), source),
        source=source,
    )
    if not found.is_submitted_by_kuberay:
        return found
    if spec["submissionMode"] in _BY_SHELL:
        _refuse_for_a_shell(spec, source)
    kept = {key: spec[key] for key in _OF_THE_JOB[:6] if spec.get(key) not in (None, "")}
    if spec["submissionMode"] in _BY_SHELL and found.entrypoint:
        kept["entrypoint"] = _for_a_shell(found.entrypoint)
    return replace(found, own={**found.own, **kept})


def _for_a_shell(entrypoint: str) -> str:
    """Give a command so that the submitter's shell passes it on whole: else only the first of several ran on Ray."""
    is_plain = shlex.join(entrypoint.split()) == entrypoint.strip()
    return entrypoint if is_plain else f"sh -c {shlex.quote(entrypoint.strip())}"


def _refuse_for_a_shell(spec: Mapping[str, Any], source: str) -> None:
    """Refuse what the submitter's shell would fill in or run: KubeRay puts these between double quotes, no more."""
    for key in ("runtimeEnvYAML", "metadata", "entrypointResources"):
        text = json.dumps(spec[key]) if isinstance(spec.get(key), Mapping) else str(spec.get(key) or "")
        if found := next((sign for sign in ("$", "`") if sign in text), None):
            raise ConfigurationError(
                f"`{source}`: spec.{key} holds a {found}, and KubeRay pastes it into the submitter's shell "
                f"(submissionMode: {spec['submissionMode']}), which would fill it in, or run it.",
                hint="Leave submissionMode out: then the task submits the job, and all of it reaches Ray as it is. So "
                "it does with HTTPMode.",
                field=key,
            )


def _refuse(spec: Mapping[str, Any], source: str) -> None:
    """Refuse what can't be carried through, by its name."""
    if not isinstance(spec.get("rayClusterSpec"), Mapping) and not spec.get("clusterSelector"):
        raise ConfigurationError(f"`{source}`: the RayJob has no spec.rayClusterSpec.", field="rayClusterSpec")
    if ((spec.get("rayClusterSpec") or {}).get("authOptions") or {}).get("enableK8sTokenAuth"):
        raise no_token_by_kubernetes()
    mode = spec.get("submissionMode")
    if mode not in (None, "", INTERACTIVE, *SUBMITTED_BY_KUBERAY):
        raise ConfigurationError(
            f"`{source}`: spec.submissionMode is {mode!r}, which KubeRay takes and does nothing with.",
            hint=f"It is one of {', '.join((INTERACTIVE, *SUBMITTED_BY_KUBERAY))}; unless it is given, the job is "
            "submitted by this task (InteractiveMode).",
            field="submissionMode",
        )
    by_own_submitter = mode == "K8sJobMode" and spec.get("submitterPodTemplate")
    if mode in SUBMITTED_BY_KUBERAY and not str(spec.get("entrypoint") or "").strip() and not by_own_submitter:
        raise ConfigurationError(
            f"`{source}` has KubeRay submit the job (spec.submissionMode: {mode}) and says no spec.entrypoint: KubeRay "
            "takes that, and nothing ever ends.",
            hint="Say spec.entrypoint, or leave submissionMode out and give the task an entrypoint.",
            field="entrypoint",
        )
    if spec.get("suspend"):
        raise ConfigurationError(
            f"`{source}` says spec.suspend: true: the task would wait for somebody to resume it.",
            hint="Leave it out. A queue (`queue`) suspends and resumes by itself.",
            field="suspend",
        )
    if spec.get("deletionStrategy") or spec.get("deletionPolicy"):
        raise ConfigurationError(
            f"`{source}` says when KubeRay deletes what of the job (spec.deletionStrategy).",
            hint="Leave it out: the task deletes the RayJob when it has read log and result; keep_on_failure=True "
            "leaves one that failed.",
            field="deletionStrategy",
        )
    for key in _NUMBERS:
        value = spec.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigurationError(f"`{source}`: spec.{key} is {value!r}, and has to be a number.", field=key)
    if (spec.get("backoffLimit") or 0) > 0:
        raise ConfigurationError(
            f"`{source}` has KubeRay try again (spec.backoffLimit: {spec['backoffLimit']}): each try would be another "
            "job, and only the last one would be watched.",
            hint="Leave it out, and give the task retries.",
            field="backoffLimit",
        )


def _refuse_with_selector(job: Manifest, source: str) -> None:
    """Refuse what can't be said of a job on a cluster that is there already, by its name."""
    spec, selector = job["spec"], job["spec"]["clusterSelector"]
    if not isinstance(selector, Mapping) or set(selector) != {CLUSTER} or not isinstance(selector[CLUSTER], str):
        raise ConfigurationError(
            f"`{source}`: spec.clusterSelector is {selector!r}, by which KubeRay finds no cluster.",
            hint=f"It says which one by its name: clusterSelector: {{{CLUSTER}: NAME}}.",
            field="clusterSelector",
        )
    if spec.get("submissionMode") == "SidecarMode":
        raise ConfigurationError(
            f"`{source}`: SidecarMode does not go with spec.clusterSelector. The head's pod of the cluster "
            f"{selector[CLUSTER]!r} is there, and gets no further container.",
            hint="Leave submissionMode out: then the task submits the job; or take HTTPMode.",
            field="submissionMode",
        )
    whose = {
        "rayClusterSpec": "KubeRay would leave that out",
        "shutdownAfterJobFinishes": "KubeRay never deletes a cluster that was there before",
        "ttlSecondsAfterFinished": "KubeRay never deletes a cluster that was there before",
        "suspend": "KubeRay refuses that",
        "backoffLimit": "KubeRay refuses that: a second try would be another job. Give the task retries",
    }
    for key, why in whose.items():
        if spec.get(key):
            raise ConfigurationError(
                f"`{source}`: spec.{key} does not go with spec.clusterSelector. The job runs on the cluster "
                f"{selector[CLUSTER]!r}, which is there already: {why}.",
                hint="Leave one of the two out.",
                field=key,
            )
    if queue := queue_of(job):
        raise ConfigurationError(
            f"`{source}`: the queue {queue!r} does not go with spec.clusterSelector. Kueue would suspend the RayJob, "
            f"which KubeRay refuses of one that runs on a cluster that is there ({selector[CLUSTER]!r}).",
            hint="Put the cluster itself in the queue, by its own label.",
            field="clusterSelector",
        )


def _selector(job: Manifest, others: Iterable[Manifest]) -> Selector:
    metadata = job["metadata"]
    return Selector(
        cluster=job["spec"]["clusterSelector"][CLUSTER],
        labels=dict(metadata.get("labels") or {}),
        annotations=dict(metadata.get("annotations") or {}),
        others=tuple(others),
    )


def _metadata(given: Any, source: str) -> dict[str, str]:
    if not isinstance(given or {}, Mapping):
        raise ConfigurationError(f"`{source}`: spec.metadata is no mapping.", field="metadata")
    return {str(key): str(value) for key, value in (given or {}).items()}


def _yaml(text: Any, source: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found = yaml.safe_load(str(text))
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"`{source}`: spec.runtimeEnvYAML is no YAML: {' '.join(str(error).split())}.", field="runtimeEnvYAML"
        ) from None
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"`{source}`: spec.runtimeEnvYAML is no mapping.", field="runtimeEnvYAML")
    return dict(found)


def _resources(text: Any, source: str) -> dict[str, float]:
    if not text:
        return {}
    try:
        found = json.loads(str(text).strip().strip("'"))
        return {str(key): float(value) for key, value in found.items()}
    except (ValueError, AttributeError, TypeError):
        raise ConfigurationError(
            f"`{source}`: spec.entrypointResources is no JSON object of numbers: {str(text)[:200]!r}.",
            field="entrypointResources",
        ) from None
