"""KubeRay's own sample RayJobs, as its module has them: each is carried through, or refused by the name of what can't be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_provider.clusters.kubernetes.access import KubernetesAccess
from ray_provider.clusters.lifecycle.rayjob import create_job, delete_job
from ray_provider.exceptions import RayProviderError
from ray_provider.operators import RunRayJob
from tests.kubernetes.node import parts
from tests.support.airflow_task import FakeTask, context_of
from tests.support.kubernetes import until

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow, pytest.mark.usefixtures("connection", "operator")]

REFUSED = {
    "ray-job.deletion-rules.yaml": "says when KubeRay deletes what of the job (spec.deletionStrategy)",
    # Its command is in its submitter's pod: the task, which submits here, has to be told.
    "ray-job.light-weight-submitter.yaml": "has none in spec.entrypoint",
    "ray-job.volcano-scheduler-queue.yaml": "Queue",
}
#: What a sample needs to be there: the cluster that it selects, and a command that it leaves to its client.
SELECTED = "ray-job.use-existing-raycluster.yaml"
WITHOUT_COMMAND = "ray-job.interactive-mode.yaml"


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


async def carried(path: Path, kubernetes: Any, namespace: str) -> dict[str, Any]:
    """Have it made as RunRayJob does, and give what KubeRay says of it then."""
    given = {"entrypoint": "true"} if path.name == WITHOUT_COMMAND else {}
    task = RunRayJob(task_id="job", conn_id="c", ray_job_yaml=str(path), helm_path=str(kubernetes.helm4), **given)
    context = context_of(FakeTask(path.name))
    task.prepare(context)
    wanted = task.ray_job_arguments(context)
    assert wanted is not None
    access = KubernetesAccess(kubeconfig_path=str(kubernetes.kubeconfig), namespace=namespace)
    made = await create_job(access, wanted.spec(task, context, 1, 0))

    def status() -> Any:
        found = kubernetes.get("rayjob", made.rayjob, "-n", namespace).get("status") or {}
        return found if found.get("rayClusterName") or found.get("reason") else None

    try:
        return dict(await asyncio.to_thread(until, status, 30, f"KubeRay's word of {path.name}"))
    finally:
        await delete_job(access, namespace=namespace, name=str(made.rayjob))


async def test_each_sample_is_carried_through_or_refused_by_name(kubernetes, namespace):
    folder = parts.samples(kubernetes.kuberay_version).ensure() / "samples"
    found = [one for one in sorted(folder.rglob("*.yaml")) if any(d["kind"] == "RayJob" for d in documents(one))]
    assert len(found) > 20
    wrong = {}
    for path in found:
        if path.name == SELECTED:
            text = (folder / "ray-cluster.sample.yaml").read_text()
            kubernetes.apply(text.replace("name: raycluster-kuberay", "name: ray-cluster-kuberay"), namespace)
        try:
            status = await carried(path, kubernetes, namespace)
        except RayProviderError as error:
            if REFUSED.get(path.name, "(it is not to be)") not in str(error):
                wrong[path.name] = str(error)
        else:
            if path.name in REFUSED or status["jobDeploymentStatus"] == "ValidationFailed":
                wrong[path.name] = status
    assert wrong == {}
