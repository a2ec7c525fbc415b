"""What a built package says of itself: hatch_build.py and pyproject.toml. scripts/stranger installs one for real."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from ray_provider import __version__
from tests.support.snippets import DOCUMENTS, ROOT


@pytest.fixture
def build(monkeypatch):
    """The build's hook. Its own environment has hatchling, this one not."""
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    interface = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    for name in ("AIRFLOW_RAY_REPOSITORY", "GITHUB_REPOSITORY", "GITHUB_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("hatch_build_tested", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_link_of_the_long_description_is_relative(build):
    text = (ROOT / "README.md").read_text()
    assert "](docs/jobs.md)" in text
    shown = build.absolute(text, "https://example.org/a/b")
    assert "](https://example.org/a/b/blob/main/docs/jobs.md)" in shown
    assert "](https://airflow.apache.org)" in shown
    picture = "![How it works](docs/pictures/architecture.svg)"
    assert picture in text
    assert "![How it works](https://example.org/a/b/raw/main/docs/pictures/architecture.svg)" in shown
    for made in (shown, build.absolute(text, None)):
        assert [link for link in made.split("](")[1:] if not link.startswith(("https://", "#"))] == []


@pytest.mark.parametrize(
    ("remote", "home"),
    [
        ("https://host.example/a/b.git", "https://host.example/a/b"),
        ("https://user:secret@host.example/a/b", "https://host.example/a/b"),
        ("git@host.example:a/b.git", "https://host.example/a/b"),
        ("ssh://git@host.example/a/b.git", "https://host.example/a/b"),
        ("/a/folder/of/this/machine", None),
        (None, None),
    ],
)
def test_the_repository_is_where_the_clone_came_from(build, tmp_path, remote, home):
    """No password and no folder of a machine gets into a package."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    if remote:
        subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", remote], check=True)
    assert build.repository(tmp_path) == home
    assert build.urls(home)["Homepage"] == (home or build.PACKAGE_PAGE)


def test_ci_and_whoever_builds_may_say_where_it_is(build, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    assert build.repository(tmp_path) == "https://github.com/a/b"
    monkeypatch.setenv("AIRFLOW_RAY_REPOSITORY", "https://example.org/mine/")
    assert build.repository(tmp_path) == "https://example.org/mine"
    assert build.urls("https://example.org/mine")["Documentation"] == "https://example.org/mine/tree/main/docs"


def test_the_version_needs_no_tag():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"] == {"path": "provider/ray_provider/_version.py"}
    assert all(part.isdigit() for part in __version__.split("."))


def test_the_pictures_are_there_used_and_small():
    """Each is loaded by everybody who opens a page, and remade by ``make pictures``; what no page shows goes."""
    pages = "\n".join((ROOT / name).read_text() for name in DOCUMENTS)
    pictures = sorted((ROOT / "docs" / "pictures").iterdir())
    assert {picture.name for picture in pictures} == {
        Path(link).name for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", pages)
    }
    for picture in pictures:
        assert picture.suffix in {".png", ".svg"}
        assert picture.stat().st_size <= 150_000, picture.name


def test_the_changelog_has_the_version_and_its_form():
    """Keep a Changelog: a section for each version, the newest first, with the six kinds of changes."""
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## \[(.+)\](?: - (\d{4}-\d\d-\d\d|unreleased))?$", text, re.MULTILINE)
    assert len(sections) == len(re.findall(r"^## ", text, re.MULTILINE))
    versions = [version for version, _ in sections if version != "Unreleased"]
    assert versions[0] == __version__
    assert versions == sorted(versions, key=lambda version: [int(part) for part in version.split(".")], reverse=True)
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_wheel_has_what_its_code_looks_for():
    """``bundled`` finds in a checkout what a wheel may lack."""
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for folder in ("helm", "examples/dags", "terraform/modules"):
        assert included["force-include"][folder] == f"ray_provider/_bundled/{folder}"
        assert (ROOT / folder).is_dir()
