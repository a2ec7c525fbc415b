"""Where the clouds say that a cluster is, and who we are there."""

from __future__ import annotations

import base64
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import google.auth
import pytest
from google.api_core.exceptions import NotFound, PermissionDenied
from google.auth.exceptions import DefaultCredentialsError

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.cloud import gke
from ray_provider.infrastructure.cloud.credentials import Token
from ray_provider.infrastructure.cloud.eks import EksCluster, assume_role, eks_credentials, eks_token
from ray_provider.infrastructure.cloud.gke import GkeCluster, acting_as, container_client, gke_credentials, gke_token
from ray_provider.infrastructure.errors import TerraformCredentialsError
from tests.unit.infrastructure.cloud.test_presence import Container, Session, refused

TEXT = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PEM = base64.b64encode(TEXT.encode()).decode()
EKS = {"endpoint": "https://api/", "certificateAuthority": {"data": PEM}, "status": "ACTIVE"}


def described(**changes: Any) -> dict[str, Any]:
    return {"describe_cluster": {"cluster": {**EKS, **changes}}}


# ---------------------------------------------------------------- EKS


async def test_an_eks_cluster_is_entered_as_aws_says() -> None:
    session = Session(**described())
    found = await eks_credentials(EksCluster("c", "r"), session=session)
    assert (found.name, found.endpoint, found.ca_data) == ("c", "https://api", TEXT)
    assert found.exec_arguments is None, "another program has not got this session"
    assert session.asked == [("eks", "describe_cluster", {"name": "c"})]
    assert session.made[0]["region_name"] == "r"


async def test_programs_can_make_tokens_themselves_where_they_have_all_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(boto3, "Session", lambda **given: made.append(given) or Session(**described()))
    found = await eks_credentials(EksCluster("c", "r", profile="p"))
    assert found.exec_arguments == ("eks", "--name", "c", "--region", "r", "--profile", "p")
    assert made == [{"profile_name": "p", "region_name": "r"}]


async def test_a_kubeconfig_for_programs_holds_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "Session", lambda **_: Session(**described()))
    found = await eks_credentials(EksCluster("c", "r"))
    assert found.kubeconfig() == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://api", "certificate-authority-data": PEM}}],
        "users": [
            {
                "name": "c",
                "user": {
                    "exec": {
                        "apiVersion": "client.authentication.k8s.io/v1",
                        "command": sys.executable,
                        "args": [
                            "-m",
                            "ray_provider.infrastructure.exec_plugin",
                            *("eks", "--name", "c", "--region", "r"),
                        ],
                        "interactiveMode": "Never",
                        "provideClusterInfo": False,
                    }
                },
            }
        ],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "current-context": "c",
    }
    bare = await eks_credentials(EksCluster("c", "r"), session=Session(**described(certificateAuthority=None)))
    assert bare.ca_data is None
    with pytest.raises(ConfigurationError, match="can't be handed on"):
        bare.kubeconfig()


