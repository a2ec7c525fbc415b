"""Names that no other run has, and labels that tell whose a cluster is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_provider.clusters.naming import (
    check_name,
    describe_owner,
    label_value,
    owner_labels,
    same_owner,
    unique_name,
)
from ray_provider.exceptions import ConfigurationError


def owner(**changes):
    return {
        "dag_id": "My DAG",
        "run_id": "scheduled__2026-01-01T00:00:00+00:00",
        "task_id": "a.b",
        "map_index": -1,
        **changes,
    }


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300), st.integers(-1, 10**6))
def test_names_and_labels_are_always_allowed(dag, run, task, index):
    mine = owner(dag_id=dag, run_id=run, task_id=task, map_index=index)
    assert check_name(unique_name(mine)) == unique_name(mine)
    for value in owner_labels(mine).values():
        assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value)


def test_each_run_task_and_map_index_has_its_own_name():
    names = {
        unique_name(owner(**change))
        for change in ({}, {"run_id": "x"}, {"task_id": "y"}, {"map_index": 0}, {"dag_id": "z"})
    }
    assert len(names) == 5
    assert unique_name(owner()) == unique_name(owner())


def test_owners_are_told_apart():
    labels = owner_labels(owner())
    assert same_owner(labels, owner())
    assert not same_owner(labels, owner(run_id="other"))
    assert same_owner(labels, owner(run_id="other"), run=False)
    assert not same_owner({}, owner())
    assert describe_owner({}) == "not made by this provider"
    assert "task a.b" in describe_owner(labels)


@given(st.text(min_size=1), st.text(min_size=1))
def test_different_values_stay_different(first, second):
    assert (label_value(first) == label_value(second)) == (first == second)


@pytest.mark.parametrize("name", ["", "x" * 54, "Upper", "1digit", "ends-", "a_b"])
def test_names_that_kuberay_refuses(name):
    with pytest.raises(ConfigurationError):
        check_name(name)
