"""Does the provider work on this Airflow? Run it with the Python of an environment that has Airflow, Ray and us.

It imports every module of the provider, checks the metadata as Airflow does when it starts, and runs DAGs by
``airflow dags test`` on a real Ray, with the connection in the metadata database. Then deferred jobs on Airflow's own
components (``deferred.py``). Needs nothing of pytest. ``run_compat.py deferred`` runs the last part only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.ray_head import RayHead

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

#: These need what an installation may leave out (extras).
OPTIONAL = ("pyhelm3", "python_terraform", "boto3", "google", "jinja2")


def say(what: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {what}", flush=True)


def import_everything() -> None:
    import ray_provider

    count = 0
    for module in pkgutil.walk_packages(ray_provider.__path__, "ray_provider."):
        if "_bundled" in module.name or module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in OPTIONAL:
                raise
        count += 1
    say(f"{count} modules imported")


def check_metadata() -> None:
    import airflow
    import jsonschema
    from airflow.providers_manager import ProvidersManager

    from ray_provider.provider_info import get_provider_info

    schema = Path(airflow.__file__).parent / "provider_info.schema.json"
    jsonschema.validate(get_provider_info(), json.loads(schema.read_text()))
    manager = ProvidersManager()
    assert "airflow-ray" in manager.providers, "Airflow does not see the provider"
    assert manager.hooks["ray"] is not None, "Airflow does not see the hook"
    assert "ray" in [str(name) for name in manager.taskflow_decorators], "Airflow does not see @task.ray"
    assert "ray_provider.links.RayDashboardLink" in manager.extra_links_class_names
    with contextlib.suppress(ImportError):
        import flask_appbuilder  # noqa: F401 - only with it older Airflows show our fields

        assert any(name.startswith("extra__ray__") for name in manager.connection_form_widgets)
    say("metadata is valid, and Airflow has read it")


def airflow(*arguments: str, expect: int | None = 0) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "airflow", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400)
    if expect is not None and done.returncode != expect:
        raise SystemExit(f"airflow {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def run_dags(head: RayHead, result: Path) -> None:
    airflow("dags", "reserialize", expect=None)
    day = "2026-01-02"
    told = airflow("dags", "test", "compat_jobs", day)
    values = json.loads(result.read_text()) if result.exists() else None
    expected = {"registered": {"answer": 42}, "old_name": "b"}
    ok = values is not None and all(values[key] == value for key, value in expected.items())
    ok = ok and all("compat-jobs" in values[key] for key in ("plain", "deferred", "sensor"))
    if not ok:
        raise SystemExit(f"compat_jobs returned {values}:\n{told[-8000:]}")
    assert head.token not in told, "the token is in the log"
    for line in ("in the worker", "in the triggerer"):
        assert line in told, f"{line!r} is not in the log:\n{told[-6000:]}"
    say("compat_jobs: done")
    for waiting in ("plain", "deferred"):
        told = airflow("dags", "test", f"compat_fails_{waiting}", day, expect=None)
        for words in ("JobFailedError", "the reason", "What to do"):
            assert words in told, f"{words!r} is not in the log of compat_fails_{waiting}:\n{told[-6000:]}"
        say(f"compat_fails_{waiting}: failed as it should")


def run_quickstart(home: Path) -> None:
    """The DAG of the demonstration: a Ray of its own, a job over real data, and nothing left."""
    from ray_provider.clusters.local.cluster import end_all_local
    from ray_provider.clusters.local.state import LocalPaths

    image, rays = home / "flight_delays.png", home / "ray"
    os.environ.update(
        AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "examples/dags"),
        AIRFLOW_RAY_LOCAL_HOME=str(rays),
        RAY_EXAMPLE_IMAGE=str(image),
    )
    airflow("connections", "add", "ray_default", "--conn-type", "ray", "--conn-extra", '{"backend": "local"}')
    airflow("dags", "reserialize", expect=None)
    try:
        told = airflow("dags", "test", "ray_quickstart", "2026-01-02")
        for words in ("takes jobs after", "JetBlue Airways", "SUCCEEDED", "is deleted"):
            assert words in told, f"{words!r} is not in the log of ray_quickstart:\n{told[-8000:]}"
        assert image.read_bytes().startswith(b"\x89PNG")
        assert LocalPaths.below(rays) == []
        told = airflow("dags", "test", "ray_shared_cluster", "2026-01-02")
        for words in ("nodes: 1", "pi is about 3.", "is deleted"):
            assert words in told, f"{words!r} is not in the log of ray_shared_cluster:\n{told[-8000:]}"
        assert "the task makes one for itself" not in told, f"its tasks share a cluster:\n{told[-8000:]}"
        assert LocalPaths.below(rays) == []
    finally:
        end_all_local(rays)
    say("ray_quickstart, ray_shared_cluster: the table and the picture are there, the clusters are gone")


def main(only: str | None = None) -> None:
    with tempfile.TemporaryDirectory(prefix="compat-") as folder:
        home = Path(folder)
        result = home / "result.json"
        for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
            del os.environ[name]
        os.environ.update(
            AIRFLOW_HOME=folder,
            AIRFLOW__CORE__DAGS_FOLDER=str(Path(__file__).parent / "dags"),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            AIRFLOW__CORE__UNIT_TEST_MODE="False",
            AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS="False",
            COMPAT_RESULT=str(result),
            PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        )
        import airflow as installed

        from tests.compat import deferred
        from tests.support.ray_head import RayHead

        say(f"Airflow {installed.__version__}, Python {sys.version.split()[0]}")
        if not only:
            import_everything()
            check_metadata()
        airflow("db", "migrate")
        with RayHead(token=secrets.token_hex(16)) as head:
            extra = json.dumps({"address": head.url, "token": head.token})
            airflow("connections", "add", "ray_compat", "--conn-type", "ray", "--conn-extra", extra)
            if not only:
                run_dags(head, result)
            deferred.run(home, head, say)
        if not only:
            run_quickstart(home)
        say("all well")


if __name__ == "__main__":
    main(*sys.argv[1:])
