"""What is read from RayCluster objects, and what KubeRay's versions know."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.clusters.handle import AuthReference
from ray_provider.clusters.kuberay.raycluster import (
    auth_of,
    desired_workers,
    digest,
    head_service,
    helm_release_of,
    one_cluster,
    pod_spec,
)
from ray_provider.clusters.kuberay.versions import KubeRay, since
from ray_provider.exceptions import ConfigurationError


def cluster(name: str = "ray", *, env: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"metadata": {"name": name}, "spec": dict(spec)}
    if env is not None:
        entries = [
            {"name": key, **(value if isinstance(value, dict) else {"value": value})} for key, value in env.items()
        ]
        made["spec"]["headGroupSpec"] = {"template": {"spec": {"containers": [{"env": entries}, {"env": []}]}}}
    return made


def test_the_name_of_the_head_service() -> None:
    named = cluster(headGroupSpec={"headService": {"metadata": {"name": "given"}}})
    assert head_service(cluster()) == "ray-head-svc"
    assert head_service(named) == "given"
    assert head_service({**named, "status": {"head": {"serviceName": "told"}}}) == "told"
    assert head_service({**named, "status": {"head": {}}}) == "given"


SECRET = {"valueFrom": {"secretKeyRef": {"name": "mine", "key": "auth_token"}}}


@pytest.mark.parametrize(
    ("given", "auth"),
    [
        (cluster(), AuthReference()),
        (cluster(authOptions={"mode": "disabled"}), AuthReference()),
        (cluster(authOptions={"mode": "token"}), AuthReference("secret", secret_name="ray")),
        (cluster(authOptions={"mode": "token", "secretName": "own"}), AuthReference("secret", secret_name="own")),
        (cluster("a" * 53, authOptions={"mode": "token"}), AuthReference("secret", secret_name="a" * 50)),
        (
            cluster("abc-" + "a" * 49, authOptions={"mode": "token"}),
            AuthReference("secret", secret_name="r" + "a" * 49),
        ),
        (
            cluster("abcd9" + "a" * 49, authOptions={"mode": "token"}),
            AuthReference("secret", secret_name="r" + "a" * 49),
        ),
        (cluster(authOptions={"enableK8sTokenAuth": True}), AuthReference("kubernetes")),
        (cluster(env={"RAY_ENABLE_K8S_TOKEN_AUTH": "true"}), AuthReference("kubernetes")),
        (cluster(env={"RAY_ENABLE_K8S_TOKEN_AUTH": "1"}), AuthReference("kubernetes")),
        (cluster(env={"RAY_ENABLE_K8S_TOKEN_AUTH": "0"}), AuthReference()),
        (
            cluster(env={"RAY_AUTH_MODE": "TOKEN", "RAY_AUTH_TOKEN": SECRET}),
            AuthReference("secret", secret_name="mine"),
        ),
        (cluster(env={"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": SECRET}), AuthReference()),
        (cluster(env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "planted"}), AuthReference()),
        (
            cluster(
                env={
                    "RAY_AUTH_MODE": "token",
                    "RAY_AUTH_TOKEN": {"valueFrom": {"secretKeyRef": {"name": "mine", "key": "password"}}},
                }
            ),
            AuthReference(),
        ),
        (cluster(headGroupSpec={"template": {"spec": {"containers": ["odd"]}}}), AuthReference()),
    ],
)
def test_where_a_clusters_token_lies(given: dict[str, Any], auth: AuthReference) -> None:
    assert auth_of(given) == auth


def test_a_chart_makes_one_cluster_of_the_right_name() -> None:
    made = [{"kind": "Service"}, {"kind": "RayCluster", **cluster("mine")}]
    assert one_cluster(made, "mine") == "mine"
    with pytest.raises(ConfigurationError, match="makes 0 RayClusters"):
        one_cluster(made[:1], "mine")
    with pytest.raises(ConfigurationError, match="makes 2 RayClusters"):
        one_cluster([*made, made[1]], "mine")
    with pytest.raises(ConfigurationError, match="calls the RayCluster 'mine', and not 'other'"):
        one_cluster(made, "other")


def group(**values: Any) -> dict[str, Any]:
    return values


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        (None, 0),
        ([group()], 0),
        ([group(replicas=2), group(replicas=1)], 3),
        ([group(replicas=1, minReplicas=3)], 3),
        ([group(minReplicas=2)], 2),
        ([group(replicas=5, maxReplicas=4)], 4),
        ([group(replicas=5, maxReplicas=0)], 0),
        ([group(replicas=2, numOfHosts=4)], 8),
        ([group(replicas=2, suspend=True), group(replicas=1)], 1),
        ([group(replicas="2", maxReplicas="3")], 2),
    ],
)
def test_how_many_workers_are_wanted(groups: Any, wanted: int) -> None:
    assert desired_workers(cluster(workerGroupSpecs=groups)) == wanted


def test_what_replaces_pods_when_it_changes() -> None:
    pod = {"containers": [{"image": "a"}], "tolerations": [1], "schedulingGates": [2]}
    numbers = {"replicas": 1, "minReplicas": 0, "maxReplicas": 2, "scaleStrategy": {}}
    given = cluster(
        rayVersion="2.60.0",
        upgradeStrategy={"type": "None"},
        headGroupSpec={"template": {"spec": dict(pod)}},
        workerGroupSpecs=[{"groupName": "w", **numbers, "template": {"spec": dict(pod)}}, {"groupName": "none"}],
    )
    bare = {"template": {"spec": {"containers": [{"image": "a"}]}}}
    assert pod_spec(given) == {
        "rayVersion": "2.60.0",
        "headGroupSpec": bare,
        "workerGroupSpecs": [{"groupName": "w", **bare}, {"groupName": "none"}],
    }
    assert given["spec"]["workerGroupSpecs"][0]["replicas"] == 1, "the object itself is not changed"
    assert given["spec"]["headGroupSpec"]["template"]["spec"] == pod


def test_a_digest_follows_chart_and_values_whatever_their_order() -> None:
    assert digest("c", {"a": 1, "b": 2}) == digest("c", {"b": 2, "a": 1})
    assert len({digest("c", {}), digest("d", {}), digest("c", {"a": 1})}) == 3
    assert len(digest("c", {})) == 32


def test_whose_release_a_cluster_is() -> None:
    annotated = {"metadata": {"annotations": {"meta.helm.sh/release-name": "r"}}}
    assert (helm_release_of(annotated), helm_release_of({"metadata": {}}), helm_release_of(None)) == ("r", None, None)


@pytest.mark.parametrize(
    ("field", "version"),
    [
        ("spec.authOptions", "1.5.1"),
        ("spec.authOptions.mode", "1.5.1"),
        ("spec.authOptions.secretName", "1.6.0"),
        ("authOptions.enableK8sTokenAuth", "1.6.0"),
        ("spec.upgradeStrategy", "1.6.0"),
        ("spec.networkPolicy", "1.7.0"),
        ("spec.managedBy", "1.4.0"),
        ("spec.tlsOptions", "1.7.0"),
        ("spec.historyServerOptions.x", "1.7.0"),
        ("spec.ingressOptions", "1.7.0"),
        ("spec.headGroupSpec.labels", "1.5.0"),
        ("spec.workerGroupSpecs[0].resources", "1.5.0"),
        ("spec.headGroupSpec.rayStartParams", None),
        ("spec.other.labels", None),
    ],
)
def test_since_when_a_field_is_known(field: str, version: str | None) -> None:
    assert since(field) == version


def test_versions_compare() -> None:
    found = KubeRay((1, 5, 1))
    assert (found.at_least(1, 5, 1), found.at_least(1, 5), found.at_least(1, 6, 0), found.text) == (
        True,
        True,
        False,
        "1.5.1",
    )
