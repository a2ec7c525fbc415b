"""DeployRayService with code beside the DAG: packed into a real folder of object storage, from where clusters fetch it."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.providers.common.compat.sdk import AirflowFailException

from ray_provider.clusters.rayservice.handle import RayServiceHandle
from ray_provider.exceptions import RayProviderError
from ray_provider.operators import DeployRayService
from ray_provider.operators._rayservice.arguments import deploy_of
from ray_provider.operators._rayservice.run import RayServiceRun

pytestmark = [pytest.mark.usefixtures("connection"), pytest.mark.timeout(60)]


@pytest.fixture
def code(tmp_path) -> Path:
    folder = tmp_path / "dags" / "recommender"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("app = 1\n")
    return folder


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def operator(store: Any, environment: Any = None, **given: Any) -> DeployRayService:
    application = {"name": "a", "import_path": "model:app", **({"runtime_env": environment} if environment else {})}
    return DeployRayService(
        **{"task_id": "task", "conn_id": "c", "applications": [application], "package_path": store, **given}
    )


def served(given: DeployRayService, context: Any) -> dict[str, Any]:
    """The one application, as the RayService will have it."""
    (application,) = yaml.safe_load(deploy_of(given, context).spec.options.serve_config)["applications"]
    return application


def refused(given: DeployRayService, context: Any) -> str:
    with pytest.raises(AirflowFailException) as caught:
        given.execute(context)
    return str(caught.value)


def files(store: Path) -> dict[str, int]:
    return {str(one.relative_to(store)): one.stat().st_mtime_ns for one in store.rglob("*") if one.is_file()}


def test_a_folder_becomes_an_archive_that_outlives_task_and_cluster(context, code, store):
    url = served(operator(f"file://{store}", {"working_dir": str(code)}), context)["runtime_env"]["working_dir"]
    assert url.startswith(f"file://{store}/_ray_pkg_")
    assert url.endswith(".zip")
    with zipfile.ZipFile(url.removeprefix("file://")) as archive:
        assert archive.namelist() == ["model.py"]
        assert archive.read("model.py") == b"app = 1\n"


def test_a_content_is_written_once_and_a_changed_one_beside_it(context, code, store):
    given = operator(f"file://{store}", {"working_dir": str(code)})
    first = served(given, context)
    before = files(store)
    os.utime(code / "model.py", (1, 1))
    assert served(given, context) == first
    assert files(store) == before, "the same file, and not written again"
    (code / "model.py").write_text("app = 2\n")
    second = served(given, context)
    assert second != first
    assert set(files(store)) > set(before), "what is served by now, or is put back, keeps its code"


def test_what_a_task_that_died_left_half_is_written_again(context, code, store):
    given = operator(f"file://{store}", {"working_dir": str(code)})
    path = Path(served(given, context)["runtime_env"]["working_dir"].removeprefix("file://"))
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    served(given, context)
    assert path.read_bytes() == whole


def test_relative_paths_begin_beside_the_dag(context, code, store):
    context["dag"] = SimpleNamespace(dag_id="dag", fileloc=str(code.parent / "dag.py"))
    assert (
        "_ray_pkg_"
        in served(operator(f"file://{store}", {"working_dir": "recommender"}), context)["runtime_env"]["working_dir"]
    )


def test_modules_wheels_and_a_deployments_own_environment_go_the_same_way(context, code, store, tmp_path):
    wheel = tmp_path / "lib-1.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    deployment = {"name": "D", "ray_actor_options": {"num_cpus": 1, "runtime_env": {"working_dir": str(code)}}}
    application = {
        "name": "a",
        "import_path": "model:app",
        "runtime_env": {"py_modules": [str(code), str(wheel), "s3://there/x.zip"], "env_vars": {"A": "b"}},
        "deployments": [deployment],
    }
    found = served(operator(f"file://{store}", applications=json.dumps([application])), context)
    module, library, remote = found["runtime_env"]["py_modules"]
    with zipfile.ZipFile(module.removeprefix("file://")) as archive:
        assert archive.namelist() == ["recommender/model.py"]
    # pip goes by a wheel's name, which says nothing of what is in it.
    assert library.endswith("/lib-1.0-py3-none-any.whl")
    assert len(Path(library).parent.name) == 20
    assert remote == "s3://there/x.zip"
    assert found["runtime_env"]["env_vars"] == {"A": "b"}
    options = found["deployments"][0]["ray_actor_options"]
    assert options["num_cpus"] == 1
    assert Path(options["runtime_env"]["working_dir"].removeprefix("file://")).is_file()


def test_a_path_of_this_machine_is_one_of_all_pods(context, code, store):
    found = served(operator(str(store), {"working_dir": str(code)}), context)
    assert found["runtime_env"]["working_dir"].startswith(f"file://{store}/")


def test_the_connection_writes_and_the_cluster_gets_the_address_alone(context, code, store, monkeypatch):
    opened = []

    def attach(protocol, conn_id=None, **_):
        import fsspec

        opened.append(conn_id)
        return SimpleNamespace(fs=fsspec.filesystem("file"))

    monkeypatch.setattr("airflow.sdk.io.path.attach", attach)
    given = operator(f"file://writer@{store}", {"working_dir": str(code)})
    url = served(given, context)["runtime_env"]["working_dir"]
    before = files(store)
    assert "writer" in opened
    assert url.startswith(f"file://{store}/")
    assert served(given, context)["runtime_env"]["working_dir"] == url
    assert files(store) == before


def test_what_looks_like_a_secret_is_told_unless_it_is_meant(context, code, store, monkeypatch):
    (code / ".env").write_text("PASSWORD=x")
    told = []
    for allow in ([], [".env"]):
        given = operator(f"file://{store}", {"working_dir": str(code)}, allow_in_package=allow)
        monkeypatch.setattr(given.log, "warning", lambda text, *more: told.append(text % more if more else text))
        served(given, context)
    (line,) = told
    assert ".env (it usually holds secrets)" in line


def test_without_a_place_for_it_code_on_this_machine_is_refused_with_the_way_out(context, code):
    said = refused(operator(None, {"working_dir": str(code)}), context)
    assert f"names code on this machine ({code})" in said
    assert "Give package_path='s3://bucket/code'" in said


@pytest.mark.parametrize(
    ("store", "environment", "says"),
    [
        ("https://example.com/code", {"working_dir": "{code}"}, "package_path is at https://"),
        ("gcs://bucket/code", {"working_dir": "{code}"}, "package_path is at gcs://"),
        ("code", {"working_dir": "{code}"}, "package_path is 'code': that is neither a URL nor an absolute path"),
        ("file://{store}", {"working_dir": "/nowhere"}, "which does not exist on the machine that runs the task"),
        ("file://{store}", {"working_dir": "gcs://_ray_pkg_0.zip"}, "names code in a cluster (gcs://_ray_pkg_0.zip)"),
        (None, {"working_dir": "s3://bucket/code"}, "Ray fetches archives only"),
        (None, {"working_dir": "hdfs://bucket/code.zip"}, "which Ray can't fetch"),
        (None, {"working_dri": "s3://bucket/code.zip"}, "Is 'working_dir' meant"),
    ],
)
def test_what_no_cluster_could_fetch_is_refused(context, code, tmp_path, store, environment, says):
    place = store and store.format(store=tmp_path / "store")
    given = {key: value.format(code=code) for key, value in environment.items()}
    assert says in refused(operator(place, given), context)
    assert not (tmp_path / "store").exists()


def test_a_store_that_can_not_be_written_is_named(context, code):
    with pytest.raises(RayProviderError, match="could not be written to file:///proc/none/") as caught:
        deploy_of(operator("file:///proc/none", {"working_dir": str(code)}), context)
    assert "Check package_path" in str(caught.value)


def test_after_the_wait_the_code_is_not_looked_at_again(context, code, store, monkeypatch):
    """The task may come back on a worker that has another version of the DAG's files, or none."""
    given = operator(f"file://{store}", {"working_dir": str(code)})
    service = {"namespace": "n", "name": "shop", "generation": 2, "id": "i", "kind": "in_place", "active": "shop-a"}
    (code / "model.py").unlink()
    code.rmdir()
    handle = RayServiceHandle("shop", "n", "shop-a", "http://shop")
    monkeypatch.setattr(RayServiceRun, "conclude", lambda *_: handle)
    monkeypatch.setattr(RayServiceRun, "dashboard", "http://dashboard", raising=False)
    done = given.execute_complete(context, {"status": "serving", "service": service, "cluster": "shop-a"})
    assert done["url"] == "http://shop"
    assert not store.exists()
