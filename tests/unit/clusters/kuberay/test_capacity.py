"""What a cluster's groups can give a job that waits, and which of its pods do not start."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.clusters.kuberay.capacity import groups_of, judge, quantity

GIB = 1024**3


def pod(limits: dict[str, Any] | None = None, requests: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "spec": {"containers": [{"name": "ray", "resources": {"limits": limits or {}, "requests": requests or {}}}]}
    }


def worker(name: str, template: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"groupName": name, "replicas": 0, "minReplicas": 0, "maxReplicas": 2, "template": template, **fields}


def cluster(*workers: dict[str, Any], grows: bool = True) -> dict[str, Any]:
    head = {"rayStartParams": {"num-cpus": "0"}, "template": pod({"cpu": 2, "memory": "4Gi"})}
    spec = {"headGroupSpec": head, "workerGroupSpecs": [*workers], "enableInTreeAutoscaling": grows}
    return {"metadata": {"name": "c", "namespace": "n"}, "spec": spec}


GPU = worker("gpu", pod({"cpu": "3500m", "memory": "16Gi", "nvidia.com/gpu": 1}))


def test_what_a_pod_gives_is_read_as_kuberay_reads_it():
    quoted = worker("tpu", pod(), rayStartParams={"resources": '"{\\"TPU\\": 4}"', "memory": "1000000000"})
    own = worker("own", pod({"cpu": 1}), resources={"CPU": "16", "special": "2"})
    head, gpu, tpu, special = groups_of(cluster(GPU, quoted, own))
    assert head.gives == {"CPU": 0, "memory": 4 * GIB}
    assert gpu.gives == {"CPU": 4, "memory": 16 * GIB, "GPU": 1}
    assert (tpu.gives["TPU"], tpu.gives["memory"], tpu.gives["CPU"]) == (4, 1e9, None)
    assert (special.gives["CPU"], special.gives["special"]) == (16, 2)
    assert [quantity(text) for text in ("500m", "2Gi", "1e3", 3, None, "much")] == [0.5, 2 * GIB, 1000, 3, None, None]


@pytest.mark.parametrize(
    ("wants", "groups", "never"),
    [
        ({"GPU": 1.0, "CPU": 4.0}, [GPU], False),
        ({"GPU": 2.0}, [GPU], True),
        ({"CPU": 1.0, "GPU": 1.0}, [], True),
        ({"CPU": 5.0}, [GPU], True),
        # Each group has a part of it.
        ({"CPU": 8.0, "GPU": 1.0}, [GPU, worker("cpu", pod({"cpu": 16}))], True),
        ({"GPU": 1.0}, [{**GPU, "maxReplicas": 0}], True),
        ({"GPU": 1.0}, [{**GPU, "suspend": True}], True),
        # Without a limit a pod may use all that its node has.
        ({"CPU": 64.0, "memory": 99.0 * GIB}, [worker("free", pod())], False),
        # Kinds that Ray may find by itself, and a job that asks for nothing.
        ({"TPU-v4-8-head": 1.0}, [GPU], False),
        ({}, [GPU], False),
    ],
)
def test_what_no_group_can_ever_give_is_told(wants, groups, never):
    found = judge(cluster(*groups), [], wants)
    assert found.never is never
    assert (
        "No group of Ray cluster n/c can ever give that: headgroup (0" in found.text.replace("4.0 GiB memory", "0")
    ) is never
    if wants and not never:
        assert "n/c may still get it from " in found.text


def test_a_cluster_that_does_not_grow_is_told():
    found = judge(cluster({**GPU, "replicas": 1}, grows=False), [], {"GPU": 1.0})
    assert not found.never
    assert "does not grow by itself" in found.text
    assert found.overrules, "Ray's autoscaler knows only the nodes that are there"
    assert not judge(cluster({**GPU, "replicas": 1}, grows=False), [], {"GPU": 9.0}).overrules
    assert not judge(cluster(GPU), [], {"GPU": 1.0}).overrules
    assert judge(cluster(GPU, grows=False), [], {"GPU": 1.0}).never, "none of its pods is wanted"


def not_ready(name: str, message: str | None = None) -> dict[str, Any]:
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
    return {"metadata": {"name": name}, "status": {"phase": "Pending", "conditions": conditions if message else []}}
