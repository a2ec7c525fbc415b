"""Clusters that are older than their clients: real heads of the Ray versions that are supported on a cluster."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from ray_provider.functions.payload import ENTRYPOINT, pack
from ray_provider.functions.results import decode, result_file
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.ray_versions import FUNCTIONS_FROM, parse
from ray_provider.jobs.submit import submit_once
from ray_provider.jobs.watcher import JobWatcher, WatchOptions
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
