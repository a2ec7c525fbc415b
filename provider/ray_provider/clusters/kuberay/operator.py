"""The KubeRay operator: is it there, what does it know, and how it gets there. It is shared, and never removed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ray_provider.clusters.helm.charts import OperatorChart
from ray_provider.clusters.helm.releases import Helm
from ray_provider.clusters.kuberay.manifests import parse_version
from ray_provider.clusters.kuberay.versions import (
    FIELDS,
    NAMESPACE,
    RELEASE,
    REPOSITORY,
    VERSION,
    KubeRay,
    Mode,
    Version,
)
from ray_provider.clusters.kubernetes.client import RAY, Json, Kube, path_of, pod_events
from ray_provider.clusters.kubernetes.finding import is_true
from ray_provider.clusters.kubernetes.pod_diagnosis import first_unready, pod_findings, slow_finding
from ray_provider.exceptions import (
    ClusterFailedError,
    ClusterTimeoutError,
    ConfigurationError,
    HelmError,
    KubernetesAccessError,
    KubernetesError,
)

Say = Callable[[str], None]

SELECTOR = "app.kubernetes.io/name=kuberay-operator"
_DEPLOYMENTS = "/apis/apps/v1"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

_UNKNOWN = re.compile(r'unknown field "(?P<field>[^"]+)"')


def install_command(version: str = VERSION) -> str:
    """Give the commands by which a person installs the operator.

    :param version: of the operator's chart. Default: the one that is installed unless something else is asked for.
    """
    return (
        f"helm repo add kuberay {REPOSITORY} && "
        f"helm install {RELEASE} kuberay/{RELEASE} --version {version} -n {NAMESPACE} --create-namespace"
    )


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator's Deployment, as far as we may look at it.

    :param replicas: how many pods are wanted; ``available`` of them run.
    :param release: the Helm release that holds it; ``None`` where it was installed otherwise.
    """

    name: str
    namespace: str
    replicas: int
    available: int
    image: str
    current: bool
    release: str | None = None

    @property
    def version(self) -> Version | None:
        """Its version, if the image's tag tells it."""
        return parse_version(self.image.rpartition(":")[2])

    @property
    def is_available(self) -> bool:
        """Whether it runs, in the version that is wanted."""
        return self.current and self.available > 0

    @classmethod
    def of(cls, deployment: Mapping[str, Any]) -> Operator:
        """Read a Deployment.

        :param deployment: of Kubernetes, as it is read from there.
        """
        spec, status, meta = deployment["spec"], deployment.get("status") or {}, deployment["metadata"]
        containers = spec["template"]["spec"].get("containers") or [{}]
        return cls(
            name=meta["name"],
            namespace=meta["namespace"],
            replicas=int(spec.get("replicas", 1)),
            available=int(status.get("availableReplicas") or 0),
            image=str(containers[0].get("image", "")),
            release=(meta.get("annotations") or {}).get("meta.helm.sh/release-name"),
            current=int(status.get("observedGeneration") or 0) >= int(meta.get("generation") or 0),
        )


async def definitions_exist(kube: Kube) -> bool:
    """Whether Kubernetes serves RayClusters. Anyone may ask that.

    :param kube: where.
    """
    found = await kube.find(RAY)
    return any(item["name"] == "rayclusters" for item in (found or {}).get("resources", []))


async def probe(kube: Kube, namespace: str) -> KubeRay:
    """Find out which fields of a RayCluster Kubernetes knows, by a strict dry run of one that has them.

    :param kube: where.
    :param namespace: of the dry run. It needs no right beyond the one to create RayClusters, and makes nothing.
    :raises KubernetesError: we may not create RayClusters there (``KubernetesAccessError``), or nobody answers.
    """
    spec: Json = {field: value for field, value, _, _ in FIELDS}
    spec["headGroupSpec"] = {"rayStartParams": {}, "template": {}}
    body = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "airflow-ray-probe"}, "spec": spec}
    unknown: set[str] = set()
    try:
        await kube.create(
            path_of("rayclusters", namespace, api=RAY),
            body,
            dryRun="All",
            fieldValidation="Strict",
            fieldManager="airflow-ray",
        )
    except KubernetesAccessError:
        raise
    except KubernetesError as error:
        if error.status not in {400, 404, 409, 422}:
            raise
        unknown = {found["field"].removeprefix("spec.") for found in _UNKNOWN.finditer(error.message)}
    lacks = tuple(words for field, _, _, words in FIELDS if field in unknown)
    known = [version for field, _, version, _ in FIELDS if field not in unknown]
    return KubeRay(version=max(known, default=(1, 3, 0)), lacks=lacks)


