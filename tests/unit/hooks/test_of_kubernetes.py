"""What a hook takes from a connection of type kubernetes, and what it asks Kubernetes on behalf of a RayJob."""

from __future__ import annotations

import json

import pytest

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.hooks import RayHook
from ray_provider.hooks.own_rayjob import end_use
from tests.support.kubernetes_api import kubeconfig, running

THEIRS = {"kube_config_path": "/theirs", "extra__kubernetes__cluster_context": "theirs", "namespace": "theirs"}


def connect(monkeypatch, name, kind, extra):
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": kind, "extra": extra}))


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, ("/theirs", "theirs", "theirs")),
        ({"cluster_context": "ours"}, ("/theirs", "ours", "theirs")),
        ({"namespace": "ours"}, ("/theirs", "theirs", "ours")),
    ],
)
def test_a_kubernetes_connection_says_what_the_rays_own_does_not(monkeypatch, own, expected):
    connect(monkeypatch, "k8s", "kubernetes", THEIRS)
    connect(monkeypatch, "r", "ray", {"kubernetes_conn_id": "k8s", **own})
    config = RayHook("r").config
    assert (config.kubeconfig_path, config.cluster_context, config.namespace) == expected


@pytest.mark.parametrize("name", ["c", ""])
async def test_a_cluster_is_asked_for_its_users_only_where_there_is_one(monkeypatch, name):
    async with running() as (server, _):
        connect(monkeypatch, "r", "ray", {"kube_config": kubeconfig(server)})
        await end_use(RayHook("r"), ClusterHandle("kubernetes", name, address="http://h", namespace="n", rayjob="j"))
        asked = [one for one in server.requests if "rayclusters" in one]
        assert asked == (["GET /apis/ray.io/v1/namespaces/n/rayclusters/c"] if name else [])
