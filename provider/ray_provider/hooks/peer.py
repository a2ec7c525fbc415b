"""The methods that astro-provider-ray's hook had, for DAGs that call them. Synchronous, on the asynchronous core."""

from __future__ import annotations

import asyncio
import concurrent.futures
import enum
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ray_provider.exceptions import ConfigurationError, JobLostError
from ray_provider.jobs.models import FINAL_STATUSES

if TYPE_CHECKING:
    from ray_provider.hooks.connection import RayConnectionConfig
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.endpoint import RayEndpoint
    from ray_provider.jobs.models import JobDetails

log = logging.getLogger(__name__)

T = TypeVar("T")


def run_sync(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, for the synchronous methods; also where a loop runs already.

    :param make: makes the coroutine, in the loop that runs it.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()


#: What to use instead of the methods for a device plugin.
_DAEMON_SETS = (
    "Use SetupRayCluster(gpu_device_plugin_yaml=...), which installs a missing device plugin, or KubernetesHook of"
    " apache-airflow-providers-cncf-kubernetes."
)


def _replaced(method: str, hint: str) -> ConfigurationError:
    return ConfigurationError(f"RayHook.{method} is not part of this provider.", hint=hint)


async def _known(client: RayJobsClient, job_id: str) -> JobDetails:
    details = await client.get(job_id)
    if details is None:
        raise JobLostError(
            f"Ray knows no job {job_id}.",
            hint="Its head may have been restarted since, or the id belongs to another cluster.",
            submission_id=job_id,
        )
    return details


class JobStatus(enum.StrEnum):
    """A job's status, as Ray's own class of this name has it, without importing Ray."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @classmethod
    def _missing_(cls, value: object) -> JobStatus:
        """Take a status of a newer Ray."""
        made = str.__new__(cls, value)
        made._name_ = made._value_ = str(value)
        return made

    def is_terminal(self) -> bool:
        """Whether no other status follows."""
        return self.value in FINAL_STATUSES


class GoneError(ConfigurationError, AttributeError):
    """A name of the predecessor's hook that is not here. An ``AttributeError`` too: ``hasattr`` says so."""


#: What the predecessor's hook had of the Kubernetes hook: what it was, so that it can be said what to use.
_KUBERNETES = re.compile(
    r"(api_client|core_v1_client|apps_v1_client|batch_v1_client|custom_object_client|get_conn|is_in_cluster"
    r"|conn_extras|check_kueue_\w+|is_job_\w+|(get|list|create|delete|apply|patch|wait)_\w+|test_connection_\w+)"
)
#: Its settings for Kubernetes, which were plain attributes.
_SETTINGS = re.compile(
    r"in_cluster|client_configuration|config_file|config_dict|disable_\w+|cluster_context|kubeconfig\w*"
)


class PeerMethods:
    """Methods of :class:`~ray_provider.hooks.RayHook` under the names and with the arguments of its predecessor."""

    if TYPE_CHECKING:

        @property
        def config(self) -> RayConnectionConfig:
            """The hook's."""

        async def endpoint(self, cluster: Any = None, dashboard_url: str | None = None) -> RayEndpoint:
            """Give the hook's.

            :param cluster: a cluster's handle.
            :param dashboard_url: of another Ray than the connection's.
            """

        async def client(self, dashboard_url: str | None = None) -> RayJobsClient:
            """Give the hook's.

            :param dashboard_url: of another Ray than the connection's.
            """

    DEFAULT_NAMESPACE = "default"
    #: The predecessor never read it.
    create_cluster_if_needed = False
    #: Ray's client is made by :meth:`ray_client`, each time anew.
    ray_client_instance = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say what replaces a name that came from the Kubernetes hook.

            :param name: of what is missing.
            :raises GoneError: the Kubernetes hook had it, and this provider does not.
            :raises AttributeError: nobody had it.
            """
            if _KUBERNETES.fullmatch(name):
                raise GoneError(
                    f"RayHook.{name} is not part of this provider: it is no Kubernetes hook any more.",
                    hint=f"Use KubernetesHook(conn_id=...).{name} of apache-airflow-providers-cncf-kubernetes. "
                    "Clusters are made and deleted by SetupRayCluster and DeleteRayCluster.",
                )
            if _SETTINGS.fullmatch(name):
                raise GoneError(
                    f"RayHook.{name} is not part of this provider: it is no Kubernetes hook any more.",
                    hint="The connection's own fields say it: RayHook.get_connection(conn_id).extra_dejson.",
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies that are sent to the dashboard."""
        return dict(self.config.cookies)

    @property
    def metadata(self) -> dict[str, str]:
        """What is added to the metadata of each job."""
        return dict(self.config.metadata)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that are sent to the dashboard."""
        return dict(self.config.headers)

    @property
    def verify(self) -> bool | str:
        """Whether TLS is verified, or the file of the certificates for that."""
        return self.config.tls.ca_file or self.config.tls.verify

    def get_conn(self) -> Any:
        """Say what replaces it: it was the client of Kubernetes.

        :raises ConfigurationError: always; it says what replaces it.
        """
        raise _replaced("get_conn", "Use KubernetesHook(conn_id=...).get_conn, or ray_client() for Ray's own client.")

    def get_namespace(self) -> str:
        """Give the Kubernetes namespace."""
        return self.namespace

    @property
    def address(self) -> str | None:
        """The dashboard's URL, if the connection or the environment has one."""
        return self.config.address

    @property
    def namespace(self) -> str:
        """The Kubernetes namespace."""
        return self.config.namespace or "default"

    def ray_client(self, dashboard_url: str | None = None) -> Any:
        """Make a ``JobSubmissionClient``, Ray's own client. It has no time-outs: the provider itself doesn't use it.

        :param dashboard_url: instead of the connection's address.
        """
        from ray.job_submission import JobSubmissionClient

        endpoint = run_sync(lambda: self.endpoint(dashboard_url=dashboard_url))
        headers = dict(endpoint.headers)
        if endpoint.token:
            headers["X-Ray-Authorization"] = f"Bearer {endpoint.token}"
            headers.setdefault("Authorization", f"Bearer {endpoint.token}")
        return JobSubmissionClient(
            address=endpoint.url,
            cookies=dict(endpoint.cookies) or None,
            metadata=dict(self.config.metadata) or None,
            headers=headers or None,
            verify=endpoint.tls.ca_file or endpoint.tls.verify,
        )

    def submit_ray_job(
        self, dashboard_url: str | None, entrypoint: str, runtime_env: dict[str, Any] | None = None, **job_config: Any
    ) -> str:
        """Submit a job.

        :param dashboard_url: instead of the connection's address.
        :param entrypoint: the command to run.
        :param runtime_env: Ray's runtime environment; local folders are uploaded.
        :param job_config: ``entrypoint_num_cpus``, ``entrypoint_num_gpus``, ``entrypoint_memory``,
            ``entrypoint_resources``, ``entrypoint_label_selector``, ``metadata``, ``submission_id``.
        :return: the submission id.
        :raises ConfigurationError: an argument is not known, or can't work.
        :raises RayProviderError: Ray did not take the job.
        """
        from ray_provider.jobs.models import JobSpec

        options = {key.removeprefix("entrypoint_"): value for key, value in job_config.items()}
        if job_id := options.pop("job_id", None):  # Ray's own client takes the old name too
            options.setdefault("submission_id", job_id)
        known = {"num_cpus", "num_gpus", "memory", "resources", "label_selector", "metadata", "submission_id"}
        if unknown := sorted(set(options) - known):
            raise ConfigurationError(f"submit_ray_job does not know {', '.join(unknown)}.")
        options["metadata"] = {**self.config.metadata, **(options.get("metadata") or {})}
        spec = JobSpec(entrypoint=entrypoint, runtime_env=runtime_env or {}, **options)
        spec.validate()

        async def submit() -> str:
            from ray_provider.jobs.submit.once import submit_once
            from ray_provider.jobs.submit.packaging import needs_packaging, package_runtime_env

            async with await self.client(dashboard_url) as client:
                ready = spec
                if needs_packaging(spec.runtime_env):
                    ready = replace(spec, runtime_env=await package_runtime_env(client, spec.runtime_env))
                if not ready.submission_id:
                    import uuid

                    ready = replace(ready, submission_id=f"raysubmit_{uuid.uuid4().hex[:16]}")
                result = await submit_once(client, ready)
                return str(result.submission_id)

        job_id = run_sync(submit)
        log.info("Submitted Ray job %s", job_id)
        return job_id

    def get_ray_job_status(self, dashboard_url: str | None, job_id: str) -> JobStatus:
        """Give a job's status: equal to Ray's own ``JobStatus``, and to its text, such as ``RUNNING``.

        :param dashboard_url: of another Ray than the connection's; ``None`` for that one.
        :param job_id: the submission id.
        """

        async def get() -> JobStatus:
            async with await self.client(dashboard_url) as client:
                return JobStatus((await _known(client, job_id)).status)

        return run_sync(get)

    def get_ray_job_logs(self, dashboard_url: str | None, job_id: str) -> str:
        """Give a job's whole log. A long one: better follow it with :meth:`get_ray_tail_logs`.

        :param dashboard_url: of another Ray than the connection's; ``None`` for that one.
        :param job_id: the submission id.
        """

        async def get() -> str:
            return "\n".join([text async for text in self.get_ray_tail_logs(dashboard_url, job_id)])

        return run_sync(get)

    async def get_ray_tail_logs(self, dashboard_url: str | None, job_id: str) -> AsyncIterator[str]:
        """Follow a job's log until the job has ended: some lines at a time, each once.

        :param dashboard_url: of another Ray than the connection's; ``None`` for that one.
        :param job_id: the submission id.
        """
        from ray_provider.jobs.watch.watcher import JobWatcher, WatchOptions

        texts: asyncio.Queue[str | None] = asyncio.Queue(maxsize=100)
        async with await self.client(dashboard_url) as client:
            watcher = JobWatcher(client, job_id, WatchOptions(), on_log=lambda batch: texts.put(batch.text))

            async def watch() -> None:
                try:
                    await watcher.watch()
                finally:
                    await texts.put(None)

            task = asyncio.create_task(watch())
            try:
                while (text := await texts.get()) is not None:
                    yield text
                await task
            finally:
                task.cancel()

    def delete_ray_job(self, dashboard_url: str | None, job_id: str) -> bool:
        """Stop a job and wait until Ray says so: its own delete refuses a running job.

        :param dashboard_url: of another Ray than the connection's; ``None`` for that one.
        :param job_id: the submission id.
        :return: whether it was still running.
        """

        async def stop() -> bool:
            async with await self.client(dashboard_url) as client:
                if (await _known(client, job_id)).is_final:
                    return False
                await client.stop_and_wait(job_id)
                return True

        return run_sync(stop)

    def load_yaml_content(self, path_or_link: str) -> Any:
        """Read YAML from a file or an ``http(s)`` URL, with the safe loader.

        :param path_or_link: the file's path, or the URL.
        :raises ConfigurationError: there is none, or it is no YAML.
        """
        from ray_provider.clusters.helm.fetch import display_url, fetch_text
        from ray_provider.clusters.helm.values import load_yaml

        shown = display_url(path_or_link) if "://" in path_or_link else path_or_link
        try:
            text = fetch_text(path_or_link) if path_or_link.startswith("http") else Path(path_or_link).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{shown} can't be read: {error}.", hint="The path has to exist on the worker that runs the task."
            ) from error
        return load_yaml(text, shown)

    def setup_ray_cluster(self, *_: Any, **__: Any) -> None:
        """Say what replaces it: a cluster has to be handed on, with its address and where its token lies.

        :raises ConfigurationError: always; it says what replaces it.
        """
        raise _replaced(
            "setup_ray_cluster",
            "Use the operator SetupRayCluster(conn_id=..., ray_cluster_yaml=...), which returns a cluster handle.",
        )

    def delete_ray_cluster(self, *_: Any, **__: Any) -> None:
        """Say what replaces it.

        :raises ConfigurationError: always; it says what replaces it.
        """
        raise _replaced("delete_ray_cluster", "Use the operator DeleteRayCluster(conn_id=..., cluster=setup.output).")

    def install_kuberay_operator(self, *_: Any, **__: Any) -> None:
        """Say what replaces it: the operator is shared by all clusters.

        :raises ConfigurationError: always; it says what replaces it.
        """
        raise _replaced(
            "install_kuberay_operator", 'Use SetupRayCluster(kuberay_operator="install"), which never downgrades it.'
        )

    def uninstall_kuberay_operator(self, *_: Any, **__: Any) -> None:
        """Say what replaces it: taking the shared operator away breaks the clusters of others.

        :raises ConfigurationError: always; it says what replaces it.
        """
        raise _replaced(
            "uninstall_kuberay_operator",
            "Nothing removes the shared operator with a cluster. By hand: helm uninstall kuberay-operator.",
        )

    def get_daemon_set(self, *_: Any, **__: Any) -> None:
        """Say what replaces it.

        :raises ConfigurationError: always; it says what replaces it.
        """
        raise _replaced("get_daemon_set", _DAEMON_SETS)

    def create_daemon_set(self, *_: Any, **__: Any) -> None:
        """Say what replaces it.

        :raises ConfigurationError: always; it says what replaces it.
        """
        raise _replaced("create_daemon_set", _DAEMON_SETS)

    def delete_daemon_set(self, *_: Any, **__: Any) -> None:
        """Say what replaces it.

        :raises ConfigurationError: always; it says what replaces it.
        """
        raise _replaced("delete_daemon_set", _DAEMON_SETS)
