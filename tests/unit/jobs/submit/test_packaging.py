"""What goes into a package, under which name, and what is refused before anything is uploaded."""

from __future__ import annotations

import copy
import io
import os
import zipfile

import pytest

import ray_provider.jobs.submit.archive
from ray_provider.exceptions import ConfigurationError
from ray_provider.jobs.submit.archive import pack_folder
from ray_provider.jobs.submit.packaging import needs_packaging, package_runtime_env


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    for name, content in {
        "main.py": "print(1)",
        "run.sh": "#!/bin/sh",
        "data/big.csv": "x" * 1000,
        "data/small.csv": "y",
        "pkg/__init__.py": "",
        "pkg/module.py": "A = 1",
        "pkg/module.pyc": "compiled",
        "pkg/__pycache__/module.pyc": "compiled",
        ".git/config": "secret",
        ".venv/bin/python": "",
        "logs/a.log": "",
        "logs/keep/b.txt": "b",
        "notes/.rayignore": "private*\n",
        "notes/private.txt": "p",
        "notes/public.txt": "p",
        ".gitignore": "*.log\n/data/big.csv\n",
        "ünï cöde.txt": "ü",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "empty").mkdir()
    (folder / "run.sh").chmod(0o755)
    return folder


def names(api, uri):
    with zipfile.ZipFile(io.BytesIO(api.packages[uri.removeprefix("gcs://")])) as archive:
        return sorted(archive.namelist())


async def test_a_working_dir_is_uploaded_without_what_is_excluded(api, client, project):
    given = {"working_dir": str(project), "excludes": ["run.sh"], "env_vars": {"A": "b"}}
    before = copy.deepcopy(given)
    assert needs_packaging(given)
    made = await package_runtime_env(client, given)
    assert given == before
    assert made["env_vars"] == {"A": "b"}
    assert made["working_dir"].startswith("gcs://_ray_pkg_")
    assert made["working_dir"].endswith(".zip")
    assert names(api, made["working_dir"]) == sorted(
        [
            ".gitignore", "data/small.csv", "empty/", "logs/keep/b.txt", "main.py", "notes/.rayignore",
            "notes/public.txt", "pkg/__init__.py", "pkg/module.py", "pkg/module.pyc", "ünï cöde.txt",
        ]
    )  # fmt: skip
    assert not needs_packaging(made)


async def test_the_selection_is_rays_own(api, client, project, tmp_path):
    from ray._private.runtime_env import packaging

    (project / "pkg" / ".gitignore").write_text("*.pyc\n!module.pyc\n")
    excludes = ["data/", "!data/small.csv", "**/keep", "/main.py"]
    rays = tmp_path / "rays.zip"
    packaging.create_package(
        str(project), rays, include_gitignore=True, excludes=[".git", ".venv", "venv", "__pycache__", *excludes]
    )
    made = await package_runtime_env(client, {"working_dir": project, "excludes": excludes})
    with zipfile.ZipFile(rays) as archive:
        assert names(api, made["working_dir"]) == sorted(archive.namelist())


async def test_the_name_follows_from_the_content(api, client, project):
    first = await package_runtime_env(client, {"working_dir": str(project)})
    os.utime(project / "main.py", (1, 1))
    assert await package_runtime_env(client, {"working_dir": str(project)}) == first
    assert sum(method == "PUT" for method, _ in api.requests) == 1, "what is there is not uploaded again"
    package = api.packages[first["working_dir"].removeprefix("gcs://")]
    api.packages.clear()
    await package_runtime_env(client, {"working_dir": str(project)})
    assert list(api.packages.values()) == [package]
    (project / "main.py").write_text("print(2)")
    assert await package_runtime_env(client, {"working_dir": str(project)}) != first


async def test_modes_survive(api, client, project):
    made = await package_runtime_env(client, {"working_dir": str(project)})
    with zipfile.ZipFile(io.BytesIO(api.packages[made["working_dir"].removeprefix("gcs://")])) as archive:
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o777 == 0o755
        assert archive.getinfo("main.py").external_attr >> 16 & 0o777 == 0o644


async def test_py_modules(api, client, project, tmp_path):
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    single = tmp_path / "single.py"
    single.write_text("B = 1")
    modules = [str(project / "pkg"), str(single), str(wheel), "s3://bucket/x.zip"]
    made = await package_runtime_env(client, {"py_modules": modules})
    folder, file, whl, remote = made["py_modules"]
    assert names(api, folder) == ["pkg/__init__.py", "pkg/__pycache__/module.pyc", "pkg/module.py", "pkg/module.pyc"]
    assert names(api, file) == ["single.py"]
    assert whl == f"gcs://{wheel.name}"
    assert api.packages[wheel.name] == b"wheel"
    assert remote == "s3://bucket/x.zip"


