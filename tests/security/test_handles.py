"""A handle points, it does not decide: forged by whoever can write an XCom, it leads no secret of ours anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException

from ray_provider.clusters.handle import AuthReference, ClusterHandle
from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint
from ray_provider.clusters.local.state import LocalPaths, LocalRecord, this_machine
from ray_provider.exceptions import ConfigurationError, KubernetesError
from ray_provider.hooks import RayHook, cloud
from ray_provider.hooks.allowed import CHECKED, allowed_by
from ray_provider.operators import DeleteRayCluster, SetupRayCluster, SetupRayInfrastructure, SubmitRayJob
from ray_provider.operators._cluster.run import ClusterRun
from ray_provider.sensors import RayClusterSensor, RayJobSensor
from tests.support.airflow_task import FakeTask, context_of
from tests.support.jobs_api import JobsApi
from tests.support.kubernetes_front import HANDLE, KubernetesFront, ray_cluster

PLANTED = "planted-token-90ab"
OWNER = {"dag_id": "dag", "run_id": "run", "task_id": "setup", "map_index": -1}


@pytest.fixture
def connection(monkeypatch) -> dict[str, Any]:
    """The extra of the connection that every hook reads."""
    extra: dict[str, Any] = {}

    def get(conn_id):
        return SimpleNamespace(
            extra=json.dumps(extra), extra_dejson=extra, host=None, port=None, schema=None, password=None, login=None
        )

    monkeypatch.setattr(RayHook, "get_connection", staticmethod(get))
    return extra


@pytest.fixture
def context() -> dict[str, Any]:
    return context_of(FakeTask())


# On this machine ----------------------------------------------------------------------------------------------------


async def test_a_local_handle_sends_no_file_to_no_address(connection, tmp_path, monkeypatch):
    """Before: any file of one line went as the token to whatever address the handle named."""
    monkeypatch.setenv("AIRFLOW_RAY_LOCAL_HOME", str(tmp_path / "home"))
    secret = tmp_path / "id_ed25519"
    secret.write_text(PLANTED)
    async with JobsApi() as theirs:
        forged = ClusterHandle("local", "mine", theirs.url, auth=AuthReference("file", path=str(secret)))
        with pytest.raises(Exception, match="There is no local Ray 'mine'"):
            await RayHook("c").endpoint(forged.to_dict())
        paths = LocalPaths.of("mine")
        paths.home.mkdir()
        paths.make()
        LocalRecord("mine", "ready", this_machine(), address="http://127.0.0.1:8265").write(paths)
        found = await RayHook("c").endpoint(forged.to_dict())
        assert (found.url, found.token) == ("http://127.0.0.1:8265", paths.token.read_text())
        assert not theirs.requests
    with pytest.raises(ConfigurationError, match="can't be the name"):
        await RayHook("c").endpoint(replace(forged, name="../../etc").to_dict())


def test_nor_counts_it_where_the_connection_says_kubernetes(connection, context):
    connection["backend"] = "kubernetes"
    forged = ClusterHandle("local", "mine", "http://127.0.0.1:1").to_dict()
    for task in (
        SubmitRayJob(task_id="job", conn_id="c", entrypoint="true", cluster=forged, deferrable=True),
        RayJobSensor(task_id="sensor", conn_id="c", submission_id="a", cluster=forged, deferrable=True),
        RayClusterSensor(task_id="cluster", conn_id="c", cluster=forged, deferrable=True),
    ):
        with pytest.raises(AirflowFailException, match="says backend: kubernetes"):
            task.execute(context)


# On Kubernetes ------------------------------------------------------------------------------------------------------


async def test_service_and_secret_are_the_rayclusters_own():
    """Before: any Secret of any namespace went to any service on port 8265."""
    forged = replace(
        HANDLE,
        service="theirs",
        address="http://theirs",
        auth=AuthReference("secret", secret_name="database", secret_key="password"),  # noqa: S106 - a name
    )
    async with KubernetesFront() as front:
        for how, url in (("proxy", f"{front.url}"), ("service", "http://c-head-svc.n.svc:8265")):
            endpoint = await kubernetes_endpoint(front.access(), forged, access=how)
            assert endpoint.url.startswith(url)
            assert "theirs" not in endpoint.url
            assert await endpoint.token_source(None) == "ray-1"
        assert not any("database" in path for _, path in front.requests)
    async with KubernetesFront() as front:
        front.cluster = ray_cluster(mode="disabled")
        open_one = await kubernetes_endpoint(front.access(), forged, access="service")
        assert open_one.token_source is None, "a cluster without a token is sent none"
        with pytest.raises(KubernetesError, match="There is no RayCluster n/d"):
            await kubernetes_endpoint(front.access(), replace(forged, name="d"))


async def test_a_raycluster_can_not_name_a_way_out(monkeypatch):
    async with KubernetesFront() as front:
        front.cluster["status"]["head"]["serviceName"] = "a@evil.example.com"
        with pytest.raises(ConfigurationError, match="of Kubernetes"):
            await kubernetes_endpoint(front.access(), HANDLE, access="service")
        front.cluster = {"metadata": {}, "spec": []}
        with pytest.raises(Exception, match="another form than KubeRay gives it"):
            await kubernetes_endpoint(front.access(), HANDLE)


async def test_the_namespace_is_what_connection_or_dag_allow(connection, context):
    async with KubernetesFront() as front:
        connection |= {"kube_config": front.kubeconfig(), "namespace": "ours"}
        task = SubmitRayJob(task_id="job", conn_id="c", entrypoint="true", cluster=HANDLE.to_dict())
        with pytest.raises(ConfigurationError, match="leads to namespace 'n', and the connection 'c' to 'ours'"):
            await task.hook.endpoint(task.cluster)
        assert not front.requests
        connection["allowed_namespaces"] = "m, n"
        assert (await task.hook.endpoint(task.cluster)).url
        connection["allowed_namespaces"] = "*"
        assert (await task.hook.endpoint(task.cluster)).url
        del connection["allowed_namespaces"]
        with DAG("dag", schedule=None) as dag:
            SetupRayCluster(task_id="setup", namespace="n")
        dag.add_task(task)
        assert (await task.hook.endpoint(task.cluster)).url, "the DAG's code says so"
        dag.task_dict["setup"].namespace = "{{ ti.xcom_pull('theirs') }}"
        with pytest.raises(ConfigurationError, match="allowed_namespaces"):
            await task.hook.endpoint(task.cluster)
        assert (await RayHook("c", allowed=CHECKED).endpoint(task.cluster)).url, "a trigger's was checked before"
        connection["namespace"] = ""
        assert (await task.hook.endpoint(task.cluster)).url, (
            "a connection that says nothing allows what its account may"
        )


# Clouds -------------------------------------------------------------------------------------------------------------

AWS = {"cloud": "aws", "name": "ray", "location": "eu-west-1"}
GOOGLE = {"cloud": "gcp", "name": "ray", "location": "europe-west4", "project": "theirs"}


@pytest.fixture
def entered(monkeypatch) -> list[Any]:
    """The clusters of clouds that were entered."""
    found: list[Any] = []

    async def enter(cluster):
        found.append(cluster)
        raise ConfigurationError("entered")

    monkeypatch.setattr(cloud, "cloud_access", enter)
    monkeypatch.setattr(cloud, "google_project", lambda conn_id: "ours")
    return found


@pytest.mark.parametrize(
    ("where", "extra", "says"),
    [
        ({**AWS, "aws_conn_id": "prod"}, {}, "names aws_conn_id 'prod'"),
        ({**AWS, "role_arn": "arn:aws:iam::666:role/theirs"}, {}, "names aws_role_arn"),
        ({**GOOGLE, "project": "ours", "gcp_conn_id": "prod"}, {}, "names gcp_conn_id 'prod'"),
        ({**GOOGLE, "project": "ours", "impersonate": "admin@x"}, {}, "names gcp_impersonate"),
        (GOOGLE, {}, "leads to the Google Cloud project 'theirs'"),
        ({**AWS, "name": {"a": 1}}, {}, "name is no text"),
        ({**GOOGLE, "project": "ours", "endpoint": "https://theirs"}, {}, "endpoint: 'https://theirs' is not 'dns'"),
        ({**AWS, "aws_conn_id": "prod"}, {"aws_conn_id": "mine"}, None),
        ({**AWS, "role_arn": "theirs"}, {"aws_role_arn": "mine"}, None),
        (GOOGLE, {"gcp_project": "theirs"}, None),
        ({**GOOGLE, "project": "ours"}, {}, None),
    ],
)
async def test_a_handle_picks_no_identity_in_a_cloud(connection, entered, where, extra, says):
    connection |= extra
    forged = replace(HANDLE, kubernetes=where).to_dict()
    with pytest.raises(ConfigurationError, match=says or "entered"):
        await RayHook("c").endpoint(forged)
    assert len(entered) == (says is None)
    for cluster in entered:
        assert "theirs" not in {cluster.role_arn, cluster.impersonate}
        assert (cluster.aws_conn_id or "mine") == "mine"


async def test_what_the_dags_infrastructure_is_made_with_may_be_used(connection, entered):
    with DAG("dag", schedule=None):
        SetupRayInfrastructure(
            task_id="infrastructure",
            module="gke",
            backend={"type": "local", "path": "/x"},
            gcp_conn_id="google",
            variables={"project": "theirs", "name": "{{ params.name }}"},
        )
        job = SubmitRayJob(task_id="job", conn_id="c", entrypoint="true")
    allowed = allowed_by(job)
    assert (allowed.connections, allowed.projects) == ({"google"}, {"theirs"})
    forged = replace(HANDLE, kubernetes={**GOOGLE, "gcp_conn_id": "google"})
    with pytest.raises(ConfigurationError, match="entered"):
        await job.hook.endpoint(forged)
    assert [cluster.gcp_conn_id for cluster in entered] == ["google"]


# Deletion -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def deleted(monkeypatch) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []

    def delete(self, **named):
        told.append(named)
        return True

    monkeypatch.setattr(ClusterRun, "delete", delete)
    monkeypatch.setattr(ClusterRun, "delete_local", lambda self, name, **named: delete(self, name=name, **named))
    return told


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"owner": {}}, "of nobody"),
        ({"owner": {**OWNER, "dag_id": "theirs"}}, "of DAG 'theirs'"),
        ({"owner": {**OWNER, "run_id": "another"}}, "of run 'another'"),
        ({"owner": OWNER, "release": "theirs"}, "another Helm release"),
        ({"owner": {}, "created": False}, "of nobody"),
        ({"owner": {}, "backend": "local"}, "of nobody"),
    ],
)
def test_a_handle_deletes_nothing_of_anothers(connection, context, deleted, change, says):
    """Before: ``owner: {}`` deleted any RayCluster, and a handle's release any Helm release."""
    forged = replace(HANDLE, **change).to_dict()
    with pytest.raises(AirflowFailException, match=says):
        DeleteRayCluster(task_id="delete", conn_id="c", cluster=forged).execute(context)
    task = DeleteRayCluster(task_id="delete", conn_id="c")
    task.upstream_task_ids.add("setup")
    context["ti"].xcoms["setup", "ray_cluster"] = forged
    with pytest.raises(AirflowFailException, match=says):
        task.execute(context)
    assert not deleted


def test_it_deletes_what_its_own_run_made(connection, context, deleted):
    handle = replace(HANDLE, owner={**OWNER, "airflow": "of-somebody-else"})
    assert DeleteRayCluster(task_id="delete", conn_id="c", cluster=handle.to_dict()).execute(context) is True
    [told] = deleted
    assert "of-somebody-else" not in str(told), "which Airflow it is says this Airflow"
    assert "'run_id': 'run'" in str(told)
