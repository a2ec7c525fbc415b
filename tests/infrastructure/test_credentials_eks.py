"""Credentials for EKS: the token is checked as a cluster would check it, by asking the emulated STS who is calling."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from ray_provider.clusters.kubernetes.access import Credential, KubernetesAccess, kubeconfig_file
from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks import RayHook
from ray_provider.infrastructure.cloud.eks import EksCluster, eks_credentials, eks_token
from ray_provider.infrastructure.errors import TerraformCredentialsError
from tests.infrastructure.lab.aws_server import CREDENTIALS, REGION, AwsServer
from tests.infrastructure.lab.presigned import caller, signature

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
ENDPOINT = "https://10.0.0.1"


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsServer]:
    with AwsServer(cluster_endpoint=ENDPOINT, cluster_ca_data=base64.b64encode(PEM.encode()).decode()) as server:
        role = server.client("iam").create_role(RoleName="ray", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        server.client("eks").create_cluster(name="c1", roleArn=role, resourcesVpcConfig={"subnetIds": ["a", "b"]})
        yield server


@pytest.fixture(autouse=True)
def environment(aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in aws.env.items():
        monkeypatch.setenv(name, value)


def opened(token: str) -> str:
    assert token.startswith("k8s-aws-v1.")
    body = token.removeprefix("k8s-aws-v1.")
    assert "=" not in body
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)).decode()


def who(aws: AwsServer, token: str) -> str:
    """Ask as a cluster does: follow the address, with the cluster's name as header."""
    assert opened(token).startswith(f"{aws.url}/?")
    return caller(opened(token), "c1")


async def test_the_cluster_is_found_and_the_token_is_taken(aws: AwsServer) -> None:
    found = await eks_credentials(EksCluster("c1", REGION))
    assert (found.endpoint, found.ca_data, found.name) == (ENDPOINT, PEM, "c1")
    token = await found.token_provider(False)
    assert ":iam::123456789012:" in who(aws, token) or ":sts::123456789012:" in who(aws, token)
    signed = parse_qs(urlsplit(opened(token)).query)
    assert signed["Action"] == ["GetCallerIdentity"]
    assert signed["X-Amz-SignedHeaders"] == ["host;x-k8s-aws-id"]
    assert signed["X-Amz-Expires"] == ["60"]
    assert signed["X-Amz-Signature"] == [signature(opened(token), CREDENTIALS["AWS_SECRET_ACCESS_KEY"], "c1")]
    assert signed["X-Amz-Signature"] != [signature(opened(token), CREDENTIALS["AWS_SECRET_ACCESS_KEY"], "c2")]
    assert token not in repr(found)
    assert await found.token_provider(False) == token
    # For another cluster, or forged, it is worth nothing.
    for url, cluster in ((opened(token), "c2"), (opened(token)[:-1] + "x", "c1")):
        with pytest.raises(PermissionError, match="SignatureDoesNotMatch"):
            caller(url, cluster)


async def test_a_role_is_assumed_first(aws: AwsServer) -> None:
    found = await eks_credentials(EksCluster("c1", REGION, role_arn="arn:aws:iam::123456789012:role/ray"))
    token = await found.token_provider(False)
    assert ":assumed-role/ray/airflow-ray" in who(aws, token)
    assert "X-Amz-Security-Token" in opened(token)


async def test_a_session_of_an_airflow_connection_stays_in_this_process(aws: AwsServer) -> None:
    import boto3

    found = await eks_credentials(EksCluster("c1", REGION), session=boto3.Session(region_name=REGION))
    assert found.exec_arguments is None
    with pytest.raises(ConfigurationError, match="can't be handed on"):
        found.kubeconfig()


async def test_errors_name_the_field() -> None:
    with pytest.raises(ConfigurationError, match=r"no EKS cluster c2 in us-east-1 \(cluster_name, region\)"):
        await eks_credentials(EksCluster("c2", REGION))
    with pytest.raises(ConfigurationError, match="cluster_name"):
        await eks_credentials(EksCluster("", REGION))


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(TerraformCredentialsError, match="aws_conn_id"):
        await eks_credentials(EksCluster("c1", REGION))


