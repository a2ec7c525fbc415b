"""S3 and Cloud Storage as they answer on loopback (moto, gcp-storage-emulator), and a Ray that reaches both."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import boto3
import fsspec
import pytest
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

from ray_provider.clusters.local.head import free_ports
from tests.support.ray_head import RayHead

BUCKETS = ("results", "code")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 with the buckets."""
    (port,) = free_ports(1)
    server = ThreadedMotoServer("127.0.0.1", port)
    server.start()
    url = f"http://127.0.0.1:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="s", region_name="us-east-1"
    )
    for bucket in BUCKETS:
        client.create_bucket(Bucket=bucket)
    yield url
    server.stop()


@pytest.fixture(scope="session")
def gcs() -> Iterator[str]:
    """The address of a Cloud Storage with the buckets."""
    (port,) = free_ports(1)
    server = create_server("127.0.0.1", port, in_memory=True)
    server.start()
    url = f"http://127.0.0.1:{port}"
    files = fsspec.filesystem("gcs", endpoint_url=url, token="anon", project="project")
    for bucket in BUCKETS:
        files.mkdir(bucket)
    yield url
    server.stop()


@pytest.fixture(scope="session")
def connection(s3) -> dict[str, Any]:
    """The Airflow connection by which tasks reach S3: their environment has no credentials for it."""
    extra = {"endpoint_url": s3, "region_name": "us-east-1"}
    return {"conn_type": "aws", "login": "worker", "password": secrets.token_hex(16), "extra": extra}


@pytest.fixture(scope="session")
def head(s3, gcs) -> Iterator[RayHead]:
    """A Ray whose processes have credentials of their own."""
    env = {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "cluster",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        "AWS_DEFAULT_REGION": "us-east-1",
        "STORAGE_EMULATOR_HOST": gcs,
        "GOOGLE_CLOUD_PROJECT": "project",
    }
    with RayHead(token=secrets.token_hex(16), num_cpus=2, env=env) as head:
        yield head
