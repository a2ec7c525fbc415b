"""Taking a deploy of a RayService back: the version before serves again, and nothing that serves is deleted.

Restoring the spec alone would have KubeRay make a third cluster: it compares with the one that is being made, not with
the one that serves. So the pending one is taken out of the status, too: two seconds instead of a deploy. The pending
cluster is then deleted by KubeRay.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from ray_provider.clusters.handle import Access
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, open_kube, path_of
from ray_provider.clusters.rayservice import writing
from ray_provider.clusters.rayservice.blue_green.promotion import of_deploy
from ray_provider.clusters.rayservice.record import FORMER, UPDATE, Former
from ray_provider.clusters.rayservice.removal import delete_service
from ray_provider.clusters.rayservice.resource import LABEL
from ray_provider.clusters.rayservice.state import RayServiceState
from ray_provider.clusters.rayservice.waiting import Deployed, WaitOptions, wait_deployed
from ray_provider.exceptions import KubernetesAccessError, KubernetesError, RayProviderError

Say = Callable[[str], None]

#: How long KubeRay may take to be back with the former cluster, and then the former version to say that it runs.
_SETTLE_SECONDS, _BACK_SECONDS = 30.0, 60.0
_PAUSE = 0.5
_RACES = 5


async def go_back(
    kube_access: KubernetesAccess, deployed: Deployed, *, wait: bool = True, access: Access = "auto", say: Say
) -> str:
    """Put back what was there before a deploy. One that made the RayService deletes it again.

    :param kube_access: to the Kubernetes cluster.
    :param deployed: the deploy.
    :param wait: until the former version says that it runs, or nothing is left.
    :param access: the way to dashboards.
    :param say: gets lines of progress.
    :return: what was done, as a sentence.
    :raises KubernetesError: it can't be done.
    """
    if deployed.service:
        name, has_traffic = await of_deploy(kube_access, deployed)
        if not name:
            return "Nothing was changed that has the traffic."
        if has_traffic:
            return f"The new version ({name}) has the traffic already: it is left as it is."
        deployed = replace(deployed, name=name, service="")
    async with open_kube(kube_access) as kube:
        for race in range(_RACES):
            try:
                done, generation = await _go_back(kube_access, kube, deployed, wait=wait, say=say)
                break
            except KubernetesError as error:
                if not writing.is_conflict(error) or race == _RACES - 1:
                    raise
                await asyncio.sleep(_PAUSE)
    if not wait or generation is None:
        return done
    back = Deployed(deployed.namespace, deployed.name, generation, deployed.id, "nothing")
    try:
        await wait_deployed(kube_access, back, WaitOptions(time.time() + _BACK_SECONDS), access=access, say=say)
    except RayProviderError as error:
        return f"{done} It does not say yet that it serves: {error.message}"
    return f"{done} It serves."


async def _go_back(
    kube_access: KubernetesAccess, kube: Kube, deployed: Deployed, *, wait: bool, say: Say
) -> tuple[str, int | None]:
    """Do it, and give the generation of the former version, if there is one to wait for."""
    there = await kube.find(writing.service_path(deployed.namespace, deployed.name))
    if there is None:
        return "The RayService is gone." if deployed.generation else "Nothing was changed.", None
    state = RayServiceState.of(there)
    update = state.update
    if update is None and deployed.generation and deployed.kind != "nothing":
        # Its own mark is gone: a later deploy has ended since, or this one has.
        return "It is no longer this deploy that the RayService is about: it is left as it is.", None
    if update is None or (update.id != deployed.id and not deployed.generation):
        return "Nothing was changed.", None
    if update.id != deployed.id:
        return f"A deploy of run {update.run or 'another'} has taken its place since: that is left as it is.", None
    former = Former.of(there["metadata"])
    if former is None and update.kind != "first":
        return "Nothing was changed.", None
    if former is None:
        if not wait:
            await kube.delete(writing.service_path(deployed.namespace, deployed.name))
            return "The RayService, which was not there before, is deleted again.", None
        await delete_service(kube_access, namespace=deployed.namespace, name=deployed.name, say=say)
        return "The RayService, which was not there before, was deleted again.", None
    # 0: it was ended before it knew what it had written.
    if deployed.generation not in (0, state.generation) and there["spec"] != former.spec:
        return "Somebody else has changed the RayService since: that is left as it is.", None
    restored = there
    if there["spec"] != former.spec:
        restored = await writing.replace_spec(kube, there, former.spec, {})
    say(f"RayService {deployed.namespace}/{deployed.name}: the spec of the version before is back.")
    done = await _cluster_back(kube, restored, update.active, wait=wait)
    for document in former.beside:
        await writing.put_beside(kube, deployed.namespace, dict(document), restored, LABEL)
    await writing.annotate(kube, deployed.namespace, deployed.name, {UPDATE: None, FORMER: None})
    return done, int(restored["metadata"]["generation"])


async def _cluster_back(kube: Kube, restored: Json, active: str, *, wait: bool) -> str:
    """Have KubeRay stay with the cluster that served before, or return to it.

    :param restored: the RayService, with the spec of before.
    :param active: the RayCluster that served before.
    :return: what was done, as a sentence.
    """
    meta = restored["metadata"]
    path, generation = writing.service_path(meta["namespace"], meta["name"]), int(meta["generation"])
    until = time.monotonic() + _SETTLE_SECONDS
    state = RayServiceState.of(restored)
    while True:
        try:
            if state.active == active and state.pending:
                await kube.merge(f"{path}/status", {"status": {"pendingServiceStatus": None}})
            elif state.active != active:
                found = await kube.find(path_of("rayclusters", meta["namespace"], active, api=RAY)) if active else None
                if found is None or found["metadata"].get("deletionTimestamp"):
                    return (
                        "The version before was put back. Its cluster is gone already: KubeRay makes one anew, and "
                        "switches when it serves."
                    )
                former = {"rayClusterName": active, "applicationStatuses": None, "rayClusterStatus": None}
                await kube.merge(
                    f"{path}/status", {"status": {"activeServiceStatus": former, "pendingServiceStatus": None}}
                )
        except KubernetesAccessError as error:
            return (
                f"The version before was put back, by a cluster that KubeRay makes anew: {error.message} With that "
                "right the one that serves would have been kept."
            )
        if not wait:
            return f"The version before was put back, in the cluster {active}."
        await asyncio.sleep(_PAUSE)
        state = RayServiceState.of(await kube.get(path))
        settled = state.observed >= generation and state.active == active and not state.pending
        if settled or time.monotonic() > until:
            return f"The version before was put back, in the cluster {active}."
