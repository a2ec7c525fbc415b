"""What lies behind a URL is data: never a template, from nobody on the way, with an end, and no way into our network."""

from __future__ import annotations

import hashlib
import http.server
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.helm import fetch
from ray_provider.clusters.helm.fetch import fetch_text
from ray_provider.exceptions import ConfigurationError, RayConnectionError
from ray_provider.hooks import RayHook
from ray_provider.operators import DeleteRayCluster, SetupRayCluster, SubmitRayJob
from ray_provider.operators._cluster.run import ClusterRun
from tests.support.airflow_task import FakeTask, context_of
from tests.support.certificates import make_certificates

PLANTED = "planted-password-1c9f"
TEMPLATES = "{{ conn.db.password }}{{ var.value.key }}"
MANIFEST = f"""
apiVersion: ray.io/v1
kind: RayCluster
metadata: {{name: fetched}}
spec:
  rayVersion: 2.60.0
  headGroupSpec:
    template:
      spec: {{containers: [{{name: ray-head, env: [{{name: X, value: "{TEMPLATES}"}}]}}]}}
"""
DAEMON_SET = f"""
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: plugin, annotations: {{note: "{TEMPLATES}"}}}}
"""


class Server:
    """Serves texts and redirects on loopback, and knows what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []
        pages, asked = self.pages, self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                page = pages[self.path]
                if callable(page):
                    page(self.wfile)
                elif page.startswith("->"):
                    self.send_response(302)
                    self.send_header("Location", page[2:])
                    self.end_headers()
                else:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(page.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path: str = "/cluster.yaml") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.pages["/cluster.yaml"] = MANIFEST
    server.pages["/plugin.yaml"] = DAEMON_SET
    yield server
    server.close()


@pytest.fixture
def context(monkeypatch):
    def connection(conn_id):
        return SimpleNamespace(extra="{}", extra_dejson={}, host=None, port=None, schema=None, password=None)

    monkeypatch.setattr(RayHook, "get_connection", staticmethod(connection))
    return {
        **context_of(FakeTask()),
        "conn": SimpleNamespace(db=SimpleNamespace(password=PLANTED)),
        "var": SimpleNamespace(value=SimpleNamespace(key=PLANTED)),
    }


@pytest.fixture
def made(monkeypatch):
    """What would have been made, or deleted, on Kubernetes."""
    told: list[Any] = []

    def set_up(self, spec, *_, **__):
        told.append(spec)
        return ClusterHandle("kubernetes", spec.name, "http://d", "ns", spec.name)

    def delete(self, **named):
        told.append(named)
        return True

    monkeypatch.setattr(ClusterRun, "set_up", set_up)
    monkeypatch.setattr(ClusterRun, "delete", delete)
    return told


# Templates ----------------------------------------------------------------------------------------------------------


def test_a_fetched_manifest_is_no_template(server, context, made):
    task = SetupRayCluster(
        task_id="t", ray_cluster_yaml=server.url(), gpu_device_plugin_yaml=server.url("/plugin.yaml"), deferrable=False
    )
    task.execute(context)
    [spec] = made
    container = spec.manifest.cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert container["env"] == [{"name": "X", "value": TEMPLATES}]
    assert spec.gpu_plugin[0]["metadata"]["annotations"] == {"note": TEMPLATES}


def test_nor_is_that_of_a_jobs_own_cluster_or_of_a_delete(server, context, made, monkeypatch):
    wanted = []

    async def set_up(access, spec, **_):
        wanted.append(spec)
        raise ConfigurationError("seen")

    monkeypatch.setattr("ray_provider.clusters.lifecycle.setup.set_up_cluster", set_up)
    task = SubmitRayJob(task_id="t", conn_id="c", entrypoint="true", ray_cluster_yaml=server.url())
    with pytest.raises(Exception, match="seen"):
        task.execute(context)
    assert PLANTED not in str(wanted[0].manifest.cluster)
    server.pages["/cluster.yaml"] = MANIFEST.replace("name: fetched", 'name: "{{ conn.db.password }}"')
    with pytest.raises(AirflowFailException, match="is not filled in") as raised:
        DeleteRayCluster(task_id="t", ray_cluster_yaml=server.url()).execute(context)
    assert PLANTED not in str(raised.value)


def test_a_file_of_the_dag_is_a_template(context, made, tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(MANIFEST)
    SetupRayCluster(task_id="t", ray_cluster_yaml=str(path), deferrable=False).execute(context)
    assert PLANTED in str(made[0].manifest.cluster)


# The way there --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://example.org/c.yaml", "http://169.254.169.254/latest", "http://10.0.0.1/c.yaml"]
)
def test_plain_http_is_for_this_machine(url, context, made):
    task = SetupRayCluster(task_id="t", ray_cluster_yaml=url, deferrable=False)
    with pytest.raises(AirflowFailException, match=r"(?s)is plain http.*sha256"):
        task.execute(context)
    assert not made


def test_a_hash_says_what_it_has_to_be(server, monkeypatch):
    right = hashlib.sha256(MANIFEST.encode()).hexdigest()
    monkeypatch.setattr(fetch, "is_this_machine", lambda host: False)  # as if it were elsewhere
    with pytest.raises(ConfigurationError, match="plain http"):
        fetch_text(server.url())
    assert fetch_text(f"{server.url()}#sha256={right}") == MANIFEST
    server.pages["/cluster.yaml"] += "# another text"
    with pytest.raises(ConfigurationError, match=f"its URL says {right}"):
        fetch_text(f"{server.url()}#sha256={right}")
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        fetch_text(f"{server.url()}#sha256=abc")


def test_a_redirect_on_the_same_server_is_followed_and_told(server, caplog):
    server.pages["/latest"] = "->/cluster.yaml?signature=planted"
    server.pages["/cluster.yaml?signature=planted"] = MANIFEST
    with caplog.at_level(logging.INFO, logger="ray_provider"):
        assert fetch_text(server.url("/latest")) == MANIFEST
    assert f"{server.url('/latest')} redirects to {server.url()}." in caplog.text
    assert "planted" not in caplog.text
    server.pages["/round"] = "->/round"
    with pytest.raises(ConfigurationError, match="more than 5 times"):
        fetch_text(server.url("/round"))


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://example.org/c.yaml", "plain http"),
        ("http://127.0.0.1:1/c.yaml", "plain http"),
        ("file:///etc/passwd", "no http or https URL"),
        ("ftp://example.org/c.yaml", "no http or https URL"),
        ("https://169.254.169.254/latest/meta-data", "private network"),
        ("https://10.1.2.3/c.yaml", "private network"),
        ("https://[::1]:8/c.yaml", "private network"),
        ("https://[::ffff:10.0.0.1]/c.yaml", "private network"),
        ("https://[fd00::1]/c.yaml", "private network"),
        ("https://100.64.0.1/c.yaml", "private network"),
        ("https://localhost:1/c.yaml", "private network"),
    ],
)
def test_no_redirect_leads_into_our_network(server, target, why):
    server.pages["/latest"] = f"->{target}"
    with pytest.raises(ConfigurationError, match=why):
        fetch_text(server.url("/latest"))


@pytest.mark.parametrize("first", ["127.0.0.1", "93.184.215.14"])
def test_nor_does_a_name_that_stands_for_it(server, first, tmp_path, monkeypatch):
    """Also not one that stands for something else when it is looked at, and for our network when it is connected to."""
    certificates = make_certificates(tmp_path)
    inside = Server(certificates.server_context("inside.example"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    inside.pages["/secret"] = MANIFEST
    server.pages["/latest"] = f"->https://inside.example:{inside.port}/secret"
    real, answers = socket.getaddrinfo, [first]

    def resolve(host, port, *rest, **more):
        return real(
            (answers.pop() if answers else "127.0.0.1") if host == "inside.example" else host, port, *rest, **more
        )

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    try:
        with pytest.raises(ConfigurationError, match="private network"):
            fetch_text(server.url("/latest"))
        assert not inside.asked
        monkeypatch.setattr(fetch, "_is_private", lambda address: False)
        assert fetch_text(server.url("/latest")) == MANIFEST, "were it a public address, it would be read"
    finally:
        inside.close()


# The end --------------------------------------------------------------------------------------------------------------


def test_a_text_without_end_has_one(server, monkeypatch):
    def drip(out):
        out.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            out.write(b"#")
            out.flush()
            threading.Event().wait(0.02)

    def flood(out):
        out.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            out.write(b"#" * 65536)

    server.pages |= {"/drip": drip, "/flood": flood, "/rubbish": lambda out: out.write(b"\0\0\n\n")}
    with pytest.raises(ConfigurationError, match="larger than 4 MiB"):
        fetch_text(server.url("/flood"))
    with pytest.raises(RayConnectionError, match="can't be read"):
        fetch_text(server.url("/rubbish"))
    monkeypatch.setattr(fetch, "_SECONDS_IN_ALL", 0.5)
    with pytest.raises(RayConnectionError, match="not read to its end"):
        fetch_text(server.url("/drip"))
