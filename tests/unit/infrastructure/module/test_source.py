"""Where a module comes from, and the copy of it that a run works in."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ray_provider.infrastructure.errors import ModuleError
from ray_provider.infrastructure.module.source import COMMIT, ModuleSource, bundled_modules


def copy(source: ModuleSource, folder: Path, **env: str) -> tuple[Path, list[str]]:
    secrets: list[str] = []
    folder.mkdir(exist_ok=True)
    root = source.copy_to(
        folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
        redact=lambda text: text.replace("planted", "***"),
        remember=secrets.append,
    )
    return root, secrets


# ---------------------------------------------------------------- names


def test_bundled_modules_are_known_by_their_names() -> None:
    assert {"eks", "gke"} <= set(bundled_modules())
    eks = ModuleSource.parse(" eks ")
    assert (eks.kind, eks.public, Path(eks.location).name) == ("bundled", "eks", "eks")
    with pytest.raises(ModuleError, match="'aks' is not a bundled module") as caught:
        ModuleSource.parse("aks")
    assert "Bundled are: eks, gke" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "give a bundled name"),
        ("  ", "give a bundled name"),
        (None, "give a bundled name"),
        ("./mine", "is not absolute"),
        ("mine/module", "is not absolute"),
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("git::https://h/r.git?depth=1", "'depth' is not understood"),
        ("git::https://h/r.git?ref=-x", "not acceptable"),
        ("git::-x", "not acceptable"),
        ("git::https://h/r.git//a/../../b", "not acceptable"),
    ],
)
def test_what_names_no_module_is_refused(text: str, words: str) -> None:
    with pytest.raises(ModuleError, match=words) as caught:
        ModuleSource.parse(text)
    assert caught.value.data["field"] == "module"


@pytest.mark.parametrize(
    ("text", "location", "folder", "ref"),
    [
        ("https://h/r.git", "https://h/r.git", "", ""),
        ("ssh://git@h/r", "ssh://git@h/r", "", ""),
        ("git@h:o/r.git//a/b/?ref=v%2F1", "git@h:o/r.git", "a/b", "v/1"),
        ("/srv/r.git//a", "/srv/r.git", "a", ""),
        ("git::https://h/r//a?ref=v1", "https://h/r", "a", "v1"),
    ],
)
def test_git_addresses_are_told_from_paths(text: str, location: str, folder: str, ref: str) -> None:
    source = ModuleSource.parse(text)
    assert (source.kind, source.location, source.subfolder, source.ref) == ("git", location, folder, ref)
    again = ModuleSource.parse(source.public)
    assert again == source


# ---------------------------------------------------------------- copies


def test_a_copy_has_the_module_and_nothing_of_earlier_runs(tmp_path: Path) -> None:
    module = tmp_path / "module"
    (module / "files").mkdir(parents=True)
    (module / "main.tf").write_text("# nothing\n")
    (module / "files" / "x.sh").touch()
    for name in (
        "terraform.tfstate",
        "terraform.tfstate.backup",
        "crash.log",
        "x.tfplan",
        ".terraform.tfstate.lock.info",
    ):
        (module / name).touch()
    for name in (".terraform", ".git"):
        (module / name).mkdir()
    module.chmod(0o755)
    source = ModuleSource.parse(str(module))
    assert (source.kind, source.public) == ("path", str(module))
    root, _ = copy(source, tmp_path / "copy")
    assert sorted(path.name for path in root.iterdir()) == ["files", "main.tf"]
    assert (root / "files" / "x.sh").exists()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (root, root / "files")} == {0o700}


def test_neighbours_that_it_uses_come_along_at_their_places(tmp_path: Path) -> None:
    for name in ("modules/eks", "modules/network/deep", "modules/unused", "shared"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "modules/eks/main.tf").write_text(
        'module "n" {\n  source = "../network"\n}\nmodule "x" { source = "../none" }\n'
    )
    (tmp_path / "modules/network/main.tf").write_text(
        'module "s" { source="../../shared" }\nmodule "d" { source = "./deep" }\n'
    )
    (tmp_path / "shared/main.tf").write_text('module "r" { source = "hashicorp/x/aws" }\n')
    (tmp_path / "modules/eks/.terraform").mkdir()
    (tmp_path / "modules/eks/.terraform/x.tf").write_text('module "u" { source = "../../unused" }\n')
    root, _ = copy(ModuleSource.parse(str(tmp_path / "modules" / "eks")), tmp_path / "copy")
    assert (root / "../network/main.tf").exists()
    assert (root / "../network/deep").is_dir()
    assert (root / "../../shared/main.tf").exists()
    assert not (root / "../unused").exists()


# ---------------------------------------------------------------- git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: the first is tagged v1, the second has another text."""
    folder = tmp_path / "repository.git"
    (folder / "modules" / "eks").mkdir(parents=True)

    def git(*arguments: str) -> str:
        env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
        who = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "init.defaultBranch=main")
        done = subprocess.run(
            ["git", "-C", folder, *who, *arguments], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    for number, tag in ((1, "v1"), (2, None)):
        (folder / "modules" / "eks" / "main.tf").write_text(f"# {number}\n")
        git("add", "-A")
        git("commit", "-q", "-m", str(number))
        (tmp_path / f"commit-{number}").write_text(git("rev-parse", "HEAD"))
        if tag:
            git("tag", tag)
            git("branch", "old/branch")
    return folder


FILES = {"GIT_ALLOW_PROTOCOL": "file"}


@pytest.mark.parametrize(("ref", "number"), [("", 2), ("v1", 1), ("main", 2), ("old%2Fbranch", 1)])
def test_a_module_of_a_repository(repository: Path, tmp_path: Path, ref: str, number: int) -> None:
    text = f"git::file://{repository}//modules/eks" + (f"?ref={ref}" if ref else "")
    root, secrets = copy(ModuleSource.parse(text), tmp_path / "copy", **FILES)
    assert (root / "main.tf").read_text() == f"# {number}\n"
    clone = tmp_path / "copy" / "repository"
    assert (clone / COMMIT).read_text() == (tmp_path / f"commit-{number}").read_text()
    assert not (clone / ".git").exists()
    assert secrets == []


def test_a_commit_is_found_too_and_what_is_not_there_is_told(repository: Path, tmp_path: Path) -> None:
    commit = (tmp_path / "commit-1").read_text()
    root, _ = copy(ModuleSource.parse(f"git::file://{repository}?ref={commit}"), tmp_path / "copy", **FILES)
    assert (root / "modules" / "eks" / "main.tf").read_text() == "# 1\n"
    with pytest.raises(ModuleError, match="the repository has no folder 'other'"):
        copy(ModuleSource.parse(f"git::file://{repository}//other"), tmp_path / "two", **FILES)
    with pytest.raises(ModuleError, match=r"\?ref=v9 can't be fetched: .*v9"):
        copy(ModuleSource.parse(f"git::file://{repository}?ref=v9"), tmp_path / "three", **FILES)
    with pytest.raises(ModuleError, match="can't be fetched"):
        copy(ModuleSource.parse(f"git::file://{tmp_path}/nothing.git"), tmp_path / "four", **FILES)


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("git::http://h/r.git", "http"),
        ("git://h/r.git", "git"),
        ("git::file:///r.git", "file"),
        ("git::/r.git", "file"),
        ("git::../r.git", "file"),
        ("git::ext::sh -c x", "ext"),
    ],
)
def test_what_does_not_check_who_answers_is_refused(tmp_path: Path, text: str, scheme: str) -> None:
    with pytest.raises(ModuleError, match=f"is fetched by '{scheme}', which does not check who answers") as caught:
        copy(ModuleSource.parse(text), tmp_path / "copy")
    assert f'GIT_ALLOW_PROTOCOL="https:ssh:{scheme}"' in str(caught.value)


