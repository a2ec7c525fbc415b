"""RayJobs on a real API server, with KubeRay's operator at work: made, taken over, suspended, deleted; and by which rights."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import yaml

from ray_provider.clusters.kuberay.rayjob import LABEL, RayJobOptions, Selector
from ray_provider.clusters.lifecycle.rayjob import RayJobSpec, create_job, delete_job, find_jobs, mark_submitted
from ray_provider.clusters.lifecycle.rayjob_start import StartOptions, wait_started
from ray_provider.clusters.lifecycle.rayjob_watch import until_interrupted
from ray_provider.exceptions import (
    ClusterError,
    ClusterFailedError,
    ClusterTimeoutError,
    ConfigurationError,
    KubernetesAccessError,
    RayAuthenticationError,
)
from tests.kubernetes.clusters import HEAD_AND_WORKER, HEAD_ONLY, Scene, left_over, show
from tests.support.helm import ROOT
from tests.support.kubernetes import OPERATOR_NAMESPACE, OPERATOR_RELEASE, Kubernetes, until

ROLE = ROOT / "helm" / "roles" / "provider-role.yaml"


class Jobs(Scene):
    """RayJobs in a namespace."""

    def job(self, given=HEAD_ONLY, *, name="train", owner=None, **options) -> RayJobSpec:
        cluster = self.spec(given, owner=owner or self.owner(), name=name)
        return RayJobSpec(cluster, RayJobOptions(**{"job_id": "job-1", **options}))

    async def make(self, spec):
        return await create_job(self.access, spec, say=self.say)

    async def remove(self, name="train", **further):
        return await delete_job(
            self.access, namespace=self.namespace, name=name, helm=self.helm, say=self.say, **{"timeout": 20, **further}
        )

    def there(self, name="train") -> dict:
        return self.kubernetes.get("rayjob", name, "-n", self.namespace)

    def cluster_of(self, name="train", *, other_than="") -> str:
        """Wait until KubeRay has made a cluster for a job, with its pods, and give its name."""

        def made() -> str:
            cluster = (self.there(name).get("status") or {}).get("rayClusterName") or ""
            return cluster if cluster != other_than and self.pods(cluster) else ""

        return str(until(made, 300, f"cluster of RayJob {name}"))

    def suspend(self, yes, name="train") -> None:
        patch = json.dumps({"spec": {"suspend": yes}})
        self.kubernetes.kubectl("patch", "rayjob", name, "-n", self.namespace, "--type=merge", "-p", patch)

    def hold(self, name: str, yes: bool) -> None:
        """Keep a job from being gone when it is deleted, with a finalizer that nobody serves; or let it go."""
        patch = json.dumps({"metadata": {"finalizers": ["example.com/held"] if yes else None}})
        self.kubernetes.kubectl("patch", "rayjob", name, "-n", self.namespace, "--type=merge", "-p", patch)

    def left(self, name="train") -> list[str]:
        """Name what is there of a job."""
        kinds = "rayjobs,rayclusters,pods,services,secrets,networkpolicies,poddisruptionbudgets"
        found = self.kubernetes.kubectl("get", kinds, "-n", self.namespace, "-o", "name").split()
        return [one for one in found if name in one]

    async def soon(self, test, what) -> None:
        await asyncio.to_thread(until, test, 300, what)


@pytest.fixture
def jobs(kubernetes: Kubernetes, namespace: str) -> Jobs:
    return Jobs(kubernetes, namespace)


async def test_a_job_is_made_with_its_cluster_and_goes_with_all_of_it(jobs, operator):
    handle = await jobs.make(jobs.job(HEAD_AND_WORKER, queue="team"))
    assert (handle.rayjob, handle.name, handle.namespace) == ("train", "", jobs.namespace)
    job = jobs.there()
    assert job["spec"]["jobId"] == "job-1"
    policies = jobs.kubernetes.get("networkpolicies", "-n", jobs.namespace)["items"]
    assert len(policies) == 2
    owners = [one["metadata"]["ownerReferences"] for one in policies]
    assert [(one["kind"], one["uid"]) for (one,) in owners] == [("RayJob", job["metadata"]["uid"])] * 2

    cluster = await asyncio.to_thread(jobs.cluster_of)
    await jobs.soon(lambda: len(jobs.pods(cluster)) == 2, "head and worker")
    for policy in policies:
        wanted = policy["spec"]["podSelector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in wanted.items())
        (pod,) = jobs.kubernetes.get("pods", "-n", jobs.namespace, "-l", selector)["items"]
        assert pod["metadata"]["labels"]["ray.io/cluster"] == cluster
        assert pod["metadata"]["labels"]["ray.io/node-type"] == wanted["ray.io/node-type"]
        assert wanted[LABEL] == "train"
    # The queue of a Kubernetes without Kueue is no queue.
    assert "WARNING: There is no Kueue here" in jobs.text

    assert await jobs.remove(owner=handle.owner) is True
    left = jobs.kubernetes.kubectl("get", "rayjobs,rayclusters,pods", "-n", jobs.namespace, "-o", "name").split()
    assert left == [], "nothing of it runs when its end is told"
    await jobs.soon(lambda: not jobs.left(), "end of what went beside it")
    assert await jobs.remove() is False
    assert "nothing to delete" in jobs.text


async def test_a_typo_is_refused_before_anything_is_made(jobs):
    with pytest.raises(ConfigurationError) as caught:
        await jobs.make(jobs.job(own={"ttlSecondsAfterFinishd": 90}))
    assert "Kubernetes does not know `spec.ttlSecondsAfterFinishd` of the RayJob train" in show(caught.value)
    group = {**HEAD_ONLY, "head": {**HEAD_ONLY["head"], "containerEnv": [{"name": "A", "valu": "b"}]}}
    with pytest.raises(ConfigurationError, match="valu"):
        await jobs.make(jobs.job(group))
    assert left_over(jobs) == []
    assert not jobs.left()


async def test_an_object_that_could_not_go_with_the_job_is_refused_before_anything_is_made(jobs):
    """As the queue in KubeRay's sample for Volcano is: it belongs to no namespace."""
    extra = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "of-a-job"}}
    with pytest.raises(ConfigurationError, match="Namespace of-a-job lies outside the namespace") as caught:
        await jobs.make(jobs.job({**HEAD_ONLY, "extraObjects": [extra]}))
    assert caught.value.data["field"] == "extraObjects"
    assert "Making RayJob" not in jobs.text
    assert not jobs.left()


