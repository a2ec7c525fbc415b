"""DAGs that are given secrets, each by its own way, and fail with them. None stands here: they come from connections."""

from __future__ import annotations

import json
import os

import pendulum
from airflow.sdk import DAG, task

from ray_provider.operators import SetupRayCluster, SetupRayInfrastructure, SubmitRayJob

CHECK = "python -c \"import os; assert os.environ['SERVICE_KEY'].startswith('planted-'); {then}\""


def secret(name: str) -> str:
    return f"{{{{ conn.planted_{name}.password }}}}"


def dag(dag_id: str) -> DAG:
    return DAG(dag_id, schedule=None, start_date=pendulum.datetime(2026, 1, 1), catchup=False)


ENVIRONMENT = {"env_vars": {"SERVICE_KEY": secret("environment"), "HOOK": secret("webhook")}}

THEN = {"good": "print('fine')", "bad": "raise SystemExit('broken')"}

for dag_id, names in json.loads(os.environ.get("TEST_JOBS", "{}")).items():
    deferrable = dag_id.endswith("deferred")
    with dag(dag_id):
        for name in names:
            if name == "refused":
                SubmitRayJob(task_id=name, conn_id="ray_refused", entrypoint="true", deferrable=deferrable)
                continue
            SubmitRayJob(
                task_id=name,
                conn_id="ray_planted",
                entrypoint=CHECK.format(then=THEN[name]),
                runtime_env=ENVIRONMENT,
                metadata={"team": "maps"},
                deferrable=deferrable,
                poll_interval=0.5,
            )

with dag("functions"):

    @task.ray(conn_id="ray_planted")
    def fails(key):
        raise ValueError(f"the service refuses {key}")

    fails(secret("function"))

with dag("clusters"):
    SetupRayCluster(
        task_id="cluster",
        conn_id="kube_planted",
        name="planted",
        values={"head": {"containerEnv": [{"name": "SERVICE_KEY", "value": secret("helm")}]}},
        helm_path=os.environ.get("TEST_HELM"),
        timeout_seconds=20,
    )

if os.environ.get("TEST_TERRAFORM"):
    with dag("infrastructure"):
        SetupRayInfrastructure(
            task_id="fails",
            module=os.environ["TEST_MODULE"],
            terraform_binary=os.environ["TEST_TERRAFORM"],
            backend={"type": "local", "path": os.path.join(os.environ["TEST_STATE"], "terraform.tfstate")},
            sensitive_variables={"password": secret("terraform")},
            aws_conn_id="aws_planted",
        )
        SetupRayInfrastructure(
            task_id="backend",
            module=os.environ["TEST_MODULE"],
            terraform_binary=os.environ["TEST_TERRAFORM"],
            backend={
                "type": "s3",
                "bucket": "states",
                "key": "k",
                "region": "eu-west-1",
                "access_key": "AKIAPLANTEDBACKEND",
                "secret_key": secret("backend"),
                "endpoints": {"s3": "http://127.0.0.1:9", "sts": "http://127.0.0.1:9"},
                "skip_credentials_validation": True,
                "skip_requesting_account_id": True,
                "max_retries": 1,
            },
        )
