"""The example of a nightly pool of GPUs, with the queue that its own documentation has an administrator make."""

from __future__ import annotations

import json
import re
import runpy
from typing import Any

import pytest
import yaml

from ray_provider.operators import DeleteRayCluster
from tests.support.helm import ROOT
from tests.support.kubernetes import until
from tests.support.kueue import API

pytestmark = pytest.mark.timeout(600)

EXAMPLE = ROOT / "examples" / "dags" / "ray_nightly_gpus.py"
GPU = "nvidia.com/gpu"


@pytest.fixture
def documented(kubernetes, namespace) -> None:
    """What the example's documentation has applied, with the names that are not of a namespace made this test's own."""
    found = runpy.run_path(str(EXAMPLE))
    (text,) = re.findall(r"```yaml\n(.*?)```", found["__doc__"], re.DOTALL)
    objects = list(yaml.safe_load_all(text))
    assert {one["apiVersion"] for one in objects} == {API}
    for one in objects:
        one["metadata"].pop("namespace", None)
    kubernetes.apply(objects, namespace)


@pytest.mark.usefixtures("documented", "nodes", "dashboard")
def test_the_pool_waits_until_the_documented_queue_has_gpus_for_all_of_it(start, log, kubernetes, namespace):
    pool: Any = runpy.run_path(str(EXAMPLE))["ray_nightly_gpus"]().task_dict["pool"]
    assert (pool.local_queue, pool.priority_class, pool.queue_timeout_seconds) == ("gpus", "nightly", 4 * 3600)
    pool.conn_id, pool.deferrable, pool.helm_path, pool.name = "c", False, str(kubernetes.helm4), "night"
    # Ray's dashboard is played, and knows no token of a Secret.
    pool.values = [pool.values, {"authOptions": {"mode": "disabled"}}]

    def quota(gpus: int) -> None:
        change = [
            {"op": "replace", "path": "/spec/resourceGroups/0/flavors/0/resources/2/nominalQuota", "value": f"{gpus}"}
        ]
        kubernetes.kubectl("patch", "clusterqueue", "gpus", "--type=json", "-p", json.dumps(change))

    def gpus() -> list[str]:
        pods = kubernetes.get("pods", "-n", namespace)["items"]
        found = [one["resources"].get("limits", {}).get(GPU) for pod in pods for one in pod["spec"]["containers"]]
        return [one for one in found if one]

    quota(1)
    task = start(pool)
    log.tells("it waits in the queue 'gpus': couldn't assign flavors to pod set gpu")
    assert f"insufficient quota for {GPU}" in log.text
    assert kubernetes.get("pods", "-n", namespace)["items"] == [], "nothing costs anything before"
    quota(2)
    handle = task.result(300)
    assert gpus() == ["1", "1"]
    delete = DeleteRayCluster(task_id="delete", conn_id="c", cluster=handle, helm_path=str(kubernetes.helm4))
    assert start(delete).result() is True
    until(lambda: not kubernetes.get("workloads.kueue.x-k8s.io", "-n", namespace)["items"], 60, "the GPUs given back")
