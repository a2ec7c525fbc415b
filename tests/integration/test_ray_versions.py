"""Clusters that are older than their clients: real heads of the Ray versions that are supported on a cluster."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from ray_provider.decorators.operator import RayDecoratedOperator
from ray_provider.functions.payload import ENTRYPOINT, pack
from ray_provider.functions.results import decode, result_file
from ray_provider.hooks import RayHook
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.ray_versions import FUNCTIONS_FROM, parse
from ray_provider.jobs.submit.once import submit_once
from ray_provider.jobs.watch.watcher import JobWatcher, WatchOptions
from tests.support.airflow_task import FakeTask, context_of
from tests.support.pythons import other_python
from tests.support.ray_head import RayHead
from tests.support.ray_versions import python_with_ray

#: The oldest for jobs, the oldest for functions, and two between them and the newest, with which all other tests run.
SLOW = [pytest.param(version, marks=pytest.mark.slow) for version in ("2.9.3", "2.40.0", "2.46.0", "2.52.1")]


async def watched(client, spec):
    lines: list[str] = []
    await submit_once(client, spec)
    watcher = JobWatcher(
        client, spec.submission_id, WatchOptions(), on_log=lambda batch: lines.extend(batch.text.split("\n"))
    )
    async with asyncio.timeout(120):
        return await watcher.watch(), lines


@pytest.mark.parametrize("version", SLOW)
async def test_an_older_cluster_runs_jobs_and_functions(version, tmp_path):
    with RayHead(python=python_with_ray(version)) as head:
        async with RayJobsClient(head.endpoint) as client:
            assert (await client.version()).ray_version == version
            command = "for i in 1 2 3; do echo line $i; sleep 0.7; done; printf last; exit 3"
            outcome, lines = await watched(client, JobSpec(command, f"job-{uuid.uuid4().hex}", num_cpus=1))
            assert outcome.status == "FAILED"
            kept = [line for line in lines if line.startswith(("line", "last", "1", "0", "["))]
            assert kept[-4:] == ["line 1", "line 2", "line 3", "last"], lines
            assert not [line for line in lines if line.startswith(("1", "0", "[get_logs]"))], lines
            if parse(version) >= FUNCTIONS_FROM:
                await runs_a_function(client, tmp_path)


async def runs_a_function(client, tmp_path):
    packed = pack(lambda x: {"text": "1" * x, "numbers": list(range(x))}, (200_000,))
    path = tmp_path / "call.zip"
    path.write_bytes(packed.content)
    await client.upload_package(packed.uri, path)
    submission_id = f"fn-{uuid.uuid4().hex}"
    name = result_file(submission_id)
    env = {"py_modules": [packed.uri], "env_vars": {"AIRFLOW_RAY_RESULT_FILE": name}}
    outcome, lines = await watched(client, JobSpec(ENTRYPOINT, submission_id, runtime_env=env, num_cpus=1))
    assert outcome.status == "SUCCEEDED", lines
    node = (await client.get(submission_id)).driver_node_id
    content = await client.read_log_file(node, name)
    assert decode(content, allow_pickle=False).value == {"text": "1" * 200_000, "numbers": list(range(200_000))}
    assert await client.read_log_file(node, "there-is-no-such-file.bin") is None


def square(x):
    return x * x


def squares(numbers):
    import sys

    import ray

    @ray.remote
    def one(x):
        return square(x)

    ray.init()
    return {"python": list(sys.version_info[:2]), "squares": ray.get([one.remote(number) for number in numbers])}


@pytest.mark.slow
def test_a_cluster_with_another_python_runs_the_function_as_source(monkeypatch):
    """By the operator's own default; what Ray's tasks get there is pickled by the cluster's Python."""
    import ray

    python = other_python()
    with RayHead(python=python_with_ray(ray.__version__, python)) as head:
        monkeypatch.setattr(RayHook, "get_connection", staticmethod(lambda _: connection_to(head)))
        task = RayDecoratedOperator(
            task_id="squares", python_callable=squares, op_args=[[1, 2, 3]], op_kwargs={}, conn_id="other_python"
        )
        value = task.execute(context_of(FakeTask()))
        assert value["squares"] == [1, 4, 9]
        assert value["python"] != list(sys.version_info[:2])
        pickled = RayDecoratedOperator(
            task_id="squares",
            python_callable=squares,
            op_args=[[1]],
            op_kwargs={},
            conn_id="other_python",
            send="pickle",
        )
        with pytest.raises(AirflowFailException, match="a pickled function does not survive"):
            pickled.execute(context_of(FakeTask("another")))
        assert len(head.jobs()) == 1, "nothing was sent"


def connection_to(head):
    extra = {"address": head.url}
    return SimpleNamespace(
        extra=json.dumps(extra), extra_dejson=extra, host=None, port=None, schema=None, password=None, login=None
    )
