"""An apply that outlives its credentials, its backend's patience and its task, and whose state is complete all the same."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.infrastructure.lab import stand_in
from tests.infrastructure.lab.aws_server import CREDENTIALS, REGION, AwsServer
from tests.infrastructure.runner_modules import nothing_left_behind
from tests.infrastructure.test_state_rescue import own_processes
from tests.support.terraform import environment, need_terraform
from tests.support.waiting import wait_until

#: A cloud with one kind of thing, which takes its time. Its calls can't be taken back.
SCHEMA: dict[str, Any] = {
    "version": "1.0.0",
    "provider": {"attributes": {}, "block_types": {}},
    "resource_schemas": {
        "cloud_cluster": {
            "attributes": {
                "id": {"type": "string", "required": False, "optional": False, "computed": True},
                "name": {"type": "string", "required": True, "optional": False, "computed": False},
                "creation_seconds": {"type": "number", "required": True, "optional": False, "computed": False},
            },
            "block_types": {},
        }
    },
    "data_source_schemas": {},
}
MODULE = """
terraform {
  required_providers {
    cloud = {
      source = "hashicorp/cloud"
    }
  }
}
variable "seconds" {}
resource "cloud_cluster" "ray" {
  name             = "ray"
  creation_seconds = var.seconds
}
output "cluster_name" {
  value = cloud_cluster.ray.name
}
"""
#: A worker's task: the operator, with an Airflow connection.
TASK = """
import json, sys
from types import SimpleNamespace
from ray_provider.operators import SetupRayInfrastructure
arguments = json.loads(sys.argv[1])
SetupRayInfrastructure(task_id="t", **arguments).execute({"ti": SimpleNamespace(xcom_push=lambda key, value: None)})
print("handle made", flush=True)
"""


class Door:
    """A way to a server that can be shut: connections are then closed at once."""

    def __init__(self, url: str) -> None:
        host, _, port = url.rpartition("/")[2].partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.shut = False
        self.refused = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._target) as server:
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server)
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self.shut:
                    self.refused += 1
                    break
                target.sendall(data)
            for end in (source, target):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    need_terraform()
    monkeypatch.setenv("RAY_PROVIDER_KEPT_STATES", str(tmp_path / "kept"))
    with nothing_left_behind():
        yield


@pytest.mark.parametrize(
    "unit",
    [
        pytest.param(3, id="short"),
        *(pytest.param(60, id=f"minutes-{number}", marks=pytest.mark.slow) for number in (1, 2, 3)),
    ],
)
def test_an_apply_of_three_lives_of_its_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: float
) -> None:
    """With a backend that is gone for two of them at the end, and a worker that is killed in the middle."""
    module = tmp_path / "module"
    module.mkdir()
    (module / "main.tf").write_text(MODULE)
    mirror, extra = stand_in.install(tmp_path / "plugin", "cloud", SCHEMA)
    settings = environment(tmp_path / "cli", program=need_terraform(), mirrors=[mirror])
    with AwsServer(session_seconds=unit, log=tmp_path / "aws.log") as aws, Door(aws.url) as door:
        aws.client("s3").create_bucket(Bucket="states")
        role = aws.client("iam").create_role(RoleName="ray", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        connection = {
            "conn_type": "aws",
            "login": CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "password": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            "extra": {"role_arn": role, "region_name": REGION},
        }
        monkeypatch.setenv("AIRFLOW_CONN_CLOUD", json.dumps(connection))
        for name, value in {
            **aws.env,
            "AWS_ENDPOINT_URL_STS": aws.url,
            "TF_CLI_CONFIG_FILE": settings["TF_CLI_CONFIG_FILE"],
            **extra,
        }.items():
            monkeypatch.setenv(name, value)
        arguments = {
            "module": str(module),
            "variables": {"seconds": 3 * unit},
            "aws_conn_id": "cloud",
            "terraform_binary": str(need_terraform().path),
            "backend": {
                "type": "s3",
                "bucket": "states",
                "key": "ray.tfstate",
                "region": REGION,
                "use_lockfile": True,
                "use_path_style": True,
                "endpoints": {"s3": door.url, "sts": aws.url},
                "skip_credentials_validation": True,
                "skip_requesting_account_id": True,
                "max_retries": 2,
            },
        }
        log = tmp_path / "task.log"
        with log.open("w") as output:
            task = subprocess.Popen(
                [sys.executable, "-c", TASK, json.dumps(arguments)], stdout=output, stderr=subprocess.STDOUT
            )
        try:
            wait_until(lambda: "cloud_cluster.ray: creating" in log.read_text() or task.poll() is not None)
            begun = time.monotonic()
            assert task.poll() is None, log.read_text()
            sleep_until(begun + 1.5 * unit)
            task.kill()
            task.wait(timeout=240)
            # Well before the apply's end: a busy machine may come late to it.
            sleep_until(begun + 2 * unit)
            door.shut = True
            sleep_until(begun + 4.8 * unit)
            assert door.refused, "nobody came while the backend was gone"
            door.shut = False
            wait_until(lambda: not own_processes())
        finally:
            task.kill()
            task.wait(timeout=240)
            door.shut = False
            wait_until(lambda: not own_processes())
        objects = {item["Key"] for item in aws.client("s3").list_objects_v2(Bucket="states").get("Contents", [])}
        assert objects == {"ray.tfstate"}, "the lock was left behind, or the state is missing"
        state = json.loads(aws.client("s3").get_object(Bucket="states", Key="ray.tfstate")["Body"].read())
        assert [item["type"] for item in state["resources"]] == ["cloud_cluster"]
        assert state["resources"][0]["instances"][0]["attributes"]["name"] == "ray"
        assert state["outputs"]["cluster_name"]["value"] == "ray"
    assert len(stand_in.made(tmp_path / "plugin", "cloud")) == 1
    assert list(tmp_path.glob("kept/*/*.tfstate")) == []


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
