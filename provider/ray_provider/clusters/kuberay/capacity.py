"""What a Ray cluster on Kubernetes can still get, for a job that waits: its groups, and the pods that do not start.

What a pod brings to Ray is read as KubeRay reads it: a group's ``resources``, else its ``rayStartParams``, else the
limits of the Ray container (requests, for CPUs).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ray_provider.clusters.kubernetes.finding import is_true
from ray_provider.clusters.kubernetes.pod_diagnosis import phase, pod_findings
from ray_provider.jobs.explain import first_of
from ray_provider.jobs.watch.waiting import Prospects, amounts_told

if TYPE_CHECKING:
    from ray_provider.clusters.handle import ClusterHandle
    from ray_provider.clusters.kubernetes.access import KubernetesAccess

#: So many pods are told of.
_MOST_PODS = 3
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", start=1)
}
_QUANTITY = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)")
#: Kubernetes' names of accelerators, and Ray's.
_ACCELERATORS = {"nvidia.com/gpu": "GPU", "amd.com/gpu": "GPU", "intel.com/gpu": "GPU", "google.com/tpu": "TPU"}

_COMMON = ("CPU", "GPU", "memory")


@dataclass(frozen=True, slots=True)
class Group:
    """A group of pods of a RayCluster.

    :param name: ``headgroup`` for the head.
    :param gives: what one pod brings to Ray; ``None`` for an amount that can't be read: it may be any.
    :param most: how many pods it may have; ``None``: no limit.
    """

    name: str
    gives: Mapping[str, float | None]
    most: int | None

    def holds(self, wants: Mapping[str, float]) -> bool:
        """Tell whether one pod is large enough. In doubt it is.

        :param wants: how much of what, by Ray's names; memory in bytes.
        """
        if self.most == 0:
            return False
        # Ray finds more kinds by itself on some machines: of those that the group does not name, nothing is known.
        given = [(self.gives.get(name, 0.0 if name in _COMMON else None), amount) for name, amount in wants.items()]
        return all(gives is None or gives >= amount for gives, amount in given)

    def told(self) -> str:
        """Say what it is in some words."""
        known = {name: amount for name, amount in self.gives.items() if amount}
        many = "" if self.name == "headgroup" or self.most is None else f", at most {self.most} of them"
        return f"{self.name} ({amounts_told(known)} a pod{many})"


async def prospects(kube_access: KubernetesAccess, handle: ClusterHandle, wants: Mapping[str, float]) -> Prospects:
    """Say what the cluster can still get for a job that waits.

    :param kube_access: to its Kubernetes.
    :param handle: of the cluster.
    :param wants: what the job's entrypoint asks for, by Ray's names.
    :raises KubernetesError: it can't be asked.
    """
    from ray_provider.clusters.kuberay.account import get, shared_account

    connected = (await shared_account(kube_access, handle)).connected
    namespace, name = str(handle.namespace), handle.name
    cluster = await get(connected, f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/{name}")
    selector = quote(f"ray.io/cluster={name}")
    pods = await get(connected, f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")
    return judge(cluster, pods.get("items") or [], wants)


def judge(cluster: Mapping[str, Any], pods: list[Mapping[str, Any]], wants: Mapping[str, float]) -> Prospects:
    """Say it, of what Kubernetes tells.

    :param cluster: the RayCluster.
    :param pods: its pods.
    :param wants: what the entrypoint asks for.
    """
    groups = groups_of(cluster)
    where = f"{cluster['metadata']['namespace']}/{cluster['metadata']['name']}"
    holding = [group for group in groups if group.holds(wants)]
    parts = []
    if wants and not holding:
        told = "; ".join(group.told() for group in groups)
        parts.append(
            f"No group of Ray cluster {where} can ever give that: {told}. The job waits in vain: ask for less, or "
            "change the cluster's groups."
        )
    elif wants and not (cluster["spec"].get("enableInTreeAutoscaling")):
        parts.append(f"Ray cluster {where} does not grow by itself (enableInTreeAutoscaling is off).")
    elif wants:
        parts.append(f"Ray cluster {where} may still get it from {'; '.join(group.told() for group in holding)}.")
    waiting = [pod for pod in pods if not is_true(pod, "Ready") and not pod["metadata"].get("deletionTimestamp")]
    lines = [f"{pod['metadata']['name']}: {_why(pod)}" for pod in waiting]
    if lines:
        parts.append(f"Pods that are not ready: {first_of(lines, _MOST_PODS)}.")
    return Prospects(
        " ".join(parts),
        never=bool(wants) and not holding,
        overrules=bool(holding) and not cluster["spec"].get("enableInTreeAutoscaling"),
    )


def groups_of(cluster: Mapping[str, Any]) -> list[Group]:
    """Give the groups of a RayCluster, the head first.

    :param cluster: the RayCluster.
    """
    spec = cluster["spec"]
    found = [Group("headgroup", _gives(spec.get("headGroupSpec") or {}), 1)]
    for group in spec.get("workerGroupSpecs") or []:
        highest = group.get("maxReplicas") if spec.get("enableInTreeAutoscaling") else group.get("replicas")
        most = None if highest is None else int(highest) * int(group.get("numOfHosts") or 1)
        # KubeRay's default is as good as none.
        most = 0 if group.get("suspend") else None if most is not None and most >= 2**31 - 1 else most
        found.append(Group(str(group.get("groupName")), _gives(group), most))
    return found


def _gives(group: Mapping[str, Any]) -> dict[str, float | None]:
    parameters = group.get("rayStartParams") or {}
    containers = (((group.get("template") or {}).get("spec") or {}).get("containers")) or [{}]
    resources = containers[0].get("resources") or {}
    limits = resources.get("limits") or {}
    cpus = limits.get("cpu", (resources.get("requests") or {}).get("cpu"))
    # Without a limit it is what the node has.
    found: dict[str, float | None] = {
        "CPU": math.ceil(amount) if (amount := quantity(cpus)) is not None else None,
        "memory": quantity(limits.get("memory")),
    }
    for name, amount in limits.items():
        if name in _ACCELERATORS:
            found[_ACCELERATORS[name]] = quantity(amount)
    for parameter, name in (("num-cpus", "CPU"), ("num-gpus", "GPU"), ("memory", "memory")):
        if parameter in parameters:
            found[name] = quantity(parameters[parameter])
    if "resources" in parameters:
        # KubeRay's samples quote it once more: '"{\"TPU\": 4}"'.
        text = str(parameters["resources"]).strip().strip("'\"").replace('\\"', '"')
        with suppress(ValueError, AttributeError, TypeError):
            found |= {str(name): float(amount) for name, amount in json.loads(text).items()}
    own = group.get("resources")
    if isinstance(own, Mapping):
        found |= {str(name): quantity(amount) for name, amount in own.items()}
    return found


def quantity(value: Any) -> float | None:
    """Read one of Kubernetes' quantities (``500m``, ``2Gi``); ``None``: there is none, or it is no quantity.

    :param value: as a manifest gives it: a text or a number.
    :return: in the base unit: CPUs, bytes.
    """
    match = _QUANTITY.fullmatch(str(value).strip()) if value is not None else None
    if match is None or match[2] not in _UNITS:
        return None
    try:
        return float(match[1]) * _UNITS[match[2]]
    except ValueError:
        return None


def _why(pod: Mapping[str, Any]) -> str:
    findings = pod_findings(pod)
    return findings[0].text if findings else phase(pod)
