"""The hook of connection type ``ray``: where Ray is, where Kubernetes is, and with which credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_provider import _compat
from ray_provider._compat import BaseHook
from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import (
    ConfigurationError,
    RayApiError,
    RayAuthenticationError,
    RayConnectionError,
    RayProviderError,
)
from ray_provider.hooks.address import check_address
from ray_provider.hooks.allowed import Allowed
from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.hooks.connection import RayConnectionConfig
from ray_provider.hooks.peer import PeerMethods, run_sync
from ray_provider.hooks.plain_http import warn_of_plain_http
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.provider_info import CONNECTION_FIELDS, HIDDEN_FIELDS, PLACEHOLDERS

if TYPE_CHECKING:
    from ray_provider._shared.retry import RetryPolicy
    from ray_provider.clusters.kubernetes.access import KubernetesAccess
    from ray_provider.jobs.client import RayJobsClient
    from ray_provider.jobs.watch.outcome import Interruption
    from ray_provider.jobs.watch.waiting import Ask, Prospects

#: How long a Kubernetes that stayed away is left alone before it is asked again what became of a cluster (seconds).
_INTERRUPTION_PAUSE = 30.0


class RayHook(PeerMethods, BaseHook):
    """Reads a connection of type ``ray`` and makes of it what the rest needs.

    The asynchronous methods are the ones the operators and triggers use. The synchronous ones have the names and
    arguments that astro-provider-ray gave them, for DAGs that call them.

    :param conn_id: of the connection.
    :param allowed: what handles may name beside what the connection does.
    :param kwargs: of Airflow's ``BaseHook``.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "ray_default"
    conn_type = "ray"
    hook_name = "Ray"

    def __init__(self, conn_id: str = default_conn_name, *, allowed: Allowed | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self._allowed = allowed or Allowed()
        self._config: RayConnectionConfig | None = None

    # -- the form, for Airflow 2.11 to 3.1 (later ones read the provider's metadata) ----------------------------------

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Say which of the standard fields are hidden."""
        return {"hidden_fields": HIDDEN_FIELDS, "relabeling": {}, "placeholders": PLACEHOLDERS}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Make the widgets of the form."""
        return _compat.connection_widgets(CONNECTION_FIELDS)

    # -- configuration -------------------------------------------------------------------------------------------------

    @property
    def config(self) -> RayConnectionConfig:
        """What the connection says, checked. Not for event loops: there it is ``await hook.aconfig()``."""
        if self._config is None:
            self._config = self._read(self._connection())
        return self._config

    async def aconfig(self) -> RayConnectionConfig:
        """Give what the connection says, checked, without blocking the event loop."""
        if self._config is None:
            self._check_id()
            connection = await _compat.async_connection(self, self.conn_id)
            # In a thread too: reading the extra masks secrets, which blocks on the supervisor.
            self._config = await _compat.in_thread(self._read, connection)
        return self._config

    def _check_id(self) -> None:
        if not self.conn_id or not isinstance(self.conn_id, str):
            raise ConfigurationError(
                f"conn_id is {self.conn_id!r}: no connection is named.",
                hint=f"Name a connection of type ray, such as {self.default_conn_name}.",
                field="conn_id",
            )

    def _connection(self) -> Any:
        self._check_id()
        return self.get_connection(self.conn_id)

    def _read(self, connection: Any) -> RayConnectionConfig:
        extra = self._extra(connection, self.conn_id)
        config = RayConnectionConfig.from_connection(
            self.conn_id,
            extra=extra,
            host=connection.host,
            port=connection.port,
            schema=connection.schema,
            password=connection.password,
        )
        # Names such as "token" are masked by Airflow itself; it can't know these.
        secrets = [config.token or "", *config.headers.values(), *config.cookies.values()]
        _compat.mask_secrets(secret for secret in secrets if len(secret) >= 8)
        if not config.kubernetes_conn_id:
            return config
        return self._with_kubernetes(config)

    def _with_kubernetes(self, config: RayConnectionConfig) -> RayConnectionConfig:
        """Take the access to Kubernetes from a connection of type ``kubernetes``."""
        name = str(config.kubernetes_conn_id)
        fields = self._extra(self.get_connection(name), name)
        fields = {key.removeprefix("extra__kubernetes__"): value for key, value in fields.items()}
        names = ("kube_config_path", "kube_config", "cluster_context", "in_cluster", "disable_verify_ssl", "namespace")
        other = RayConnectionConfig.from_connection(
            name, extra={key: fields[key] for key in names if key in fields}, environ={}
        )
        return replace(
            config,
            kubeconfig_path=other.kubeconfig_path,
            kubeconfig=other.kubeconfig,
            cluster_context=config.cluster_context or other.cluster_context,
            in_cluster=other.in_cluster,
            disable_verify_ssl=other.disable_verify_ssl,
            namespace=config.namespace or other.namespace,
        )

    @staticmethod
    def _extra(connection: Any, conn_id: str) -> Mapping[str, Any]:
        import json

        try:
            extra = json.loads(connection.extra or "{}")
        except ValueError:
            extra = None
        if not isinstance(extra, Mapping):
            raise ConfigurationError(
                f"The extra field of connection {conn_id!r} is no JSON object.",
                hint="Write it as {...}.",
                field="extra",
            )
        # Read through Airflow once, for its masking of secrets.
        _ = connection.extra_dejson
        return extra

    # -- endpoints -----------------------------------------------------------------------------------------------------

    async def endpoint(
        self,
        cluster: ClusterHandle | Mapping[str, Any] | None = None,
        dashboard_url: str | None = None,
    ) -> RayEndpoint:
        """Give the dashboard that a task speaks with.

        :param cluster: what ``SetupRayCluster`` returned; it says which cluster it is, and the cluster where its
            token is.
        :param dashboard_url: a URL, if there is no handle; reached with the connection's token and headers.
        :raises ConfigurationError: neither is given and the connection has no address, or one of them can't work.
        """
        config = await self.aconfig()
        if cluster is not None:
            handle = cluster if isinstance(cluster, ClusterHandle) else ClusterHandle.from_dict(cluster)
            found = await self._cluster_endpoint(config, handle)
            warn_of_plain_http(config, found)
            return found
        if dashboard_url:
            url, basic = check_address(dashboard_url, "XCom")
        else:
            url, basic = check_address(config.require_address(), config.address_source)
        found = RayEndpoint(
            url=url, token=config.token, headers={**basic, **config.headers}, cookies=config.cookies, tls=config.tls
        )
        warn_of_plain_http(config, found)
        return found

    async def _cluster_endpoint(self, config: RayConnectionConfig, handle: ClusterHandle) -> RayEndpoint:
        if handle.backend == "local":
            self._allowed.check(config, handle)
            from ray_provider.clusters.local.cluster import local_endpoint

            return await asyncio.to_thread(local_endpoint, handle)
        from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint

        kube_access = await self.access_of(handle)
        return await kubernetes_endpoint(kube_access, handle, access=config.access)

    async def access_of(self, cluster: ClusterHandle) -> KubernetesAccess:
        """Give what is needed to reach the Kubernetes that a handle names, if it may.

        :param cluster: its handle.
        :raises ConfigurationError: neither the connection nor the DAG lead there.
        """
        self._allowed.check(await self.aconfig(), cluster)
        return await self.akubernetes_access(cluster.kubernetes)

    @asynccontextmanager
    async def using(self, cluster: ClusterHandle | Mapping[str, Any] | None) -> AsyncIterator[None]:
        """Count as a user of a cluster for as long as this lasts: other runs' deletes leave it until then.

        :param cluster: what ``SetupRayCluster`` returned; nothing is done for one that is not on Kubernetes.
        """
        handle = ClusterHandle.from_dict(cluster) if isinstance(cluster, Mapping) else cluster
        if handle is None or handle.backend != "kubernetes" or not handle.owner:
            yield
            return
        from ray_provider.clusters.lifecycle.renewal import keep_using

        kube_access = await self.access_of(handle)
        work = asyncio.create_task(keep_using(kube_access, handle))
        try:
            yield
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def asks(self, cluster: ClusterHandle | Mapping[str, Any] | None) -> Ask | None:
        """Give what knows how much a cluster can still get, for a job that waits; ``None``: nothing does.

        :param cluster: what ``SetupRayCluster`` returned.
        """
        handle = ClusterHandle.from_dict(cluster) if isinstance(cluster, Mapping) else cluster
        if handle is None or handle.backend != "kubernetes":
            return None

        async def ask(wants: Mapping[str, float]) -> Prospects:
            from ray_provider.clusters.kuberay.capacity import prospects

            return await prospects(await self.access_of(handle), handle, wants)

        return ask

    def interruptions(
        self, cluster: ClusterHandle | Mapping[str, Any] | None
    ) -> Callable[[], Awaitable[Interruption | None]] | None:
        """Give what waits until the cluster of a job is taken away under it; ``None``: nothing can do that.

        :param cluster: the handle of the cluster.
        """
        handle = ClusterHandle.from_dict(cluster) if isinstance(cluster, Mapping) else cluster
        if handle is None or handle.backend != "kubernetes":
            return None

        async def wait() -> Interruption | None:
            from ray_provider.clusters.lifecycle.rayjob_watch import until_interrupted
            from ray_provider.clusters.lifecycle.waiting import until_suspended
            from ray_provider.jobs.watch.outcome import Interruption

            while True:
                try:
                    kube_access = await self.access_of(handle)
                    if handle.rayjob:
                        return Interruption(*await until_interrupted(kube_access, handle))
                    message = await until_suspended(kube_access, handle)
                    return Interruption("lost", message) if message else None
                except RayProviderError as error:
                    # A cluster that the job only uses: who may not look has Ray's own words.
                    if not error.retryable and not handle.rayjob:
                        return None
                    if not error.retryable:
                        raise
                    await asyncio.sleep(_INTERRUPTION_PAUSE)

        return wait

    def kubernetes_access(self, where: Mapping[str, Any] | None = None) -> KubernetesAccess:
        """Give what is needed to reach Kubernetes: see :meth:`akubernetes_access`.

        :param where: the handle's ``kubernetes``; ``None`` for what the connection says.
        """
        return run_sync(lambda: self.akubernetes_access(where))

    async def akubernetes_access(self, where: Mapping[str, Any] | None = None) -> KubernetesAccess:
        """Give what is needed to reach Kubernetes, without blocking the event loop.

        :param where: which Kubernetes, as a cluster's handle says it (its field ``kubernetes``); unless given, the
            connection's. The connection says in both cases by whom it is entered.
        :raises ConfigurationError: there is no such cluster, or what the connection says can't be used.
        :raises TerraformCredentialsError: the cloud denies access.
        """
        config = await self.aconfig()
        cluster = config.cloud
        if where is not None:
            cluster = await self._allowed.enter(config, CloudCluster.from_dict(where))
        if cluster is None:
            return self._kubernetes_access(config)
        from ray_provider.hooks.cloud import cloud_access

        kube_access = await cloud_access(cluster)
        return replace(kube_access, verify_tls=not config.disable_verify_ssl, dashboard=self._dashboard(config))

    @staticmethod
    def _kubernetes_access(config: RayConnectionConfig) -> KubernetesAccess:
        from ray_provider.clusters.kubernetes.access import KubernetesAccess

        return KubernetesAccess(
            kubeconfig_path=config.kubeconfig_path,
            kubeconfig=config.kubeconfig,
            context=config.cluster_context,
            in_cluster=config.in_cluster,
            namespace=config.namespace,
            verify_tls=not config.disable_verify_ssl,
            dashboard=RayHook._dashboard(config),
        )

    @staticmethod
    def _dashboard(config: RayConnectionConfig) -> RayEndpoint:
        """Give what the connection says of an address of the user's own, or an ingress: headers, TLS."""
        return RayEndpoint(
            url=config.address or "",
            token=config.token,
            headers=config.headers,
            cookies=config.cookies,
            tls=config.tls,
        )

    # -- test ----------------------------------------------------------------------------------------------------------

    def test_connection(self) -> tuple[bool, str]:
        """Ask what the connection leads to, for the button in Airflow's form. Says in words what is wrong."""
        try:
            return run_sync(self._test)
        except RayAuthenticationError as error:
            return False, str(error)
        except RayApiError as error:
            return False, (
                f"Something answers there, but it is not a Ray dashboard (HTTP {error.status}). "
                f"Is the port right? Ray's dashboard listens on 8265.\n{error}"
            )
        except RayConnectionError as error:
            return False, str(error)
        except RayProviderError as error:
            return False, str(error)
        except (OSError, ValueError) as error:
            return False, f"{type(error).__name__}: {error}"

    async def _test(self) -> tuple[bool, str]:
        from ray_provider._shared.retry import RetryPolicy

        config = await self.aconfig()
        if config.address:
            async with await self.client(timeout=10.0, retry=RetryPolicy.none()) as client:
                version = await client.version()
                await client.list_jobs()
            if not version.ray_version:
                return False, "Something answers there, but it is not a Ray dashboard: it tells no Ray version."
            return True, f"Ray {version.ray_version} answers at {config.address}, and takes our credentials."
        if config.backend == "local":
            from importlib.util import find_spec

            if find_spec("ray") is None:
                return False, "The backend is local, but Ray is not installed here: pip install 'airflow-ray[ray]'."
            return True, "The backend is local: tasks set up their clusters on the worker."
        from ray_provider.clusters.kubernetes.client import open_kube

        async with open_kube(await self.akubernetes_access()) as kube:
            found = await kube.request("GET", "/version", timeout=10.0)
        return (
            True,
            f"Kubernetes {found.get('gitVersion')} answers. No Ray address is set: tasks have to name a cluster.",
        )

    async def client(
        self, dashboard_url: str | None = None, *, timeout: float = 30.0, retry: RetryPolicy | None = None
    ) -> RayJobsClient:
        """Make a client of the connection's dashboard, or of another one. It has to be opened (``async with``).

        :param dashboard_url: of another Ray than the connection's; ``None`` for that one.
        :param timeout: of one request, in seconds.
        :param retry: how long a request is tried again; ``None`` for the client's own.
        """
        from ray_provider.jobs.client import RayJobsClient

        options: dict[str, Any] = {} if retry is None else {"retry": retry}
        return RayJobsClient(await self.endpoint(dashboard_url=dashboard_url), timeout=timeout, **options)
