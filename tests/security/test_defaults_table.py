"""The predecessor's defaults beside ours, measured against the same servers; docs/security.md shows what was seen."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ray_provider._shared.retry import RetryPolicy
from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint, way
from ray_provider.clusters.kuberay.manifests import read_manifest
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.exceptions import ConfigurationError, RayApiError, RayConnectionError
from ray_provider.hooks.connection import RayConnectionConfig
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint
from tests.support.certificates import make_certificates
from tests.support.helm import CHART, ROOT
from tests.support.jobs_api import JobsApi
from tests.support.kubernetes_front import HANDLE, KubernetesFront
from tests.support.requirements import need

PEER = ROOT / ".venv-peer" / "bin" / "python"
PAGE = ROOT / "docs" / "security.md"
SECRET = "planted-in-a-table"
MANIFEST = {
    "apiVersion": "ray.io/v1",
    "kind": "RayCluster",
    "metadata": {"name": "c"},
    "spec": {"rayVersion": "2.60.0", "headGroupSpec": {"template": {}}},
}


def ours(**extra) -> RayEndpoint:
    """What our connection makes of the same fields."""
    config = RayConnectionConfig.from_connection("ray", extra=extra, environ={})
    return RayEndpoint(
        config.require_address(),
        token=config.token,
        headers=config.headers,
        cookies=config.cookies,
        tls=config.tls,
    )


async def asks(endpoint: RayEndpoint) -> str:
    async with RayJobsClient(endpoint, timeout=5, retry=RetryPolicy.none()) as client:
        try:
            await client.list_jobs()
        except (RayConnectionError, RayApiError) as error:
            return str(error)
    return "answered"


async def ask_peer(given: dict, folder: Path) -> dict:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AIRFLOW_HOME": str(folder / "airflow"),
        "TMPDIR": str(folder),
    }
    process = await asyncio.create_subprocess_exec(
        str(PEER),
        str(Path(__file__).with_name("peer_defaults.py")),
        json.dumps(given),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 200)
    lines = [line for line in out.decode().splitlines() if line.startswith("RESULT ")]
    assert lines, err.decode()[-3000:]
    return json.loads(lines[0].removeprefix("RESULT "))


async def measure(tmp_path: Path) -> list[tuple[str, str, str]]:
    """Rows: what, the predecessor's, ours."""
    certificates = make_certificates(tmp_path)
    rows: list[tuple[str, str, str]] = []
    tls = certificates.server_context("127.0.0.1")
    async with JobsApi(tls=tls) as secure, JobsApi() as plain, JobsApi() as other, JobsApi() as away:
        away.redirect_to = other.url.replace("127.0.0.1", "localhost")
        given = {"tls": secure.url, "plain": plain.url, "redirect": away.url, "secret": SECRET}
        peer = await ask_peer(given, tmp_path)
        peer_sent_token = SECRET in repr(plain.headers)
        peer_followed, peer_leaked = bool(other.requests), SECRET in repr(other.headers)
        for api in (plain, other, away):
            api.requests.clear()
            api.headers.clear()

        own_tls = await asks(ours(address=secure.url))
        refused = "authority that this machine does not know" in own_tls
        rows.append(
            (
                "A dashboard with an untrusted certificate",
                "taken: certificates are not checked" if peer["tls"] == "answered" else f"refused ({peer['tls']})",
                "refused" if refused else own_tls,
            )
        )
        await asks(ours(address=plain.url, token=SECRET))
        rows.append(
            (
                "Ray's token in the connection",
                "sent" if peer_sent_token else "there is no such field: nothing is sent",
                "sent with each request" if SECRET in repr(plain.headers) else "not sent",
            )
        )
        answer = await asks(ours(address=away.url, headers=json.dumps({"X-Key": SECRET})))
        rows.append(
            (
                "A dashboard that redirects to another host",
                f"{'followed' if peer_followed else 'not followed'}, credentials {'sent there' if peer_leaked else 'kept'}",
                "refused, nothing sent" if "redirects to" in answer and not other.requests else answer,
            )
        )

    before = set(Path(tempfile.gettempdir()).iterdir())
    async with KubernetesFront() as front:
        await kubernetes_endpoint(front.access(), HANDLE)
        try:
            await kubernetes_endpoint(front.access(), replace(HANDLE, namespace="x; touch y; #"))
            shell = "used"
        except ConfigurationError:
            shell = "refused; no shell is used anywhere"
    kept = set(Path(tempfile.gettempdir()).iterdir()) - before
    rows.append(
        (
            "A kubeconfig in the connection",
            f"written to a file that stays ({', '.join(peer['kubeconfig files'])})"
            if peer["kubeconfig files"]
            else "in memory",
            f"on disk: {kept}" if kept else "kept in memory",
        )
    )
    rows.append(
        (
            "A namespace `x; touch FILE` in the connection",
            "runs `touch FILE` in a shell" if peer["shell"] else "does nothing",
            shell,
        )
    )
    own = way(KubernetesAccess(kubeconfig={}), "auto")
    assert own == "proxy"
    service = yaml.safe_load((CHART / "values.yaml").read_text())["service"]["type"]
    rows.append(
        (
            "How a dashboard on Kubernetes is reached",
            "by a public load balancer; without one the set-up waits for it and fails"
            if peer["without load balancer"] is None
            else "otherwise",
            f"a {service} service, through the API server's proxy",
        )
    )
    values, _notes = read_manifest(MANIFEST).to_values((1, 6, 1))
    rows.append(
        (
            "A manifest that says nothing of authentication",
            "applied as it is: whoever reaches the dashboard runs code",
            f"token authentication (`authOptions.mode: {values['spec']['authOptions']['mode']}`)",
        )
    )
    policy = yaml.safe_load((CHART / "values.yaml").read_text())["networkPolicy"]
    rows.append(("Network policy", "none", "on" if policy["enabled"] else "off"))
    return rows


def table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| | astro-provider-ray 0.4.0 | airflow-ray |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


@pytest.mark.timeout(300)
async def test_the_page_shows_what_is_measured(tmp_path):
    need("the predecessor's environment", present=PEER.exists(), how="Run 'make .venv-peer/.installed'.")
    made = table(await measure(tmp_path))
    text = PAGE.read_text()
    start, end = "<!-- defaults: measured by tests/security/test_defaults_table.py -->\n", "\n<!-- end of defaults -->"
    if os.environ.get("AIRFLOW_RAY_WRITE_DOCS"):
        head, _, rest = text.partition(start)
        PAGE.write_text(f"{head}{start}{made}{end}{rest.partition(end)[2]}")
        text = PAGE.read_text()
    shown = text.partition(start)[2].partition(end)[0]
    assert shown == made, "run it once with AIRFLOW_RAY_WRITE_DOCS=1, and look at what has changed"