@pytest.mark.parametrize(
    ("answers", "kind", "words", "data"),
    [
        (
            described(endpoint=None, status="CREATING"),
            ConfigurationError,
            "no API server yet: it is CREATING",
            "no_server",
        ),
        (
            {"describe_cluster": refused("ResourceNotFoundException")},
            ConfigurationError,
            "There is no EKS cluster c in r",
            "gone",
        ),
        (
            {"describe_cluster": refused("AccessDeniedException")},
            TerraformCredentialsError,
            "AWS denies access to the EKS cluster c in r: AccessDeniedException planted message",
            "cluster",
        ),
    ],
)
async def test_why_an_eks_cluster_can_not_be_entered(answers: Any, kind: Any, words: str, data: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        await eks_credentials(EksCluster("c", "r"), session=Session(**answers))
    assert caught.value.data[data] in (True, "c")


@pytest.mark.parametrize(("name", "region", "field"), [("", "r", "cluster_name"), ("c", "", "region")])
async def test_a_cluster_without_a_place_is_not_asked_for(name: str, region: str, field: str) -> None:
    session = Session(**described())
    with pytest.raises(ConfigurationError, match=field):
        await eks_credentials(EksCluster(name, region), session=session)
    assert session.asked == []


def keys(**further: Any) -> boto3.Session:
    return boto3.Session(
        aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="planted", region_name="eu-west-1", **further
    )


def test_a_token_is_a_signed_address_with_the_clusters_name() -> None:
    began = datetime.now(UTC).timestamp()
    token = eks_token(EksCluster("my-cluster", "eu-west-1"), session=keys())
    assert 895 <= token.expires - began <= 930
    prefix, _, text = token.value.partition(".")
    assert (prefix, "=" in text) == ("k8s-aws-v1", False)
    url = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    parts, query = urlsplit(url), parse_qs(urlsplit(url).query)
    assert (parts.scheme, parts.hostname) == ("https", "sts.eu-west-1.amazonaws.com")
    assert query["Action"] == ["GetCallerIdentity"]
    assert query["Version"] == ["2011-06-15"]
    assert query["X-Amz-Expires"] == ["60"]
    assert query["X-Amz-SignedHeaders"] == ["host;x-k8s-aws-id"]
    assert "planted" not in url
    other = eks_token(EksCluster("other", "eu-west-1"), session=keys())
    assert other.value != token.value


def test_a_token_ends_with_the_credentials_that_signed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    session = keys()
    credentials = session.get_credentials()
    credentials._expiry_time = datetime.fromtimestamp(1000, UTC)
    monkeypatch.setattr(session, "get_credentials", lambda: credentials)
    assert eks_token(EksCluster("c", "eu-west-1"), session=session).expires == 1000


def test_without_credentials_no_token_and_no_role(monkeypatch: pytest.MonkeyPatch) -> None:
    session = keys()
    monkeypatch.setattr(session, "get_credentials", lambda: None)
    with pytest.raises(TerraformCredentialsError, match="AWS denies access"):
        eks_token(EksCluster("c", "eu-west-1"), session=session)
    with pytest.raises(TerraformCredentialsError, match="with which arn:r could be assumed"):
        assume_role(session, "arn:r")


@pytest.mark.parametrize(("external_id", "region"), [(None, None), ("planted-id", "us-east-1")])
def test_a_role_is_assumed_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, external_id: str | None, region: str | None
) -> None:
    asked: list[Any] = []

    class Sts:
        def assume_role(self, **given: Any) -> dict[str, Any]:
            asked.append(given)
            ends = datetime(2999, 1, 1, tzinfo=UTC)
            return {
                "Credentials": {"AccessKeyId": "A", "SecretAccessKey": "S", "SessionToken": "T", "Expiration": ends}
            }

    base = keys()
    clients: list[Any] = []
    monkeypatch.setattr(base, "client", lambda service, **given: clients.append((service, given)) or Sts())
    inner = assume_role(base, "arn:r", region=region, external_id=external_id)
    assert asked == [], "not before it is needed"
    assert inner.region_name == region
    frozen = inner.get_credentials().get_frozen_credentials()
    assert (frozen.access_key, frozen.secret_key, frozen.token) == ("A", "S", "T")
    [given] = asked
    assert (given["RoleArn"], given["RoleSessionName"]) == ("arn:r", "airflow-ray")
    assert given.get("ExternalId") == external_id
    assert clients[0][0] == "sts"
    assert clients[0][1]["region_name"] == region


# ---------------------------------------------------------------- GKE


def gke_cluster(**changes: Any) -> Any:
    dns = SimpleNamespace(dns_endpoint_config=SimpleNamespace(endpoint="gke-x.goog"))
    known = {
        "endpoint": "10.0.0.1",
        "master_auth": SimpleNamespace(cluster_ca_certificate=PEM),
        "control_plane_endpoints_config": dns,
        "status": SimpleNamespace(name="PROVISIONING"),
    }
    return SimpleNamespace(**{**known, **changes})


WHERE = GkeCluster("c", "l", "p")


