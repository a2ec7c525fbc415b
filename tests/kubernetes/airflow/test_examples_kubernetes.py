"""Examples that people copy, as they are, on Kubernetes: data lie in an S3 that Airflow and the pods of Ray reach."""

from __future__ import annotations

import json
import logging
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
import yaml
from pyarrow.fs import S3FileSystem

from ray_provider.testing import AirflowStack
from tests.kubernetes.airflow.dag_runs import left
from tests.support.kubernetes import Kubernetes

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.slow,
]  # tests/integration/test_examples.py: the same, on this machine

EXAMPLES = Path(__file__).parents[3] / "examples" / "dags"
NAMES = ("ray_etl", "ray_train", "ray_batch_inference", "ray_model_ops")
#: Of nobody: the S3 of a test asks for some.
KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}
HEAD: dict[str, Any] = {
    "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "3Gi"}},
    "rayStartParams": {"num-cpus": "2", "object-store-memory": "200000000"},
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """An S3 with a bucket, on loopback here."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    found = server.get_host_and_port()[1]
    storage(found).create_dir("lake")
    yield found
    server.stop()


def storage(port: int) -> S3FileSystem:
    return S3FileSystem(
        endpoint_override=f"http://127.0.0.1:{port}",
        access_key=KEYS["AWS_ACCESS_KEY_ID"],
        secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region="us-east-1",
        allow_bucket_creation=True,
    )


@pytest.fixture(scope="module")
def place(kubernetes: Kubernetes) -> Iterator[str]:
    with kubernetes.namespace("examples") as name:
        yield name


@pytest.fixture(scope="module")
def stack(
    kubernetes: Kubernetes, place: str, port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowStack]:
    """An Airflow with the examples, and the provider's Role in the namespace."""
    home, dags = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("dags")
    shutil.copytree(EXAMPLES / "include", dags / "include", ignore=shutil.ignore_patterns("__pycache__"))
    for name in NAMES:
        shutil.copy(EXAMPLES / f"{name}.py", dags)
    host, there = kubernetes.expose(port)
    environment = [
        {"name": name, "value": value} for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{there}"}.items()
    ]
    values = home / "values.yaml"
    head = {**HEAD, "containerEnv": environment}
    values.write_text(yaml.safe_dump({"head": head, "worker": {"disabled": True}, "headOnly": True}))
    env = {
        **KEYS,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "RAY_EXAMPLE_STORE": "s3://lake",
        "RAY_EXAMPLE_VALUES": str(values),
        "RAY_EXAMPLE_ON": "kubernetes",
        "RAY_PROVIDER_HELM": str(kubernetes.helm4),
    }
    kubeconfig = kubernetes.service_account_kubeconfig(place, Path("helm/roles/provider-role.yaml"))
    stack = AirflowStack(home, dags_folder=dags, env=env, config={"core": {"parallelism": "4"}}, start_timeout=300)
    with stack:
        extra = {"kube_config_path": str(kubeconfig), "namespace": place, "backend": "kubernetes"}
        stack.client.add_connection("ray_default", "ray", extra=extra)
        for name in NAMES:
            stack.client.wait_for_dag(name, timeout=300)
        yield stack
    assert not stack.leftovers


def ran(stack: AirflowStack, dag: str, **conf: Any) -> str:
    """Run an example to its good end."""
    run = stack.client.trigger_run(dag, conf=conf)
    stack.client.wait_run(dag, run, state="success", timeout=900)
    return run


def test_etl_reads_and_writes_object_storage(kubernetes, place, port, stack):
    run = ran(stack, "ray_etl")
    checked = stack.client.xcom("ray_etl", run, "check")
    assert checked == {"path": f"s3://lake/flights/{run}", "rows": 327_346, "dropped": 9_430}
    data = pyarrow.dataset.dataset(f"lake/flights/{run}", partitioning="hive", filesystem=storage(port))
    flights = data.to_table(columns=["month", "arr_delay", "wind_speed"]).to_pandas()
    assert round(flights["arr_delay"].mean(), 2) == 6.9
    assert flights["wind_speed"].notna().mean() > 0.99
    assert left(kubernetes, place) == []


def test_a_model_that_was_trained_predicts(kubernetes, place, port, stack):
    trained = ran(stack, "ray_train")
    run = ran(stack, "ray_batch_inference")
    checked = stack.client.xcom("ray_batch_inference", run, "check")
    assert checked["model"] == trained
    assert checked["median_error"] < 15
    assert pyarrow.dataset.dataset(f"lake/predicted/{run}", filesystem=storage(port)).count_rows() == checked["rows"]
    assert left(kubernetes, place) == []


def test_only_a_better_model_gets_the_traffic(kubernetes, place, port, stack):
    """A first one; a worse one, for which nothing is made; a better one, by blue and green."""
    client, dag = stack.client, "ray_model_ops"

    def serving() -> str:
        path = urllib.parse.urlsplit(client.xcom(dag, first, "deploy", key="ray_serve_url")).path
        return json.loads(kubernetes.kubectl("get", "--raw", path))["version"]

    def services() -> list[str]:
        return kubernetes.kubectl("get", "rayservices", "-n", place, "-o", "name").split()

    first = ran(stack, dag, columns=["distance", "hour"])
    assert serving() == first
    assert len(services()) == 1
    worse = ran(stack, dag, columns=["hour"])
    assert client.xcom(dag, worse, "on_ray.compare")["better"] is False
    assert client.task_instance(dag, worse, "deploy")["state"] == "skipped"
    assert (serving(), len(services())) == (first, 1)
    better = ran(stack, dag, columns=["dep_delay", "distance", "hour"])
    assert client.xcom(dag, better, "on_ray.compare")["champion"] == first
    assert serving() == better
    assert len(services()) == 2, "the one before stays for the way back"
    with storage(port).open_input_file("lake/registry/flight-delay/champion.json") as file:
        assert json.loads(file.read())["version"] == better
    ran(stack, "ray_model_ops_delete")
    assert left(kubernetes, place) == []
