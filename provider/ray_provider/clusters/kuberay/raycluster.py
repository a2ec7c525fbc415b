"""What is read from RayCluster objects."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_provider.clusters.handle import AuthReference
from ray_provider.exceptions import ConfigurationError

Json = dict[str, Any]


def head_service(cluster: Mapping[str, Any]) -> str:
    """Give the name of a cluster's head service.

    :param cluster: the RayCluster: its status says it, else its spec, else KubeRay's rule.
    """
    told = ((cluster.get("status") or {}).get("head") or {}).get("serviceName")
    given = (((cluster["spec"].get("headGroupSpec") or {}).get("headService") or {}).get("metadata") or {}).get("name")
    return str(told or given or f"{cluster['metadata']['name']}-head-svc")


def head_container(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the container of Ray's head: the first one, as KubeRay takes it.

    :param spec: of a RayCluster.
    :return: empty, where there is none.
    """
    pod = ((spec.get("headGroupSpec") or {}).get("template") or {}).get("spec") or {}
    containers = pod.get("containers") or []
    return containers[0] if containers and isinstance(containers[0], Mapping) else {}


def environment(container: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Give the entries of a container's environment, by name.

    :param container: of a pod.
    """
    return {str(one.get("name")): one for one in container.get("env") or () if isinstance(one, Mapping)}


def auth_of(cluster: Mapping[str, Any]) -> AuthReference:
    """Say where a cluster's token lies: as ``authOptions`` say, else as the environment of its head does.

    :param cluster: the RayCluster.
    """
    options = cluster["spec"].get("authOptions") or {}
    said = environment(head_container(cluster["spec"]))
    by_kubernetes = str((said.get("RAY_ENABLE_K8S_TOKEN_AUTH") or {}).get("value", "")).lower() in ("true", "1")
    if options.get("enableK8sTokenAuth") or by_kubernetes:
        return AuthReference(kind="kubernetes")
    if options.get("mode") != "token":
        key = ((said.get("RAY_AUTH_TOKEN") or {}).get("valueFrom") or {}).get("secretKeyRef") or {}
        mode = str((said.get("RAY_AUTH_MODE") or {}).get("value", "")).lower()
        # As with authOptions.secretName, the key is a fixed one: no other content of a Secret is ever sent.
        if mode == "token" and key.get("name") and key.get("key") == "auth_token":
            return AuthReference(kind="secret", secret_name=str(key["name"]))
        return AuthReference()
    name = str(cluster["metadata"]["name"])
    # KubeRay cuts longer names from the left, and lets none begin with '-' or a digit.
    cut = name[-50:]
    if not cut[0].isalpha():
        cut = f"r{cut[1:]}"
    return AuthReference(kind="secret", secret_name=options.get("secretName") or cut)


def one_cluster(rendered: list[Json], name: str) -> str:
    """Find the one RayCluster that a chart makes.

    :param rendered: what the chart makes.
    :param name: that the RayCluster has to have: the release's.
    :return: its name.
    :raises ConfigurationError: it makes none, several, or one of another name.
    """
    clusters = [one for one in rendered if one.get("kind") == "RayCluster"]
    if len(clusters) != 1:
        raise ConfigurationError(
            f"The chart makes {len(clusters)} RayClusters from these values; it has to make one.",
            hint="Is it a chart of a Ray cluster? KubeRay's own is called ray-cluster, too.",
        )
    made = str(clusters[0]["metadata"]["name"])
    if made != name:
        raise ConfigurationError(
            f"The chart calls the RayCluster {made!r}, and not {name!r} as its release.",
            hint="A chart has to take the name from fullnameOverride, as KubeRay's does.",
        )
    return made


def pod_spec(cluster: Mapping[str, Any]) -> Json:
    """Give what of a spec makes the operator replace pods when it changes (its own rule).

    :param cluster: the RayCluster; it stays as it is.
    """
    spec: Json = copy.deepcopy(dict(cluster["spec"]))
    spec.pop("upgradeStrategy", None)
    groups = [spec.get("headGroupSpec") or {}, *(spec.get("workerGroupSpecs") or [])]
    for group in groups:
        pod = (group.get("template") or {}).get("spec") or {}
        for key in ("tolerations", "schedulingGates"):
            pod.pop(key, None)
        for key in ("replicas", "minReplicas", "maxReplicas", "scaleStrategy"):
            group.pop(key, None)
    return spec


def desired_workers(cluster: Mapping[str, Any]) -> int:
    """Give how many worker pods a spec asks for (the operator's own rule).

    :param cluster: the RayCluster.
    """
    wanted = 0
    for group in cluster["spec"].get("workerGroupSpecs") or []:
        if group.get("suspend"):
            continue
        lowest = int(group.get("minReplicas") or 0)
        highest = group.get("maxReplicas")
        replicas = max(int(group.get("replicas") or 0), lowest)
        if highest is not None:
            replicas = min(replicas, int(highest))
        wanted += replicas * int(group.get("numOfHosts") or 1)
    return wanted


def digest(chart: str, values: Mapping[str, Any]) -> str:
    """Give what changes when a chart or its values do.

    :param chart: its own digest.
    :param values: that the chart is given.
    :return: 32 hexadecimal digits.
    """
    text = json.dumps([chart, values], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def helm_release_of(cluster: Json | None) -> str | None:
    """Tell which Helm release a RayCluster says that it belongs to.

    :param cluster: the RayCluster; ``None``: there is none.
    :return: ``None``: it belongs to none.
    """
    annotations = ((cluster or {}).get("metadata") or {}).get("annotations") or {}
    name = annotations.get("meta.helm.sh/release-name")
    return str(name) if name else None


@dataclass(frozen=True, slots=True)
class ByEnvironment:
    """Whether Ray asks for tokens, as the head's environment says it.

    :param variable: which of its variables says so.
    :param on: it asks for them.
    """

    variable: str
    on: bool


def closed_by_environment(spec: Mapping[str, Any]) -> ByEnvironment | None:
    """Tell whether Ray asks for tokens where the head's environment says so; ``None``: it says nothing.

    :param spec: of a RayCluster.
    """
    said = environment(head_container(spec))
    if "RAY_AUTH_MODE" in said:
        mode = str(said["RAY_AUTH_MODE"].get("value", "")).lower()
        return ByEnvironment("RAY_AUTH_MODE", mode in ("token", "k8s"))
    if "RAY_ENABLE_K8S_TOKEN_AUTH" in said:
        value = str(said["RAY_ENABLE_K8S_TOKEN_AUTH"].get("value", "")).lower()
        return ByEnvironment("RAY_ENABLE_K8S_TOKEN_AUTH", value in ("true", "1"))
    return None


def is_exposed(spec: Mapping[str, Any]) -> bool:
    """Tell whether a RayCluster shows its dashboard outside the Kubernetes cluster.

    :param spec: of the RayCluster.
    """
    head = spec.get("headGroupSpec") or {}
    service = ((head.get("headService") or {}).get("spec") or {}).get("type")
    return any(kind in ("LoadBalancer", "NodePort") for kind in (head.get("serviceType"), service)) or bool(
        head.get("enableIngress")
    )
