"""Ready RayJobs whose job KubeRay submits, in each of its ways, with their pods; those of a module are all at once."""

from __future__ import annotations

import pytest

from tests.kubernetes.airflow.dag_runs import Case, left
from tests.support.kubernetes import Kubernetes, until

pytestmark = [pytest.mark.timeout(1200), pytest.mark.slow]

MODES = ("HTTPMode", "SidecarMode", "K8sJobMode")


def test_each_is_followed_and_leaves_nothing(kubernetes, place, stack):
    runs = {mode: Case(kubernetes, place, stack, f"rayjob_{mode.lower()}") for mode in MODES}
    for mode, run in runs.items():
        until(lambda run=run: run.job, 300, f"the RayJob in {mode}")
        assert run.job["spec"]["submissionMode"] == mode
    for mode, run in runs.items():
        run.ends("success", timeout=300)
        lines = run.log().splitlines()
        assert lines.count("first") == 1, f"{mode}: submitted once, and followed from its first line on"
        assert any(line.startswith("says hello from ") and "-head" in line for line in lines), (
            f"{mode}: on the head, not in the submitter's pod"
        )
        assert "it may run twice" in run.log()
    until(lambda: not left(kubernetes, place), 300, "the end of all, submitters' pods too")
    assert kubernetes.get("jobs", "-n", place)["items"] == []


def submitter_has_ended(kubernetes: Kubernetes, place: str, run: Case) -> bool:
    cluster = ((run.job or {}).get("status") or {}).get("rayClusterName") or "none"
    for pod in kubernetes.get("pods", "-n", place, "-l", f"ray.io/cluster={cluster}")["items"]:
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            if container["name"] == "ray-job-submitter" and "terminated" in container["state"]:
                return True
    return False


def test_a_job_of_a_second_ends_as_it_did_though_its_head_is_never_ready(kubernetes, place, stack):
    """SidecarMode: the head's pod goes without its submitter, and KubeRay says Initializing for good."""
    runs = {
        which: Case(kubernetes, place, stack, f"rayjob_short_{which}") for which in ("succeeds", "fails", "unsubmitted")
    }
    until(lambda: submitter_has_ended(kubernetes, place, runs["succeeds"]), 300, "the submitter's end", every=0.5)
    assert runs["succeeds"].job["status"]["jobDeploymentStatus"] == "Initializing"
    runs["succeeds"].ends("success", timeout=300)
    assert "says hello at once" in runs["succeeds"].log().splitlines()
    runs["fails"].ends("failed", timeout=300)
    log = runs["fails"].log()
    assert "the last words" in log.splitlines()
    assert "with exit code 3" in log
    runs["unsubmitted"].ends("failed", timeout=300)
    log = runs["unsubmitted"].log()
    assert "was not submitted: the submitter of RayJob" in log
    assert "/nowhere" in log
    until(lambda: not left(kubernetes, place), 300, "the end of all")
