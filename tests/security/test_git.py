"""A module from git comes from who is asked for it, and its credentials go to nobody else."""

from __future__ import annotations

import base64
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_provider.infrastructure.errors import ModuleError
from ray_provider.infrastructure.module.source import ModuleSource
from ray_provider.infrastructure.terraform.environment import build_environment

PLANTED = "planted-token-3e5d"
MAIN = 'output "x" {\n  value = 1\n}\n'


class Web:
    """Serves the files below a folder, or redirects all of it, and keeps what was asked and by which credentials."""

    def __init__(self, folder: Path, redirect_to: str = "") -> None:
        self.asked: list[tuple[str, str | None]] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def do_GET(self) -> None:
                asked.append((self.path, self.headers.get("Authorization")))
                if redirect_to:
                    self.send_response(302)
                    self.send_header("Location", redirect_to + self.path)
                    self.end_headers()
                else:
                    super().do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A bare one, as a plain web server can serve it, with a submodule in it."""
    for name, value in (("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null")):
        monkeypatch.setenv(name, value)
    work, bare = tmp_path / "work", tmp_path / "served" / "r.git"

    def git(*arguments: str, where: Path = work) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
        subprocess.run(["git", "-C", str(where), *identity, *arguments], check=True, capture_output=True)

    work.mkdir()
    (work / "main.tf").write_text(MAIN)
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        git(*arguments)
    git("submodule", "add", str(work), "theirs")
    git("commit", "-qm", "two")
    git("tag", "v1")
    git("clone", "-q", "--bare", str(work), str(bare), where=tmp_path)
    git("update-server-info", where=bare)
    return bare


@pytest.fixture
def webs(repository) -> Iterator[tuple[Web, Web]]:
    """The one that serves the repository, and one that redirects to it."""
    real = Web(repository.parent)
    redirecting = Web(repository.parent, f"http://{real.host}")
    yield real, redirecting
    real.close()
    redirecting.close()


def fetch(text: str, folder: Path, **env: str) -> Path:
    folder.mkdir()
    source = ModuleSource.parse(text)
    return source.copy_to(folder, env=build_environment(env), redact=str, remember=lambda _: None)


def test_credentials_are_not_taken_along_by_a_redirect(webs, tmp_path):
    real, redirecting = webs
    allowed = {"GIT_ALLOW_PROTOCOL": "http"}
    url = f"git::http://me:{PLANTED}@%s/r.git?ref=v1"
    with pytest.raises(ModuleError, match="no redirect is followed") as raised:
        fetch(url % redirecting.host, tmp_path / "a", **allowed)
    assert not real.asked
    assert PLANTED not in str(raised.value)
    module = fetch(url % real.host, tmp_path / "b", **allowed)
    header = "Basic " + base64.b64encode(f"me:{PLANTED}".encode()).decode()
    assert {sent for _, sent in real.asked} == {header}, "who is asked gets them"
    assert (module / "main.tf").read_text() == MAIN
    assert not list((module / "theirs").iterdir()), "submodules are left out"
    assert (fetch(f"git::http://{redirecting.host}/r.git?ref=v1", tmp_path / "c", **allowed) / "main.tf").is_file()


def test_a_workers_own_settings_do_not_bring_submodules_back(repository, tmp_path, monkeypatch):
    settings = tmp_path / "gitconfig"
    settings.write_text('[submodule]\n\trecurse = true\n[protocol "file"]\n\tallow = always\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    module = fetch(f"git::file://{repository}", tmp_path / "a", GIT_ALLOW_PROTOCOL="file")
    assert not list((module / "theirs").iterdir())


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("git::http://%s/r.git", "http"),
        ("http://%s/r.git", "http"),
        ("git::git://%s/r.git", "git"),
        ("git::file://{}", "file"),
        ("{}", "file"),
        ("git::ext::sh -c touch% pwned.git", "ext"),
    ],
)
def test_what_does_not_check_who_answers_is_refused_unless_said(url, scheme, repository, tmp_path):
    web = Web(repository.parent)
    with pytest.raises(ModuleError, match=rf"(?s)fetched by '{scheme}'.*GIT_ALLOW_PROTOCOL=\"https:ssh:{scheme}\""):
        fetch(url.replace("%s", web.host).replace("{}", str(repository)), tmp_path / "a")
    assert not web.asked
    web.close()
