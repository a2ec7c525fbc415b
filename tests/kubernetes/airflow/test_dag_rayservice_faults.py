"""What goes wrong while a DAG updates a RayService, on real Airflow components and a real node, with a client in the cluster.

All rows are about one service, which the first one finds deployed; each leaves it serving. What our code does of each fault
is shown in ``make test`` by tests/apiserver, where a test plays KubeRay: each row says by which one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import yaml

from ray_provider.testing import AirflowStack
from tests.kubernetes.airflow.dag_runs import left
from tests.support.kubernetes import Kubernetes, until
from tests.support.logs import begun_log
from tests.support.pod_client import PodClient

pytestmark = [pytest.mark.timeout(1200), pytest.mark.slow]

DEPLOYING = "Application 'shop': DEPLOYING"


class Shop:
    """The service, and the client that calls it."""

    def __init__(self, kubernetes: Kubernetes, place: str, stack: AirflowStack, client: PodClient) -> None:
        self.kubernetes, self.place, self.stack, self.client = kubernetes, place, stack, client

    def run(self, word: str, **conf: Any) -> str:
        """Start a run that deploys this word."""
        run = f"{word}-{time.time():.0f}"
        return self.stack.client.trigger_run("shop", run_id=run, conf={"word": word, **conf})

    def log(self, run: str, try_number: int = 1) -> str:
        return begun_log(self.stack.client, "shop", run, "deploy", try_number=try_number)

    def told(self, run: str, text: str, *, count: int = 1, try_number: int = 1) -> None:
        until(lambda: self.log(run, try_number).count(text) >= count, 300, f"{text!r} in the log of {run}", every=1)

    def ends(self, run: str, state: str) -> None:
        self.stack.client.wait_run("shop", run, state=state, timeout=400)

    def waits(self, run: str, *, try_number: int = 1) -> None:
        """Wait until the new version has been sent to Serve, whose replica waits to be let go."""
        self.told(run, DEPLOYING, try_number=try_number)

    def let_go(self, word: str) -> None:
        """Let the version with this word start: it waits for a file in its head's pod."""
        for pod in self.heads():
            self.kubernetes.kubectl("exec", pod, "-n", self.place, "--", "touch", f"/tmp/{word}")

    def heads(self) -> list[str]:
        """The names of the heads' pods that are not on their way out."""
        found = self.kubernetes.get("pods", "-n", self.place, "-l", "ray.io/node-type=head")["items"]
        return [pod["metadata"]["name"] for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def status(self) -> dict[str, Any]:
        return dict(self.kubernetes.get("rayservice", "shop", "-n", self.place)["status"])

    def application(self) -> str:
        """What KubeRay says of the application."""
        told = self.status()["activeServiceStatus"].get("applicationStatuses") or {}
        return str(told.get("shop", {}).get("status"))

    def active(self) -> str:
        return str(self.status()["activeServiceStatus"]["rayClusterName"])

    def clusters(self) -> list[str]:
        """Names and uids: one that was made anew is another one."""
        found = self.kubernetes.get("rayclusters", "-n", self.place)["items"]
        return [f"{one['metadata']['name']} {one['metadata']['uid']}" for one in found]

    def wanted(self) -> str:
        """What the RayService says is to be served."""
        spec = self.kubernetes.get("rayservice", "shop", "-n", self.place)["spec"]
        return str(spec["serveConfigV2"])

    def lost(self) -> list[str]:
        """The requests that failed; with them, when KubeRay took the head out of the service, or put it back."""
        failures = self.client.failures()
        if failures:
            events = self.kubernetes.get("events", "-n", self.place)["items"]
            told = [one for one in events if one["reason"] == "UpdatedHeadPodServeLabel"]
            failures += [f"{one['firstTimestamp']} to {one['lastTimestamp']}: {one['message']}" for one in told]
        return failures

    def word(self) -> str:
        """The word of what the RayService says is to be served."""
        return str(yaml.safe_load(self.wanted())["applications"][0]["args"]["word"])


@pytest.fixture(scope="module")
def shop(kubernetes: Kubernetes, place: str, stack: AirflowStack) -> Iterator[Shop]:
    """Deployed by a first run; a task deletes it in the end."""
    run = stack.client.trigger_run("shop", run_id="first", conf={"word": "one"})
    stack.client.wait_run("shop", run, state="success", timeout=400)
    with PodClient(kubernetes, place, {"shop": ("shop-serve-svc", 8000, "/")}) as client:
        client.hears("one")
        yield Shop(kubernetes, place, stack, client)
    gone = stack.client.trigger_run("shop_gone")
    stack.client.wait_run("shop_gone", gone, state="success", timeout=300)
    until(lambda: not left(kubernetes, place), 300, "the end of all")


# For test_two_deploys_at_once_end_as_one_of_them_and_the_other_leaves_it_alone (apiserver/test_rayservices.py).
def test_of_two_runs_at_once_the_later_one_counts_and_the_other_says_so(shop):
    before, first = shop.clusters(), shop.run("late-two")
    shop.waits(first)
    second = shop.run("three")
    shop.ends(second, "success")
    shop.ends(first, "failed")
    log = shop.log(first)
    assert f"Somebody else has changed the RayService {shop.place}/shop since this task wrote it" in log
    # By when it hears of it: while the other one is at work, or when that has ended.
    ends = (f"A deploy of run {second} has taken its place since: that is", "the RayService is about: it is")
    assert any(f"{end} left as it is." in log for end in ends), log
    assert f"A deploy of run {first} is at work on it" in shop.log(second)
    shop.client.hears("three")
    assert shop.clusters() == before
    assert shop.lost() == []


# For test_a_kill_while_deferred_puts_an_update_back_and_a_triggerer_that_stops_does_not[failed].
def test_a_task_marked_failed_while_its_update_waits_puts_the_version_before_back(shop):
    before, word, run = shop.clusters(), shop.word(), shop.run("late-four")
    shop.waits(run)
    until(lambda: shop.application() == "DEPLOYING", 300, "the update in KubeRay's words", every=1)
    shop.stack.client.set_state("shop", run, "deploy", "failed")
    until(lambda: shop.word() == word, 300, "the spec of the version before")
    shop.ends(run, "failed")
    shop.told(run, "The task was ended: the deploy of RayService")
    shop.told(run, "The version before was put back, in the cluster")
    # Until Serve has built the former application again, one that becomes healthy would have the traffic.
    until(lambda: shop.application() == "RUNNING", 300, "the former application", every=1)
    shop.let_go("late-four")
    time.sleep(5)
    shop.client.hears(word)
    assert "late-four" not in shop.client.counts()["shop new"].answers
    assert shop.clusters() == before
    assert shop.lost() == []


# For the same, [deferred], and test_a_retry_takes_over_what_a_worker_left_and_knows_the_way_back (test_rayservices.py).
def test_an_update_outlives_that_its_task_is_cleared_and_its_triggerer_killed(shop):
    before, run = shop.clusters(), shop.run("late-five")
    shop.waits(run)
    shop.stack.client.clear("shop", run, ["deploy"])
    shop.waits(run, try_number=2)
    assert "It is as it should be: nothing to change." in shop.log(run, 2)
    shop.stack.kill_component("triggerer")
    shop.stack.start_component("triggerer")
    shop.told(run, DEPLOYING, count=2, try_number=2)
    assert shop.word() == "late-five"
    shop.let_go("late-five")
    shop.ends(run, "success")
    assert "The smoke test of 'shop' passed" in shop.log(run, 2)
    shop.client.hears("late-five")
    assert shop.clusters() == before
    assert shop.lost() == []


# For test_a_retry_takes_over_what_a_worker_left_and_knows_the_way_back (test_rayservices.py).
def test_a_worker_killed_in_the_middle_of_an_update_leaves_it_to_the_next_try(shop):
    before, word, run = shop.clusters(), shop.word(), shop.run("late-six", on_worker=True)
    shop.waits(run)
    psutil.Process(shop.stack.client.task_instance("shop", run, "deploy")["pid"]).kill()
    shop.ends(run, "failed")
    # Nobody could put it back, and nobody has: what served goes on.
    assert shop.word() == "late-six"
    shop.client.hears(word)
    shop.stack.client.clear("shop", run, ["deploy"])
    shop.waits(run, try_number=2)
    assert "It is as it should be: nothing to change." in shop.log(run, 2)
    shop.let_go("late-six")
    shop.ends(run, "success")
    shop.client.hears("late-six")
    assert shop.clusters() == before
    assert shop.lost() == []


# For test_the_next_run_updates_it_in_place_and_a_failure_puts_all_of_it_back (test_rayservices.py), with another cause.
def test_a_deploy_that_no_operator_looks_at_says_so_and_what_serves_goes_on(kubernetes, shop):
    before, word = shop.clusters(), shop.word()
    with kubernetes.operator_stopped():
        run = shop.run("seven")
        shop.ends(run, "failed")
        log = shop.log(run)
        assert f"No KubeRay operator has taken notice of the RayService {shop.place}/shop" in log
        assert f"The version before was put back, in the cluster {shop.active()}." in log
        assert shop.word() == word
        shop.client.hears(word)
    time.sleep(5)  # in which the operator does what it would do of it
    shop.client.hears(word)
    assert "seven" not in shop.client.counts()["shop new"].answers
    assert shop.clusters() == before
    assert shop.lost() == []


# For nothing in make test: only a real head can be lost. The last row: its client counts an outage.
def test_a_deploy_whose_former_head_is_lost_in_the_middle_ends_well(kubernetes, shop):
    former, head = shop.active(), shop.heads()
    run = shop.run("late-eight", version="2")
    pending = until(
        lambda: (shop.status().get("pendingServiceStatus") or {}).get("rayClusterName"), 300, "a second one"
    )
    shop.waits(run)
    lost = time.time()
    kubernetes.kubectl("delete", "pod", *head, "-n", shop.place, "--grace-period=0", "--force")
    until(shop.client.failures, 300, "an outage that the client counts", every=1)
    shop.let_go("late-eight")
    shop.ends(run, "success")
    assert shop.active() == pending != former
    shop.client.hears("late-eight", by="new")
    by_new = shop.client.counts()["shop new"]
    print(f"the traffic came back {by_new.first['late-eight'] - lost:.1f} s after the head was lost")
    failed = by_new.failed
    time.sleep(3)
    assert shop.client.counts()["shop new"].failed == failed, "the outage is over"
    assert all(at >= lost - 0.5 for at, _ in by_new.failures)