async def find_operator(kube: Kube, namespace: str | None = None) -> Operator | None:
    """Look for the operator's Deployment, in the whole cluster if we may; ``None``: there is none, or we may not look.

    :param kube: where.
    :param namespace: looked at where the whole cluster is forbidden; ``None``: then nowhere.
    """
    places = [f"{_DEPLOYMENTS}/deployments"]
    if namespace:
        places.append(path_of("deployments", namespace, api=_DEPLOYMENTS))
    for place in places:
        try:
            found = await kube.get(place, labelSelector=SELECTOR)
        except KubernetesAccessError:
            continue
        if found.get("items"):
            return Operator.of(found["items"][0])
    return None


async def require_operator(kube: Kube, version: str = VERSION) -> None:
    """Make sure that the operator is there.

    :param kube: where.
    :param version: of the chart that the message says how to install.
    :raises ConfigurationError: Kubernetes knows no RayClusters.
    :raises ClusterFailedError: the operator does not run, and nothing is about to change that.
    """
    if not await definitions_exist(kube):
        raise ConfigurationError(
            "The KubeRay operator is not installed in this Kubernetes: it knows no RayClusters.",
            hint=f"Have it installed once, by someone who administers the cluster: {install_command(version)}\n"
            'Or let the task do it, with the rights of an administrator: kuberay_operator="install".',
            cause="operator missing",
        )
    operator = await find_operator(kube)
    if operator is not None and operator.replicas == 0:
        raise ClusterFailedError(
            f"The KubeRay operator is scaled to zero (Deployment {operator.namespace}/{operator.name}): nobody "
            "would make the cluster's pods.",
            hint=f"kubectl -n {operator.namespace} scale deployment {operator.name} --replicas=1",
            cause="operator not running",
        )


async def ensure_operator(kube: Kube, helm: Helm, chart: OperatorChart, mode: Mode, say: Say) -> None:
    """Install the operator if it is missing; with ``upgrade`` also when it is older. Never downgrades.

    :param kube: where.
    :param helm: installs and upgrades all but CRDs, which it never would: with old ones the operator drops new fields.
    :param chart: the operator's, its values, and how many seconds it has to become available.
    :param mode: ``install`` or ``upgrade``.
    :param say: is given each line of progress.
    :raises ConfigurationError: it can't be upgraded, as it was not installed by Helm; nothing was changed.
    :raises KubernetesAccessError: this needs an administrator's rights.
    :raises ClusterTimeoutError: the operator did not become available.
    """
    exists = await definitions_exist(kube)
    operator = await find_operator(kube, chart.namespace)
    resolved = await helm.chart(chart.source)
    wanted = parse_version(resolved.metadata.app_version) or parse_version(resolved.metadata.version)
    if exists and operator is not None:
        have = operator.version
        older = have is not None and wanted is not None and have < wanted
        if not older or mode == "install":
            what = f"KubeRay {'.'.join(map(str, have))}" if have else f"The KubeRay operator ({operator.image})"
            also = (
                f'; {resolved.metadata.version} was asked for: kuberay_operator="upgrade" installs it' if older else ""
            )
            say(f"{what} is in namespace {operator.namespace}: left as it is{also}.")
            if operator.replicas > 0 and not operator.is_available:
                say(f"The KubeRay operator {operator.namespace}/{operator.name} does not run yet: waiting for it.")
                await wait_operator(kube, operator.namespace, chart.timeout_seconds, say)
            return
        await _upgrade(kube, helm, operator, resolved, chart, say)
        return
    if exists and await _someone_reconciles(kube):
        say("Kubernetes knows RayClusters, and they are looked after: the operator is left as it is.")
        return
    say(f"Installing KubeRay {resolved.metadata.version} into namespace {chart.namespace}.")
    await _apply_definitions(kube, helm, resolved, chart)
    await _install(helm, RELEASE, chart.namespace, resolved, chart.values)
    await wait_operator(kube, chart.namespace, chart.timeout_seconds, say)


