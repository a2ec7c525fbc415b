"""Which clusters nobody needs any more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ray_provider.clusters.lifecycle import users
from ray_provider.clusters.lifecycle.inventory import FoundCluster
from ray_provider.clusters.naming import PREFIX, owner_labels, unique_name
from ray_provider.exceptions import ConfigurationError
from ray_provider.reaper import Airflow, ReapOptions, age_text, judge, parse_age, rows
from ray_provider.terminal import columns

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
OWNER = {
    "dag_id": "team.train",
    "run_id": "manual__2026-11-25T11:00:00+00:00",
    "task_id": "setup",
    "map_index": -1,
    "airflow": "https://airflow.example.com",
}


def cluster(name: str | None = None, **changes: str) -> FoundCluster:
    """As it is found on Kubernetes: with labels, which can hold neither the run's id nor the address."""
    owner = {**OWNER, **changes}
    labels = {key.removeprefix(PREFIX): value for key, value in owner_labels(owner).items()}
    made = NOW - timedelta(hours=1)
    return FoundCluster(
        "kubernetes", name or unique_name(owner), made, labels, "ray", "release", is_named=name is not None
    )


def airflow(state: str | None, **changes: str) -> Airflow:
    owner = {**OWNER, **changes}
    runs = {(owner["dag_id"], owner["run_id"]): state} if state else {}
    return Airflow(owner["airflow"], frozenset({owner["dag_id"]}), runs)


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("found", "told", "options", "delete", "reason"),
    [
        (cluster(), airflow("success"), ReapOptions(), True, "its run has ended"),
        (cluster(), airflow("failed"), ReapOptions(), True, "its run has ended"),
        (cluster(), airflow("running"), ReapOptions(), False, "its run is running"),
        (cluster(), airflow("queued"), ReapOptions(), False, "its run is queued"),
        (cluster(), airflow(None), ReapOptions(), True, "its run was deleted"),
        (cluster(), airflow("success", dag_id="other"), ReapOptions(), False, "this Airflow has no such DAG"),
        (cluster(), airflow("success", dag_id="other"), ReapOptions(older_than=HOUR / 2), True, "older than 30m"),
        (cluster(), airflow("running"), ReapOptions(older_than=HOUR / 2), True, "older than 30m"),
        (cluster(), airflow("running"), ReapOptions(older_than=HOUR * 2), False, "its run is running"),
        (
            cluster(),
            airflow("success", airflow="https://b"),
            ReapOptions(older_than=HOUR / 2),
            False,
            "another Airflow",
        ),
        (cluster("shared"), airflow("success"), ReapOptions(older_than=HOUR / 2), False, "--named"),
        (cluster("shared"), airflow("success"), ReapOptions(named=True), True, "its run has ended"),
        (cluster(airflow=""), airflow("success"), ReapOptions(), True, "its run has ended"),
    ],
)
def test_who_is_kept_and_who_is_not(found, told, options, delete, reason):
    verdict = judge(found, told, options, NOW)
    assert verdict.delete is delete
    assert reason in verdict.reason


def used_by(until: timedelta, **changes: str) -> FoundCluster:
    entry = users.entry({**OWNER, "run_id": "manual__2", **changes}, until.total_seconds(), NOW)
    return replace(cluster(), users=tuple(users.users_of({"annotations": entry})))


@pytest.mark.parametrize(
    ("found", "state", "delete"),
    [
        (used_by(HOUR), "running", False),
        (used_by(HOUR), "success", True),
        (used_by(HOUR), None, True),
        (used_by(-HOUR), "running", True),
        (used_by(HOUR, airflow="https://b"), None, False),
        (used_by(HOUR, dag_id="unknown"), None, False),
    ],
)
def test_a_cluster_that_another_run_uses_is_kept_until_that_has_ended(found, state, delete):
    runs = {(OWNER["dag_id"], OWNER["run_id"]): "success"}
    if state:
        runs[OWNER["dag_id"], "manual__2"] = state
    told = Airflow(OWNER["airflow"], frozenset({OWNER["dag_id"]}), runs)
    verdict = judge(found, told, ReapOptions(), NOW)
    assert verdict.delete is delete
    assert ("is used by" in verdict.reason) is not delete


def test_another_run_of_the_same_dag_says_nothing_about_it():
    assert judge(cluster(), airflow("running", run_id="manual__2"), ReapOptions(), NOW).run == "gone"


def test_ages():
    assert parse_age("1d12h") == timedelta(days=1, hours=12)
    assert parse_age("90m") == timedelta(minutes=90)
    assert age_text(timedelta(days=1, hours=12, minutes=3)) == "1d12h"
    assert age_text(timedelta(seconds=0.2)) == "0s"
    for wrong in ("", "12", "2 weeks", "h", "-1h"):
        with pytest.raises(ConfigurationError, match="is no age"):
            parse_age(wrong)


def test_the_table_stands_in_columns():
    verdicts = [judge(one, airflow("success"), ReapOptions(), NOW) for one in (cluster(), cluster("shared"))]
    head, first, second = columns(rows(verdicts, NOW)).splitlines()
    assert first.index("delete") == second.index("keep") == head.index("WHY") - len("delete  ")
    assert first.startswith("ray ")
    assert " 1h " in first
