"""Serve's REST API at one dashboard: read all of it, write all of it. There is no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import ConfigurationError, RayApiError
from ray_provider.jobs.http.errors import not_ray_error
from ray_provider.jobs.http.incoming import STATUS_BYTES
from ray_provider.jobs.http.transport import Transport
from ray_provider.serve.state import ServeState

if TYPE_CHECKING:
    from types import TracebackType

    from ray_provider.jobs.endpoint import RayEndpoint

#: Without the slash: 404.
PATH = "/api/serve/applications/"
#: The first write starts Serve; on a busy machine that takes a while.
_WRITE_SECONDS = 120.0
_NOT_INSTALLED = 501


class ServeClient:
    """Serve on the cluster of one endpoint. Use it as an asynchronous context manager.

    :param endpoint: of the dashboard, and with which credentials.
    :param timeout: seconds for one request that reads.
    :param retry: how long such a request is tried.
    """

    def __init__(
        self, endpoint: RayEndpoint, *, timeout: float = 30.0, retry: RetryPolicy = RetryPolicy()  # noqa: B008 (frozen)
    ) -> None:  # fmt: skip
        self.endpoint = endpoint
        self.transport = Transport(endpoint, timeout=timeout, retry=retry)

    async def __aenter__(self) -> Self:
        await self.transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.transport.close()

    async def state(self, *, retry: RetryPolicy | None = None) -> ServeState:
        """Read what there is. Where Serve does not run: no application.

        :param retry: unless given, the client's own.
        :raises ConfigurationError: the cluster's image has no Serve.
        """
        try:
            data = await self.transport.json("GET", PATH, retry=retry, limit=STATUS_BYTES)
        except RayApiError as error:
            raise _explained(error) from error
        if not isinstance(data, Mapping) or "applications" not in data:
            raise not_ray_error(self.endpoint, "GET", PATH, 200, str(data)[:200])
        return ServeState.from_json(data)

    async def write(self, body: Mapping[str, Any]) -> None:
        """Replace all applications that were written before. One try: what is written was true a moment ago only.

        Serve answers when it has taken the configuration, not when that works.

        :param body: of the request.
        :raises ConfigurationError: Serve refuses it.
        """
        try:
            await self.transport.request(
                "PUT", PATH, json_body=dict(body), retry=RetryPolicy.none(), timeout=_WRITE_SECONDS
            )
        except RayApiError as error:
            raise _explained(error) from error


def _explained(error: RayApiError) -> Exception:
    if error.status == _NOT_INSTALLED:
        return ConfigurationError(
            "Ray on this cluster has no Serve.",
            hint="Install ray[serve] in the cluster's image, and on a worker with a local Ray: "
            "pip install 'airflow-ray[serve]'.",
            **error.data,
        )
    if error.status == 400:
        return ConfigurationError(
            f"Serve refuses the configuration: {error.message}",
            hint="Check import_path, runtime_env and deployments.",
            **error.data,
        )
    return error
