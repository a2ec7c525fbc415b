"""The operators and the sensor, with a real Terraform: what they refuse, what they leave, what they hand on."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.exceptions import AirflowFailException

from ray_provider.exceptions import InfrastructureError
from ray_provider.hooks import cloud
from ray_provider.operators import DeleteRayInfrastructure, SetupRayInfrastructure
from ray_provider.sensors import InfrastructureDriftSensor
from tests.infrastructure.lab.aws_server import REGION, AwsServer
from tests.infrastructure.runner_modules import MODULE, Module, make_module, nothing_left_behind
from tests.support.terraform import need_terraform

SECRET = "planted-operator-secret-77"
CA = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n").decode()


class Ti:
    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": Ti(), "ds": "2026-01-01"}


@pytest.fixture(autouse=True)
def clean(tmp_path: Path) -> Iterator[None]:
    need_terraform()
    with nothing_left_behind():
        yield


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return make_module(tmp_path)


def given(module: Module, **more: Any) -> dict[str, Any]:
    return {
        "task_id": "t",
        "module": str(module.folder),
        "backend": {"type": "local", "path": str(module.state)},
        "terraform_binary": str(need_terraform().path),
        **more,
    }


def test_set_up_change_drift_delete(
    module: Module, context: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    variables = {"number": 2, "name": "mine"}
    set_up = SetupRayInfrastructure(**given(module, variables=variables, sensitive_variables={"password": SECRET}))
    handle = set_up.execute(context)
    assert handle["cluster_name"] == "mine"
    assert handle["outputs"] == {"cluster_name": "mine"}
    assert handle["variables"] == variables
    assert context["ti"].xcoms["plan"]["counts"]["create"] == 2
    said = capsys.readouterr().out
    assert SECRET not in json.dumps([handle, context["ti"].xcoms]) + said
    assert "Plan: 2 to create, 0 to change, 0 to replace, 0 to destroy." in said

    # Again: nothing to do, the same handle.
    assert set_up.execute(context) == handle
    assert "Nothing is to be changed." in capsys.readouterr().out

    # A module that is not bundled is named by the task: a handle does not decide what runs.
    secret = {
        "module": str(module.folder),
        "variables": variables,
        "sensitive_variables": {"password": SECRET},
        "terraform_binary": str(need_terraform().path),
    }
    sensor = InfrastructureDriftSensor(task_id="s", infrastructure=handle, **secret)
    assert sensor.poke(context).is_done is False
    module.apply(variables={"number": 1, "name": "mine"}, sensitive_variables={"password": SECRET})
    found = sensor.poke(context)
    assert found.is_done is True
    assert found.xcom_value["changes"][0]["address"] == "terraform_data.first[1]"

    wrong = DeleteRayInfrastructure(task_id="d", infrastructure=handle, confirm="yours", **secret)
    with pytest.raises(AirflowFailException, match="confirm: 'yours' is not the name of what this state holds, 'mine'"):
        wrong.execute(context)
    assert module.resources()
    delete = DeleteRayInfrastructure(task_id="d", infrastructure=handle, confirm="mine", **secret)
    assert delete.execute(context) == {"destroyed": 1}
    assert module.resources() == []
    assert delete.execute(context) == {"destroyed": 0}


def test_a_guarded_change_is_refused_and_does_not_burn_retries(module: Module, context: dict[str, Any]) -> None:
    SetupRayInfrastructure(**given(module, variables={"number": 2})).execute(context)
    fewer = given(module, variables={"number": 1}, guarded_types=["terraform_*"])
    with pytest.raises(AirflowFailException, match="allow_destroy=True"):
        SetupRayInfrastructure(**fewer).execute(context)
    with module.run() as run:
        assert len(run.read_state().addresses) == 2
    SetupRayInfrastructure(**fewer, allow_destroy=True).execute(context)
    with module.run() as run:
        assert len(run.read_state().addresses) == 1


OUTPUTS_OF_ANOTHER_KIND = """
resource "terraform_data" "cluster" {}
output "cloud" {
  value = "aws"
}
output "cluster_name" {
  value = [terraform_data.cluster.id]
}
output "locations" {
  value = "eu-west-1"
}
output "node_pools" {
  value = { gpu = { min = 0, max = 1, accelerator = { type = "A10G" } }, cpu = { min = terraform_data.cluster.id } }
}
"""


def test_outputs_are_checked_before_anything_is_made(tmp_path: Path, context: dict[str, Any]) -> None:
    module = make_module(tmp_path, OUTPUTS_OF_ANOTHER_KIND)
    with pytest.raises(AirflowFailException) as caught:
        SetupRayInfrastructure(**given(module)).execute(context)
    said = str(caught.value)
    for part in (
        "outputs.location: it is missing, though `cloud` is there",
        "outputs.cluster_name: it has to be text, and is list",
        "outputs.node_pools.gpu: ",
        "Nothing was changed",
    ):
        assert part in said
    assert "node_pools.cpu" not in said, "it is known after the apply only"
    assert not module.state.exists() or module.resources() == []


def test_a_large_plan_goes_into_xcom_in_part(module: Module, context: dict[str, Any]) -> None:
    SetupRayInfrastructure(**given(module, variables={"number": 500}, plan_only=True)).execute(context)
    plan = context["ti"].xcoms["plan"]
    assert plan["counts"]["create"] == 500
    assert len(plan["changes"]) == 200
    assert plan["left_out"] == 300


def test_plan_only_changes_nothing(module: Module, context: dict[str, Any]) -> None:
    SetupRayInfrastructure(**given(module, plan_only=True)).execute(context)
    assert context["ti"].xcoms["plan"]["counts"]["create"] == 1
    with module.run() as run:
        assert run.read_state().addresses == []


def test_templates_are_rendered_and_secrets_are_not_shown(module: Module, context: dict[str, Any]) -> None:
    operator = SetupRayInfrastructure(
        **given(module, variables={"name": "ray-{{ ds }}"}, sensitive_variables={"password": "p-{{ ds }}-planted"})
    )
    operator.render_template_fields(context)
    assert operator.variables == {"name": "ray-2026-01-01"}
    shown = {name: getattr(operator, name) for name in operator.template_fields}
    assert not {"sensitive_variables", "backend", "env", "providers"} & set(shown)
    operator.execute(context)
    state = json.loads(module.state.read_text())
    assert state["outputs"]["password"]["value"] == "p-2026-01-01-planted"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"module": "aks"}, "module: 'aks' is not a bundled module"),
        ({"variables": ["number"]}, "variables: it has to be a mapping"),
        ({"variables": {"number": "x"}}, "variables.number"),
        ({"backend": {"type": "s3"}}, "backend.bucket"),
        ({"terraform_binary": "/nowhere"}, "terraform_binary"),
    ],
)
def test_bad_input_fails_without_retries(
    module: Module, context: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(AirflowFailException) as caught:
        SetupRayInfrastructure(**{**given(module), **change}).execute(context)
    assert said in str(caught.value)
    assert not module.state.exists()


def test_connections_become_terraforms_credentials(
    module: Module, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"region_name": REGION, "aws_session_token": "planted-session"}
    connection = SimpleNamespace(login="AKIAPLANTED", password="planted-key", extra_dejson=extra)
    monkeypatch.setattr(cloud.BaseHook, "get_connection", staticmethod(lambda _: connection))
    operator = SetupRayInfrastructure(**given(module, aws_conn_id="aws_default"))
    spec = operator.spec(context)
    assert spec.env == {
        "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
        "AWS_SECRET_ACCESS_KEY": "planted-key",
        "AWS_SESSION_TOKEN": "planted-session",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
    }
    assert "planted" not in repr(spec)


class Kubernetes:
    """As much of an API server as is asked, by those with an EKS token."""

    def __init__(self) -> None:
        self.ray_clusters: list[str] = []
        self.installed = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                items = [{"metadata": {"namespace": "ray", "name": name}} for name in outer.ray_clusters]
                if not self.headers.get("Authorization", "").startswith("Bearer k8s-aws-v1."):
                    status, body = 401, {"message": "who are you?"}
                elif "rayclusters" in self.path:
                    status, body = (200, {"items": items}) if outer.installed else (404, {"message": "no such kind"})
                elif self.path == "/api/v1/services":
                    service = {"metadata": {"namespace": "x", "name": "y"}, "spec": {"type": "ClusterIP"}}
                    status, body = 200, {"items": [service]}
                else:
                    status, body = 404, {"message": "no such kind"}
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_cluster_in_use_is_not_deleted(
    tmp_path: Path, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = f'\noutput "cloud" {{\n  value = "aws"\n}}\noutput "location" {{\n  value = "{REGION}"\n}}\n'
    module = make_module(tmp_path, MODULE + outputs)
    kubernetes = Kubernetes()
    with AwsServer(cluster_endpoint=kubernetes.url, cluster_ca_data=CA) as aws:
        try:
            for name, value in aws.env.items():
                monkeypatch.setenv(name, value)
            role = aws.client("iam").create_role(RoleName="ray", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
            aws.client("eks").create_cluster(name="ray", roleArn=role, resourcesVpcConfig={"subnetIds": ["a", "b"]})
            handle = SetupRayInfrastructure(**given(module)).execute(context)
            delete = DeleteRayInfrastructure(**given(module, infrastructure=handle, confirm="ray"))
            kubernetes.ray_clusters = ["vision", "llm"]
            with pytest.raises(
                InfrastructureError, match="in use: Ray cluster ray/vision, Ray cluster ray/llm"
            ) as caught:
                delete.execute(context)
            assert "DeleteRayCluster" in str(caught.value)
            assert module.resources()
            kubernetes.close()
            with pytest.raises(InfrastructureError, match="can't be asked whether Ray clusters live there"):
                delete.execute(context)
            delete.live_clusters = "ignore"
            assert delete.execute(context) == {"destroyed": 1}
        finally:
            kubernetes.close()


def test_without_a_backend_the_state_lies_below_airflows_home(
    module: Module, context: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = given(module, variables={"name": "my ray"})
    del arguments["backend"]
    spec = SetupRayInfrastructure(**arguments).spec(context)
    assert spec.backend["type"] == "local"
    assert spec.backend["path"].endswith("/ray-infrastructure/module-my-ray/terraform.tfstate")
    assert "Good for trials" in capsys.readouterr().out