async def _upgrade(kube: Kube, helm: Helm, operator: Operator, resolved: Any, chart: OperatorChart, say: Say) -> None:
    """Give the release that holds the operator a newer chart; the former one again if the new one does not come up."""
    where = f"{operator.namespace}/{operator.name}"
    version = resolved.metadata.version
    if operator.release is None:
        raise ConfigurationError(
            f"The KubeRay operator {where} ({operator.image}) was not installed by Helm: it can't be upgraded by it. "
            "Nothing was changed.",
            hint="Have it upgraded the way it was installed, e.g. kubectl apply --server-side -k "
            f'"github.com/ray-project/kuberay/ray-operator/config/default?ref=v{version}"; or leave it as it is: '
            'kuberay_operator="require".',
            cause="operator not by Helm",
        )
    before = await helm.release(operator.release, operator.namespace)
    say(
        f"Upgrading KubeRay in namespace {operator.namespace} to {version} (Helm release {operator.release!r}, now "
        f"{operator.image})."
    )
    await _apply_definitions(kube, helm, resolved, chart)
    await _install(helm, operator.release, operator.namespace, resolved, chart.values)
    try:
        await wait_operator(kube, operator.namespace, chart.timeout_seconds, say)
    except ClusterTimeoutError as error:
        if before is None or before.revision < 1:
            raise
        say(f"WARNING: KubeRay {version} does not come up: back to {operator.image}. {error.message}")
        await helm.roll_back(operator.release, operator.namespace, before.revision)
        back = "The former version runs again."
        try:
            await wait_operator(kube, operator.namespace, chart.timeout_seconds, say)
        except ClusterTimeoutError as again:
            back = f"The former version was put back, and does not run either: {again.message}"
        raise ClusterTimeoutError(
            f"KubeRay {version} did not come up in namespace {operator.namespace}, and was rolled back: "
            f"{error.message} {back}",
            hint='Have the cause mended before the next try; kuberay_operator="require" goes on with what runs.',
            cause="operator not upgraded",
        ) from error


async def _apply_definitions(kube: Kube, helm: Helm, resolved: Any, chart: OperatorChart) -> None:
    for definition in await helm.crds(resolved):
        await _apply_definition(kube, definition, chart.timeout_seconds)


async def _someone_reconciles(kube: Kube) -> bool:
    """Whether an operator runs that has no Deployment that we know: then some RayCluster has a status."""
    try:
        found = await kube.get(f"{RAY}/rayclusters", limit="50")
    except KubernetesAccessError:
        return False
    return any((item.get("status") or {}).get("observedGeneration") for item in found.get("items") or [])


async def _install(helm: Helm, release: str, namespace: str, chart: Any, values: Mapping[str, Any]) -> None:
    for attempt in range(6):
        current = await helm.release(release, namespace)
        if current is not None and current.is_stuck and current.age > 600:
            await helm.mend(release, namespace)
        try:
            await helm.upgrade(
                release, namespace, chart, values, description="installed by airflow-ray", create_namespace=True
            )
        except ConfigurationError as error:
            if error.data.get("cause") != "exists":
                raise
            raise ConfigurationError(
                f"KubeRay can't be installed into namespace {namespace}: {error.message}",
                hint="The chart gives its objects fixed names, and another installation has them. It is shared: it is "
                'left alone. Use it (kuberay_operator="require"), or ask who administers it.',
                cause="exists",
            ) from error
        except HelmError as error:
            # Another run installs it at this moment: it is shared.
            if error.data.get("cause") != "pending" or attempt == 5:
                raise
            await asyncio.sleep(5)
        else:
            return


