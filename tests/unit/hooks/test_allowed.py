"""A handle is data: it leads only where the connection or the DAG's own code go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.allowed import CHECKED, Allowed, allowed_by
from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.hooks.connection import RayConnectionConfig
from ray_provider.operators import DeleteRayCluster, SetupRayCluster, SetupRayInfrastructure, SubmitRayJob


def config(**changes: Any) -> Any:
    known = {"conn_id": "c", "named_backend": "kubernetes", "allowed_namespaces": (), "namespace": None}
    return SimpleNamespace(**{**known, **changes})


def handle(**changes: Any) -> ClusterHandle:
    return ClusterHandle(
        **{"name": "ray", "namespace": "theirs", "backend": "kubernetes", "address": "http://x", **changes}
    )


def refused(allowed: Allowed, given: Any, found: ClusterHandle) -> str:
    with pytest.raises(ConfigurationError) as caught:
        allowed.check(given, found)
    assert caught.value.data["field"] == "cluster"
    return str(caught.value)


def test_a_connection_that_names_its_namespaces_is_followed() -> None:
    assert "leads to namespace 'theirs', and the connection 'c' to 'a', 'mine'" in refused(
        Allowed(), config(namespace="mine", allowed_namespaces=("a",)), handle()
    )
    for given in (
        config(),
        config(namespace="theirs"),
        config(namespace="mine", allowed_namespaces=("theirs",)),
        config(namespace="mine", allowed_namespaces=("*",)),
    ):
        Allowed().check(given, handle())


def test_what_the_dag_names_is_allowed_besides() -> None:
    given = config(namespace="mine")
    for allowed in (Allowed(namespaces=frozenset({"theirs"})), Allowed(any_namespace=True), CHECKED):
        allowed.check(given, handle())


def test_a_local_ray_is_none_of_kubernetes() -> None:
    local = handle(backend="local", namespace=None)
    assert "local Ray ('ray'), and the connection 'c' says backend: kubernetes" in refused(Allowed(), config(), local)
    Allowed().check(config(named_backend="local"), local)
    Allowed().check(config(named_backend=None), local)
    Allowed(backends=frozenset({"local"})).check(config(), local)
    CHECKED.check(config(), local)


def test_a_dags_own_code_is_read_for_what_it_names() -> None:
    with DAG("d", schedule=None):
        SetupRayCluster(task_id="one", conn_id="c", namespace="ns", backend="local")
        SetupRayCluster(task_id="two", conn_id="c", namespace="{{ params.ns }}")
        DeleteRayCluster(task_id="three", conn_id="c", name="x", namespace="of-a-delete")
        SetupRayInfrastructure(
            task_id="four",
            aws_conn_id="aws",
            gcp_conn_id="{% raw %}x{% endraw %}",
            variables={"name": "n", "project": "p", "host_project": "h", "project_template": "{{ x }}"},
        )
        SetupRayCluster.partial(task_id="five", conn_id="c", namespace="mapped").expand(name=["a", "b"])
        job = SubmitRayJob(task_id="job", conn_id="c", entrypoint="true")
    found = allowed_by(job)
    assert found.namespaces == {"ns", "mapped"}
    assert found.backends == {"local"}
    assert found.connections == {"aws"}
    assert found.projects == {"p", "h"}
    assert not found.any_namespace
    assert not found.everything


def test_a_task_that_makes_its_cluster_knows_its_namespace() -> None:
    with DAG("d", schedule=None):
        job = SubmitRayJob(task_id="job", conn_id="c", entrypoint="true", ray_cluster_yaml="x.yaml")
    assert allowed_by(job).any_namespace
    assert allowed_by(SubmitRayJob(task_id="alone", conn_id="c", entrypoint="true")) == Allowed()


AWS = CloudCluster("aws", "prod", "eu-west-1")
THEIRS = CloudCluster("gcp", "prod", "europe-west1", project="theirs")


@pytest.mark.parametrize(
    ("allowed", "extra", "cluster"),
    [
        (Allowed(), {}, AWS),
        (Allowed(), {}, CloudCluster("gcp", "prod", "europe-west1")),
        (Allowed(), {}, CloudCluster("gcp", "prod", "europe-west1", project="of-our-credentials")),
        (Allowed(), {"gcp_project": "theirs"}, THEIRS),
        (Allowed(projects=frozenset({"theirs"})), {}, THEIRS),
        (CHECKED, {}, THEIRS),
    ],
)
async def test_a_project_of_google_cloud_that_is_ours_is_entered(monkeypatch, allowed, extra, cluster) -> None:
    monkeypatch.setattr("ray_provider.hooks.cloud.google_project", lambda _: "of-our-credentials")
    entered = await allowed.enter(RayConnectionConfig.from_connection("c", extra=extra), cluster)
    assert (entered.cloud, entered.name) == (cluster.cloud, "prod")


@pytest.mark.parametrize(("ours", "said"), [("ours", "ours"), (None, "no project")])
async def test_nobody_elses_project_is_shown_a_token(monkeypatch, ours, said) -> None:
    monkeypatch.setattr("ray_provider.hooks.cloud.google_project", lambda _: ours)
    with pytest.raises(ConfigurationError, match=f"'theirs', which is not that of our credentials: {said}"):
        await Allowed().enter(RayConnectionConfig.from_connection("c", extra={}), THEIRS)