async def test_an_object_that_is_somebody_elses_takes_the_job_back(jobs):
    extra = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "b"}}
    jobs.kubernetes.apply(extra, jobs.namespace)
    with pytest.raises(ConfigurationError, match="ConfigMap settings is there already"):
        await jobs.make(jobs.job({**HEAD_ONLY, "extraObjects": [extra]}))
    await jobs.soon(lambda: not jobs.left(), "end of what was made")
    assert jobs.kubernetes.exists("configmap", "settings", "-n", jobs.namespace)


async def test_what_kuberay_refuses_is_told_in_its_words(jobs, operator):
    rules = {"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 60}}]}
    handle = await jobs.make(jobs.job(own={"deletionStrategy": rules}))
    with pytest.raises(ConfigurationError) as caught:
        await wait_started(jobs.access, handle, StartOptions(), access="proxy", say=jobs.say)
    assert f"KubeRay refuses the RayJob {jobs.namespace}/train: " in show(caught.value)
    assert "mutually exclusive" in show(caught.value)
    assert jobs.there()["status"]["jobDeploymentStatus"] == "ValidationFailed"
    assert await jobs.remove() is True


async def test_whose_a_job_is(jobs):
    owner = jobs.owner()
    spec = jobs.job(owner=owner)
    await jobs.make(spec)
    first = jobs.there()["metadata"]["uid"]
    # The answer was lost, or another try of the same task was at it.
    again = await jobs.make(spec)
    assert (again.rayjob, jobs.there()["metadata"]["uid"]) == ("train", first)
    with pytest.raises(ConfigurationError, match="is not this task's"):
        await jobs.make(jobs.job(owner=owner, job_id="job-2"))
    with pytest.raises(ConfigurationError, match=r"is not this task's: it is made by dag dag, run run_.*, task setup"):
        await jobs.make(jobs.job())
    with pytest.raises(ClusterError, match="it is left alone"):
        await jobs.remove(owner=jobs.owner())
    assert jobs.there()["metadata"]["uid"] == first

    await jobs.make(jobs.job(name="train-2", owner=owner, attempt=2, job_id="job-2", max_tries=3))
    found = await find_jobs(jobs.access, jobs.namespace, owner)
    assert [(one.name, one.attempt, one.job_id, one.max_tries) for one in found] == [
        ("train-2", 2, "job-2", 3),
        ("train", 1, "job-1", None),
    ]
    assert await find_jobs(jobs.access, jobs.namespace, {**owner, "task_id": "other"}) == []
    assert await jobs.remove("train-2", owner=owner) is True

    jobs.hold("train", True)
    with pytest.raises(ClusterTimeoutError, match=r"RayJob train \(held by finalizers example.com/held\)"):
        await jobs.remove(timeout=0.5)
    with pytest.raises(ClusterError, match="of before is being deleted"):
        await jobs.make(spec)
    jobs.hold("train", False)


@pytest.fixture
def release(kubernetes: Kubernetes) -> Iterator[list[str]]:
    """Arguments that install a release of the operator which wants no pod; it goes after the test."""
    chart = str(kubernetes.operator_chart)
    yield ["install", OPERATOR_RELEASE, chart, "--skip-crds", "--set", "replicas=0", "--create-namespace"]
    kubernetes.helm("uninstall", OPERATOR_RELEASE, "-n", OPERATOR_NAMESPACE)


async def test_a_job_that_nobody_takes_away_is_told_with_who_would(jobs, control_plane, release):
    with control_plane.operator():
        await jobs.make(jobs.job())
        await asyncio.to_thread(jobs.cluster_of)
    jobs.kubernetes.helm(*release, "-n", OPERATOR_NAMESPACE)
    with pytest.raises(ClusterTimeoutError) as caught:
        await jobs.remove(timeout=1)
    text = show(caught.value)
    assert "RayJob train (held by finalizers ray.io/rayjob-finalizer)" in text
    assert f"The KubeRay operator ({OPERATOR_NAMESPACE}/{OPERATOR_RELEASE}), which ends them, does not run" in text
    with control_plane.operator():
        await jobs.soon(lambda: not jobs.left(), "end of all of it")


async def test_a_job_that_is_suspended_waits_and_starts_anew_when_it_is_resumed(jobs, operator):
    """All that a queue does to a job: Kueue patches the same field."""
    handle = await jobs.make(jobs.job())
    options = StartOptions(operator_seconds=10, scheduling_seconds=60)
    start = asyncio.create_task(wait_started(jobs.access, handle, options, access="proxy", say=jobs.say))
    first = await asyncio.to_thread(jobs.cluster_of)
    watch = asyncio.create_task(until_interrupted(jobs.access, replace(handle, name=first)))
    await jobs.soon(lambda: f"Ray cluster {jobs.namespace}/{first}" in jobs.text, "word of the first cluster")
    assert not watch.done()

    jobs.suspend(True)
    kind, text = await watch
    assert (kind, "was suspended by somebody" in text) == ("suspended", True)
    await jobs.soon(lambda: "it is suspended, and in no queue" in jobs.text, "word of the suspension")
    await jobs.soon(lambda: not jobs.pods(first), "end of the first cluster's pods")

    jobs.suspend(False)
    second = await asyncio.to_thread(jobs.cluster_of, other_than=first)
    await jobs.soon(lambda: f"Ray cluster {jobs.namespace}/{second}" in jobs.text, "word of the second cluster")
    assert not start.done()
    assert await jobs.remove() is True
    with pytest.raises(ClusterError, match="deleted while"):
        await start


# -- on a cluster that is there ----------------------------------------------------------------------------------------


async def test_a_job_runs_on_a_cluster_that_is_there_and_leaves_it(jobs, operator):
    await jobs.apply(jobs.spec(HEAD_ONLY, name="shared"))
    await jobs.soon(lambda: jobs.pods("shared"), "head of the cluster")
    pods = [one["metadata"]["uid"] for one in jobs.pods("shared")]
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "train-settings"}, "data": {"a": "b"}}
    selector = Selector("shared", {"team": "a"}, others=(settings,))
    handle = await jobs.make(jobs.job(None, selector=selector, active_deadline_seconds=600))
    job = jobs.there()
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": "shared"}
    assert "shutdownAfterJobFinishes" not in job["spec"] or not job["spec"]["shutdownAfterJobFinishes"]
    assert job["metadata"]["labels"]["team"] == "a"
    owner = jobs.kubernetes.get("configmap", "train-settings", "-n", jobs.namespace)["metadata"]["ownerReferences"]
    assert [one["uid"] for one in owner] == [job["metadata"]["uid"]]
    await jobs.soon(lambda: (jobs.there().get("status") or {}).get("rayClusterName") == "shared", "KubeRay's notice")
    start = asyncio.create_task(wait_started(jobs.access, handle, StartOptions(), access="proxy", say=jobs.say))
    await jobs.soon(lambda: f"Ray cluster {jobs.namespace}/shared" in jobs.text, "word of the cluster")
    assert jobs.there()["status"]["jobDeploymentStatus"] in ("Initializing", "Running", "Waiting")
    assert not start.done(), start
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    assert await jobs.remove(owner=handle.owner) is True
    assert "with its cluster" not in jobs.text
    assert [one["metadata"]["uid"] for one in jobs.pods("shared")] == pods
    assert jobs.kubernetes.exists("raycluster", "shared", "-n", jobs.namespace)


