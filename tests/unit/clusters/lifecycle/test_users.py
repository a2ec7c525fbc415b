"""Who uses a cluster, as it stands on its RayCluster; and whether a name was chosen, as it was recorded."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from ray_provider.clusters.lifecycle import users
from ray_provider.clusters.naming import owner_annotations, unique_name, was_named

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def owner(run: str = "manual__1", task: str = "setup", **changes):
    return {"dag_id": "dag", "run_id": run, "task_id": task, "map_index": -1, "airflow": "https://a", **changes}


def meta(*entries: dict[str, str]) -> dict:
    return {"annotations": {key: value for one in entries for key, value in one.items()}}


def test_each_task_has_an_entry_of_its_own_that_ends():
    both = meta(users.entry(owner(), 60.0, NOW), users.entry(owner(map_index=3), None, NOW))
    found = {user.owner.get("map_index"): user for user in users.users_of(both)}
    assert users.is_recorded(both)
    assert [found[None].counts(NOW + timedelta(seconds=s)) for s in (59, 60, 61)] == [True, False, False]
    assert found["3"].counts(NOW + timedelta(days=9999))
    assert all(user.is_of_run(owner(task="other")) for user in found.values())
    assert not any(user.is_of_run(owner(airflow="https://b")) for user in found.values())
    # A mapped or renewed entry takes no other's place.
    assert len({users.entry_key(one) for one in (owner(), owner(map_index=0), owner("manual__2"))}) == 3
    assert users.entry_key(owner(map_index="-1")) == users.entry_key(owner(map_index=None)) == users.entry_key(owner())
    # It has to fit into an annotation's name.
    assert len(users.entry_key(owner("x" * 250)).partition("/")[2]) <= 63


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"until": 5}', '{"until": "yesterday"}', "{}"])
def test_what_can_not_be_read_keeps_the_cluster(text):
    (user,) = users.users_of({"annotations": {f"{users._ENTRY}x": text}})
    assert user.counts(datetime.max.replace(tzinfo=UTC))


def test_an_entry_is_renewed_when_a_quarter_of_its_time_is_over():
    def at(age: float) -> dict[str, str]:
        return users.renewed(meta(users.entry(owner(), 1000.0, datetime.now(tz=UTC) - timedelta(seconds=age))), owner())

    assert at(200) == {}
    again = json.loads(at(300)[users.entry_key(owner())])
    assert datetime.fromisoformat(again["until"]) > datetime.now(tz=UTC) + timedelta(seconds=990)
    # It says for whom it was made, then as before.
    of_job = meta(users.entry({**owner(), "rayjob": "train"}, 1000.0, datetime.now(tz=UTC) - timedelta(seconds=300)))
    assert json.loads(users.renewed(of_job, owner())[users.entry_key(owner())])["rayjob"] == "train"
    # One that was taken away does not come back, and one without an end needs no renewal.
    assert users.renewed(meta(), owner()) == {}
    assert users.renewed(meta(users.entry(owner(), None)), owner()) == {}


def test_a_name_counts_as_chosen_by_what_was_recorded_and_not_by_its_form():
    looks_made_up = "ray-train-0123456789"
    assert was_named(looks_made_up, {**owner(), "named": "true"})
    assert not was_named("nightly", {**owner(), "named": "false"})
    # An older release recorded only the owner: then the name is its own, or was chosen.
    before = {key.removeprefix("airflow-ray/"): text for key, text in owner_annotations(owner()).items()}
    assert not was_named(unique_name(owner()), before)
    assert was_named(looks_made_up, before)
    assert was_named(unique_name(owner()), {})
