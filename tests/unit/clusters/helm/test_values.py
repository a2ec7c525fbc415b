"""Values: read from where users have them, and merged by one rule."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_provider.clusters.helm.values import check_known, merge, read_values, tell_unknown
from ray_provider.exceptions import ConfigurationError

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
keys = st.sampled_from(["a", "b", "c"])
layers = st.recursive(
    st.dictionaries(keys, leaves, max_size=3),
    lambda inner: st.dictionaries(keys, leaves | inner, max_size=3),
    max_leaves=8,
)


def test_maps_are_merged_lists_replaced_and_null_kept_for_helm():
    base = {"head": {"resources": {"cpu": 1, "memory": "1Gi"}, "env": [1, 2]}, "worker": {"replicas": 1}}
    over = {"head": {"resources": {"cpu": 2}, "env": [3]}, "worker": None, "new": {"x": 1}}
    assert merge(base, over) == {
        "head": {"resources": {"cpu": 2, "memory": "1Gi"}, "env": [3]},
        "worker": None,
        "new": {"x": 1},
    }


def test_keys_that_the_chart_does_not_know_are_told_by_their_path():
    schema = json.loads(Path("helm/ray-cluster/values.schema.json").read_text())
    given = {
        "head": {"enableInTreeAutoscalin": True, "rayStartParams": {"any": 1}},
        "additionalWorkerGroups": {"gpu": {"maxReplica": 2, "podSpec": {"any": 1}}},
        "spec": {"any": 1},
    }
    told = tell_unknown(given, schema)
    assert told is not None
    assert "`head.enableInTreeAutoscalin`, `additionalWorkerGroups.gpu.maxReplica`" in told
    assert "is `head.enableInTreeAutoscaling` meant?" in told
    assert tell_unknown({"head": {"resources": {}}}, schema) is None


def test_a_relative_path_begins_at_the_dags_folder_and_then_at_the_working_directory(tmp_path, monkeypatch):
    dags, here = tmp_path / "dags", tmp_path / "here"
    for folder in (dags, here):
        folder.mkdir()
        (folder / "v.yaml").write_text(f"from: {folder.name}")
    monkeypatch.chdir(here)
    assert read_values("v.yaml", folders=[dags]) == {"from": "dags"}
    (dags / "v.yaml").unlink()
    assert read_values("v.yaml", folders=[dags]) == {"from": "here"}


@given(layers, layers)
def test_a_merge_changes_none_of_its_layers(first, second):
    before = copy.deepcopy((first, second))
    merged = merge(first, second)
    assert (first, second) == before
    _scribble(merged)
    assert (first, second) == before


def _scribble(value):
    if isinstance(value, dict):
        for one in value.values():
            _scribble(one)
        value["scribble"] = 1
    elif isinstance(value, list):
        value.append("scribble")


@given(layers, layers, layers)
def test_what_comes_later_wins(first, second, third):
    def last(*given):
        """What the last layer that has a leaf says of it."""
        merged = merge(*given)
        for path, value in _leaves(given[-1]):
            place = merged
            for key in path:
                place = place[key]
            assert place == value

    last(first, second, third)


def _leaves(value, path=()):
    for key, one in value.items():
        if isinstance(one, dict):
            yield from _leaves(one, (*path, key))
        else:
            yield (*path, key), one


def test_values_come_as_mapping_text_path_or_list(tmp_path):
    (tmp_path / "values.yaml").write_text("a: {x: 1}\nb: '{{ name }}'")
    given = [{"a": {"y": 2}}, "values.yaml", "a:\n  z: 3\n", None, ""]
    found = read_values(given, folders=[tmp_path], render=lambda text: text.replace("{{ name }}", "rendered"))
    assert found == {"a": {"x": 1, "y": 2, "z": 3}, "b": "rendered"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a: [1", r"not valid YAML in line 1, column 6: expected ',' or ']', but got '<stream end>'\."),
        ("just words", "no mapping of values"),
        ("nowhere.yaml", "is not there"),
        (17, "is of type int"),
        ({1: 2}, "a key that is no text"),
        (["a: 1", 5], r"`values\[1\]` is of type int"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_what_can_not_be_read_is_refused_with_its_place(given, message):
    with pytest.raises(ConfigurationError, match=message):
        read_values(given)


def test_an_error_of_yaml_shows_no_content():
    with pytest.raises(ConfigurationError) as caught:
        read_values("password: hunter2\n  - broken: [")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"\(not shown\)") as caught:
        read_values("password: *hunter2")
    assert "hunter2" not in str(caught.value)


def test_unknown_keys_are_refused_with_a_suggestion():
    chart = {"image": {"repository": "r", "tag": "t"}, "labels": {}, "worker": {"replicas": 1}}
    check_known({"image": {"tag": "x"}, "labels": {"anything": 1}}, chart)
    with pytest.raises(ConfigurationError, match=r"no value `image\.tga`. Did you mean `image\.tag`\?"):
        check_known({"image": {"tga": "x"}}, chart)
    check_known({"worker": {"anything": 1}}, chart, open_maps=["worker"])