async def test_a_cluster_that_is_not_there_is_told_at_once(jobs, operator):
    """KubeRay says Initializing for ever, and RayClusterNotFound by an event."""
    spec = jobs.job(None, selector=Selector("shared"))
    with pytest.raises(ClusterFailedError, match=f"The RayCluster {jobs.namespace}/shared is not there") as caught:
        await jobs.make(spec)
    assert "get rayclusters" in caught.value.hint
    assert not jobs.left()
    # Deleted between: so it is with one that goes while it is waited for.
    await jobs.apply(jobs.spec(HEAD_ONLY, name="shared"))
    handle = await jobs.make(spec)
    jobs.kubernetes.kubectl("delete", "raycluster", "shared", "-n", jobs.namespace)
    async with asyncio.timeout(300):
        with pytest.raises(ClusterFailedError, match="is not there|is being deleted"):
            await wait_started(jobs.access, handle, StartOptions(), access="proxy", say=jobs.say)
    assert await jobs.remove() is True


async def test_the_submitters_pod_is_waited_for(jobs):
    """Before: told to be gone while it still ran."""
    await jobs.make(jobs.job(own={"submissionMode": "K8sJobMode", "entrypoint": "true"}))
    meta = jobs.there()["metadata"]
    owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "train", "uid": meta["uid"]}
    held = {"name": "train-x7k2p", "labels": {"job-name": "train"}, "finalizers": ["example.com/held"]}
    container = {"name": "submitter", "image": "rayproject/ray:2.60.0"}
    pod = {"metadata": {**held, "ownerReferences": [owner]}, "spec": {"containers": [container]}}
    jobs.kubernetes.apply({"apiVersion": "v1", "kind": "Pod", **pod}, jobs.namespace)
    with pytest.raises(
        ClusterTimeoutError, match=r"submitter's pod train-x7k2p \(held by finalizers example.com/held\)"
    ):
        await jobs.remove(timeout=3)
    where = ("pod", "train-x7k2p", "-n", jobs.namespace, "--type=merge")
    jobs.kubernetes.kubectl("patch", *where, "-p", json.dumps({"metadata": {"finalizers": None}}))
    await jobs.soon(lambda: not jobs.left(), "end of all of it")


