"""What goes wrong with Ray clusters on a real Kubernetes: each fault with the text that the user gets, and nothing left."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ray_provider.clusters.handle import ClusterHandle
from ray_provider.clusters.kuberay.capacity import prospects
from ray_provider.clusters.kuberay.endpoints import kubernetes_endpoint
from ray_provider.exceptions import (
    ClusterFailedError,
    ClusterTimeoutError,
)
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.submit.once import submit_once
from ray_provider.jobs.watch.waiting import Prospects
from ray_provider.jobs.watch.watcher import JobWatcher
from tests.kubernetes.clusters import HEAD_ONLY, WORKER, Scene, left_over, show, values
from tests.support.kubernetes import Kubernetes

pytestmark = pytest.mark.timeout(1200)

ROLE = Path("helm/roles/provider-role.yaml")
CHART = Path("helm/ray-cluster")


@pytest.fixture(scope="module")
def namespace(kubernetes: Kubernetes) -> Iterator[str]:
    """One for all tests here: each leaves it empty, and says so."""
    with kubernetes.namespace("clusters") as name:
        yield name


def instead_of_ray(*command: str, **changes: object) -> dict:
    """Give values of a cluster whose head runs something else than ``ray start``."""
    own = {"head__annotations": {"ray.io/overwrite-container-cmd": "true"}, "head__command": list(command)}
    return values(HEAD_ONLY, **own, **changes)


HUGE = {"requests": {"cpu": "200", "memory": "1Gi"}, "limits": {"cpu": "200"}}
LITTLE_MEMORY = {"requests": {"cpu": "200m", "memory": "96Mi"}, "limits": {"cpu": "2", "memory": "96Mi"}}
#: Each fault's values, and how long the set-up bears it.
FAULTS: dict[str, tuple[dict, dict]] = {
    "image": (
        values(HEAD_ONLY, image__repository="registry.invalid/no/such", image__tag="2.60.0"),
        {"image_seconds": 4, "short_seconds": 4},
    ),
    "huge": (values(HEAD_ONLY, head__resources=HUGE), {"scheduling_seconds": 2}),
    # Memory taken at one stroke: a Ray that nears its limit slowly can stand still there for minutes, reading its
    # libraries over and over, before Linux gives it up.
    "memory": (
        instead_of_ray("python", "-c", "b'x' * (1 << 30)", head__resources=LITTLE_MEMORY),
        {"short_seconds": 2},
    ),
    "idle": (
        instead_of_ray("bash", "-c", "trap exit TERM; echo waiting for a licence; sleep 600 & wait"),
        {"timeout_seconds": 35},
    ),
    "command": (
        values(HEAD_ONLY, head__rayStartParams={"num-cpus": "1", "no-such-parameter": "1"}),
        {"short_seconds": 3},
    ),
}


@pytest.fixture(scope="module")
def faults(kubernetes: Kubernetes, namespace: str) -> dict[str, BaseException | ClusterHandle]:
    """What became of each faulty set-up: all at once, as each does little but wait. Nothing is left of them."""
    scene = Scene(kubernetes, namespace)

    async def all_of_them() -> list[BaseException | ClusterHandle]:
        rows = [scene.set_up(scene.spec(given), **readiness) for given, readiness in FAULTS.values()]
        return await asyncio.gather(*rows, return_exceptions=True)

    found = dict(zip(FAULTS, asyncio.run(all_of_them()), strict=True))
    assert left_over(scene) == []
    return found


def told(found: BaseException | ClusterHandle, kind: type[BaseException]) -> str:
    assert type(found) is kind, repr(found)
    return show(found)


def test_an_image_that_does_not_exist(faults):
    text = told(faults["image"], ClusterFailedError)
    assert "the image 'registry.invalid/no/such:2.60.0' of head pod" in text
    assert "can't be pulled" in text
    assert faults["image"].data["cause"] == "image"


def test_a_request_bigger_than_any_node(faults):
    text = told(faults["huge"], ClusterFailedError)
    assert "head pod" in text
    assert "it asks for cpu 200, memory 1Gi" in text
    assert "Insufficient cpu" in text


def test_a_head_that_is_killed_for_memory(faults):
    text = told(faults["memory"], ClusterFailedError)
    assert "was killed for memory (OOMKilled, its limit is 96Mi" in text
    assert "a Ray head needs 2 GiB" in text


def test_a_head_that_runs_and_never_becomes_ready(faults):
    text = told(faults["idle"], ClusterTimeoutError)
    assert "What is missing: the head. So far, the container 'ray-head' of head pod" in text
    # Which of the two probes failed last is chance: both ask every few seconds by then.
    assert re.search(r"and is not ready; its last event is Unhealthy: (Readiness|Liveness) probe failed", text)
    assert "Last lines: waiting for a licence" in text
    assert "close to its memory limit (2Gi)" in text


def test_a_head_whose_command_fails_shows_its_last_lines(faults):
    text = told(faults["command"], ClusterFailedError)
    assert "ends again and again" in text
    assert "--no-such-parameter" in text


@pytest.fixture(scope="module")
def waiting(kubernetes: Kubernetes, namespace: str) -> Iterator[tuple[Scene, ClusterHandle]]:
    """A cluster whose groups get no node, and that was not waited for as a whole: its head takes jobs.

    While its head was waited for, the API server was restarted.
    """
    scene = Scene(kubernetes, namespace)
    asked = {"cpu": "100m", "memory": "500Mi"}
    gpus = {"requests": asked, "limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "64"}}
    large = {"requests": {"cpu": "100m", "memory": "900Gi"}, "limits": {"cpu": "1", "memory": "900Gi"}}
    given = values(HEAD_ONLY, headOnly=False, worker={**WORKER, "resources": gpus})
    given["head"]["rayStartParams"]["num-cpus"] = "0"
    given["additionalWorkerGroups"] = {"large": {**WORKER, "disabled": False, "resources": large}}

    async def set_up() -> ClusterHandle:
        task = asyncio.create_task(scene.set_up(scene.spec(given), wait_for_workers=False))
        while not task.done() and not any("head " in line for _, line in scene.lines):
            await asyncio.sleep(0.1)
        assert not task.done()
        await asyncio.to_thread(kubernetes.restart_api_server, stay_down=3)
        return await task

    handle = asyncio.run(set_up())
    yield scene, handle
    asyncio.run(scene.delete(handle))
    assert left_over(scene) == []


def test_an_api_server_that_is_restarted_while_waiting(waiting):
    scene, handle = waiting
    assert handle.created
    assert scene.cluster(handle.name)["metadata"]["name"] == handle.name


async def test_the_log_of_a_waiting_job_names_the_pods_and_the_schedulers_reason(waiting):
    scene, handle = waiting
    lines: list[str] = []
    warnings: list[str] = []

    async def ask(wants: Mapping[str, float]) -> Prospects:
        return await prospects(scene.access, handle, wants)

    async with RayJobsClient(await kubernetes_endpoint(scene.access, handle)) as client:
        await submit_once(client, JobSpec(entrypoint="true", submission_id="waits", num_gpus=8))
        watcher = JobWatcher(client, "waits", on_progress=lines.append, on_warning=warnings.append, ask=ask)
        watch = asyncio.create_task(watcher.watch())
        async with asyncio.timeout(300):
            while not (told := [line for line in lines + warnings if "is PENDING for" in line]):
                assert not watch.done(), watch.result()
                await asyncio.sleep(0.2)
        watch.cancel()
        # It is ended through the API server's proxy alone, by a head that takes no work of its own.
        ended = await client.stop_and_wait("waits", 300)
    assert ended is not None
    assert ended.status == "STOPPED"
    assert "never ran" in str(ended.message)
    pods = {
        pod["metadata"]["labels"]["ray.io/group"]: pod["metadata"]["name"]
        for pod in scene.pods(handle.name)
        if pod["metadata"]["labels"]["ray.io/node-type"] == "worker"
    }
    text = told[0]
    print(text)
    assert "Its entrypoint asks for 8 GPU" in text
    assert len(pods) == 2
    waiting = text.partition("Pods that are not ready: ")[2]
    reasons = {}
    for pod in pods.values():
        assert f"{pod}: " in waiting
        reasons[pod] = waiting.partition(f"{pod}: ")[2].partition("; ")[0]
    large_pod = pods.pop("large")
    (gpu_pod,) = pods.values()
    assert "Insufficient nvidia.com/gpu" in reasons[gpu_pod]
    assert "Insufficient memory" in reasons[large_pod]
    assert "No available node types" not in text, "Ray's autoscaler, which knows no groups here"
    assert not warnings, "a group of the cluster gives it, once it has its node"
