"""Code beside a DAG gets to what serves it by S3 and Cloud Storage: packed by the task, fetched by a real Ray."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
import yaml
from airflow.providers.common.compat.sdk import Connection

from ray_provider.clusters.local.head import free_ports
from ray_provider.exceptions import RayProviderError
from ray_provider.operators import DeployRayService
from ray_provider.operators._rayservice.arguments import deploy_of
from ray_provider.serve.client import ServeClient
from ray_provider.serve.deploy import Deploying

pytestmark = pytest.mark.timeout(600)

CODE = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Model:
    def __call__(self, request):
        return {"word": "WORD"}

app = Model.bind()
"""
PORT = free_ports(1)[0]
STORES = {"s3": "s3://store@code/models", "gcs": "gs://code/models"}


@pytest.fixture(autouse=True)
def worker(monkeypatch, connection, gcs):
    """What a task has: connections, and for Cloud Storage an environment."""
    store = dict(connection)
    extra = json.dumps(store.pop("extra"))
    monkeypatch.setenv("AIRFLOW_CONN_STORE", Connection(conn_id="store", extra=extra, **store).as_json())
    monkeypatch.setenv("AIRFLOW_CONN_RAY", json.dumps({"conn_type": "ray"}))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project")


@pytest.fixture
def code(tmp_path) -> Path:
    folder = tmp_path / "dags" / "shop"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def context() -> Any:
    dag = SimpleNamespace(dag_id="dag", fileloc="", default_args={})
    ti = SimpleNamespace(
        dag_id="dag", task_id="deploy", run_id="run", map_index=-1, try_number=1, xcom_push=lambda **_: None
    )
    run = SimpleNamespace(run_id="run", conf={}, logical_date=datetime(2026, 1, 1, tzinfo=UTC))
    return {"ti": ti, "task_instance": ti, "dag": dag, "dag_run": run, "run_id": "run"}


def operator(store: str, code: Path) -> DeployRayService:
    application = {"name": "shop", "route_prefix": "/", "import_path": "model:app"}
    application["runtime_env"] = {"working_dir": str(code)}
    return DeployRayService(task_id="deploy", conn_id="ray", applications=[application], package_path=store)


async def answers(head: Any, application: dict[str, Any]) -> str:
    """Have a real Serve run it, and ask it."""
    async with ServeClient(head.endpoint) as client:
        made = Deploying(client, application, say=print, http_options={"host": "127.0.0.1", "port": PORT})
        await made.write()
        await made.wait(time.time() + 300)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{PORT}/", timeout=60) as answer:
        return json.load(answer)["word"]


@pytest.mark.parametrize("store", ["s3", "gcs"])
def test_an_application_serves_the_code_and_what_was_changed_of_it(store, code, context, head):
    for word in ("one", "two"):
        (code / "model.py").write_text(CODE.replace("WORD", f"{store} {word}"))
        deploy = deploy_of(operator(STORES[store], code), context)
        (application,) = yaml.safe_load(deploy.spec.options.serve_config)["applications"]
        assert asyncio.run(answers(head, application)) == f"{store} {word}"


def test_what_lies_there_is_not_written_again(code, context, caplog, capsys):
    (code / "model.py").write_text(CODE)
    for _ in range(2):
        deploy_of(operator(STORES["s3"], code), context)
    said = capsys.readouterr().out + caplog.text
    assert said.count("The code is at s3://code/models/") == 1
    assert said.count("The code is there already: s3://code/models/") == 1


@pytest.mark.parametrize("store", ["s3://store@nowhere/models", "gs://nowhere/models"])
def test_a_bucket_that_is_not_there_is_named_and_not_made(store, code, context, s3):
    (code / "model.py").write_text(CODE)
    with pytest.raises(RayProviderError) as caught:
        operator(store, code).execute(context)
    said = str(caught.value)
    assert f"The code could not be written to {store.replace('store@', '')}/_ray_pkg_" in said
    assert "Check package_path, and the rights of its connection" in said
    client = boto3.client("s3", endpoint_url=s3, aws_access_key_id="a", aws_secret_access_key="s")
    assert sorted(one["Name"] for one in client.list_buckets()["Buckets"]) == ["code", "results"]
