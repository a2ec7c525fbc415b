"""Making a RayService, or changing the one that is there: what KubeRay will do is told before it is done."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ray_provider.clusters.helm.releases import open_helm
from ray_provider.clusters.kuberay.versions import KubeRay
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, open_kube, path_of
from ray_provider.clusters.lifecycle.dry_run import check_objects, explained, path_beside
from ray_provider.clusters.lifecycle.preparation import install_shared, prepare, render
from ray_provider.clusters.lifecycle.spec import KubernetesClusterSpec
from ray_provider.clusters.naming import check_length, describe_owner, owner_labels, same_owner
from ray_provider.clusters.rayservice import writing
from ray_provider.clusters.rayservice.blue_green.beside import told_apart
from ray_provider.clusters.rayservice.blue_green.place import Place
from ray_provider.clusters.rayservice.change import Change, change_of
from ray_provider.clusters.rayservice.going_back import go_back
from ray_provider.clusters.rayservice.record import FORMER, UPDATE, Former, Kind, Update
from ray_provider.clusters.rayservice.removal import delete_service
from ray_provider.clusters.rayservice.resource import (
    LABEL,
    RayServiceOptions,
    make,
    revision_of,
    with_revision,
)
from ray_provider.clusters.rayservice.state import RayServiceState
from ray_provider.clusters.rayservice.waiting import Deployed
from ray_provider.exceptions import ClusterError, ConfigurationError, KubernetesError, RayProviderError

Say = Callable[[str], None]

Strategy = Literal["auto", "in_place", "new_cluster", "blue_green"]
#: How often somebody else may be quicker.
_RACES = 4


@dataclass(frozen=True, slots=True)
class RayServiceSpec:
    """A RayService as a task wants it.

    :param cluster: its cluster; the name in it is that of the RayService, the owner in it belongs to no run.
    :param options: what the RayService says beside.
    :param id: of the deploy.
    :param run: the run that it belongs to, for people.
    :param strategy: ``auto``: what KubeRay does of the change; ``in_place``: refuse what needs another cluster;
        ``new_cluster``: have one made also where only applications change; ``blue_green``: another RayService beside
        the one that serves; the name in it is that of our Service before both.
    """

    cluster: KubernetesClusterSpec
    options: RayServiceOptions
    id: str
    run: str = ""
    strategy: Strategy = "auto"


def check_strategy(given: str) -> Strategy:
    """Make sure that there is such a strategy.

    :param given: what somebody wrote.
    :raises ConfigurationError: there is none.
    """
    if given not in get_args(Strategy):
        raise ConfigurationError(
            f"`strategy` is {given!r}: it has to be one of {', '.join(get_args(Strategy))}.",
            hint="auto: KubeRay updates applications in place, and makes a second cluster where the cluster changes.",
            field="strategy",
        )
    return given  # type: ignore[return-value]


async def deploy(kube_access: KubernetesAccess, spec: RayServiceSpec, *, say: Say) -> Deployed:
    """Make the RayService, or change the one that is there. Does not wait for it.

    :param kube_access: to the Kubernetes cluster.
    :param spec: what it is to be.
    :param say: is given each line of progress.
    :return: what was written, by which the deploy is waited for, proven or put back.
    :raises ConfigurationError: it can't work, or is somebody else's; nothing was changed.
    :raises ClusterError: it was not changed.
    """
    wanted = spec.cluster
    name = check_length(wanted.name, "RayService")
    namespace = await asyncio.to_thread(kube_access.namespace_or_default, wanted.namespace)
    labels = owner_labels(wanted.owner, is_named=wanted.is_named)
    async with open_kube(kube_access) as kube:
        async with open_helm(kube_access, wanted.helm, labels=labels, values=wanted.values) as helm:
            kuberay = await prepare(kube, helm, namespace, wanted, say)

            async def parts_of(each: str) -> _Parts:
                rendered, _ = await render(helm, wanted.renamed(each), kuberay, each, namespace, say)
                service, beside = make(rendered, each, spec.options)
                if spec.strategy == "blue_green":
                    service, beside = told_apart(service, beside)
                service["metadata"]["namespace"] = namespace
                service["metadata"]["labels"] |= labels
                for document in beside:
                    await path_beside(kube, namespace, document, "RayService")
                return _Parts(service, tuple(beside), kuberay)

            place = None
            if spec.strategy == "blue_green":
                place = await Place.find(kube, namespace, name, wanted.owner, labels)
                if await kube.find(writing.service_path(namespace, name)) is not None:
                    say(
                        f"WARNING: The RayService {namespace}/{name}, of before strategy was blue_green, stays as it "
                        f"is. When nobody calls {name}-serve-svc any more: kubectl -n {namespace} delete rayservice "
                        f"{name}."
                    )
            parts = await parts_of(place.name if place else name)
            if place and place.holds(parts.service, parts.beside):
                parts = await parts_of(place.name)
                place.holds(parts.service, parts.beside)
        deploying = _Deploying(kube_access, kube, spec, parts, place, say)
        for race in range(_RACES):
            try:
                return await deploying.once()
            except KubernetesError as error:
                if not writing.is_conflict(error) or race == _RACES - 1:
                    raise
                say(f"Somebody else changed the RayService {namespace}/{name} at the same moment. Looking again.")
        raise AssertionError  # pragma: no cover - the loop returns or raises


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is to be there: the RayService, what goes beside it, and for which KubeRay."""

    service: Json
    beside: tuple[Json, ...]
    kuberay: KubeRay