# -- rights ------------------------------------------------------------------------------------------------------------


class Rights:
    """A service account with the Role that we hand out, from which a right is taken away."""

    def __init__(self, jobs: Jobs) -> None:
        self.kubernetes, self.namespace = jobs.kubernetes, jobs.namespace
        self.role = next(one for one in yaml.safe_load_all(ROLE.read_text()) if one["kind"] == "Role")
        self.jobs = Jobs(jobs.kubernetes, jobs.namespace, kubeconfig=self.kubeconfig())

    def kubeconfig(self):
        return self.kubernetes.service_account_kubeconfig(self.namespace, ROLE)

    def without(self, resource: str = "", verb: str = "") -> None:
        role = copy.deepcopy(self.role)
        rules = []
        for rule in role["rules"]:
            rest = [one for one in rule["resources"] if one != resource]
            if rest:
                rules.append({**rule, "resources": rest})
            if len(rest) < len(rule["resources"]):
                rules.append({**rule, "resources": [resource], "verbs": [one for one in rule["verbs"] if one != verb]})
        assert resource == "" or len(rules) > len(role["rules"]) or rules != role["rules"], "the Role has such a right"
        role["rules"] = [rule for rule in rules if rule["verbs"]]
        self.kubernetes.apply(role, self.namespace)
        group = next(r["apiGroups"][0] for r in self.role["rules"] if not resource or resource in r["resources"])
        if resource:
            kind, _, part = resource.partition("/")
            who = f"--as=system:serviceaccount:{self.namespace}:provider"
            asked = ["auth", "can-i", verb, f"{kind}.{group}" if group else kind, who, "-n", self.namespace]
            asked += [f"--subresource={part}"] if part else []
            until(lambda: not self.may(asked), 300, f"end of the right to {verb} {resource}")

    def may(self, asked) -> bool:
        try:
            return self.kubernetes.kubectl(*asked).strip() == "yes"
        except AssertionError:
            return False


