"""Which infrastructure nobody needs any more, and which can be deleted from here."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.cloud.marks import Marks, owner_tags, run_tags, state_tags
from ray_provider.infrastructure.cloud.presence import CloudClusterFacts
from ray_provider.infrastructure.terraform.state import StateResource, StateView
from ray_provider.infrastructure_reaper import Found, Place, Runs, judge, problem_of, refuse_unreadable, rows
from ray_provider.terminal import columns

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
HERE = "https://airflow.example.com"
OWNER = {"airflow": HERE, "dag": "team.train", "task": "infrastructure"}
RUN = "manual__2026-11-27T11:00:00+00:00"
S3 = {"type": "s3", "bucket": "states", "key": "ray/terraform.tfstate", "region": "eu-west-1"}


def found(
    ends: datetime | None = NOW - HOUR, *, module: str = "eks", backend: dict[str, Any] | None = None, **changes: Any
) -> Found:
    owner = {**OWNER, **{key: value for key, value in changes.items() if key in OWNER}}
    tags = {**owner_tags(owner, "ray"), **state_tags(module, backend or S3, None), **run_tags(RUN, ends, "1.0.0")}
    marks = Marks.read(tags)
    assert marks is not None
    cluster = CloudClusterFacts(
        "ray", "eu-west-1", changes.get("status", "ACTIVE"), "https://A.eks", tags, NOW - 5 * HOUR, "arn:x"
    )
    return Found(Place("aws", "eu-west-1"), cluster, marks)


def runs(state: str | None) -> Runs:
    return Runs(HERE, {("team.train", RUN): state} if state else {})


@pytest.mark.parametrize(
    ("one", "told", "older_than", "delete", "reason"),
    [
        (found(), runs("success"), None, True, "its time ended 1h ago"),
        (found(), runs(None), None, True, "its time ended 1h ago"),
        (found(NOW + HOUR), runs("success"), None, False, "needed for another 1h"),
        (found(), runs("running"), None, False, "the run that set it up is running"),
        (found(), runs("queued"), None, False, "the run that set it up is queued"),
        (found(None), runs(None), None, False, "it has no end"),
        (found(None), runs(None), 4 * HOUR, True, "older than 4h"),
        (found(None), runs(None), 6 * HOUR, False, "it has no end"),
        (found(airflow="https://other"), runs(None), 4 * HOUR, False, "another Airflow (https://other)"),
        (found(airflow=""), runs(None), None, True, "its time ended"),
        (found(status="DELETING"), runs(None), 4 * HOUR, False, "being deleted"),
        (found(status="FAILED"), runs("failed"), None, True, "its time ended"),
    ],
)
def test_whose_time_is_over(one: Found, told: Runs, older_than: timedelta | None, delete: bool, reason: str) -> None:
    verdict = judge(one, told, older_than, NOW)
    assert (verdict.delete, reason in verdict.reason) == (delete, True), verdict.reason
    shown = columns(rows([verdict], NOW))
    assert "team.train" in shown
    assert "s3 states/ray/terraform.tfstate" in shown
    assert RUN in shown


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (found(module="/opt/my-module"), "/opt/my-module is not bundled"),
        (found(module="gke"), "gke is not bundled"),
        (found(backend={"type": "http", "address": "https://states"}), "a backend of the type http"),
        (found(backend={"type": "local", "path": "/nowhere/terraform.tfstate"}), "another machine's disk"),
    ],
)
def test_what_can_not_be_deleted_by_its_tags(one: Found, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        refuse_unreadable(one)


def test_tags_do_not_say_where_credentials_go() -> None:
    one = found()
    forged = replace(one, marks=replace(one.marks, backend={**S3, "endpoints": {"s3": "https://evil"}}))
    with pytest.raises(ConfigurationError, match="endpoints"):
        refuse_unreadable(forged)


def state(guard: bool = False, **values: Any) -> StateView:
    cluster = {"name": "ray", "region": "eu-west-1", "arn": "", "endpoint": "https://a.eks/", **values}
    return StateView(
        resources=(
            StateResource("aws_eks_cluster.this", "aws_eks_cluster", values=cluster),
            StateResource("terraform_data.deletion_guard", "terraform_data", values={"input": guard}),
        )
    )


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        (state(), None),
        (state(endpoint=None), None),
        (state(guard=True), "it is protected"),
        (StateView(), "does not hold it"),
        (state(region="us-east-1"), "does not hold it"),
        (state(name="other"), "does not hold it"),
        (state(endpoint="https://b.eks"), "does not hold it"),
    ],
)
def test_the_state_is_that_of_this_cluster(what: StateView, problem: str | None) -> None:
    said = problem_of(found(), what)
    assert (said is None) if problem is None else (problem in str(said))
