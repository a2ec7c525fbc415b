"""What a person says of the cluster that KubeRay makes for one job, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

from ray_provider.clusters.naming import check_length, unique_name
from ray_provider.exceptions import ConfigurationError
from ray_provider.operators._cluster.common import cluster_spec, folders_of, owner_of, where_is
from ray_provider.operators._job.arguments import number

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ray_provider.clusters.handle import Access
    from ray_provider.clusters.kuberay.rayjob import Selector
    from ray_provider.clusters.kuberay.rayjob_manifest import RayJobManifest
    from ray_provider.clusters.lifecycle.rayjob import RayJobSpec
    from ray_provider.clusters.lifecycle.rayjob_start import StartOptions
    from ray_provider.operators._rayjob.operator import RayJobOperator

#: What the last leash (``activeDeadlineSeconds``) leaves beyond start and job (seconds): upload, stop, the log's rest.
_LEASH_MARGIN = 600
#: KubeRay's own job mark: less, and a job shorter than its workers' start ends without a log (seconds).
_LEAST_TTL = 60
#: Arguments that say what a cluster is, or whether there may be one yet.
_OF_A_NEW_CLUSTER = (
    "values",
    "profile",
    "infrastructure_values",
    "chart",
    "chart_repo",
    "chart_version",
    "create_namespace",
    "kuberay_operator",
    "gpu_device_plugin_yaml",
    "local_queue",
    "priority_class",
)


@dataclass(frozen=True, slots=True)
class RayJobArguments:
    """The arguments of ``RunRayJob`` for the cluster; see there. Also what ``@task.ray(ray_job=...)`` takes."""

    ray_job_yaml: Any = None
    ray_cluster_yaml: Any = None
    name: str | None = None
    namespace: str | None = None
    values: Any = None
    profile: Any = None
    infrastructure: Any = None
    infrastructure_values: Any = None
    chart: str = "ray-cluster"
    chart_repo: str | None = None
    chart_version: str | None = None
    strict: bool = False
    create_namespace: bool | str = False
    kuberay_operator: str = "require"
    kuberay_version: str | None = None
    operator_chart: str | None = None
    operator_chart_repo: str | None = None
    operator_values: Any = None
    operator_namespace: str | None = None
    gpu_device_plugin_yaml: Any = ""
    helm_path: str | None = None
    access: str | None = None
    local_queue: str | None = None
    priority_class: str | None = None
    queue_timeout_seconds: Any = None
    start_timeout_seconds: Any = 900
    scheduling_timeout_seconds: Any = 300
    ttl_seconds: Any = 300

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Give the arguments' names."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def of(cls, operator: Any) -> RayJobArguments:
        """Read them from the attributes of an operator.

        :param operator: whose templates are rendered.
        """
        return cls(**{name: getattr(operator, name) for name in cls.names()})

    @classmethod
    def from_given(cls, given: Any) -> RayJobArguments | None:
        """Read what ``ray_job`` of ``@task.ray`` is: nothing, true, or a mapping of arguments.

        :param given: what the DAG says.
        :return: ``None``: the function gets no RayJob.
        :raises ConfigurationError: it is something else, or holds an argument that there is not.
        """
        if not given:
            return None
        if given is True:
            return cls()
        if not isinstance(given, Mapping):
            raise ConfigurationError(
                f"ray_job is a {type(given).__name__}.",
                hint='Give True, or a dictionary of RunRayJob\'s arguments for the cluster: {"profile": "cpu"}.',
                field="ray_job",
            )
        unknown = sorted(set(given) - set(cls.names()))
        if unknown:
            raise ConfigurationError(
                f"ray_job holds {', '.join(map(repr, unknown))}, which RunRayJob has no argument for.",
                hint=f"It takes {', '.join(cls.names())}.",
                field="ray_job",
            )
        return cls(**given)

    @property
    def where(self) -> dict[str, str] | None:
        """Which Kubernetes it is about; ``None``: the connection's."""
        return where_is(self.infrastructure)

    def start_options(self) -> StartOptions:
        """Give how long the parts of a start may take.

        :raises ConfigurationError: an argument that can't work; the message names it.
        """
        from ray_provider.clusters.lifecycle.rayjob_start import StartOptions

        queue = number("queue_timeout_seconds", self.queue_timeout_seconds)
        return StartOptions(
            queue_seconds=queue or None,
            start_seconds=number("start_timeout_seconds", self.start_timeout_seconds, above=True) or 900.0,
            scheduling_seconds=number("scheduling_timeout_seconds", self.scheduling_timeout_seconds, above=True)
            or 300.0,
        )

    def base_name(self, owner: Mapping[str, Any], manifest: RayJobManifest | None) -> str:
        """Give the RayJob's name; later attempts have a number behind.

        :param owner: the task instance: of it a name is made where nobody chose one.
        :param manifest: the ready RayJob; ``None``: there is none.
        """
        return self.name or (manifest.name if manifest else None) or unique_name(owner)

    def manifest(self, operator: RayJobOperator, context: Context) -> RayJobManifest | None:
        """Read the ready RayJob, if there is one.

        :param operator: renders the templates in it.
        :param context: of the task.
        :raises ConfigurationError: it can't be used; the message says why.
        """
        if not self.ray_job_yaml:
            return None
        if self.ray_cluster_yaml:
            raise ConfigurationError(
                "Both ray_job_yaml and ray_cluster_yaml are given.", hint="Keep one of the two.", field="ray_job_yaml"
            )
        from ray_provider.clusters.helm.fetch import fetch_text
        from ray_provider.clusters.kuberay.rayjob_manifest import read_ray_job

        return read_ray_job(
            self.ray_job_yaml,
            folders=folders_of(context),
            render=lambda text: str(operator.render_template(text, context)),
            fetch=fetch_text,
        )

    def spec(self, operator: RayJobOperator, context: Context, attempt: int, max_tries: int | None) -> RayJobSpec:
        """Make the RayJob of a logical attempt: read and checked before anything is made.

        :param operator: knows the connection, and renders templates.
        :param context: of the task.
        :param attempt: its number, from 1.
        :param max_tries: Airflow's; ``None``: not known.
        :raises ConfigurationError: an argument that can't work; the message names it.
        """
        from ray_provider.clusters.kuberay.rayjob import RayJobOptions, numbered
        from ray_provider.clusters.lifecycle.rayjob import RayJobSpec

        owner = owner_of(context)
        manifest = self.manifest(operator, context)
        selector = manifest.selector if manifest else None
        if selector is not None:
            self._refuse_with(selector)
        cluster = cluster_spec(
            self,
            context,
            manifest=manifest.cluster if manifest else (self.ray_cluster_yaml or None),
            namespace=self.namespace or (manifest.namespace if manifest else None),
            access=cast("Access", self.access or operator.hook.config.access),
            render=lambda text: str(operator.render_template(text, context)),
        )
        base = self.base_name(owner, manifest)
        check_length(base, "RayJob")
        name = base if attempt == 1 else numbered(base, attempt)
        is_named = bool(self.name or (manifest and manifest.name))
        ttl = number("ttl_seconds", self.ttl_seconds, least=_LEAST_TTL)
        return RayJobSpec(
            cluster=replace(cluster.renamed(name), is_named=is_named),
            options=RayJobOptions(
                job_id=operator.id_of_attempt(context, attempt),
                attempt=attempt,
                max_tries=max_tries,
                ttl_seconds=int(300 if ttl is None else ttl),
                active_deadline_seconds=self._leash(operator),
                queue=self.local_queue or None,
                priority_class=self.priority_class or None,
                own=manifest.own if manifest else {},
                selector=selector,
            ),
        )

    def _refuse_with(self, selector: Selector) -> None:
        """Refuse what would say something of a cluster that is there already: it would have no effect."""
        defaults = {field.name: field.default for field in fields(self)}
        for name in _OF_A_NEW_CLUSTER:
            if getattr(self, name) not in (defaults[name], None, "", False):
                raise ConfigurationError(
                    f"{name} has no effect on the Ray cluster {selector.cluster!r}. The RayJob runs on it "
                    "(spec.clusterSelector), and it is there already.",
                    hint="Leave it out; or leave clusterSelector out of the manifest, and give it a rayClusterSpec.",
                    field=name,
                )

    def _leash(self, operator: RayJobOperator) -> int | None:
        """Give the seconds after which KubeRay ends all of it, if nobody else does; ``None``: the job has no limit."""
        timeout = number("job_timeout_seconds", operator.job_timeout_seconds)
        return int(timeout + self.start_options().start_seconds + _LEASH_MARGIN) if timeout else None
