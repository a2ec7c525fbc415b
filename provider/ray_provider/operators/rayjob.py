"""Run a job in a cluster that KubeRay makes for it alone, by a RayJob."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ray_provider.exceptions import ConfigurationError
from ray_provider.operators._rayjob.arguments import RayJobArguments
from ray_provider.operators.job import SubmitRayJob

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.kuberay.rayjob_manifest import RayJobManifest

#: Arguments of ``SubmitRayJob`` that name another cluster.
_NOT_HERE = {
    "cluster": "RunRayJob makes its cluster. SubmitRayJob runs a job on one that is there.",
    "xcom_task_key": "RunRayJob makes its cluster. SubmitRayJob runs a job on one that is there.",
    "update_if_exists": "the cluster of a RayJob is never changed.",
}


class RunRayJob(SubmitRayJob):
    """Runs a job in a cluster of its own that KubeRay makes and takes away (a RayJob). Returns the submission id.

    The RayJob is in ``InteractiveMode`` with the job's id: KubeRay looks after the cluster, and the task uploads local
    code, submits the job exactly once, follows log and status, and deletes the RayJob when it is done. What
    ``SubmitRayJob`` guarantees holds: a retry after a worker died takes the job over, whoever kills the task ends the
    job and its cluster, a lost head is noticed, ``STOPPED`` is no success. On the local backend the job runs on a Ray
    of its own on this machine.

    The job's arguments are those of ``SubmitRayJob``, the cluster's are those of ``SetupRayCluster``, which says more:

    :param entrypoint: the command; unless given, the manifest's.
    :param ray_job_yaml: manifest of a RayJob: a path, a URL, YAML text or a dict. Its job counts where the task's
        arguments say nothing, its cluster is made as secure as one of ``ray_cluster_yaml``. Where it says
        ``submissionMode: HTTPMode``, ``SidecarMode`` or ``K8sJobMode`` (KubeRay ≥ 1.5 for the second), KubeRay submits
        the job, and repeats that where an answer is lost; the task follows it all the same.
    :param ray_cluster_yaml: manifest of a RayCluster, for the RayJob's.
    :param name: of the RayJob (47 characters at most); else the manifest's, else one that is unique for the run. Later
        attempts of the task have a number behind.
    :param namespace: Kubernetes namespace; else the manifest's, the connection's, the kubeconfig's.
    :param values: for the chart: a dict, YAML text, the path of a file, or a list of those (later ones win).
    :param profile: one of the provider's profiles or a list of them, below ``values``.
    :param infrastructure: the handle that ``SetupRayInfrastructure`` returned: the cluster is made on that Kubernetes.
    :param infrastructure_values: values above the profile and below ``values``; unless given, those of
        ``infrastructure``.
    :param chart: ``ray-cluster`` (comes with the provider), a path, an ``oci://`` URL, or a name in ``chart_repo``.
    :param chart_repo: URL of a chart repository.
    :param chart_version: version of the chart; with ``@sha256:`` and the hash of its archive behind, it has to be that
        one.
    :param strict: refuse values that the chart does not know.
    :param create_namespace: make the namespace if it is missing; a text is its Pod Security Standard. It stays.
    :param kuberay_operator: ``require`` (an error if it is missing), ``install`` it then, or ``upgrade`` it also if it
        is older.
    :param kuberay_version: version of the operator's chart, if ``kuberay_operator`` has it installed.
    :param operator_chart: path or ``oci://`` URL of the operator's chart, or its name in ``operator_chart_repo``.
    :param operator_chart_repo: URL of its repository; KubeRay's unless given.
    :param operator_values: for it.
    :param operator_namespace: where it goes: ``kuberay-system`` unless given.
    :param gpu_device_plugin_yaml: path or URL of a device plugin's manifest, installed if it is missing. It stays.
    :param helm_path: Helm's executable; else the variable ``RAY_PROVIDER_HELM``, else ``helm`` on ``PATH``.
    :param access: how the dashboard is reached (``proxy``, ``service``, ``ingress``, ``url``), if not as the connection
        says.
    :param local_queue: name of a Kueue LocalQueue (``queue`` is Airflow's own, for its workers). The RayJob is
        suspended until Kueue admits it; the task says what Kueue says meanwhile. After a preemption it waits again, and
        submits the job again under its id.
    :param priority_class: name of a Kueue WorkloadPriorityClass.
    :param queue_timeout_seconds: how long it may wait in the queue; ``None``: for ever.
    :param start_timeout_seconds: how long it may take from then until the dashboard answers.
    :param scheduling_timeout_seconds: how long a pod may wait for a node, e.g. for one that is made on demand.
    :param ttl_seconds: how long (60 at least) KubeRay keeps the cluster after the job's end, for a retry that reads log
        and result. Usually the task deletes it before.
    :param keep_on_failure: leave the RayJob of a job that failed; its cluster goes after ``ttl_seconds``.
    :param kwargs: arguments of ``SubmitRayJob`` but for the ones about its cluster, and of any operator.
    :raises ConfigurationError: an argument of ``SubmitRayJob`` is given that is not for this one.
    """

    template_fields: Sequence[str] = (
        *(name for name in SubmitRayJob.template_fields if name not in _NOT_HERE),
        "ray_job_yaml",
        "name",
        "namespace",
        "values",
        "profile",
        "infrastructure",
        "infrastructure_values",
        "chart",
        "chart_repo",
        "chart_version",
        "kuberay_operator",
        "operator_chart",
        "operator_chart_repo",
        "operator_values",
        "operator_namespace",
        "access",
        "local_queue",
        "priority_class",
        "queue_timeout_seconds",
        "start_timeout_seconds",
        "scheduling_timeout_seconds",
        "ttl_seconds",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **{name: kind for name, kind in SubmitRayJob.template_fields_renderers.items() if name not in _NOT_HERE},
        "values": "yaml",
        "ray_job_yaml": "yaml",
        "ray_cluster_yaml": "yaml",
    }
    makes_cluster = True

    def __init__(
        self,
        *,
        entrypoint: str | list[str] | None = None,
        ray_job_yaml: str | dict[str, Any] | None = None,
        ray_cluster_yaml: str | dict[str, Any] | None = None,
        name: str | None = None,
        namespace: str | None = None,
        values: Any = None,
        profile: str | list[str] | None = None,
        infrastructure: Any = None,
        infrastructure_values: Any = None,
        chart: str = "ray-cluster",
        chart_repo: str | None = None,
        chart_version: str | None = None,
        strict: bool = False,
        create_namespace: bool | str = False,
        kuberay_operator: str = "require",
        kuberay_version: str | None = None,
        operator_chart: str | None = None,
        operator_chart_repo: str | None = None,
        operator_values: Any = None,
        operator_namespace: str | None = None,
        gpu_device_plugin_yaml: str | dict[str, Any] = "",
        helm_path: str | None = None,
        access: str | None = None,
        local_queue: str | None = None,
        priority_class: str | None = None,
        queue_timeout_seconds: float | str | None = None,
        start_timeout_seconds: float | str = 900,
        scheduling_timeout_seconds: float | str = 300,
        ttl_seconds: float | str = 300,
        keep_on_failure: bool = False,
        **kwargs: Any,
    ) -> None:
        for known in sorted(_NOT_HERE.keys() & kwargs.keys()):
            raise ConfigurationError(f"RunRayJob has no {known}: {_NOT_HERE[known]}", field=known)
        super().__init__(entrypoint=entrypoint or "", **kwargs)
        self.ray_job_yaml = ray_job_yaml
        self.ray_cluster_yaml = ray_cluster_yaml  # type: ignore[assignment]
        self.name = name
        self.namespace = namespace
        self.values = values
        self.profile = profile
        self.infrastructure = infrastructure
        self.infrastructure_values = infrastructure_values
        self.chart = chart
        self.chart_repo = chart_repo
        self.chart_version = chart_version
        self.strict = strict
        self.create_namespace = create_namespace
        self.kuberay_operator = kuberay_operator
        self.kuberay_version = kuberay_version or ""
        self.operator_chart = operator_chart
        self.operator_chart_repo = operator_chart_repo
        self.operator_values = operator_values
        self.operator_namespace = operator_namespace
        self.gpu_device_plugin_yaml = gpu_device_plugin_yaml  # type: ignore[assignment]
        self.helm_path = helm_path
        self.access = access
        self.local_queue = local_queue
        self.priority_class = priority_class
        self.queue_timeout_seconds = queue_timeout_seconds
        self.start_timeout_seconds = start_timeout_seconds
        self.scheduling_timeout_seconds = scheduling_timeout_seconds
        self.ttl_seconds = ttl_seconds
        self.keep_on_failure = keep_on_failure

    @property
    def has_ray_job(self) -> bool:
        """Whether the DAG has KubeRay make a cluster for the job: always."""
        return True

    def prepare(self, context: Context) -> None:
        """Take from a ready manifest what the task's arguments do not say of the job.

        :param context: of the task.
        :raises ConfigurationError: nothing says what to run, or task and manifest both say it.
        """
        manifest = RayJobArguments.of(self).manifest(self, context)
        if manifest is None:
            if not self.entrypoint:
                raise ConfigurationError(
                    "No entrypoint is given, nor a manifest that has one.",
                    hint='Give entrypoint="python job.py", or ray_job_yaml.',
                    field="entrypoint",
                )
            return
        if manifest.is_submitted_by_kuberay:
            self._check_said_once(manifest)
        self.entrypoint = self.entrypoint or manifest.entrypoint
        self.runtime_env = self.runtime_env or dict(manifest.runtime_env)
        self.metadata = self.metadata or dict(manifest.metadata)
        self.num_cpus = self.num_cpus or manifest.num_cpus
        self.num_gpus = self.num_gpus or manifest.num_gpus
        self.ray_resources = self.ray_resources or dict(manifest.resources)
        if not self.entrypoint and not manifest.is_submitted_by_kuberay:
            raise ConfigurationError(
                f"No entrypoint is given, and `{manifest.source}` has none in spec.entrypoint.",
                hint='Give entrypoint="python job.py": the task submits the job (InteractiveMode).',
                field="entrypoint",
            )
        if manifest.is_submitted_by_kuberay:
            # A submitter of one's own may have the command in its arguments: nobody submits this one.
            self.entrypoint = self.entrypoint or "(as the submitter has it)"
            self.log.warning(
                "%s says submissionMode: %s. KubeRay submits the job, and submits it again where it believes that the "
                "first time was lost: it may run twice. Without submissionMode the task submits it, once.",
                manifest.source,
                manifest.own["submissionMode"],
            )

    def _check_said_once(self, manifest: RayJobManifest) -> None:
        """Refuse what the task says otherwise than a manifest whose job KubeRay submits: it would have no effect.

        :raises ConfigurationError: it names the argument.
        """
        told = {
            "entrypoint": manifest.entrypoint,
            "runtime_env": dict(manifest.runtime_env),
            "metadata": dict(manifest.metadata),
            "num_cpus": manifest.num_cpus,
            "num_gpus": manifest.num_gpus,
            "resources": dict(manifest.resources),
            "memory": None,
            "label_selector": None,
        }
        for name, value in told.items():
            given = self.ray_resources if name == "resources" else getattr(self, name)
            if given and given != value:
                raise ConfigurationError(
                    f"{name} is given, and KubeRay submits the job as `{manifest.source}` says it "
                    f"(submissionMode: {manifest.own['submissionMode']}).",
                    hint="Say it in the manifest; or leave submissionMode out there: then the task submits the job.",
                    field=name,
                )

    def ray_job_arguments(self, context: Context) -> RayJobArguments | None:  # noqa: ARG002
        """Say what the cluster is to be.

        :param context: of the task.
        """
        return RayJobArguments.of(self)