def make_ready(jobs: Jobs, cluster: str) -> None:
    """Have the head's pod look as if it ran: nobody runs it here."""
    (pod,) = [one for one in jobs.pods(cluster) if one["metadata"]["labels"]["ray.io/node-type"] == "head"]
    status = {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "podIPs": [{"ip": "127.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "x", "message": "x"}],
    }
    where = ("pod", pod["metadata"]["name"], "-n", jobs.namespace, "--subresource=status", "--type=merge")
    jobs.kubernetes.kubectl("patch", *where, "-p", json.dumps({"status": status}))


RIGHTS = [
    ("find", "rayjobs", "list"),
    ("make", "rayclusters", "create"),
    ("make", "rayjobs", "create"),
    ("make", "networkpolicies", "create"),
    ("make again", "rayjobs", "get"),
    ("mark", "rayjobs", "patch"),
    ("start", "rayjobs", "list"),
    ("start", "rayjobs", "watch"),
    ("start", "rayclusters", "list"),
    ("start", "rayclusters", "watch"),
    ("start", "pods", "list"),
    ("start", "pods", "watch"),
    ("reach", "secrets", "get"),
    ("reach", "services/proxy", "get"),
    ("watch", "rayjobs", "list"),
    ("watch", "rayjobs", "watch"),
    ("delete", "rayjobs", "get"),
    ("delete", "rayjobs", "delete"),
    ("delete", "rayjobs", "watch"),
    ("delete", "rayclusters", "list"),
    ("delete", "pods", "list"),
]


async def test_each_right_that_is_missing_is_named_and_with_all_of_them_it_works(jobs, operator):
    rights = await asyncio.to_thread(Rights, jobs)
    mine, owner = rights.jobs, jobs.owner()
    await mine.make(mine.job(owner=owner))
    (state,) = await find_jobs(mine.access, mine.namespace, owner)
    cluster = await asyncio.to_thread(jobs.cluster_of)
    handle = replace(await mine.make(mine.job(owner=owner)), name=cluster)
    start = asyncio.create_task(wait_started(mine.access, handle, StartOptions(), access="proxy", say=mine.say))
    watch = asyncio.create_task(until_interrupted(mine.access, handle))
    await mark_submitted(mine.access, handle, "s")
    await asyncio.sleep(1.5)
    assert not start.done(), start
    assert not watch.done(), watch
    assert state.name == "train"
    for task in (start, watch):
        task.cancel()
    await asyncio.gather(start, watch, return_exceptions=True)

    async def delete():
        # Held, so that there is something to watch.
        await jobs.make(jobs.job(name="held", owner=owner))
        await asyncio.to_thread(jobs.hold, "held", True)
        try:
            await mine.remove("held", owner=owner, timeout=5)
        finally:
            await asyncio.to_thread(jobs.hold, "held", False)
            await jobs.remove("held")

    steps = {
        "find": lambda: find_jobs(mine.access, mine.namespace, owner),
        "make": lambda: mine.make(mine.job(name="other", owner=owner)),
        "make again": lambda: mine.make(mine.job(owner=owner)),
        "mark": lambda: mark_submitted(mine.access, handle, "s"),
        "start": lambda: wait_started(mine.access, handle, StartOptions(), access="proxy", say=mine.say),
        "watch": lambda: until_interrupted(mine.access, handle),
        "delete": delete,
    }
    steps["reach"] = steps["start"]
    for step, resource, verb in RIGHTS:
        if (step, resource) == ("reach", "secrets"):
            await asyncio.to_thread(make_ready, jobs, cluster)
        await asyncio.to_thread(rights.without, resource, verb)
        by_ray = resource == "services/proxy"  # what answers there is Ray, or the API server in its place
        with pytest.raises(RayAuthenticationError if by_ray else KubernetesAccessError) as caught:
            async with asyncio.timeout(300):
                await steps[step]()
        text = show(caught.value)
        words = "The Kubernetes API server denies access" if by_ray else f":provider may not {verb} {resource}"
        assert words in text, (step, resource, verb, text)
        assert ("get and create services/proxy" if by_ray else "provider-role.yaml") in text
    await asyncio.to_thread(rights.without)
    assert await mine.remove(owner=owner) is True