async def test_a_gke_cluster_is_entered_as_google_says() -> None:
    client = Container(get_cluster=gke_cluster())
    found = await gke_credentials(WHERE, credentials=SimpleNamespace(), client=client)
    assert (found.name, found.endpoint, found.ca_data) == ("c", "https://10.0.0.1", TEXT)
    assert found.exec_arguments is None
    assert client.asked == [("get_cluster", {"name": "projects/p/locations/l/clusters/c", "timeout": 60.0})]
    dns = GkeCluster("c", "l", "p", dns_endpoint=True)
    found = await gke_credentials(dns, credentials=SimpleNamespace(), client=Container(get_cluster=gke_cluster()))
    assert (found.endpoint, found.ca_data) == ("https://gke-x.goog", None)
    named = Container(get_cluster=gke_cluster(endpoint="https://x"))
    assert (await gke_credentials(WHERE, credentials=SimpleNamespace(), client=named)).endpoint == "https://x"


async def test_the_workers_own_identity_lets_programs_make_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(google.auth, "default", lambda **given: (asked.append(given) or SimpleNamespace(), "own"))
    found = await gke_credentials(WHERE, client=Container(get_cluster=gke_cluster()))
    assert found.exec_arguments == ("gke", "--name", "c", "--location", "l", "--project", "p")
    assert asked == [{"scopes": ("https://www.googleapis.com/auth/cloud-platform",)}]


@pytest.mark.parametrize(
    ("answer", "kind", "words", "data"),
    [
        (gke_cluster(endpoint=""), ConfigurationError, "no API server yet: it is PROVISIONING", "no_server"),
        (NotFound("x"), ConfigurationError, "There is no GKE cluster projects/p/locations/l/clusters/c", "gone"),
        (
            PermissionDenied("planted"),
            TerraformCredentialsError,
            "Google Cloud denies access to the GKE cluster",
            "cluster",
        ),
    ],
)
async def test_why_a_gke_cluster_can_not_be_entered(answer: Any, kind: Any, words: str, data: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        await gke_credentials(WHERE, credentials=SimpleNamespace(), client=Container(get_cluster=answer))
    assert caught.value.data[data] in (True, "c")


@pytest.mark.parametrize(
    ("cluster", "field"),
    [
        (GkeCluster("", "l", "p"), "cluster_name"),
        (GkeCluster("c", "", "p"), "location"),
        (GkeCluster("c", "l", ""), "project"),
    ],
)
async def test_a_gke_cluster_without_a_place_is_not_asked_for(cluster: GkeCluster, field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        await gke_credentials(cluster, credentials=SimpleNamespace(), client=Container())


def test_who_acts_on_google_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.auth import impersonated_credentials

    own = SimpleNamespace()
    assert acting_as(WHERE, own) is own
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(impersonated_credentials, "Credentials", lambda **given: made.append(given) or "acting")
    assert acting_as(GkeCluster("c", "l", "p", impersonate="sa"), own) == "acting"
    assert made == [
        {
            "source_credentials": own,
            "target_principal": "sa",
            "target_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
            "lifetime": 3600,
        }
    ]

    def none(**_: Any) -> Any:
        raise DefaultCredentialsError("none found")

    monkeypatch.setattr(google.auth, "default", none)
    with pytest.raises(TerraformCredentialsError, match="none found"):
        acting_as(WHERE, None)


def test_a_google_token_ends_when_google_says() -> None:
    class Own:
        token = "t"
        expiry: datetime | None = datetime(2026, 1, 1)  # noqa: DTZ001 - google-auth's are without a zone

        def refresh(self, _: Any) -> None: ...

    own = Own()
    assert gke_token(WHERE, credentials=own) == Token("t", datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    own.expiry = None
    left = gke_token(WHERE, credentials=own).expires - datetime.now(UTC).timestamp()
    assert 590 <= left <= 600


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("", "container.googleapis.com:443"),
        ("https://private/", "private:443"),
    ],
)
def test_the_address_of_googles_api(monkeypatch: pytest.MonkeyPatch, said: str, address: str) -> None:
    from google.auth.credentials import AnonymousCredentials

    monkeypatch.setenv(gke.ENDPOINT_VARIABLE, said)
    client = container_client(AnonymousCredentials())
    assert client.transport.host == address
