"""From Airflow's cloud connections to clusters of EKS and GKE: who we are there, and how the cluster is entered."""

from __future__ import annotations

import json
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.exceptions import ConfigurationError, InfrastructureError
from ray_provider.hooks import cloud
from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.infrastructure.cloud import eks, gke
from ray_provider.infrastructure.cloud.credentials import ClusterCredentials

EKS = CloudCluster("aws", "prod", "eu-west-1", namespace="ray")
GKE = CloudCluster("gcp", "prod", "europe-west1")
ROLE = "arn:aws:iam::123456789012:role/ray"


@pytest.fixture
def connection(monkeypatch):
    """The cloud's connection of Airflow: login, password and extra."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)

    def given(login: str | None = None, password: str | None = None, **extra: Any) -> None:
        found = SimpleNamespace(login=login, password=password, extra_dejson=extra)
        monkeypatch.setattr(cloud.BaseHook, "get_connection", staticmethod(lambda _: found))

    return given


@pytest.fixture(scope="module")
def key() -> dict[str, str]:
    """A service account's key, as Google gives it out."""
    made = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "of-the-key",
        "private_key_id": "1",
        "private_key": made.decode(),
        "client_email": "ray@of-the-key.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }


# Connections ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"login": "AKIA1", "password": "s3cret"},
        {"aws_access_key_id": "AKIA1", "aws_secret_access_key": "s3cret"},
    ],
    ids=["login and password", "extra"],
)
def test_an_aws_connection_gives_its_keys_and_its_region(connection, fields):
    connection(**fields, aws_session_token="t0ken", region_name="eu-north-1")
    session = cloud.aws_session("aws")
    found = session.get_credentials().get_frozen_credentials()
    assert (found.access_key, found.secret_key, found.token) == ("AKIA1", "s3cret", "t0ken")
    assert session.region_name == "eu-north-1"
    assert cloud.aws_session("aws", "us-east-2").region_name == "us-east-2", "where the cluster is, counts more"


def test_a_role_of_the_connection_is_assumed_with_its_external_id(connection, monkeypatch):
    asked = []

    def assume(base, role, **more):
        asked.append((base.get_credentials().access_key, role, more))
        return "session in the role"

    monkeypatch.setattr(eks, "assume_role", assume)
    connection("AKIA1", "s3cret", role_arn=ROLE, external_id="e1", region_name="eu-west-1")
    assert cloud.aws_session("aws") == "session in the role"
    assert asked == [("AKIA1", ROLE, {"region": "eu-west-1", "external_id": "e1"})]


def test_a_way_of_assuming_that_is_not_ours_names_the_package_that_has_it(connection):
    connection("AKIA1", "s3cret", role_arn=ROLE, assume_role_method="assume_role_with_saml")
    with pytest.raises(ConfigurationError, match=r"assumes its role by assume_role_with_saml") as caught:
        cloud.aws_session("aws")
    assert "apache-airflow-providers-amazon" in str(caught.value)
    assert caught.value.data["field"] == "aws_conn_id"


def test_the_amazon_provider_reads_the_connection_where_it_is_installed(monkeypatch):
    asked = []

    class Hook:
        def __init__(self, **arguments):
            asked.append(arguments)

        def get_session(self, region_name):
            return f"session in {region_name}"

    installed(monkeypatch, "airflow.providers.amazon.aws.hooks.base_aws", AwsBaseHook=Hook)
    assert cloud.aws_session("mine", "eu-west-1") == "session in eu-west-1"
    assert asked == [{"aws_conn_id": "mine", "client_type": "eks"}]


def test_the_google_provider_reads_the_connection_where_it_is_installed(monkeypatch):
    class Hook:
        def __init__(self, gcp_conn_id):
            self.id = gcp_conn_id

        def get_credentials_and_project_id(self):
            return f"credentials of {self.id}", "p1"

    installed(monkeypatch, "airflow.providers.google.common.hooks.base_google", GoogleBaseHook=Hook)
    assert cloud.google_credentials("mine") == ("credentials of mine", "p1")


def installed(monkeypatch, name: str, **members: Any) -> None:
    """Have a module as if its package was installed."""
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setattr(cloud, "import_module", lambda asked: {name: module}[asked])


