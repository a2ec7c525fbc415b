"""The end of a deploy: somebody answers where the service is, as expected; then the version before is let go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.handle import Access
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import open_kube
from ray_provider.clusters.rayservice.blue_green.traffic import version_of
from ray_provider.clusters.rayservice.deploy import finish
from ray_provider.clusters.rayservice.handle import RayServiceHandle
from ray_provider.clusters.rayservice.reaching import dashboard_of, endpoint_of, serving_endpoint
from ray_provider.clusters.rayservice.resource import application_configs
from ray_provider.clusters.rayservice.troubles import gone
from ray_provider.clusters.rayservice.waiting import Deployed
from ray_provider.clusters.rayservice.writing import service_path
from ray_provider.exceptions import ConfigurationError, RayProviderError, ServeFailedError
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.http.transport import Transport
from ray_provider.serve.smoke import SmokeTest, smoke
from ray_provider.serve.urls import application_url

Say = Callable[[str], None]

_HEALTH = "/-/healthz"
#: The services follow a switch within a second; a proxy on a worker that has just started takes longer.
_ANSWER_SECONDS = 60.0
_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Proof:
    """What is asked of a service before its deploy counts, and what is handed on.

    :param owner: whose the service is.
    :param smoke_test: a request, and what is expected of the answer.
    :param serve_url: where the applications answer, if the user says it.
    :param access: the way to it; ``auto``: as from here.
    :param kubernetes: which Kubernetes, for the handle.
    :param promote: with ``blue_green``: it gets the traffic when it has passed.
    :param keep_former: with ``blue_green``: the one that had the traffic stays, for the way back.
    :param drain_seconds: how long requests in flight have to end, where it does not stay.
    """

    owner: Mapping[str, Any] = field(default_factory=dict)
    smoke_test: SmokeTest | None = None
    serve_url: str | None = None
    access: Access = "auto"
    kubernetes: Mapping[str, Any] | None = None
    promote: bool = True
    keep_former: bool = True
    drain_seconds: float = 30.0


async def prove(
    kube_access: KubernetesAccess, deployed: Deployed, cluster: str, proof: Proof, *, say: Say
) -> tuple[RayServiceHandle, str]:
    """Ask the service, and let the version before go; one of two is not promoted by that.

    :param kube_access: to the Kubernetes cluster.
    :param deployed: the deploy, which runs.
    :param cluster: name of the RayCluster that serves.
    :param proof: how to ask it, and whose it is.
    :param say: is told how the smoke test went.
    :return: the handle, and the address of the cluster's dashboard.
    :raises ServeFailedError: nobody answers, or not as expected.
    :raises ConfigurationError: there is a smoke test, and nothing says where the applications answer.
    """
    async with open_kube(kube_access) as kube:
        service = await kube.find(service_path(deployed.namespace, deployed.name))
        if service is None:
            raise gone(deployed.namespace, deployed.name)
        dashboard = await dashboard_of(kube_access, deployed.namespace, cluster, proof.access)
        # The address that is given is of our Service, which leads to another version.
        given = None if deployed.service else proof.serve_url
        serving = await serving_endpoint(kube_access, kube, service, dashboard, proof.access, given)
        answers = serving
        if deployed.service:
            answers = await endpoint_of(
                kube_access, kube, deployed.namespace, deployed.service, dashboard, proof.access, proof.serve_url
            )
    configs = application_configs(str(service["spec"].get("serveConfigV2") or ""))
    routes: dict[str, str | None] = {str(one["name"]): one.get("route_prefix", "/") for one in configs}
    # Of several applications, a request says itself which it is for.
    route = next(iter(routes.values())) if len(routes) == 1 else "/"
    if serving is not None:
        await _answers(serving, f"{deployed.namespace}/{deployed.name}")
    if proof.smoke_test is not None:
        if serving is None or route is None:
            raise ConfigurationError(
                "smoke_test: it is not known from here where the applications answer.",
                hint="With blue_green, a version is asked before it has the traffic, at its own service: by access "
                "proxy or service."
                if deployed.service
                else "Say it: serve_url='https://serve.example.com'.",
                field="access" if deployed.service else "serve_url",
            )
        took = await smoke(serving, deployed.name, route, proof.smoke_test)
        say(f"The smoke test of {deployed.name!r} passed: an answer after {1000 * took:.0f} ms.")
    handle = RayServiceHandle(
        deployed.service or deployed.name,
        deployed.namespace,
        cluster,
        application_url(answers, route) if answers is not None else None,
        routes,
        dict(proof.owner),
        proof.kubernetes,
    )
    if deployed.service:
        url = application_url(serving, route) if serving is not None else None
        handle = replace(handle, version=deployed.name, version_id=version_of(service), version_url=url)
    else:
        await finish(kube_access, deployed)
    return handle, dashboard.display_url.rstrip("/")


async def _answers(serving: RayEndpoint, where: str) -> None:
    """Wait until Serve's proxies answer at the service.

    :param serving: where.
    :param where: namespace and name, for the message.
    :raises ServeFailedError: they don't.
    """
    transport = Transport(serving, timeout=10.0, retry=RetryPolicy.none())
    until = time.monotonic() + _ANSWER_SECONDS
    await transport.open()
    try:
        while True:
            try:
                answer = await transport.request("GET", _HEALTH, accept=lambda _status, _text: True)
                if answer.status == 200:
                    return
                wrong = f"status {answer.status}: {' '.join(answer.text.split())[:200]}"
            except RayProviderError as error:
                if not error.retryable:
                    raise
                wrong = error.message
            if time.monotonic() > until:
                raise ServeFailedError(
                    f"The RayService {where} runs, and does not answer at {serving.display_url}: {wrong}",
                    hint="Does a network policy keep it away? Of the chart: serve.allowFrom, "
                    "networkPolicy.apiServer.cidrs.",
                    name=where.rpartition("/")[2],
                )
            await asyncio.sleep(_PAUSE)
    finally:
        await transport.close()
