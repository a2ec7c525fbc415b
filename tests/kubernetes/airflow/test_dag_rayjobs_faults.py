"""What goes wrong with jobs in clusters of their own, by DAGs on real Airflow components and a real node."""

from __future__ import annotations

import pytest

from ray_provider.testing import AirflowStack
from tests.kubernetes.airflow.dag_runs import Case, left
from tests.support.kubernetes import Kubernetes, until

pytestmark = [pytest.mark.timeout(1200), pytest.mark.slow]


def started(kubernetes: Kubernetes, place: str, stack: AirflowStack, **dags: str) -> dict[str, Case]:
    """Start a run for each fault; they go on while the tests look at them one by one.

    Not more than three: a head whose agents do not come up within 15 s ends, and two busy CPUs start no six in time.
    """
    return {name: Case(kubernetes, place, stack, dag) for name, dag in dags.items()}


@pytest.fixture(scope="module")
def runs(kubernetes: Kubernetes, place: str, stack: AirflowStack) -> dict[str, Case]:
    """Those of the first tests."""
    return started(
        kubernetes, place, stack, lost="rayjob_waiting", too_long="rayjob_too_long", pending="rayjob_pending"
    )


@pytest.fixture(scope="module")
def more_runs(kubernetes: Kubernetes, place: str, stack: AirflowStack) -> dict[str, Case]:
    """Those of the last ones."""
    return started(
        kubernetes, place, stack, cleared="rayjob_waiting", triggerer="rayjob_waiting", operator="rayjob_waiting"
    )


def test_a_lost_head_is_told_and_the_job_is_not_repeated(kubernetes, place, runs):
    lost = runs["lost"]
    lost.printed("began")
    kubernetes.kubectl("delete", "pod", lost.head, "-n", place, "--grace-period=0", "--force")
    lost.ends("failed")
    log = lost.log()
    assert "was lost: the Ray head restarted while it ran" in log
    assert log.splitlines().count("began") == 1
    until(lost.is_gone, 300, "the end of the RayJob")


def test_a_job_that_takes_too_long_is_stopped_with_its_cluster(runs):
    long = runs["too_long"]
    long.ends("failed")
    assert "did not end before its deadline and was stopped" in long.log()
    assert "job_timeout_seconds" in long.log()
    until(long.is_gone, 300, "the end of the RayJob")


def test_a_job_that_gets_no_resources_says_what_it_asks_for(runs):
    pending = runs["pending"]
    pending.ends("failed")
    log = pending.log()
    assert "is PENDING for" in log
    assert "Its entrypoint asks for 8 GPU" in log
    assert "waited for resources until its deadline and was ended: it never ran" in log
    until(pending.is_gone, 300, "the end of the RayJob")


def test_a_cleared_task_gets_a_new_rayjob_and_the_old_one_goes_first(stack, more_runs):
    cleared = more_runs["cleared"]
    cleared.printed("began")
    before = cleared.job["metadata"]["name"]
    stack.client.clear(cleared.dag, cleared.run, ["job"])
    cleared.printed("began", try_number=2)
    assert cleared.job["metadata"]["name"] != before
    cleared.go()
    cleared.ends("success")
    assert "went on" in cleared.log(2).splitlines()
    until(cleared.is_gone, 300, "the end of the RayJob")


def test_a_job_outlives_its_triggerer(stack, more_runs):
    case = more_runs["triggerer"]
    case.printed("began")
    stack.kill_component("triggerer")
    stack.start_component("triggerer")
    case.go()
    case.ends("success")
    assert "went on" in case.log().splitlines()
    assert case.log().count("Submitting job") == 1
    until(case.is_gone, 300, "the end of the RayJob")


def test_a_job_ends_well_while_the_operator_is_away(kubernetes, place, more_runs):
    """The last test here: nothing ends without the operator."""
    case = more_runs["operator"]
    case.printed("began")
    with kubernetes.operator_stopped():
        case.go()
        case.printed("went on")
        case.told("Deleting RayJob")
        assert case.job is not None, "KubeRay's finalizer holds it"
    case.ends("success")
    assert left(kubernetes, place) == []
