"""As much of Google Cloud as enters a GKE cluster: its token endpoint and the container API, on loopback."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

from ray_provider.infrastructure.cloud.gke import ENDPOINT_VARIABLE

EMAIL = "ray@p1.iam.gserviceaccount.com"


class GoogleCloud:
    """A local Google Cloud, as a context manager.

    :param find: gives the fields of a cluster (``container_v1.Cluster``) by its path, or ``None`` if there is none.
    :param forbidden: paths of clusters that nobody may see.
    """

    def __init__(self, find: Callable[[str], dict[str, Any] | None], forbidden: frozenset[str] = frozenset()) -> None:
        self._find = find
        self._forbidden = forbidden
        self.tokens: dict[str, str] = {}
        #: Fields of the clusters that the project has, for who lists them.
        self.listed: list[dict[str, Any]] = []
        #: Give no tokens any more.
        self.refuse = False

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                status, answer = outer._token(body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self._start_container_api()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(None).wait(10)

    @property
    def env(self) -> dict[str, str]:
        """What a program needs in its environment to ask this container API and no other."""
        return {ENDPOINT_VARIABLE: f"http://127.0.0.1:{self._port}/"}

    def key(self, project: str = "p1") -> dict[str, str]:
        """Make the key of a service account, whose tokens come from here."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        pem = (
            rsa.generate_private_key(public_exponent=65537, key_size=2048)
            .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            .decode()
        )
        return {
            "type": "service_account",
            "project_id": project,
            "private_key_id": "1",
            "private_key": pem,
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": f"http://127.0.0.1:{self._http.server_port}/token",
        }

    def caller(self, token: str) -> str:
        """Tell whose token this is, as GKE asks.

        :raises PermissionError: nobody's.
        """
        if token not in self.tokens:
            raise PermissionError("invalid token")
        return self.tokens[token]

    def _token(self, body: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        """Take a signed assertion, give a token."""
        if self.refuse or not body.get("assertion"):
            return 400, {"error": "invalid_grant"}
        token = f"ya29.{len(self.tokens) + 1}-{os.urandom(12).hex()}"
        self.tokens[token] = EMAIL
        return 200, {"access_token": token, "expires_in": 3600}

    def _start_container_api(self) -> None:
        import grpc
        from google.cloud import container_v1

        def get_cluster(request: Any, context: Any) -> Any:
            if request.name in self._forbidden:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "no container.clusters.get")
            found = self._find(request.name)
            if found is None:
                context.abort(grpc.StatusCode.NOT_FOUND, "not found")
            return container_v1.Cluster(**found)

        def list_clusters(request: Any, context: Any) -> Any:
            return container_v1.ListClustersResponse(clusters=[container_v1.Cluster(**item) for item in self.listed])

        def set_labels(request: Any, context: Any) -> Any:
            named = request.name.rpartition("/")[2]
            for item in self.listed:
                if item["name"] == named:
                    if request.label_fingerprint != item.get("label_fingerprint", ""):
                        context.abort(
                            grpc.StatusCode.FAILED_PRECONDITION, "Labels could not be set due to fingerprint mismatch"
                        )
                    item["resource_labels"] = dict(request.resource_labels)
                    item["label_fingerprint"] = os.urandom(4).hex()
            return container_v1.Operation(name="operation-1")

        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                handle,
                request_deserializer=getattr(container_v1, f"{name}Request").deserialize,
                response_serializer=answer.serialize,
            )
            for name, handle, answer in (
                ("GetCluster", get_cluster, container_v1.Cluster),
                ("ListClusters", list_clusters, container_v1.ListClustersResponse),
                ("SetLabels", set_labels, container_v1.Operation),
            )
        }
        self._grpc = grpc.server(ThreadPoolExecutor(2))
        self._grpc.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("google.container.v1.ClusterManager", handlers),)
        )
        self._port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
