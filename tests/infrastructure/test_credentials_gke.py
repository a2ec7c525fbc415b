"""Credentials for GKE: a local server of the container API and a local token endpoint, with Google's own libraries."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud import container_v1

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.errors import TerraformCredentialsError
from ray_provider.infrastructure.gke import ENDPOINT_VARIABLE, GkeCluster, gke_credentials

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
CLUSTER = GkeCluster("c1", "europe-west4", "p1")


class TokenServer:
    """Google's token endpoint: takes a signed assertion, gives tokens that count up."""

    def __init__(self) -> None:
        self.given = 0
        self.refuse = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                assert body["assertion"]
                outer.given += 1
                answer = (
                    {"error": "invalid_grant"}
                    if outer.refuse
                    else {"access_token": f"ya29.{outer.given}", "expires_in": 3600}
                )
                self.send_response(400 if outer.refuse else 200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenServer]:
    server = TokenServer()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    path = tmp_path / "key.json"
    path.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "p1",
                "private_key_id": "1",
                "private_key": pem,
                "client_email": "ray@p1.iam.gserviceaccount.com",
                "client_id": "1",
                "token_uri": server.url,
            }
        )
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    yield server
    server.close()


@pytest.fixture
def container_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The one call of the container API that is needed, on loopback."""

    def get_cluster(request: container_v1.GetClusterRequest, context: grpc.ServicerContext) -> container_v1.Cluster:
        if request.name.endswith("/making"):
            return container_v1.Cluster(name="making", status=container_v1.Cluster.Status.PROVISIONING)
        if request.name.endswith("/forbidden"):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no container.clusters.get")
        if request.name != CLUSTER.path:
            context.abort(grpc.StatusCode.NOT_FOUND, "not found")
        return container_v1.Cluster(
            name="c1",
            endpoint="10.0.0.2",
            status=container_v1.Cluster.Status.RUNNING,
            master_auth={"cluster_ca_certificate": base64.b64encode(PEM.encode()).decode()},
        )

    handler = grpc.unary_unary_rpc_method_handler(
        get_cluster,
        request_deserializer=container_v1.GetClusterRequest.deserialize,
        response_serializer=container_v1.Cluster.serialize,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("google.container.v1.ClusterManager", {"GetCluster": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv(ENDPOINT_VARIABLE, f"http://127.0.0.1:{port}/")
    yield
    server.stop(None).wait(10)


async def test_the_cluster_is_found_and_the_token_is_renewed(tokens: TokenServer, container_api: None) -> None:
    found = await gke_credentials(CLUSTER)
    assert (found.endpoint, found.ca_data) == ("https://10.0.0.2", PEM)
    first = await found.token_provider(False)
    assert first.startswith("ya29.")
    assert await found.token_provider(False) == first
    assert await found.token_provider(True) != first
    assert first not in repr(found)


async def test_what_is_wrong_is_said(tokens: TokenServer, container_api: None) -> None:
    with pytest.raises(ConfigurationError, match="no GKE cluster projects/p1/locations/europe-west4/clusters/c2"):
        await gke_credentials(GkeCluster("c2", "europe-west4", "p1"))
    with pytest.raises(ConfigurationError, match="PROVISIONING"):
        await gke_credentials(GkeCluster("making", "europe-west4", "p1"))
    with pytest.raises(TerraformCredentialsError, match="gcp_conn_id"):
        await gke_credentials(GkeCluster("forbidden", "europe-west4", "p1"))
    with pytest.raises(ConfigurationError, match="project"):
        await gke_credentials(GkeCluster("c1", "europe-west4", ""))
    found = await gke_credentials(CLUSTER)
    tokens.refuse = True
    with pytest.raises(TerraformCredentialsError, match="invalid_grant"):
        await found.token_provider(True)


async def test_a_kubeconfig_for_other_programs(tokens: TokenServer, container_api: None) -> None:
    found = await gke_credentials(CLUSTER)
    plugin = found.kubeconfig()["users"][0]["user"]["exec"]
    assert plugin["command"] == sys.executable
    done = subprocess.run([plugin["command"], *plugin["args"]], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"]["token"].startswith("ya29.")