async def test_an_imported_module(api, client):
    made = await package_runtime_env(client, {"py_modules": [ray_provider.jobs]})
    assert "jobs/client.py" in names(api, made["py_modules"][0])


async def test_archives_are_uploaded_as_they_are(api, client, tmp_path):
    archive = tmp_path / "code.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("main.py", "1")
    made = await package_runtime_env(client, {"working_dir": str(archive)})
    assert api.packages[made["working_dir"].removeprefix("gcs://")] == archive.read_bytes()


@pytest.mark.parametrize(
    "uri", ["gcs://_ray_pkg_1.zip", "https://x/y.zip", "s3://b/c.zip", "local:///app", "file:///app/x.zip"]
)
async def test_uris_are_left_alone(api, client, uri):
    assert not needs_packaging({"working_dir": uri})
    assert await package_runtime_env(client, {"working_dir": uri}) == {"working_dir": uri}
    assert api.requests == []


async def test_requirement_and_conda_files_are_read_here(api, client, tmp_path):
    (tmp_path / "requirements.txt").write_text("# pinned\nemoji==2.0\n\npandas\n")
    (tmp_path / "env.yml").write_text("dependencies: [pip]\n")
    given = {"pip": str(tmp_path / "requirements.txt"), "conda": str(tmp_path / "env.yml")}
    assert needs_packaging(given)
    made = await package_runtime_env(client, given)
    assert made == {"pip": ["emoji==2.0", "pandas"], "conda": {"dependencies": ["pip"]}}
    assert not needs_packaging({"pip": ["a"], "conda": "base"})


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"working_dir": "/does/not/exist"}, "runtime_env.working_dir"),
        ({"working_dir": 3}, "runtime_env.working_dir"),
        ({"py_modules": "pkg"}, "runtime_env.py_modules"),
        ({"py_modules": ["/does/not/exist"]}, "runtime_env.py_modules.0"),
        ({"py_modules": [3]}, "runtime_env.py_modules.0"),
        ({"working_dir": ".", "excludes": "data"}, "runtime_env.excludes"),
        ({"pip": "/does/not/exist.txt"}, "runtime_env.pip"),
        ({"conda": "/does/not/exist.yml"}, "runtime_env.conda"),
        ("working_dir", "runtime_env"),
    ],
)
async def test_what_can_not_work_is_refused_before_anything_is_sent(api, client, given, field):
    with pytest.raises(ConfigurationError) as raised:
        await package_runtime_env(client, given)
    assert raised.value.data["field"] == field
    assert api.requests == []


async def test_a_file_that_is_no_archive(api, client, tmp_path):
    (tmp_path / "main.py").write_text("")
    with pytest.raises(ConfigurationError, match="is a file"):
        await package_runtime_env(client, {"working_dir": str(tmp_path / "main.py")})


async def test_a_package_that_is_too_large_is_explained(api, client, project, monkeypatch):
    monkeypatch.setattr(ray_provider.jobs.submit.archive, "MAX_PACKAGE_BYTES", 20_000)
    (project / "weights.bin").write_bytes(os.urandom(50_000))
    with pytest.raises(ConfigurationError, match=r"too large to upload.*weights.bin \(0.0 MiB\)") as raised:
        await package_runtime_env(client, {"working_dir": str(project)})
    assert "excludes" in str(raised.value)
    assert api.packages == {}


def as_archive(content: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("main.py"), content)
    return buffer.getvalue()


#: What is sent: name of the file that changes, what it holds, and the runtime environment.
CHANGING = {
    "a folder": ("project/main.py", str.encode, lambda path: {"working_dir": str(path.parent)}),
    "a package": ("project/main.py", str.encode, lambda path: {"py_modules": [str(path.parent)]}),
    "a single file": ("single.py", str.encode, lambda path: {"py_modules": [str(path)]}),
    "an archive": ("code.zip", as_archive, lambda path: {"working_dir": str(path)}),
    "an archive of a module": ("code.zip", as_archive, lambda path: {"py_modules": [str(path)]}),
}


@pytest.fixture
def looked_at(client, monkeypatch):
    """Do something between the look at the files and the packing: when the cluster is asked whether it has them."""
    ask, todo = client.package_exists, []

    async def package_exists(uri):
        found = await ask(uri)
        while todo:
            todo.pop()()
        return found

    monkeypatch.setattr(client, "package_exists", package_exists)
    return todo.append


