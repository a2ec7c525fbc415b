"""Somebody else lays objects where a run's cluster is about to be: nothing is made, used or changed."""

from __future__ import annotations

import json

import pytest

from ray_provider.exceptions import ConfigurationError
from tests.kubernetes.clusters import HEAD_ONLY, Scene

pytestmark = pytest.mark.timeout(600)


def squatter(kind: str, name: str) -> dict:
    """What the squatter makes."""
    pod = {"spec": {"containers": [{"name": "theirs", "image": "registry.invalid/theirs"}]}}
    group = {"rayStartParams": {}, "template": pod}
    made = {
        "RayCluster": {"apiVersion": "ray.io/v1", "spec": {"headGroupSpec": group}},
        "Service": {"apiVersion": "v1", "spec": {"ports": [{"port": 8265}], "selector": {"app": "theirs"}}},
        "Secret": {"apiVersion": "v1", "stringData": {"auth_token": "known-to-them"}},
    }[kind]
    return {**made, "kind": kind, "metadata": {"name": name + ("-head-svc" if kind == "Service" else "")}}


@pytest.mark.parametrize("kind", ["RayCluster", "Service", "Secret"])
async def test_what_lies_where_a_runs_cluster_is_to_be(kubernetes, namespace, kind):
    scene = Scene(kubernetes, namespace)
    spec = scene.spec(HEAD_ONLY)
    theirs = squatter(kind, spec.name)
    kubernetes.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(theirs))
    with pytest.raises(ConfigurationError, match=f"The {kind} {namespace}/{theirs['metadata']['name']}") as raised:
        await scene.apply(spec)
    assert raised.value.data["cause"] == "not ours"
    assert kubernetes.helm("list", "-a", "-q", "-n", namespace).split() == []
    there = kubernetes.kubectl("get", "rayclusters,secrets,services", "-n", namespace, "-o", "name").split()
    left = [one for one in there if spec.name in one]
    assert f"{kind.lower()}" in " ".join(left), "it is not ours to delete"
    assert kind == "RayCluster" or len(left) == 1
