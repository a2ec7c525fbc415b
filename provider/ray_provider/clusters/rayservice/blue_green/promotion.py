"""Moving the traffic between two RayServices: to a version that was proven, and back to the one before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.handle import Access
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import Json, Kube, open_kube
from ray_provider.clusters.naming import describe_owner, same_owner
from ray_provider.clusters.rayservice import writing
from ray_provider.clusters.rayservice.blue_green.traffic import (
    Other,
    Traffic,
    look,
    named,
    names_ours,
    version_of,
    way_to,
    write,
)
from ray_provider.clusters.rayservice.reaching import dashboard_of
from ray_provider.clusters.rayservice.record import FORMER, UPDATE, Update
from ray_provider.clusters.rayservice.removal import delete_service
from ray_provider.clusters.rayservice.resource import application_configs
from ray_provider.clusters.rayservice.state import RayServiceState
from ray_provider.clusters.rayservice.waiting import Deployed, as_wanted
from ray_provider.exceptions import (
    ConfigurationError,
    KubernetesError,
    RayApiError,
    RayConnectionError,
    RayProviderError,
    ServeError,
    ServeTimeoutError,
)
from ray_provider.serve.client import ServeClient
from ray_provider.serve.state import DEPLOY_FAILED, RUNNING
from ray_provider.serve.waiting import failure

Say = Callable[[str], None]

#: How often somebody else may be quicker.
_RACES = 6
_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class Moving:
    """What is moved.

    :param namespace: of our Service.
    :param name: of our Service.
    :param version: that is meant; empty: whichever is there.
    :param owner: whose it has to be; unless given, somebody named it, and means it.
    :param deploy: the deploy that moves it, of which the version may still bear the mark.
    :param timeout_seconds: until it has to say that it serves; 0: it has just been proven.
    :param access: the way to dashboards.
    """

    namespace: str
    name: str
    version: str = ""
    owner: Mapping[str, Any] | None = None
    deploy: str = ""
    timeout_seconds: float = 60.0
    access: Access = "auto"

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.namespace}/{self.name}"


async def promote(kube_access: KubernetesAccess, moving: Moving, *, say: Say) -> Traffic:
    """Give the traffic to the version that waits for it. Done already: nothing changes.

    :param kube_access: the Kubernetes that they are on.
    :param moving: which version.
    :param say: gets lines of progress.
    :return: who has the traffic.
    :raises ConfigurationError: there is no such version, or it is another's.
    :raises ServeError: it does not serve; the traffic stays where it is.
    """

    def target(traffic: Traffic) -> Other | None:
        if moving.version and moving.version == traffic.version:
            return None
        if traffic.other_version and moving.version == traffic.other_version:
            return "former"
        if not moving.version and traffic.other_is == "candidate":
            return "former"
        if not moving.version and traffic.active:
            return None
        raise ConfigurationError(
            f"The version that was to get the traffic of {moving.where} is gone: a later deploy has taken "
            "its place, or it was taken down."
            if moving.version
            else f"No version of {moving.where} waits for the traffic.",
            hint=f"Deploy it again. The traffic is at {traffic.active or 'none of the two'}.",
            cause="no version",
        )

    return await _move(kube_access, moving, target, say)


async def roll_back(kube_access: KubernetesAccess, moving: Moving, *, say: Say) -> Traffic:
    """Give the traffic back to the version that had it before. Done already: nothing changes.

    :param kube_access: the Kubernetes that they are on.
    :param moving: its version is the one that the traffic is taken from.
    :param say: gets lines of progress.
    :return: who has the traffic.
    :raises ConfigurationError: there is no version before, or it is another's.
    :raises ServeError: the version before does not serve; the traffic stays where it is.
    """

    def target(traffic: Traffic) -> Other | None:
        if moving.version and moving.version != traffic.version:
            return None  # it has no traffic
        if traffic.other_is == "former" and traffic.other_version:
            return "rejected"
        if not moving.version and traffic.other_is == "rejected":
            return None
        raise ConfigurationError(
            f"{moving.where} has no version to go back to: the one before was taken down, or there was none.",
            hint=f"The traffic is at {traffic.active or 'none of the two'}. Deploy the former version by its task; "
            "keep_former=True keeps the one before.",
            cause="no version",
        )

    return await _move(kube_access, moving, target, say)


async def _move(
    kube_access: KubernetesAccess, moving: Moving, target: Callable[[Traffic], Other | None], say: Say
) -> Traffic:
    async with open_kube(kube_access) as kube:
        for race in range(_RACES):
            traffic = await _of(kube, moving)
            becomes = target(traffic)
            if becomes is None:
                say(f"The traffic of {moving.where} is at {traffic.active or 'none of the two'} already.")
                return await settle(kube, moving.namespace, moving.name) or traffic
            cluster = await _healthy(kube_access, kube, traffic, moving)
            try:
                traffic = await _switch(kube, traffic, becomes, cluster)
                break
            except KubernetesError as error:
                if not writing.is_conflict(error) or race == _RACES - 1:
                    raise
                say(f"Somebody else moved the traffic of {moving.where} at the same moment. Looking again.")
                await asyncio.sleep(_PAUSE)
        say(f"The traffic of {moving.where} is at {traffic.active} now (cluster {cluster}).")
        return traffic


async def _of(kube: Kube, moving: Moving) -> Traffic:
    traffic = await look(kube, moving.namespace, moving.name)
    if traffic is None or traffic.ending:
        raise ConfigurationError(
            f"There is no Service {moving.where} before two RayServices"
            + (", or none any more: it is being deleted." if traffic else "."),
            hint="DeployRayService(strategy='blue_green') makes it.",
            cause="no version",
        )
    labels = traffic.document["metadata"].get("labels")
    if moving.owner is not None and not same_owner(labels, moving.owner):
        raise ConfigurationError(
            f"The Service {moving.where} is {describe_owner(labels)}, not by the task that the handle names: it is "
            "left alone.",
            cause="not ours",
        )
    return traffic


async def _healthy(kube_access: KubernetesAccess, kube: Kube, traffic: Traffic, moving: Moving) -> str:
    """Make sure that the other version serves, by Serve's own word.

    :return: the RayCluster that serves.
    """
    name = traffic.other
    there = await kube.find(writing.service_path(traffic.namespace, name))
    state = RayServiceState.of(there) if there is not None else None
    wrong = ""
    if there is None or state is None or state.deleting or version_of(there) != traffic.other_version:
        wrong = "is gone"
    elif state.update is not None and state.update.id != moving.deploy:
        wrong = f"is still being deployed (by run {state.update.run or 'another'})"
    elif not state.active:
        wrong = f"does not serve: {state.why or 'KubeRay says nothing of it'}"
    if wrong or there is None or state is None:
        raise ServeError(
            f"The RayService {traffic.namespace}/{name} {wrong}. The traffic of {moving.where} stays at "
            f"{traffic.active or 'none of the two'}.",
            hint=f"kubectl -n {traffic.namespace} describe rayservice {name}",
            name=name,
        )
    if moving.timeout_seconds:
        wanted = application_configs(str(there["spec"].get("serveConfigV2") or ""))
        try:
            await _all_run(kube_access, moving, state.active, wanted)
        except RayProviderError as error:
            raise type(error)(
                f"{error.message.rstrip()} The traffic of {moving.where} stays at "
                f"{traffic.active or 'none of the two'}.",
                hint=error.hint,
                **error.data,
            ) from error
    return state.active


async def _all_run(kube_access: KubernetesAccess, moving: Moving, cluster: str, wanted: list[dict[str, Any]]) -> None:
    """Ask Serve itself until all applications run as they were written: that holds also with no operator."""
    until = time.monotonic() + moving.timeout_seconds
    endpoint = await dashboard_of(kube_access, moving.namespace, cluster, moving.access)
    async with ServeClient(endpoint, timeout=15.0) as client:
        while True:
            try:
                state = await client.state(retry=RetryPolicy.none())
                found = [(config["name"], as_wanted(state, config)) for config in wanted]
                for _, each in found:
                    if each is not None and each.status == DEPLOY_FAILED:
                        raise await failure(client, each)
                wrong = [
                    f"{name}: {each.status if each else 'not there as it was written'}"
                    for name, each in found
                    if each is None or each.status != RUNNING
                ]
            except (RayConnectionError, RayApiError, KubernetesError) as error:
                if not error.retryable:
                    raise
                wrong = [error.message]
            if not wrong:
                return
            if time.monotonic() >= until:
                raise ServeTimeoutError(
                    f"Not all applications run in the cluster {cluster}: {'; '.join(wrong)}.",
                    hint="Give it more timeout_seconds if it only is slow.",
                    name=moving.name,
                )
            await asyncio.sleep(_PAUSE)


async def _switch(kube: Kube, traffic: Traffic, becomes: Other, cluster: str) -> Traffic:
    """Move the traffic, in one moment. From then on, KubeRay keeps our Service at the one that has it."""
    wanted = replace(
        traffic,
        active=traffic.other,
        version=traffic.other_version,
        other_version=traffic.version,
        other_is=becomes if traffic.active else "",
    )
    to = await way_to(kube, traffic, wanted.active, cluster)
    try:
        # First, so that KubeRay does not take it back to the one that had it.
        await _lead(kube, traffic, traffic.active, leads=False)
        await write(kube, wanted, to=to)
    finally:
        found = await settle(kube, traffic.namespace, traffic.name)
    return found or wanted


async def settle(kube: Kube, namespace: str, name: str) -> Traffic | None:
    """Have KubeRay keep our Service at the RayService that is written down on it, and at no other.

    Whoever moved the traffic may have been killed in the middle.

    :param kube: the API.
    :param namespace: in which it is.
    :param name: of our Service.
    :return: who has the traffic; ``None``: there is no such Service.
    :raises ServeError: others move it again and again.
    """
    for _ in range(_RACES):
        traffic = await look(kube, namespace, name)
        if traffic is None:
            return None
        others = [each for each in traffic.names if each != traffic.active]
        changed = [await _lead(kube, traffic, each, leads=False) for each in others]
        if traffic.active:
            changed.append(await _lead(kube, traffic, traffic.active, leads=True))
        if not any(changed):
            return traffic
    raise ServeError(
        f"The traffic of {namespace}/{name} is moved again and again by others.",
        hint="PromoteRayService, by name, says once more where it is to be.",
        name=name,
    )


async def _lead(kube: Kube, traffic: Traffic, name: str, *, leads: bool) -> bool:
    """Have a RayService name our Service, or not. Tells whether that had to be changed."""
    changed = False
    while True:
        there = await kube.find(writing.service_path(traffic.namespace, name)) if name else None
        if there is None or there["metadata"].get("deletionTimestamp") or names_ours(there, traffic.name) == leads:
            return changed
        spec: Json = {key: value for key, value in there["spec"].items() if key != "serveService"}
        if leads:
            spec["serveService"] = named(traffic)
        # What serves is nobody's to take back any more.
        notes: dict[str, str | None] = {UPDATE: None, FORMER: None} if leads else {}
        changed = True
        try:
            await writing.replace_spec(kube, there, spec, notes)
        except KubernetesError as error:
            # KubeRay has told something of it meanwhile.
            if not writing.is_conflict(error) and not writing.is_missing(error):
                raise


async def take_down(
    kube_access: KubernetesAccess, namespace: str, name: str, version: str, *, drain_seconds: float, say: Say
) -> bool:
    """Delete the RayService that has not got the traffic, when the requests that it had have had time to end.

    :param kube_access: the Kubernetes that they are on.
    :param namespace: in which it is.
    :param name: of our Service.
    :param version: that is to go; where it has the traffic, or is not there, nothing is done.
    :param drain_seconds: how long they have.
    :param say: gets lines of progress.
    :return: whether there was one.
    :raises KubernetesError: it can't be written down, or deleted.
    """
    async with open_kube(kube_access) as kube:
        before = await look(kube, namespace, name)
        if before is None or not version or before.other_version != version:
            return False
        if before.other_is != "candidate":
            say(f"{before.other} has no traffic any more; its requests have {drain_seconds:.0f} s to end.")
            await asyncio.sleep(drain_seconds)
        for race in range(_RACES):
            now = await look(kube, namespace, name)
            if now is None or (now.active, now.other_version) != (before.active, before.other_version):
                say(f"The traffic of {namespace}/{name} was moved by somebody else since: nothing is taken down.")
                return False
            try:
                # That it was rejected stays: there is nothing to go back to, and nothing to be done for that.
                kept: Other = "rejected" if now.other_is == "rejected" else ""
                await write(kube, replace(now, other_version="", other_is=kept))
                break
            except KubernetesError as error:
                if not writing.is_conflict(error) or race == _RACES - 1:
                    raise
    return await delete_service(kube_access, namespace=namespace, name=before.other, say=say)


async def of_deploy(kube_access: KubernetesAccess, deployed: Deployed) -> tuple[str, bool]:
    """Tell which of the two RayServices a deploy has made or changed, and whether it made what has the traffic by now.

    :param kube_access: the Kubernetes that they are on.
    :param deployed: the deploy.
    :return: its name (empty: none), and whether that is so.
    """
    async with open_kube(kube_access) as kube:
        traffic = await settle(kube, deployed.namespace, deployed.service)
        for name in Traffic(deployed.namespace, deployed.service).names:
            there = await kube.find(writing.service_path(deployed.namespace, name))
            update = Update.of(there["metadata"]) if there is not None else None
            if update is not None and update.id == deployed.id:
                return name, update.kind == "first" and traffic is not None and traffic.active == name
    return "", False