@pytest.mark.parametrize("what", CHANGING)
async def test_what_changes_while_it_is_packed_is_named_by_what_was_packed(api, client, tmp_path, looked_at, what):
    """Before: the new content under the old content's name, on the cluster for every later job of the old content."""
    name, content, environment = CHANGING[what]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    told = []

    async def send() -> tuple[str, str]:
        made = await package_runtime_env(client, environment(path), warn=told.append)
        uri = made.get("working_dir") or made["py_modules"][0]
        with zipfile.ZipFile(io.BytesIO(api.packages[uri.removeprefix("gcs://")])) as archive:
            [file] = [each for each in archive.namelist() if each.endswith(".py")]
            return uri, archive.read(file).decode()

    path.write_bytes(content("print(1)"))
    looked_at(lambda: path.write_bytes(content("print(2)")))
    second = await send()
    assert second[1] == "print(2)"
    [line] = told
    assert f"{environment(path).popitem()[1]}".strip("[]'") in line
    assert "has changed while it was packed" in line
    assert await send() == second, "the same content again has the same name"
    path.write_bytes(content("print(1)"))
    first = await send()
    assert first[1] == "print(1)"
    assert first[0] != second[0]
    assert len(told) == 1
    looked_at(lambda: path.write_bytes(content("print(2)")))
    api.packages.pop(first[0].removeprefix("gcs://"))
    uploads = [request for request in api.requests if request[0] == "PUT"]
    assert await send() == second
    assert uploads == [request for request in api.requests if request[0] == "PUT"], "what the cluster has is not sent"


@pytest.mark.parametrize("what", CHANGING)
async def test_what_is_gone_when_it_is_packed_is_named(api, client, tmp_path, looked_at, what):
    name, content, environment = CHANGING[what]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content("print(1)"))
    looked_at(path.unlink)
    with pytest.raises(ConfigurationError, match=f"can't be read: .*No such file.*{path.name}") as raised:
        await package_runtime_env(client, environment(path))
    assert "What to do" in str(raised.value)
    assert api.packages == {}


async def test_links_in_circles_end(api, client, project):
    (project / "pkg" / "up").symlink_to(project)
    made = await package_runtime_env(client, {"working_dir": str(project)})
    assert "pkg/module.py" in names(api, made["working_dir"])


@pytest.mark.parametrize("field", ["pip", "uv"])
async def test_requirements_are_read_as_pip_reads_them(tmp_path, field):
    """Before: a byte order mark became part of the first name, `-r` went to a cluster that has no such file."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.txt").write_text("polars\n-r ../last.txt\n")
    (tmp_path / "last.txt").write_text("rich\n")
    main = tmp_path / "requirements.txt"
    main.write_bytes(
        b"\xef\xbb\xbfemoji==2.0  # trailing\r\n# c\r\n\r\n-r more/other.txt\r\nnumpy \\\r\n  ; python_version>'3'\r\n"
        b"git+https://example.com/x.git#egg=x\r\n"
    )
    right = ["emoji==2.0", "polars", "rich", "numpy ; python_version>'3'", "git+https://example.com/x.git#egg=x"]
    for given, made in (
        (str(main), right),
        ({"packages": str(main), "pip_check": False}, {"packages": right, "pip_check": False}),
    ):
        assert needs_packaging({field: given})
        assert (await package_runtime_env(None, {field: given}))[field] == made
    main.write_text("-c constraints.txt\nemoji\n")
    with pytest.raises(ConfigurationError, match="constraints file 'constraints.txt'"):
        await package_runtime_env(None, {field: str(main)})
    main.write_text("-r no-such.txt\n")
    with pytest.raises(ConfigurationError, match=r"requirements.txt' includes .*no-such.txt', which can't be read"):
        await package_runtime_env(None, {field: str(main)})
    main.write_text("-r requirements.txt\n")
    with pytest.raises(ConfigurationError, match="10 deep"):
        await package_runtime_env(None, {field: str(main)})


def test_an_empty_folder_counts_for_the_name_that_is_written_too(tmp_path):
    """Ray caches packages by their names: what was looked at and what was written are named alike."""
    (tmp_path / "code" / "empty").mkdir(parents=True)
    (tmp_path / "code" / "main.py").write_text("1")
    package = pack_folder(tmp_path / "code", "working_dir", [], with_parent=False)
    assert package.write(tmp_path / "package.zip") == package.name
    (tmp_path / "code" / "empty").rmdir()
    assert pack_folder(tmp_path / "code", "working_dir", [], with_parent=False).name != package.name