async def test_a_kubeconfig_without_a_token_works_for_other_programs(aws: AwsServer) -> None:
    found = await eks_credentials(EksCluster("c1", REGION))
    config = found.kubeconfig()
    assert "k8s-aws" not in json.dumps(config)
    plugin = config["users"][0]["user"]["exec"]
    done = await asyncio.to_thread(
        subprocess.run, [plugin["command"], *plugin["args"]], capture_output=True, text=True, check=True
    )
    printed = json.loads(done.stdout)
    assert printed["kind"] == "ExecCredential"
    assert ":iam::" in who(aws, printed["status"]["token"]) or ":sts::" in who(aws, printed["status"]["token"])
    # And our own client takes it too.
    access = KubernetesAccess(kubeconfig=config)
    headers = await Credential(access.resolve()).headers()
    assert headers["Authorization"].startswith("Bearer k8s-aws-v1.")


def test_the_exec_plugin_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    arguments = [
        sys.executable,
        "-m",
        "ray_provider.infrastructure.exec_plugin",
        "eks",
        "--name",
        "c1",
        "--region",
        REGION,
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "AWS denies access" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_ends_with_the_role_that_signed_it(aws: AwsServer) -> None:
    from datetime import UTC, datetime, timedelta

    token = eks_token(EksCluster("c1", REGION))
    assert 850 < token.expires - time.time() <= 900

    class Credentials:
        access_key, secret_key, token = "AKIA", "s", "t"
        _expiry_time = datetime.now(tz=UTC) + timedelta(minutes=5)

        def get_frozen_credentials(self) -> Any:
            return self

    import boto3

    session = boto3.Session(region_name=REGION)
    session.get_credentials = Credentials  # type: ignore[method-assign,assignment]
    assert eks_token(EksCluster("c1", REGION), session=session).expires - time.time() < 301


def connect(monkeypatch: pytest.MonkeyPatch, **extra: str) -> RayHook:
    """Give the hook of a connection with these fields."""
    monkeypatch.setenv("AIRFLOW_CONN_RAY_CLOUD", json.dumps({"conn_type": "ray", "extra": extra}))
    return RayHook("ray_cloud")


async def test_a_connection_names_the_cluster(aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """We make our own tokens; helm gets a program that makes them, and no token."""
    hook = connect(monkeypatch, eks_cluster="c1", cloud_location=REGION, namespace="ray")
    access = await hook.akubernetes_access()
    assert access.namespace_or_default() == "ray"
    # Triggers of one cluster share what they have.
    assert access.key() == (await hook.akubernetes_access()).key()
    server = access.resolve()
    assert server.url == ENDPOINT
    headers = await Credential(server, access.token_provider).headers()
    assert ":123456789012:" in who(aws, headers["Authorization"].removeprefix("Bearer "))
    async with kubeconfig_file(access) as path:
        assert "exec_plugin" in path.read_text()
        assert "k8s-aws-v1" not in path.read_text()
    with pytest.raises(ConfigurationError, match="no EKS cluster c2"):
        await connect(monkeypatch, eks_cluster="c2", cloud_location=REGION).akubernetes_access()


async def test_an_airflow_connection_says_who_enters_what_a_handle_names(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its secrets don't leave this process: helm gets a short-lived token, in a file that is not on the disk."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    planted = {
        "conn_type": "aws",
        "login": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "password": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        "extra": {"region_name": REGION},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_PLANTED", json.dumps(planted))
    hook = connect(monkeypatch, aws_conn_id="aws_planted")
    access = await hook.akubernetes_access({"cloud": "aws", "name": "c1", "location": REGION})
    async with kubeconfig_file(access) as path:
        assert path.is_relative_to("/proc")
        token = yaml.safe_load(path.read_text())["users"][0]["user"]["token"]
    assert ":123456789012:" in who(aws, token)
    assert not path.exists()
