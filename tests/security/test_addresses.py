"""Names that only the cluster can answer, and tokens that nobody on the way should read."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest

from ray_provider.clusters.kuberay import endpoints
from ray_provider.clusters.kuberay.endpoints import dashboard_url, kubernetes_endpoint
from ray_provider.hooks import RayHook, plain_http
from tests.support.kubernetes_front import HANDLE, KubernetesFront


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("search airflow.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n", ".cluster.local."),
        ("nameserver 10.0.0.10\nsearch a.svc.k8s.example.org svc.k8s.example.org. k8s\n", ".k8s.example.org."),
        ("search example.org\n", ""),
        ("", ""),
        (None, ""),
    ],
)
async def test_a_service_is_asked_for_by_its_absolute_name(text, name, tmp_path, monkeypatch):
    """Before: ``c-head-svc.n.svc`` was tried as ``c-head-svc.n.svc.svc.cluster.local`` too, in a namespace ``svc``."""
    if text is not None:
        (tmp_path / "resolv.conf").write_text(text)
    monkeypatch.setattr(endpoints, "_RESOLVER", tmp_path / "resolv.conf")
    async with KubernetesFront() as front:
        endpoint = await kubernetes_endpoint(front.access(), HANDLE, access="service")
        assert endpoint.url == f"http://c-head-svc.n.svc{name}:8265"
        assert await dashboard_url(front.access(), "n", "c-head-svc", "service") == endpoint.url


@pytest.fixture
def warnings(monkeypatch, caplog):
    """Gives the warnings that a connection's endpoint causes."""
    monkeypatch.setattr(plain_http, "_told", set())

    async def of(**extra) -> list[str]:
        def get(conn_id):
            return SimpleNamespace(
                extra=json.dumps(extra), extra_dejson=extra, host=None, port=None, schema=None, password=None
            )

        monkeypatch.setattr(RayHook, "get_connection", staticmethod(get))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            await RayHook("c").endpoint()
        return [record.getMessage() for record in caplog.records if "plain http" in record.getMessage()]

    return of


async def test_a_token_over_plain_http_is_told_once(warnings):
    [told] = await warnings(address="http://ray.example.org:8265", token="planted-token")
    assert "http://ray.example.org:8265" in told
    assert "planted" not in told
    assert "allow_plain_http" in told
    assert await warnings(address="http://ray.example.org:8265/again", token="planted-token") == []
    assert len(await warnings(address="http://me:planted@other.example.org")) == 1
    assert len(await warnings(address="http://10.0.0.1:8265", cookies="a=b")) == 1
    assert len(await warnings(address="http://svc.example.org", token="planted-token")) == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8265",
        "http://localhost:8265",
        "http://[::1]:8265",
        "http://c-head-svc.n.svc:8265",
        "http://c-head-svc.n.svc.cluster.local.:8265",
        "https://ray.example.org",
    ],
)
async def test_what_stays_here_is_not(warnings, address):
    assert await warnings(address=address, token="planted-token") == []


async def test_nor_what_is_meant_or_has_no_credentials(warnings):
    assert await warnings(address="http://ray.example.org", token="planted-token", allow_plain_http=True) == []
    assert await warnings(address="http://ray.example.org") == []
