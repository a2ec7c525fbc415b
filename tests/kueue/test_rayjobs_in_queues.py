"""RunRayJob in the queues of a real Kueue: what is told while it waits, what is lost with its place, and what is not.

KubeRay and Kueue are the real ones; pods come up as far as the API server knows, and Ray's dashboard is played.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest
import yaml
from airflow.providers.common.compat.sdk import AirflowFailException

from ray_provider.operators import RunRayJob
from tests.kubernetes.clusters import HEAD_ONLY, values
from tests.kueue.conftest import ROLE
from tests.support.kubernetes import until

pytestmark = pytest.mark.timeout(300)

OPEN = values(HEAD_ONLY, authOptions={"mode": "disabled"})


@pytest.fixture
def job(kubernetes):
    """RunRayJob with what all tests here give it."""

    def make(name: str = "train", **further: Any) -> RunRayJob:
        given = {"conn_id": "c", "entrypoint": "true", "values": OPEN, "helm_path": str(kubernetes.helm4)}
        return RunRayJob(
            **{**given, "task_id": name, "name": name, "local_queue": "team", "poll_interval": 0.2, **further}
        )

    return make


@pytest.fixture
def submitted(dashboard):
    """Wait until so many jobs are there, and have the last one run."""

    def wait(count: int = 1) -> Any:
        until(lambda: len(dashboard.api.jobs) == count, 90, f"{count} jobs submitted")
        last = list(dashboard.api.jobs.values())[-1]
        last.run(b"hello\n")
        return last

    return wait


def left(kubernetes, namespace) -> list[str]:
    return kubernetes.kubectl("get", "rayjobs,rayclusters,pods", "-n", namespace, "-o", "name").split()


def test_a_free_place_is_taken_at_once_and_given_back(job, start, submitted, team, nodes, log, kubernetes, namespace):
    task = start(job(priority_class="low"))
    ray_job = submitted()
    assert team.admitted("rayjob")
    ray_job.end()
    assert task.result() == ray_job.submission_id
    assert "waits in the queue" not in log.text
    assert "no effect" not in log.text, "there is a Kueue"
    assert left(kubernetes, namespace) == []


def test_the_second_of_two_waits_for_the_place_and_its_time_does_not_run(
    job, start, submitted, team, nodes, log, kubernetes, namespace, dashboard
):
    first = start(job("first"))
    running = submitted()
    limit = 10
    second = start(job("second", start_timeout_seconds=limit, job_timeout_seconds=60))
    log.tells(f"RayJob {namespace}/second: it waits in the queue 'team': couldn't assign flavors to pod set head")
    log.tells("insufficient unused quota for cpu")
    # Longer than its start may take: what is measured is that no clock runs, so time has to pass.
    time.sleep(limit + 1)
    assert not second.done
    assert len(dashboard.api.jobs) == 1
    assert all(
        one.startswith(("rayjob.ray.io/", "raycluster.ray.io/first", "pod/first"))
        for one in left(kubernetes, namespace)
    )
    freed = time.time()
    running.end()
    assert first.result() == running.submission_id
    waited = submitted(2)
    began = kubernetes.get("rayjob", "second", "-n", namespace)["status"]["startTime"]
    # KubeRay's own deadlines begin with it.
    assert datetime.fromisoformat(began).timestamp() >= int(freed)
    waited.end()
    assert second.result() == waited.submission_id
    assert left(kubernetes, namespace) == []


def test_a_queue_that_is_not_there_fails_at_once_in_kueues_words(job, start, team, kubernetes, namespace):
    began = time.monotonic()
    with pytest.raises(AirflowFailException, match=r"by the queue 'nosuch': LocalQueue nosuch doesn't exist\."):
        start(job(local_queue="nosuch")).result()
    assert time.monotonic() - began < 30
    assert left(kubernetes, namespace) == []


@pytest.mark.parametrize("how", ["preempted", "deactivated"])
def test_a_job_whose_place_is_taken_away_waits_and_is_submitted_again_under_its_id(
    job, start, submitted, team, nodes, log, dashboard, namespace, how
):
    task = start(job(priority_class="low"))
    first = submitted()
    if how == "preempted":
        team.rival("high")
    else:
        team.deactivate("rayjob")
    log.tells(f"Kueue took the place of RayJob {namespace}/train in the queue 'team' away")
    assert ("(Preempted: Preempted to accommodate a workload" if how == "preempted" else "(Deactivated: ") in log.text
    # With the cluster its jobs are gone.
    dashboard.loop.call_soon_threadsafe(dashboard.api.restart)
    log.tells(f"RayJob {namespace}/train: it waits in the queue 'team'")
    assert not task.done
    if how == "preempted":
        team.rival_leaves()
    else:
        team.deactivate("rayjob", active=True)
    again = submitted()
    assert again is not first
    assert again.submission_id == first.submission_id
    again.end()
    assert task.result() == first.submission_id
    assert dashboard.api.count["POST /api/jobs/"] == 2


class TestWithoutTheRightToRead:
    """The account may not read what Kueue says."""

    @pytest.fixture
    def role(self) -> str:
        rules = list(yaml.safe_load_all(ROLE.read_text()))
        for one in rules:
            if one["kind"] == "Role":
                before = len(one["rules"])
                one["rules"] = [rule for rule in one["rules"] if rule["apiGroups"] != ["kueue.x-k8s.io"]]
                assert len(one["rules"]) == before - 1
        return yaml.safe_dump_all(rules)

    def test_it_waits_all_the_same_and_the_right_is_named(self, job, start, submitted, team, nodes, log):
        team.rival("high")
        until(team.admitted, 30, "the rival's admission")
        task = start(job(priority_class="low"))
        log.tells("it waits in the queue 'team': what Kueue says can't be read")
        log.tells("may not list workloads.kueue.x-k8s.io in namespace")
        team.rival_leaves()
        submitted().end()
        task.result()
