"""RayJobs: what is made of a chart's objects, what a status means, and what Kueue says of one that waits."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

import pytest
import yaml

from ray_provider.clusters.kuberay.queueing import QueuePosition, eviction, position
from ray_provider.clusters.kuberay.rayjob import (
    LABEL,
    RayJobOptions,
    RayJobState,
    make,
    numbered,
    refuse_unknown_mode,
)
from ray_provider.clusters.kuberay.versions import KubeRay
from ray_provider.clusters.lifecycle.rayjob import submitted_in
from ray_provider.clusters.naming import check_length
from ray_provider.exceptions import ConfigurationError

#: What the chart renders for a release `demo`: the fields that matter here, in its form and order.
RENDERED = list(
    yaml.safe_load_all(
        """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  labels: {app.kubernetes.io/instance: demo, app.kubernetes.io/managed-by: Helm, ray.io/cluster: demo}
  name: demo-ray-head
  namespace: ray
spec:
  podSelector: {matchLabels: {ray.io/cluster: demo, ray.io/node-type: head}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector: {matchLabels: {ray.io/cluster: demo}}
  - from:
    - podSelector: {}
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
    ports: [{port: 8265, protocol: TCP}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  labels: {app.kubernetes.io/managed-by: Helm, ray.io/cluster: demo}
  name: demo-ray-worker
  namespace: ray
spec:
  maxUnavailable: 1
  selector: {matchLabels: {ray.io/cluster: demo, ray.io/node-type: worker}}
---
apiVersion: ray.io/v1
kind: RayCluster
metadata:
  annotations: {airflow-ray/dag_id: train}
  labels: {airflow-ray/managed: "true", app.kubernetes.io/managed-by: Helm, helm.sh/chart: ray-cluster-1.0.0}
  name: demo
  namespace: ray
spec:
  authOptions: {mode: token}
  headGroupSpec:
    rayStartParams: {}
    template:
      metadata: {labels: {app.kubernetes.io/instance: demo}}
      spec: {containers: [{image: "rayproject/ray:2.60.0", name: ray-head}]}
  rayVersion: 2.60.0
  upgradeStrategy: {type: Recreate}
  workerGroupSpecs:
  - groupName: workergroup
    replicas: 1
    template:
      spec: {containers: [{image: "rayproject/ray:2.60.0", name: ray-worker}]}
"""
    )
)
OPTIONS = RayJobOptions(job_id="airflow-train-1")


def rendered(*more, **spec):
    """Give the chart's objects, with other fields in the cluster's spec."""
    documents = copy.deepcopy(RENDERED)
    documents[-1]["spec"].update(spec)
    return [*documents, *more]


def made(**options):
    return make(rendered(), "demo", RayJobOptions(job_id="airflow-train-1", **options))[0]


# -- what is made ------------------------------------------------------------------------------------------------------


def test_the_job_is_submitted_once_by_us_and_the_cluster_goes_by_itself():
    job, _ = make(rendered(), "demo", OPTIONS)
    cluster = job["spec"].pop("rayClusterSpec")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert (job["metadata"]["name"], job["metadata"]["namespace"]) == ("demo", "ray")
    assert job["spec"] == {
        "submissionMode": "InteractiveMode",
        "jobId": "airflow-train-1",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 300,
        "backoffLimit": 0,
    }
    assert cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] == "rayproject/ray:2.60.0"
    assert cluster["authOptions"] == {"mode": "token"}
    assert "upgradeStrategy" not in cluster, "KubeRay refuses it in a RayJob"


def test_the_charts_objects_are_not_changed():
    given = rendered()
    make(given, "demo", OPTIONS)
    assert given == RENDERED


def test_what_is_made_says_whose_it_is():
    """A cluster's name is only known to KubeRay: pods are found by a label of ours."""
    job, beside = make(rendered(), "demo", OPTIONS)
    spec = job["spec"]["rayClusterSpec"]
    templates = [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    assert [template["metadata"]["labels"][LABEL] for template in templates] == ["demo", "demo"]
    assert templates[0]["metadata"]["labels"]["app.kubernetes.io/instance"] == "demo"
    for one in (job, *beside):
        assert one["metadata"]["labels"][LABEL] == "demo"
        # Nothing of it is a Helm release's.
        assert one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "airflow-ray"
    assert job["metadata"]["labels"]["airflow-ray/managed"] == "true"
    assert job["metadata"]["annotations"]["airflow-ray/dag_id"] == "train"


def test_a_network_policy_is_about_the_pods_of_the_cluster_to_come():
    _, (policy, budget) = make(rendered(), "demo", OPTIONS)
    assert policy["spec"]["podSelector"]["matchLabels"] == {LABEL: "demo", "ray.io/node-type": "head"}
    assert policy["spec"]["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {LABEL: "demo"}}}]
    assert policy["spec"]["ingress"][1] == RENDERED[0]["spec"]["ingress"][1], "who else may is as the chart says"
    assert budget["spec"]["selector"]["matchLabels"] == {LABEL: "demo", "ray.io/node-type": "worker"}
    assert "ray.io/cluster" not in str([policy, budget])


def test_what_is_said_of_another_cluster_is_left():
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"selector": {"ray.io/cluster": "other"}},
    }
    _, beside = make(rendered(service), "demo", OPTIONS)
    assert beside[-1]["spec"]["selector"] == {"ray.io/cluster": "other"}


def test_a_later_try_finds_which_attempt_it_was():
    state = RayJobState.of(made(attempt=3, max_tries=5))
    assert (state.attempt, state.max_tries, state.job_id) == (3, 5, "airflow-train-1")
    assert state.submitted is None
    state = RayJobState.of(made())
    assert (state.attempt, state.max_tries) == (1, None)


def test_times_are_ours_unless_a_manifest_gives_more():
    assert made(ttl_seconds=60)["spec"]["ttlSecondsAfterFinished"] == 60
    assert made(ttl_seconds=60, own={"ttlSecondsAfterFinished": 10})["spec"]["ttlSecondsAfterFinished"] == 60
    assert made(ttl_seconds=60, own={"ttlSecondsAfterFinished": 900})["spec"]["ttlSecondsAfterFinished"] == 900
    assert made(active_deadline_seconds=70)["spec"]["activeDeadlineSeconds"] == 70
    own = {"activeDeadlineSeconds": 30}
    assert made(active_deadline_seconds=70, own=own)["spec"]["activeDeadlineSeconds"] == 30
    assert made(own=own)["spec"]["activeDeadlineSeconds"] == 30


def test_a_manifest_can_not_have_kuberay_try_again_nor_keep_the_cluster():
    spec = made(own={"backoffLimit": 0, "shutdownAfterJobFinishes": False, "preRunningDeadlineSeconds": 60})["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["preRunningDeadlineSeconds"] == 60, "what else it says is carried"


def test_what_is_for_kuberays_submitter_is_only_there_when_it_submits():
    own = {
        "entrypoint": "python x.py",
        "runtimeEnvYAML": "{}",
        "metadata": {"a": "b"},
        "entrypointNumCpus": 1,
        "entrypointNumGpus": 1,
        "entrypointResources": "{}",
        "submitterPodTemplate": {"spec": {}},
        "submitterConfig": {"backoffLimit": 0},
    }
    assert not set(own) & set(made(own=own)["spec"])
    spec = made(own={**own, "submissionMode": "K8sJobMode"})["spec"]
    assert {key: spec[key] for key in own} == own
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["jobId"] == "airflow-train-1", "it is followed under an id that we know"


def test_a_queue_and_a_priority_are_labels_of_the_job_alone():
    job = made(queue="team", priority_class="urgent")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "urgent"
    assert "kueue" not in str(job["spec"])
    assert "kueue" not in str(made())
    assert RayJobState.of(job).queue == "team"


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(given, options=OPTIONS, name="demo"):
    with pytest.raises(ConfigurationError) as caught:
        make(given, name, options)
    return caught.value


def test_a_mode_that_an_older_kuberay_does_nothing_with_is_refused():
    with pytest.raises(ConfigurationError, match=r"SidecarMode needs KubeRay 1\.5\.1 or newer, .* those of 1\.4\.0"):
        refuse_unknown_mode("SidecarMode", KubeRay((1, 4, 0)))
    refuse_unknown_mode("SidecarMode", KubeRay((1, 5, 1)))
    for mode in ("InteractiveMode", "HTTPMode", "K8sJobMode"):
        refuse_unknown_mode(mode, KubeRay((1, 4, 0)))


def test_an_ingress_is_refused_as_it_can_not_lead_anywhere():
    ingress = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"}}
    error = refused(rendered(ingress))
    assert error.data["field"] == "ingress"
    assert "SetupRayCluster" in error.hint


def test_a_token_by_kubernetes_is_refused_as_kuberay_would():
    error = refused(rendered(authOptions={"mode": "token", "enableK8sTokenAuth": True}))
    assert error.data["field"] == "authOptions.enableK8sTokenAuth"
    assert make(rendered(authOptions={"mode": "token", "enableK8sTokenAuth": False}), "demo", OPTIONS)
    assert make(rendered(authOptions=None), "demo", OPTIONS)


def test_an_autoscaler_in_a_queue_needs_kueues_elastic_jobs():
    scaled = rendered(enableInTreeAutoscaling=True)
    error = refused(scaled, RayJobOptions("j", queue="team"))
    assert error.data["field"] == "local_queue"
    assert "team" in error.message
    assert make(scaled, "demo", OPTIONS), "without a queue there is nothing to refuse"
    by_label = copy.deepcopy(scaled)
    by_label[-1]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team"
    assert refused(by_label).data["field"] == "local_queue"
    job, _ = make(scaled, "demo", RayJobOptions("j", queue="team", elastic=True))
    assert job["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"


def test_an_autoscaler_in_a_queue_is_let_through_as_the_hint_says():
    error = refused(rendered(enableInTreeAutoscaling=True), RayJobOptions("j", queue="team"))
    values = yaml.safe_load(error.hint.partition("values=")[2].rstrip("."))
    scaled = rendered(enableInTreeAutoscaling=True)
    scaled[-1]["metadata"]["annotations"].update(values["annotations"])  # as the chart does with them
    job, _ = make(scaled, "demo", RayJobOptions("j", queue="team"))
    assert job["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"


def test_a_chart_has_to_make_one_cluster_of_our_name():
    assert "0 RayClusters" in refused(rendered()[:-1]).message
    assert "2 RayClusters" in refused([*rendered(), rendered()[-1]]).message
    assert "'demo', and not 'other'" in refused(rendered(), name="other").message


def test_names_end_where_kuberay_ends_them():
    assert check_length("x" * 47, "RayJob") == "x" * 47
    with pytest.raises(ConfigurationError, match="48 characters: KubeRay allows 47") as caught:
        check_length("x" * 48, "RayJob")
    assert caught.value.data["field"] == "name"


def test_a_later_attempt_has_a_name_that_kuberay_takes():
    assert numbered("train", 2) == "train-2"
    for name in ("x" * 47, "x" * 44 + "-yz"):
        assert len(check_length(numbered(name, 12), "RayJob")) <= 47
        assert numbered(name, 12).endswith("x-12")


def test_where_a_job_was_submitted_tells_clusters_and_their_heads_apart():
    places = {submitted_in(cluster, session) for cluster in ("a", "b") for session in (None, "s1", "s2")}
    assert len(places) == 6
    job = made()
    job["metadata"]["annotations"]["airflow-ray/submitted"] = submitted_in("a", "s1")
    assert RayJobState.of(job).submitted == "a/s1"


# -- what a status means -----------------------------------------------------------------------------------------------


def state(deployment="", job="", reason="", message="", **more):
    """Give a RayJob's state with this status, as Kubernetes gives it: what is empty is left out."""
    status = {"jobDeploymentStatus": deployment, "jobStatus": job, "reason": reason, "message": message, **more}
    document = {
        "metadata": {"name": "demo", "uid": "u"},
        "spec": {"jobId": "j"},
        "status": {key: value for key, value in status.items() if value},
    }
    return RayJobState.of(document)


@pytest.mark.parametrize(
    ("found", "failed", "over", "suspended"),
    [
        (state(), False, False, False),
        (state("Initializing"), False, False, False),
        (state("Waiting"), False, False, False),
        # The head is lost, and KubeRay says that all is well: Ray is asked, not this.
        (state("Running", "RUNNING"), False, False, False),
        (state("Suspending"), False, False, True),
        (state("Suspended"), False, False, True),
        (state("Retrying"), False, False, False),
        (state("Complete", "SUCCEEDED"), False, True, False),
        # Over, and no success: Ray's own word decides.
        (state("Complete", "STOPPED"), False, True, False),
        (state("Failed", "FAILED", "AppFailed"), False, True, False),
        # The job failed, and its last status was lost.
        (state("Failed", "", "AppFailed"), False, True, False),
        (state("Failed", "RUNNING", "DeadlineExceeded"), True, True, False),
        (state("Failed", "", "DeadlineExceeded"), True, True, False),
        (state("Failed", "", "PreRunningDeadlineExceeded"), True, True, False),
        (state("Failed", "RUNNING", "SubmissionFailed"), True, True, False),
        (state("ValidationFailed"), True, True, False),
        # KubeRay 1.7, and what comes after it.
        (state("Failed", "RUNNING", "JobStatusCheckTimeoutExceeded"), True, True, False),
        (state("Failed", "", "SomethingNew"), True, True, False),
        (state("Failed"), True, True, False),
        (state("Dreaming", "ASLEEP", "Why"), False, False, False),
        # The job had ended before the deadline was looked at.
        (state("Failed", "SUCCEEDED", "DeadlineExceeded"), False, True, False),
    ],
    ids=lambda one: f"{one.deployment}-{one.job}-{one.reason}" if isinstance(one, RayJobState) else "",
)
def test_what_kuberay_says_of_a_job(found, failed, over, suspended):
    assert (found.has_failed, found.is_over, found.is_suspended) == (failed, over, suspended)


def test_why_is_told_in_kuberays_words_and_in_one_line():
    why = state("Failed", "", "DeadlineExceeded", "The RayJob has passed\n the activeDeadlineSeconds.").why
    assert why == "DeadlineExceeded: The RayJob has passed the activeDeadlineSeconds"
    assert state("ValidationFailed", message="spec is no good").why == "ValidationFailed: spec is no good"
    assert state("Failed", reason="SomethingNew").why == "SomethingNew"
    assert state("Failed").why == "Failed"


def test_a_state_is_read_from_a_document_that_says_little_or_much():
    bare = RayJobState.of({"metadata": {"name": "x"}})
    assert (bare.name, bare.deployment, bare.started, bare.queue, bare.attempt) == ("x", "", None, None, 1)
    assert not bare.deleting
    found = RayJobState.of(
        {
            "metadata": {
                "name": "x",
                "uid": "u",
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"kueue.x-k8s.io/queue-name": "team"},
                "annotations": {"airflow-ray/attempt": "a lot", "airflow-ray/max-tries": ""},
            },
            "spec": {"managedBy": "kueue.x-k8s.io/multikueue"},
            "status": {"startTime": "2026-01-01T12:00:00Z", "rayClusterName": "x-abcde", "jobId": "x-12345"},
        }
    )
    assert found.deleting
    assert found.started == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert (found.cluster, found.queue, found.uid) == ("x-abcde", "team", "u")
    assert found.managed_by == "kueue.x-k8s.io/multikueue"
    assert found.job_id == "x-12345", "KubeRay's own, where the spec gives none"
    assert (found.attempt, found.max_tries) == (1, None)
    assert state(startTime="no time").started is None
    assert state(startTime="2026-01-01T12:00:00").started == datetime(2026, 1, 1, 12, tzinfo=UTC)


# -- what Kueue says ---------------------------------------------------------------------------------------------------


def workload(*conditions, created="2026-01-01T12:00:00Z"):
    """Give a Workload with conditions, each as (type, status, reason, message)."""
    keys = ("type", "status", "reason", "message")
    told = [dict(zip(keys, one, strict=True)) for one in conditions]
    return {
        "metadata": {"name": "rayjob-demo-1", "creationTimestamp": created},
        "status": {"conditions": told} if told else {},
    }


RESERVED = ("QuotaReserved", "True", "QuotaReserved", "Quota reserved in ClusterQueue team")
ADMITTED = ("Admitted", "True", "Admitted", "The workload is admitted")
FULL = (
    "QuotaReserved",
    "False",
    "Pending",
    "couldn't assign flavors to pod set head: insufficient unused quota for cpu in flavor default, 50m more needed",
)
WRONG = ("QuotaReserved", "False", "Inadmissible", "LocalQueue nosuch doesn't exist.")
PREEMPTED = ("Evicted", "True", "Preempted", "Preempted to accommodate a workload (UID: x)\ndue to prioritization.")


@pytest.mark.parametrize(
    ("workloads", "expected"),
    [
        ([], None),
        ([workload()], QueuePosition("it says nothing yet")),
        ([workload(FULL)], QueuePosition(FULL[3])),
        ([workload(WRONG)], QueuePosition("LocalQueue nosuch doesn't exist", never=True)),
        ([workload(RESERVED)], QueuePosition("Quota reserved in ClusterQueue team")),
        ([workload(RESERVED, ADMITTED)], QueuePosition("admitted", admitted=True)),
        # Taken away again: it waits, and says what for.
        ([workload(PREEMPTED, FULL, ("Admitted", "False", "NoReservation", "x"))], QueuePosition(FULL[3])),
        (
            [workload(PREEMPTED)],
            QueuePosition("Preempted: Preempted to accommodate a workload (UID: x) due to prioritization"),
        ),
        ([workload(("QuotaReserved", "False", "SomethingNew", "a word"))], QueuePosition("a word")),
        # The latest counts, in whatever order they are listed.
        (
            [
                workload(FULL, created="2026-01-01T12:00:05Z"),
                workload(RESERVED, ADMITTED, created="2026-01-01T12:00:00Z"),
            ],
            QueuePosition(FULL[3]),
        ),
    ],
)
def test_the_place_in_a_queue(workloads, expected):
    assert position(workloads) == expected


@pytest.mark.parametrize(
    ("workloads", "expected"),
    [
        ([], ""),
        ([workload()], ""),
        ([workload(RESERVED, ADMITTED)], ""),
        (
            [workload(PREEMPTED, FULL)],
            "Preempted: Preempted to accommodate a workload (UID: x) due to prioritization",
        ),
        ([workload(("Evicted", "True", "Deactivated", ""))], "Deactivated"),
        ([workload(("Evicted", "False", "Preempted", "of before"))], ""),
        ([workload(FULL), workload(("Evicted", "True", "PodsReadyTimeout", "too late"))], "PodsReadyTimeout: too late"),
    ],
)
def test_why_a_place_was_taken_away(workloads, expected):
    assert eviction(workloads) == expected
