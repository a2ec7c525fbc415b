"""What keeps a cluster from becoming ready, told from objects as Kubernetes gives them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ray_provider.clusters.kuberay.diagnosis import cluster_findings, summary
from ray_provider.clusters.kubernetes.pod_diagnosis import event_findings, first_unready, pod_findings, slow_finding


def pod(node_type="head", *, status=None, **container):
    spec = {
        "containers": [
            {
                "name": "ray",
                "image": "img:1",
                "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
            }
        ]
    }
    made = {"metadata": {"name": "p", "uid": "u", "labels": {"ray.io/node-type": node_type}}, "spec": spec}
    made["status"] = status or {
        "phase": "Running",
        "containerStatuses": [{"name": "ray", "image": "img:1", **container}],
    }
    return made


def waiting(reason, message="", **further):
    return {"state": {"waiting": {"reason": reason, "message": message}}, **further}


def ended(reason, code, restarts=0, *, last=False, **further):
    terminated = {"terminated": {"reason": reason, "exitCode": code}}
    return {("lastState" if last else "state"): terminated, "restartCount": restarts, **further}


@pytest.mark.parametrize(
    ("container", "cause", "patience", "words"),
    [
        (
            waiting("ImagePullBackOff", 'rpc error: "img:1": not found'),
            "image",
            "short",
            "the image 'img:1' of head pod p",
        ),
        (waiting("ErrImagePull", "dial tcp: lookup r: no such host"), "image", "image", "no such host"),
        (waiting("InvalidImageName", "couldn't parse"), "image", "short", "InvalidImageName"),
        (
            waiting("CreateContainerConfigError", 'secret "x" not found'),
            "container config",
            "short",
            'secret "x" not found',
        ),
        (ended("OOMKilled", 137, 0), "OOMKilled", "short", "its limit is 4Gi"),
        (ended("OOMKilled", 137, 1), "OOMKilled", "short", "1 restart"),
        (ended("OOMKilled", 137, 2), "OOMKilled", "now", "2 restarts"),
        ({**waiting("CrashLoopBackOff"), **ended("OOMKilled", 137, 2, last=True)}, "OOMKilled", "now", "2 restarts"),
        ({**waiting("CrashLoopBackOff"), **ended("Error", 2, 3, last=True)}, "crash", "now", "exit status 2"),
        (ended("Error", 1, 0), "crash", "short", "ends again and again"),
    ],
)
def test_containers(container, cause, patience, words):
    (finding,) = pod_findings(pod(**container))
    assert (finding.cause, finding.patience) == (cause, patience)
    assert words in finding.text
    assert finding.hint


@pytest.mark.parametrize(
    "container",
    [
        {"state": {"running": {}}},
        waiting("ContainerCreating"),
        waiting("PodInitializing"),
        ended("Completed", 0),
        {"state": {"running": {}}, **ended("Error", 1, 1, last=True)},
    ],
)
def test_what_is_no_fault(container):
    assert pod_findings(pod(**container)) == []


def test_an_unschedulable_pod_tells_what_it_asks_for():
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    (finding,) = pod_findings(pod("worker", status={"phase": "Pending", "conditions": [scheduled]}))
    assert "worker pod p can't be placed on a node (it asks for cpu 2, memory 4Gi): 0/3 nodes" in finding.text
    assert (finding.cause, finding.patience) == ("unschedulable", "scheduling")


def test_a_pod_that_is_going_is_no_fault():
    going = pod(**ended("Error", 1))
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert pod_findings(going) == []


def test_an_evicted_pod():
    (finding,) = pod_findings(pod(status={"phase": "Failed", "reason": "Evicted", "message": "low on memory"}))
    assert finding.cause == "Evicted"
    assert "low on memory" in finding.text


def cluster(*conditions, generation=1, observed=1, **status):
    return {
        "metadata": {"name": "c", "generation": generation},
        "status": {"observedGeneration": observed, "conditions": list(conditions), **status},
    }


def event(reason, message, kind="Warning"):
    return {"metadata": {"uid": reason}, "type": kind, "reason": reason, "message": message}


def test_the_cluster_itself():
    (finding,) = cluster_findings(cluster(), [event("InvalidRayClusterSpec", "The RayCluster spec is invalid: x")])
    assert (finding.cause, finding.patience) == ("invalid spec", "now")
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreateHeadPod",
        "message": "pods x: exceeded quota: q",
    }
    (finding,) = cluster_findings(cluster(failure), [])
    assert finding.cause == "quota"
    assert "FailedCreateHeadPod" in finding.text
    assert cluster_findings(cluster(), [event("CreatedHeadPod", "made", "Normal")]) == []


def test_events_of_a_pod_that_does_not_start():
    events = [event("FailedMount", 'secret "tls" not found'), event("BackOff", "b"), event("Pulled", "p", "Normal")]
    (finding,) = event_findings(pod(), events)
    assert 'does not start (FailedMount): secret "tls" not found' in finding.text


NOW = datetime(2026, 1, 1, 12, 2, tzinfo=UTC)
STARTED = {"running": {"startedAt": "2026-01-01T12:00:00Z"}}


def test_a_container_that_runs_and_never_becomes_ready_is_told_with_its_last_event():
    events = [
        {**event("Unhealthy", "Readiness probe failed: timed out."), "lastTimestamp": "2026-01-01T12:01:00Z"},
        {**event("Started", "Started container"), "lastTimestamp": "2026-01-01T12:00:01Z"},
    ]
    finding = slow_finding(pod(state=STARTED, ready=False), events, NOW)
    assert finding.text == (
        "the container 'ray' of head pod p has run for 120 s and is not ready; "
        "its last event is Unhealthy: Readiness probe failed: timed out"
    )
    assert finding.container == "ray"
    assert "close to its memory limit (4Gi) can stand still" in finding.hint


def test_an_init_container_that_does_not_end_is_told_rather_than_what_waits_for_it():
    status = {
        "phase": "Pending",
        "initContainerStatuses": [
            {"name": "first", "state": {"terminated": {"exitCode": 0}}, "ready": True},
            {"name": "wait-gcs-ready", "state": STARTED, "ready": False},
        ],
        "containerStatuses": [{"name": "ray", **waiting("PodInitializing"), "ready": False}],
    }
    finding = slow_finding(pod("worker", status=status), [], NOW)
    assert finding.text == "the container 'wait-gcs-ready' of worker pod p has run for 120 s and is not ready"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (pod(**waiting("ContainerCreating")), "the container 'ray' of head pod p has not started (ContainerCreating)"),
        (pod(status={"phase": "Pending"}), "head pod p has not started (Pending)"),
    ],
)
def test_a_pod_that_has_not_started_is_told_with_its_last_event(given, text):
    finding = slow_finding(given, [event("Pulling", 'Pulling image "i"', "Normal")], NOW)
    assert finding.text == text + '; its last event is Pulling: Pulling image "i"'
    assert finding.container is None


def test_what_is_waited_for_is_the_head_before_the_workers():
    ready = {"type": "Ready", "status": "True"}
    head, worker = pod(), pod("worker")
    assert first_unready([worker, head]) is head
    head["status"]["conditions"] = [ready]
    assert first_unready([head, worker]) is worker
    worker["status"]["conditions"] = [ready]
    assert first_unready([head, worker]) is None


def test_summary():
    assert summary(None, []) == "the RayCluster is not there yet"
    assert "take notice" in summary(cluster(generation=2), [])
    text = summary(cluster(desiredWorkerReplicas=2, readyWorkerReplicas=1), [pod(**waiting("ContainerCreating"))])
    assert text == "head ContainerCreating, 1 of 2 workers ready"
    ready = {"type": "HeadPodReady", "status": "True"}
    assert summary(cluster(ready, desiredWorkerReplicas=1), [pod()]) == "head ready, 0 of 1 worker ready"
    # Before, a worker that no node had room for was told by the time-out only, minutes later.
    unscheduled = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]}
    workers = [pod("worker", status=unscheduled), pod("worker", status=unscheduled), pod("worker")]
    text = summary(cluster(ready, desiredWorkerReplicas=3, readyWorkerReplicas=1), [pod(), *workers])
    assert text == "head ready, 1 of 3 workers ready, 2 waiting for a node"