@pytest.mark.parametrize("prefix", ["", "extra__google_cloud_platform__"], ids=["new names", "old names"])
@pytest.mark.parametrize("form", ["text", "mapping", "file"])
def test_a_google_connection_gives_its_key_and_its_project(connection, key, tmp_path, form, prefix):
    path = tmp_path / "key.json"
    path.write_text(json.dumps(key))
    field = {
        "text": {"keyfile_dict": json.dumps(key)},
        "mapping": {"keyfile_dict": key},
        "file": {"key_path": str(path)},
    }
    connection(**{prefix + name: value for name, value in field[form].items()})
    credentials, project = cloud.google_credentials("google")
    assert credentials.service_account_email == key["client_email"]
    assert credentials.scopes == ("https://www.googleapis.com/auth/cloud-platform",)
    assert project == "of-the-key"
    connection(**{prefix + name: value for name, value in {**field[form], "project": "named"}.items()})
    assert cloud.google_credentials("google")[1] == "named"
    assert cloud.google_project("google") == "named"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"keyfile_dict": "{planted"}, "is not JSON"),
        ({"keyfile_dict": '["planted"]'}, "is not JSON"),
        ({"keyfile_dict": {"private_key": "planted", "client_email": "x", "token_uri": "y"}}, "can't be used"),
        ({"key_path": "/no/such/planted"}, "can't be used"),
    ],
)
def test_a_key_that_can_not_be_used_is_refused_without_a_word_of_it(connection, extra, says):
    connection(**extra)
    with pytest.raises(ConfigurationError, match=says) as caught:
        cloud.google_credentials("google")
    assert caught.value.data["field"] == "gcp_conn_id"
    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None


# Clusters ------------------------------------------------------------------------------------------------------------


def credentials(exec_arguments: tuple[str, ...] | None) -> ClusterCredentials:
    async def token(_refused: bool) -> str:
        return "short-lived"

    return ClusterCredentials("prod", "https://eks.example", "-----BEGIN", token, exec_arguments)


async def test_eks_is_entered_as_the_cluster_says(connection, monkeypatch):
    asked = []

    async def found(cluster, *, session=None):
        asked.append((cluster, session and session.get_credentials().access_key))
        return credentials(None)

    monkeypatch.setattr(eks, "eks_credentials", found)
    connection("AKIA1", "s3cret")
    await cloud.cloud_credentials(EKS)
    await cloud.cloud_credentials(replace(EKS, role_arn=ROLE, aws_conn_id="aws"))
    assert [(c.name, c.region, c.role_arn, who) for c, who in asked] == [
        ("prod", "eu-west-1", None, None),
        ("prod", "eu-west-1", ROLE, "AKIA1"),
    ]


async def test_gke_takes_the_project_of_the_connection_where_none_is_named(connection, key, monkeypatch):
    asked = []

    async def found(cluster, *, credentials=None):
        asked.append((cluster.project, cluster.impersonate, credentials and credentials.service_account_email))
        return

    monkeypatch.setattr(gke, "gke_credentials", found)
    connection(keyfile_dict=key)
    await cloud.cloud_credentials(replace(GKE, gcp_conn_id="google"))
    await cloud.cloud_credentials(replace(GKE, gcp_conn_id="google", project="named", impersonate="other@p"))
    await cloud.cloud_credentials(replace(GKE, project="named"))
    mail = key["client_email"]
    assert asked == [("of-the-key", None, mail), ("named", "other@p", mail), ("named", None, None)]


async def test_another_cloud_is_refused():
    with pytest.raises(ConfigurationError, match="'moon' is not one of aws, gcp"):
        await cloud.cloud_credentials(CloudCluster("moon", "prod", "crater"))


@pytest.mark.parametrize("own", [True, False], ids=["the worker's identity", "a connection's"])
async def test_programs_get_a_plugin_where_they_can_make_tokens_themselves(monkeypatch, own):
    async def found(_cluster):
        return credentials(("eks", "--name", "prod") if own else None)

    monkeypatch.setattr(cloud, "cloud_credentials", found)
    access = await cloud.cloud_access(EKS)
    assert (access.namespace, access.name, access.identity) == ("ray", "prod", EKS)
    assert await access.token_provider(False) == "short-lived"
    assert "short-lived" not in repr(access)
    if own:
        assert access.kubeconfig["users"][0]["user"]["exec"]["args"][-2:] == ["--name", "prod"]
        assert access.server is None
    else:
        assert access.kubeconfig is None
        assert (access.server, access.ca_data) == ("https://eks.example", "-----BEGIN")


# Who lives there -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def cluster(monkeypatch):
    """A cloud's cluster, asked through its API server: what it answers may be changed."""
    answers: dict[str, Any] = {
        "/apis/ray.io/v1/rayclusters": [{"metadata": {"namespace": "ray", "name": "a"}}],
        "/api/v1/services": [
            {"metadata": {"namespace": "web", "name": "front"}, "spec": {"type": "LoadBalancer"}},
            {"metadata": {"namespace": "web", "name": "back"}, "spec": {"type": "ClusterIP"}},
            {"metadata": {"namespace": "web", "name": "odd"}},
        ],
    }

    async def answer(request: web.Request) -> web.Response:
        found = answers.get(request.path, 404)
        if isinstance(found, int):
            return web.json_response({"kind": "Status", "message": "no", "code": found}, status=found)
        return web.json_response({"items": found})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    async def token(_refused: bool) -> str:
        return "t"

    async def access(_cluster: CloudCluster) -> KubernetesAccess:
        return KubernetesAccess(server=f"http://127.0.0.1:{port}", token_provider=token)

    monkeypatch.setattr(cloud, "cloud_access", access)
    yield answers
    await runner.cleanup()


