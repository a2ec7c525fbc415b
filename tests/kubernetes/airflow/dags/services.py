"""DAGs that deploy RayServices, ask them and delete them."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import DAG, Param, task

from ray_provider.operators import DeleteRayService, DeployRayService

CODE = """
import os, time
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_surge_percent=100)
class Model:
    def __init__(self, word):
        while word.startswith("late") and not os.path.exists("/tmp/" + word):
            time.sleep(0.2)
        self.word = word

    async def __call__(self, request):
        return {"word": self.word}

def build(args):
    return Model.bind(args["word"])
"""
HEAD = {
    "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
    "rayStartParams": {"num-cpus": "1", "object-store-memory": "100000000"},
    "containerEnv": [{"name": "PYTHONPATH", "value": "/code"}],
    "volumes": [{"name": "code", "configMap": {"name": "shop-code"}}],
    "volumeMounts": [{"name": "code", "mountPath": "/code"}],
}
VALUES: dict[str, Any] = {
    "head": HEAD,
    "worker": {"disabled": True},
    "headOnly": True,
    "serve": {"allowFrom": [{"podSelector": {"matchLabels": {"app": "caller"}}}]},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop-code"}, "data": {"model.py": CODE}}
    ],
}


def choose(context: Any) -> None:
    """A RayService belongs to one task: the run says whether that waits on its worker or in the triggerer."""
    context["task"].deferrable = not context["params"]["on_worker"]


params = {"word": Param("one"), "version": Param("1"), "on_worker": Param(default=False, type="boolean")}
with DAG("shop", schedule=None, catchup=False, params=params) as dag:
    DeployRayService(
        task_id="deploy",
        conn_id="kube",
        name="shop",
        values=[VALUES, "head: {labels: {version: v{{ params.version }}}}"],
        applications=[
            {"name": "shop", "route_prefix": "/", "import_path": "model:build", "args": {"word": "{{ params.word }}"}}
        ],
        smoke_test={"json": {"word": "{{ params.word }}"}},
        pre_execute=choose,
    )

with DAG("shop_gone", schedule=None, catchup=False) as dag:
    DeleteRayService(task_id="delete", conn_id="kube", name="shop")

service = {"url": Param(""), "send": Param({}, type="object")}
with DAG("ask_service", schedule=None, catchup=False, params=service) as dag:

    @task
    def ask(params: dict[str, Any]) -> Any:
        """Ask a service, as a task outside the cluster can: by the API server's proxy, with the connection's rights."""
        from ray_provider.clusters.kubernetes.client import open_kube
        from ray_provider.hooks import RayHook

        async def answer() -> Any:
            async with open_kube(await RayHook("kube").akubernetes_access()) as kube:
                assert params["url"].startswith(kube.url)
                return await kube.request("POST", urlsplit(params["url"]).path, body=params["send"])

        return asyncio.run(answer())

    ask()
