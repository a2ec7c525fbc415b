"""What others make and we run is what was meant: charts by their digest, GitHub's actions by their commit."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from ray_provider.clusters.helm.charts import find_chart
from ray_provider.clusters.helm.releases import HelmOptions, open_helm
from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.exceptions import ConfigurationError
from tests.support.certificates import make_certificates
from tests.support.helm import tool
from tests.support.tls_front import TlsFront

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "arguments",
    [
        {"chart": "ray-cluster", "repo": "http://charts.example.org/"},
        {"chart": "http://charts.example.org/ray-cluster-1.0.0.tgz"},
        {"chart": "ray-cluster", "repo": "http://10.0.0.1:8080"},
    ],
)
def test_plain_http_needs_a_digest(arguments):
    with pytest.raises(ConfigurationError, match=r"(?s)is plain http.*@sha256:"):
        find_chart(version="1.0.0", **arguments)
    found = find_chart(version=f"1.0.0@sha256:{'ab' * 32}", **arguments)
    assert (found.version, found.pin) == ("1.0.0", "ab" * 32)


def test_a_digest_is_one_and_of_something_fetched():
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        find_chart("oci://h/c", version="1.0.0@sha256:ab")
    with pytest.raises(ConfigurationError, match="comes from no repository"):
        find_chart("ray-cluster", version=f"@sha256:{'ab' * 32}")
    assert find_chart("oci://h/c", version=f"@sha256:{'AB' * 32}").version is None


def archive(marker: str) -> bytes:
    """A chart, packed."""
    files = {
        "Chart.yaml": yaml.safe_dump({"apiVersion": "v2", "name": "theirs", "version": "1.0.0"}),
        "values.yaml": f"marker: {marker}\n",
        "crds/x.yaml": "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: x}\n",
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"theirs/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return packed.getvalue()


#: An archive somewhere else, by plain http.
PLAIN = "http://charts.example.org/theirs-1.0.0.tgz"


def index(folder: Path, archive_url: str) -> None:
    entry = {"apiVersion": "v2", "name": "theirs", "version": "1.0.0", "urls": [archive_url]}
    (folder / "index.yaml").write_text(yaml.safe_dump({"apiVersion": "v1", "entries": {"theirs": [entry]}}))


@pytest.fixture
def repository(tmp_path) -> Iterator[tuple[Path, str]]:
    """A repository of one chart on loopback: its folder, and its URL."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved.tgz":
                self.send_response(302)
                self.send_header("Location", PLAIN)
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "repository"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    index(folder, f"{url}/theirs-1.0.0.tgz")
    yield folder, url
    server.shutdown()
    server.server_close()


#: No Kubernetes: these tests only fetch.
NOBODY = KubernetesAccess(
    kubeconfig={
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
    }
)


@pytest.mark.parametrize("program", ["helm3", "helm4"])
@pytest.mark.parametrize("no_proxy", ["", "charts.example.org"])
async def test_an_https_repository_that_leads_to_plain_http_is_refused(
    program, no_proxy, repository, tmp_path, monkeypatch
):
    folder, url = repository
    # Whoever is on the way: what Helm asks for by plain http comes to the same server.
    evil = folder / PLAIN.replace("//", "/")
    evil.parent.mkdir(parents=True)
    evil.write_bytes(archive("evil"))
    certificates = make_certificates(tmp_path)
    for kind in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"HELM_{kind}_HOME", str(tmp_path / kind))
    for name, value in {"SSL_CERT_FILE": certificates.ca_file, "http_proxy": url, "NO_PROXY": no_proxy}.items():
        monkeypatch.setenv(name, str(value))
    wanted = f"1.0.0@sha256:{hashlib.sha256(evil.read_bytes()).hexdigest()}"
    with TlsFront(int(url.rpartition(":")[2]), certificates.server_context("127.0.0.1")) as front:
        secure = f"https://127.0.0.1:{front.port}"
        async with open_helm(NOBODY, HelmOptions(path=str(tool(program)))) as helm:
            for leads_to in (PLAIN, f"{secure}/moved.tgz"):
                index(folder, leads_to)
                with pytest.raises(ConfigurationError, match=rf"(?s)plain http .{PLAIN}.*@sha256:"):
                    await helm.chart(find_chart("theirs", repo=secure, version="1.0.0"))
                if not no_proxy:
                    pinned = await helm.chart(find_chart("theirs", repo=secure, version=wanted))
                    assert await helm.defaults(pinned) == {"marker": "evil"}
            index(folder, f"{secure}/theirs-1.0.0.tgz")
            (folder / "theirs-1.0.0.tgz").write_bytes(archive("good"))
            good = await helm.chart(find_chart("theirs", repo=secure, version="1.0.0"))
            assert await helm.defaults(good) == {"marker": "good"}


@pytest.mark.parametrize("program", ["helm3", "helm4"])
async def test_a_chart_that_was_changed_in_its_repository_is_not_used(program, repository, tmp_path, monkeypatch):
    folder, url = repository
    for kind in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"HELM_{kind}_HOME", str(tmp_path / kind))
    good = archive("good")
    (folder / "theirs-1.0.0.tgz").write_bytes(good)
    wanted = f"1.0.0@sha256:{hashlib.sha256(good).hexdigest()}"
    async with open_helm(NOBODY, HelmOptions(path=str(tool(program)))) as helm:
        for chart, repo in (("theirs", url), (f"{url}/theirs-1.0.0.tgz", None)):
            found = await helm.chart(find_chart(chart, repo=repo, version=wanted))
            assert await helm.defaults(found) == {"marker": "good"}
            assert [one["metadata"]["name"] for one in await helm.crds(found)] == ["x"]
        (folder / "theirs-1.0.0.tgz").write_bytes(archive("evil"))
        with pytest.raises(ConfigurationError, match="it is not used"):
            await helm.chart(find_chart("theirs", repo=url, version=wanted))
        assert await helm.defaults(found) == {"marker": "good"}, "what was looked at is installed"
        unpinned = await helm.chart(find_chart("theirs", repo=url, version="1.0.0"))
        assert await helm.defaults(unpinned) == {"marker": "evil"}


def test_actions_are_pinned_by_commit():
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    used = [line for path in workflows for line in path.read_text().splitlines() if re.match(r"\s*-?\s*uses:", line)]
    assert used
    for line in used:
        assert re.search(r"uses: [\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