GIT = """#!{python} -IS
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
if "init" in sys.argv:
    pathlib.Path(sys.argv[-1], ".git").mkdir(parents=True)
if "fetch" in sys.argv and os.environ.get("FAILS"):
    sys.stderr.write("fatal: planted is wrong\\n")
    sys.exit(128)
if "rev-parse" in sys.argv:
    print("abc123")
"""


@pytest.fixture
def git_double(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").write_text(GIT.replace("{python}", sys.executable))
    (folder / "git").chmod(0o700)
    return folder


def calls(folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    return [tuple(json.loads(line)) for line in (folder / "calls").read_text().splitlines()]


def test_a_password_reaches_git_by_its_environment_alone(git_double: Path, tmp_path: Path) -> None:
    source = ModuleSource.parse("git::https://me:planted%40@h/r.git?ref=v1")
    given = {"PATH": str(git_double), "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "a.b", "GIT_CONFIG_VALUE_0": "c"}
    root, secrets = copy(source, tmp_path / "copy", **given)
    header = base64.b64encode(b"me:planted@").decode()
    assert secrets == ["planted@", header]
    assert (root / COMMIT).read_text() == "abc123"
    for argv, env in calls(git_double):
        assert "planted" not in " ".join(argv)
        config = {env[f"GIT_CONFIG_KEY_{n}"]: env[f"GIT_CONFIG_VALUE_{n}"] for n in range(int(env["GIT_CONFIG_COUNT"]))}
        assert config == {
            "a.b": "c",
            "submodule.recurse": "false",
            "fetch.recurseSubmodules": "false",
            "http.https://h/r.git.extraHeader": f"Authorization: Basic {header}",
            "http.followRedirects": "false",
        }
        assert (env["GIT_TERMINAL_PROMPT"], env["GIT_ASKPASS"]) == ("0", "true")
        assert env["GIT_SSH_COMMAND"] == "ssh -oBatchMode=yes"
        assert env["GIT_ALLOW_PROTOCOL"] == "https:ssh"
    fetch = next(argv for argv, _ in calls(git_double) if "fetch" in argv)
    assert fetch[2:] == ["fetch", "-q", "--depth=1", "--no-tags", "--", "https://h/r.git", "v1"]


def test_without_a_password_redirects_are_gits_own_affair(git_double: Path, tmp_path: Path) -> None:
    _, secrets = copy(
        ModuleSource.parse("git::https://h/r.git"),
        tmp_path / "copy",
        PATH=str(git_double),
        GIT_SSH_COMMAND="ssh -v",
        GIT_CONFIG_COUNT="x",
    )
    env = calls(git_double)[0][1]
    assert (secrets, env["GIT_CONFIG_COUNT"], env["GIT_SSH_COMMAND"]) == ([], "2", "ssh -v")


def test_what_git_says_is_told_without_secrets(git_double: Path, tmp_path: Path) -> None:
    for ref in ("", "?ref=v1"):
        with pytest.raises(ModuleError, match=r"can't be fetched: fatal: \*\*\* is wrong") as caught:
            copy(
                ModuleSource.parse(f"git::https://u:planted@h/r.git{ref}"),
                tmp_path / f"c{ref}",
                PATH=str(git_double),
                FAILS="1",
            )
        assert "planted" not in str(caught.value)


def test_a_worker_without_git_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match="git is needed for a module from a repository"):
        copy(ModuleSource.parse("git::https://h/r.git"), tmp_path / "copy", PATH=str(tmp_path))