async def _apply_definition(kube: Kube, definition: Json, timeout: float) -> None:
    name = definition["metadata"]["name"]
    await kube.apply(f"{_CRDS}/{name}", definition)
    try:
        async with asyncio.timeout(timeout):
            async for event in kube.watch(_CRDS, fieldSelector=f"metadata.name={name}"):
                for item in event.items or (event.object,):
                    if is_true(item, "Established"):
                        return
    except TimeoutError:
        raise ClusterTimeoutError(
            f"Kubernetes did not establish the CRD {name} within {timeout:.0f} s.", cause="definitions"
        ) from None


async def wait_operator(kube: Kube, namespace: str, timeout: float, say: Say) -> None:
    """Wait until the operator is available.

    :param kube: where.
    :param namespace: of the operator.
    :param timeout: seconds.
    :param say: is told when it is available.
    :raises ClusterTimeoutError: it did not become so in time; says why, as far as its pods tell.
    """
    seen: Operator | None = None
    try:
        async with asyncio.timeout(timeout):
            async for event in kube.watch(path_of("deployments", namespace, api=_DEPLOYMENTS), labelSelector=SELECTOR):
                for item in event.items or ((event.object,) if event.object else ()):
                    seen = Operator.of(item)
                    if seen.is_available:
                        say(f"The KubeRay operator is available ({seen.image}).")
                        return
    except TimeoutError:
        why = await _why_unavailable(kube, namespace)
        raise ClusterTimeoutError(
            f"The KubeRay operator did not become available in namespace {namespace} within {timeout:.0f} s"
            + (f": {'; '.join(why)}." if why else "."),
            hint=f"kubectl -n {namespace} describe pods -l {SELECTOR}",
            cause="operator not running",
        ) from None


async def _why_unavailable(kube: Kube, namespace: str) -> list[str]:
    """Say what keeps the operator's pods from running; how far one is, if nothing is known to be wrong."""
    pods = (await kube.get(path_of("pods", namespace), labelSelector=SELECTOR)).get("items") or []
    why = [finding.text for pod in pods for finding in pod_findings(pod)]
    slow = None if why else first_unready(pods)
    if slow is not None:
        events = await pod_events(kube, namespace, slow["metadata"]["uid"])
        why = [slow_finding(slow, events, datetime.now(UTC)).text]
    return why


async def still_there(
    kube: Kube, kind: str, namespace: str, name: str, timeout: float, left: Mapping[str, Mapping[str, Json]], look: str
) -> ClusterTimeoutError:
    """Give the error for what does not go: what is left of it, what holds that, and whether the operator runs.

    :param kube: where.
    :param kind: of what was deleted, e.g. ``RayJob``.
    :param namespace: of what was deleted.
    :param name: of it.
    :param timeout: seconds that were waited.
    :param left: of each kind, by name.
    :param look: a command that shows it.
    """
    said = []
    for what, objects in left.items():
        for one, item in objects.items():
            held = [each for each in item["metadata"].get("finalizers") or [] if each != "foregroundDeletion"]
            said.append(f"{what} {one}" + (f" (held by finalizers {', '.join(held)})" if held else ""))
    return ClusterTimeoutError(
        f"The {kind} {namespace}/{name} is not gone after {timeout:.0f} s. There remain: {'; '.join(said)}.",
        hint=await unless_it_runs(kube, look),
        namespace=namespace,
        name=name,
        cause="remains",
        remains=said,
    )


async def unless_it_runs(kube: Kube, hint: str) -> str:
    """Give a hint about what does not go; if the operator that ends it does not run, with that before it.

    :param kube: where.
    :param hint: what else there is to do.
    """
    try:
        operator = await find_operator(kube)
    except KubernetesError:
        return hint
    if operator is None or operator.available != 0:
        return hint
    return f"The KubeRay operator ({operator.namespace}/{operator.name}), which ends them, does not run. {hint}"