async def test_who_lives_in_a_cluster_is_named(cluster):
    assert await cloud.users_of_cluster(EKS) == ["Ray cluster ray/a", "load balancer web/front"]


async def test_a_cluster_without_kuberay_is_used_by_its_load_balancers_only(cluster):
    del cluster["/apis/ray.io/v1/rayclusters"]
    assert await cloud.users_of_cluster(EKS) == ["load balancer web/front"]


def claimed(driver: str, policy: str = "Delete") -> dict[str, Any]:
    claim = {"namespace": "web", "name": driver.partition(".")[0]}
    spec = {"csi": {"driver": driver}, "persistentVolumeReclaimPolicy": policy, "claimRef": claim}
    return {"metadata": {"name": f"pvc-{driver}"}, "spec": spec}


async def test_what_karpenter_and_volume_claims_made_is_named_and_what_the_cloud_ends_itself_is_not(cluster):
    """Terraform knows nothing of them: they would cost money for ever, and machines keep the network from going."""

    def machine(name: str, group: str) -> dict[str, Any]:
        labels = {"karpenter.sh/nodepool": "a10g"}
        return {"metadata": {"name": name, "labels": labels}, "spec": {"nodeClassRef": {"group": group}}}

    cluster["/apis/karpenter.sh/v1/nodeclaims"] = [
        machine("a10g-x", "karpenter.k8s.aws"),
        machine("auto-y", "eks.amazonaws.com"),
    ]
    cluster["/api/v1/persistentvolumes"] = [
        claimed("ebs.csi.aws.com"),
        claimed("pd.csi.storage.gke.io", policy="Retain"),
        claimed("nfs.csi.k8s.io"),
        {"metadata": {"name": "by-hand"}, "spec": {"persistentVolumeReclaimPolicy": "Delete", "hostPath": {}}},
    ]
    assert (await cloud.users_of_cluster(EKS))[2:] == [
        "machine a10g-x of Karpenter's node pool a10g",
        "disk of the volume claim web/ebs",
    ]


async def test_who_may_not_see_machines_and_disks_may_delete_all_the_same(cluster):
    cluster["/apis/karpenter.sh/v1/nodeclaims"] = cluster["/api/v1/persistentvolumes"] = 403
    assert len(await cloud.users_of_cluster(EKS)) == 2


async def test_a_cluster_that_may_not_be_asked_is_not_taken_for_empty(cluster):
    cluster["/api/v1/services"] = 403
    with pytest.raises(InfrastructureError, match="The cluster prod can't be asked") as caught:
        await cloud.users_of_cluster(EKS)
    assert 'live_clusters="ignore"' in str(caught.value)


@pytest.mark.parametrize("gone", [True, False])
async def test_a_cluster_that_is_gone_has_no_users_and_a_wrong_name_is_an_error(monkeypatch, gone):
    async def access(_cluster):
        raise ConfigurationError("There is no such cluster.", **({"gone": True} if gone else {}))

    monkeypatch.setattr(cloud, "cloud_access", access)
    if gone:
        assert await cloud.users_of_cluster(EKS) == []
    else:
        with pytest.raises(ConfigurationError, match="no such cluster"):
            await cloud.users_of_cluster(EKS)


@pytest.mark.parametrize("where", ["provider", "environment"])
def test_a_run_of_terraform_is_looked_at_with_its_own_identity(connection, monkeypatch, where):
    """Who Terraform was must be who looks: the keys of its provider block, or those of its environment."""
    connection()
    monkeypatch.setattr("ray_provider.infrastructure.cloud.presence.aws_in", lambda session, *_: session)
    keys = {"access_key": "AKIA1", "secret_key": "s3cret", "token": "t0ken"}
    names = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_SESSION_TOKEN": "t0ken"}
    spec = SimpleNamespace(
        module="./own",
        providers={"aws": keys} if where == "provider" else {},
        given_env=names if where == "environment" else {},
    )
    run = SimpleNamespace(place=lambda: {"region": "eu-west-1"}, runner=SimpleNamespace(env={}), spec=spec)
    session = cloud.cloud_of_run(run, aws_conn_id=None, gcp_conn_id=None)
    found = session.get_credentials().get_frozen_credentials()
    assert (found.access_key, found.secret_key, found.token) == ("AKIA1", "s3cret", "t0ken")
    assert session.region_name == "eu-west-1"


def test_a_run_that_names_no_cloud_is_looked_at_in_none():
    run = SimpleNamespace(
        place=dict, runner=SimpleNamespace(env={}), spec=SimpleNamespace(module="./own", providers={}, given_env={})
    )
    assert cloud.cloud_of_run(run, aws_conn_id=None, gcp_conn_id=None) is None