class _Deploying:
    """One deploy, as far as it writes.

    :param kube_access: to the Kubernetes cluster.
    :param kube: the same, connected.
    :param spec: what it is to be.
    :param parts: what the chart made of it.
    :param place: of a version that is blue or green; ``None``: it is neither.
    :param say: is given each line of progress.
    """

    def __init__(
        self,
        kube_access: KubernetesAccess,
        kube: Kube,
        spec: RayServiceSpec,
        parts: _Parts,
        place: Place | None,
        say: Say,
    ) -> None:
        self._kube_access, self._kube, self._spec, self._parts, self._say = kube_access, kube, spec, parts, say
        self._place = place
        meta = parts.service["metadata"]
        self._namespace, self._name = str(meta["namespace"]), str(meta["name"])

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def once(self) -> Deployed:
        """Look, and write.

        :raises KubernetesError: somebody else was quicker (409).
        """
        there = await self._kube.find(writing.service_path(self._namespace, self._name))
        if there is None:
            return await self._create()
        self._check_owner(there)
        state = RayServiceState.of(there)
        if state.deleting:
            raise ClusterError(
                f"The RayService {self._where} of before is being deleted.",
                hint="A retry of the task makes it anew.",
                namespace=self._namespace,
                name=self._name,
                cause="race",
            )
        if state.is_dead:
            self._say(f"KubeRay has given up the RayService {self._where} ({state.why}): it is made anew.")
            return await self._create(there)
        if self._place is not None and self._place.is_free(there):
            return await self._create(there)
        return await self._update(there, state)

    def _check_owner(self, there: Json) -> None:
        labels = there["metadata"].get("labels")
        if not same_owner(labels, self._spec.cluster.owner):
            raise ConfigurationError(
                f"The RayService {self._where} is there, and is not this task's: it is {describe_owner(labels)}.",
                hint="Give this one another name; a RayService belongs to one task of one DAG, over all of its runs.",
                namespace=self._namespace,
                name=self._name,
                cause="not ours",
            )

    # -- the first one -------------------------------------------------------------------------------------------------

    async def _create(self, before: Json | None = None) -> Deployed:
        """Make it, in the place of one that goes."""
        parts, update = self._parts, Update(self._spec.id, self._spec.run, "first")
        service = {**parts.service, "metadata": {**parts.service["metadata"]}}
        service["metadata"]["annotations"] = {**service["metadata"]["annotations"], UPDATE: update.to_text()}
        await check_objects(self._kube, self._namespace, [service, *parts.beside], parts.kuberay)
        await install_shared(self._kube, self._namespace, self._spec.cluster.gpu_plugin, self._say)
        if self._place is not None:
            await self._place.take()
        if before is not None:
            self._say(f"The RayService {self._where} makes room for the new version: there is no way back to it.")
            await delete_service(self._kube_access, namespace=self._namespace, name=self._name, say=self._say)
        self._say(f"Making RayService {self._where}.")
        made = await self._kube.create(path_of("rayservices", self._namespace, api=RAY), service)
        deployed = self._deployed(made, update)
        await self._put_beside(made, deployed)
        return deployed

    # -- a change ------------------------------------------------------------------------------------------------------

    async def _update(self, there: Json, state: RayServiceState) -> Deployed:
        spec, change = await self._plan(there)
        self._check(change, state)
        if self._place is not None and self._name != self._place.traffic.active:
            await self._place.take()
        record = state.update
        former = Former.of(there["metadata"])
        if record is not None and record.id != self._spec.id:
            self._say(
                f"WARNING: A deploy of run {record.run or 'another'} is at work on it, or has ended without a word: "
                "this one takes its place. The way back is to the version before that one."
            )
        kind: Kind = change.kind
        if record is not None and record.kind == "first" and former is None:
            kind = "first"
        elif state.pending:
            kind = "new_cluster"
        elif change.kind == "nothing" and record is not None:
            kind = record.kind
        active = record.active if record is not None else state.active
        told = change.text(state.active or state.pending)
        if state.pending and change.kind not in ("nothing", "new_cluster"):
            told = f"Its cluster {state.pending} is being made, and gets the change."
        self._say(f"RayService {self._where} is there. {told}")
        update = Update(self._spec.id, self._spec.run, kind, active)
        if change.kind == "nothing":
            if record is not None:
                there = await writing.annotate(self._kube, self._namespace, self._name, {UPDATE: update.to_text()})
            return self._deployed(there, update)
        if kind != "first" and former is None:
            former = Former(there["spec"], await self._beside_now())
        notes = {**self._parts.service["metadata"]["annotations"], UPDATE: update.to_text()}
        notes[FORMER] = former.to_text() if former is not None else None
        written = await writing.replace_spec(self._kube, there, spec, notes)
        deployed = self._deployed(written, update)
        await self._put_beside(written, deployed)
        return deployed

    async def _plan(self, there: Json) -> tuple[Json, Change]:
        """Have Kubernetes say what the spec would be, and tell what KubeRay would do of it.

        :return: the spec that is to be written, and the change.
        """
        live, wanted = there["spec"], self._parts.service["spec"]
        # A mark stays: without it, all of the cluster would have changed.
        if "serveService" in live and self._place is not None:
            wanted = {**wanted, "serveService": live["serveService"]}  # it has the traffic
        spec = with_revision(wanted, revision_of(live))
        change = change_of(live, await self._stored(there, spec))
        if self._spec.strategy == "new_cluster" and change.kind == "in_place":
            mark = hashlib.sha256(f"{revision_of(live)}\x1f{wanted['serveConfigV2']}".encode()).hexdigest()[:12]
            spec = with_revision(wanted, mark)
            change = replace(change_of(live, await self._stored(there, spec)), paths=("strategy: new_cluster",))
        return spec, change

    async def _stored(self, there: Json, spec: Mapping[str, Any]) -> Json:
        try:
            found = await writing.replace_spec(self._kube, there, spec, {}, dry=True)
        except KubernetesError as error:
            if error.status in (400, 422):
                raise explained(self._parts.service, error, self._namespace, self._parts.kuberay) from error
            raise
        stored: Json = found["spec"]
        return stored

    def _check(self, change: Change, state: RayServiceState) -> None:
        """Refuse what KubeRay would not do, or the user does not want."""
        paths = ", ".join(change.paths)
        if change.ignored:
            raise ConfigurationError(
                f"The cluster changes ({paths}), and the RayService says upgradeStrategy.type: None: KubeRay would "
                "take the change, say Ready, and leave the pods as they are.",
                hint="Leave upgradeStrategy out: then KubeRay makes a second cluster and switches to it. Applications "
                "alone are updated in place either way.",
                field="upgradeStrategy",
            )
        if change.kind == "new_cluster" and self._spec.strategy == "in_place" and state.active:
            raise ConfigurationError(
                f"strategy is in_place, and the cluster changes ({paths}): KubeRay would make a second one.",
                hint="Leave strategy out, or leave the cluster as it is. A new release of this provider may bring "
                "a new default image: say it by `values`.",
                field="strategy",
            )

    async def _beside_now(self) -> tuple[Json, ...]:
        found = []
        for document in self._parts.beside:
            path = await self._kube.collection(document, self._namespace)
            there = await self._kube.find(f"{path}/{document['metadata']['name']}")
            if there is not None and (there["metadata"].get("labels") or {}).get(LABEL) == self._name:
                found.append(writing.plain({**there, "apiVersion": document["apiVersion"], "kind": document["kind"]}))
        return tuple(found)

    # -- both ----------------------------------------------------------------------------------------------------------

    def _deployed(self, service: Json, update: Update) -> Deployed:
        return Deployed(
            namespace=self._namespace,
            name=self._name,
            generation=int(service["metadata"].get("generation") or 1),
            id=update.id,
            kind=update.kind,
            active=update.active,
            service=self._place.traffic.name if self._place is not None else "",
        )

    async def _put_beside(self, service: Json, deployed: Deployed) -> None:
        """Make or change what goes beside it; where that fails, the deploy is taken back."""
        try:
            for document in self._parts.beside:
                await writing.put_beside(self._kube, self._namespace, document, service, LABEL)
        except BaseException as error:
            work = asyncio.ensure_future(go_back(self._kube_access, deployed, wait=False, say=self._say))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await work
            except RayProviderError as failure:
                error.add_note(f"And the deploy could not be taken back: {failure}")
            raise


async def finish(kube_access: KubernetesAccess, deployed: Deployed) -> None:
    """Write down that a deploy is proven: the version before is kept no longer.

    :param kube_access: to the Kubernetes cluster.
    :param deployed: the deploy. Nothing is done where another one is at work since.
    """
    async with open_kube(kube_access) as kube:
        there = await kube.find(writing.service_path(deployed.namespace, deployed.name))
        update = Update.of(there["metadata"]) if there is not None else None
        if update is not None and update.id == deployed.id:
            await writing.annotate(kube, deployed.namespace, deployed.name, {UPDATE: None, FORMER: None})
