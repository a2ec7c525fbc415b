"""Credentials for GKE: a local server of the container API and a local token endpoint, with Google's own libraries."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ray_provider import infrastructure_reaper
from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.cloud import cloud_access
from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.hooks.cloud_marks import record_use, renew
from ray_provider.infrastructure.cloud.gke import GkeCluster, gke_credentials
from ray_provider.infrastructure.cloud.marks import Tags, owner_tags, run_tags, state_tags
from ray_provider.infrastructure.errors import TerraformCredentialsError
from ray_provider.infrastructure.handle import InfrastructureHandle
from tests.infrastructure.lab.google_api import GoogleCloud

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
DNS_NAME = "gke-0123456789ab.europe-west4.gke.goog"
CLUSTER = GkeCluster("c1", "europe-west4", "p1")


def find(path: str) -> dict[str, Any] | None:
    if path.endswith("/making"):
        return {"name": "making", "status": "PROVISIONING"}
    if path != CLUSTER.path:
        return None
    authority = {"cluster_ca_certificate": base64.b64encode(PEM.encode()).decode()}
    by_name = {"dns_endpoint_config": {"endpoint": DNS_NAME, "allow_external_traffic": True}}
    return {
        "name": "c1",
        "endpoint": "10.0.0.2",
        "status": "RUNNING",
        "master_auth": authority,
        "control_plane_endpoints_config": by_name,
    }


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleCloud]:
    with GoogleCloud(find, frozenset({GkeCluster("forbidden", "europe-west4", "p1").path})) as server:
        path = tmp_path / "key.json"
        path.write_text(json.dumps(server.key()))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


async def test_the_cluster_is_found_and_the_token_is_renewed(cloud: GoogleCloud) -> None:
    found = await gke_credentials(CLUSTER)
    assert (found.endpoint, found.ca_data) == ("https://10.0.0.2", PEM)
    first = await found.token_provider(False)
    assert first.startswith("ya29.")
    assert await found.token_provider(False) == first
    assert await found.token_provider(True) != first
    assert first not in repr(found)


async def test_what_terraform_made_is_reached_by_its_name_if_the_module_says_so(cloud: GoogleCloud) -> None:
    outputs = {"cloud": "gcp", "cluster_name": "c1", "location": "europe-west4", "project": "p1"}
    for more, server in ({}, "https://10.0.0.2"), ({"dns_endpoint": DNS_NAME}, f"https://{DNS_NAME}"):
        handle = InfrastructureHandle("gke", {"type": "local"}, outputs=outputs | more)
        # As it travels, in XCom and in triggers.
        travelled = CloudCluster.from_dict(CloudCluster.of(handle.to_dict()).to_dict())
        access = await cloud_access(travelled)
        (cluster,) = (access.kubeconfig or {})["clusters"]
        assert cluster["cluster"]["server"] == server
        # A public authority signed the name's certificate.
        assert ("certificate-authority-data" in cluster["cluster"]) == (not more)


async def test_what_is_wrong_is_said(cloud: GoogleCloud) -> None:
    with pytest.raises(ConfigurationError, match="no GKE cluster projects/p1/locations/europe-west4/clusters/c2"):
        await gke_credentials(GkeCluster("c2", "europe-west4", "p1"))
    with pytest.raises(ConfigurationError, match="PROVISIONING"):
        await gke_credentials(GkeCluster("making", "europe-west4", "p1"))
    with pytest.raises(TerraformCredentialsError, match="gcp_conn_id"):
        await gke_credentials(GkeCluster("forbidden", "europe-west4", "p1"))
    with pytest.raises(ConfigurationError, match="project"):
        await gke_credentials(GkeCluster("c1", "europe-west4", ""))
    found = await gke_credentials(CLUSTER)
    cloud.refuse = True
    with pytest.raises(TerraformCredentialsError, match="invalid_grant"):
        await found.token_provider(True)


async def test_a_kubeconfig_for_other_programs(cloud: GoogleCloud) -> None:
    found = await gke_credentials(CLUSTER)
    plugin = found.kubeconfig()["users"][0]["user"]["exec"]
    assert plugin["command"] == sys.executable
    done = subprocess.run([plugin["command"], *plugin["args"]], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"]["token"].startswith("ya29.")


async def test_labels_say_whose_a_cluster_is_and_are_renewed(cloud: GoogleCloud) -> None:
    tags = {
        **owner_tags({"airflow": "https://a", "dag": "Train", "task": "t"}, "c1"),
        **state_tags("gke", {"type": "gcs", "bucket": "states", "prefix": "ray"}, None),
        **run_tags("run 1", datetime(2026, 11, 28, tzinfo=UTC), "1.0.0"),
        "airflow-ray-used": "no",
    }
    cluster = {
        "name": "c1",
        "location": "europe-west4",
        "status": "RUNNING",
        "create_time": "2026-11-28T01:02:03+00:00",
    }
    cloud.listed = [{**cluster, "resource_labels": tags}, {**cluster, "name": "other"}]
    cloud._find = lambda path: next((item for item in cloud.listed if path.endswith("/" + item["name"])), None)
    found, _ = infrastructure_reaper.survey([infrastructure_reaper.Place("gcp", "p1")])
    (one,) = found
    assert (one.cluster.name, one.cluster.location, one.marks.said("dag")) == ("c1", "europe-west4", "Train")
    assert one.handle().backend == {"type": "gcs", "bucket": "states", "prefix": "ray"}
    verdict = infrastructure_reaper.judge(one, infrastructure_reaper.Runs("https://a"), None, datetime.now(tz=UTC))
    assert verdict.delete, verdict.reason
    # Somebody sets it up again, and a Ray cluster on it.
    google = one.place.ask()
    told: list[str] = []
    renew(google, "c1", "europe-west4", Tags({}, run_tags("run 2", None, "1.0.0")), told.append)
    await record_use(CloudCluster("gcp", "c1", "europe-west4", "p1"), told.append)
    labels = cloud.listed[0]["resource_labels"]
    assert told == []
    assert (labels["airflow-ray-run"], labels["airflow-ray-used"]) == ("run_202", "yes")
    assert "airflow-ray-expires" not in labels
    assert labels["airflow-ray-dag"] == tags["airflow-ray-dag"]
    with pytest.raises(TerraformCredentialsError, match="fingerprint"):
        google.retag(one.cluster, {"x": "y"})
