"""A real Kueue, and jobs in its queue with their pods. On a node of its own: Kueue's webhooks would outlive it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.airflow.dag_runs import Case, airflow, left
from tests.support.kubernetes import Kubernetes, own_node, until
from tests.support.kueue import Team, kueue

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    with own_node(tmp_path_factory.mktemp("node")) as found, kueue(found, tmp_path_factory.mktemp("kueue")):
        yield found


def test_the_second_of_two_runs_when_the_first_gives_its_place_back(kubernetes, tmp_path):
    with kubernetes.namespace("queues") as place, airflow(kubernetes, place, tmp_path / "airflow") as stack:
        team = Team(kubernetes, place)
        first = Case(kubernetes, place, stack, "rayjob_in_queue")
        first.printed("began")
        assert team.admitted("rayjob")
        second = Case(kubernetes, place, stack, "rayjob_in_queue")
        second.told("it waits in the queue 'team': couldn't assign flavors to pod set head: insufficient unused quota")
        assert second.job["status"]["jobDeploymentStatus"] == "Suspended"
        (pod,) = kubernetes.get("pods", "-n", place)["items"]
        assert pod["metadata"]["name"] == first.head
        assert "no effect" not in second.log(), "there is a Kueue"
        first.go()
        first.ends("success")
        second.printed("began")
        second.go()
        second.ends("success")
        for one in (first, second):
            assert "went on" in one.log().splitlines()
            assert one.log().count("Submitting job") == 1
        until(lambda: not left(kubernetes, place), 300, "the end of all")
        until(lambda: not team.workloads("rayjob"), 300, "the places given back")
