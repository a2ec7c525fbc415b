"""RayCluster manifests: taken apart, checked, and secured."""

from __future__ import annotations

import pytest

from ray_provider.clusters.manifests import parse_version, read_manifest
from ray_provider.exceptions import ConfigurationError

HEAD = {"template": {"spec": {"containers": [{"name": "ray-head", "image": "i"}]}}}


def cluster(**spec):
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "mine", "labels": {"n": 1}},
        "spec": {"rayVersion": "2.60.0", "headGroupSpec": HEAD, **spec},
    }


def test_documents_are_taken_apart(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "# a comment\n---\napiVersion: v1\nkind: Service\nmetadata: {name: '{{ name }}'}\n---\n"
        "apiVersion: ray.io/v1\nkind: RayCluster\nmetadata: {name: mine}\nspec: {headGroupSpec: {}}\n---\n"
    )
    found = read_manifest(str(path), render=lambda text: text.replace("{{ name }}", "extra"))
    assert found.name == "mine"
    assert [other["metadata"]["name"] for other in found.others] == ["extra"]
    values, _ = found.to_values((1, 6, 1))
    assert values["extraObjects"][0]["kind"] == "Service"
    assert values["fullnameOverride"] == "mine"
    assert values["headOnly"] is True


def test_a_list_is_taken_apart_too():
    items = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [cluster(), {**cluster(), "kind": "ConfigMap", "apiVersion": "v1"}],
    }
    assert len(read_manifest(items).others) == 1


@pytest.mark.parametrize(
    ("spec", "kuberay", "mode", "said"),
    [
        ({}, (1, 6, 1), "token", "token authentication is switched on"),
        ({"authOptions": {"mode": "disabled"}}, (1, 6, 1), "disabled", ""),
        ({"rayVersion": "2.9.0"}, (1, 6, 1), None, "Ray 2.9.0 can't ask for tokens"),
        ({"rayVersion": None}, (1, 6, 1), None, "no spec.rayVersion"),
        ({}, (1, 4, 2), None, "older than 1.5.1"),
    ],
)
def test_a_manifest_that_says_nothing_is_secured_where_it_can_be(spec, kuberay, mode, said):
    values, notes = read_manifest(cluster(**spec)).to_values(kuberay)
    assert values["spec"].get("authOptions", {}).get("mode") == mode
    assert said in " ".join(notes)
    if mode is None:
        assert values["authOptions"] == {"mode": "disabled"}
        assert notes[0].startswith("WARNING")


def test_the_users_own_manifest_is_not_changed():
    given = cluster()
    read_manifest(given).to_values((1, 6, 1))
    assert "authOptions" not in given["spec"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a: [", "not valid YAML"),
        ("words", "neither YAML text nor the path"),
        ("missing.yaml", "is not there"),
        (
            {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "x"}},
            "has to hold one RayCluster, and holds: RayJob",
        ),
        ({"kind": "RayCluster"}, "has no apiVersion, metadata.name"),
        ({**cluster(), "apiVersion": "v1"}, "apiVersion ray.io/v1"),
        ({**cluster(), "metadata": {"name": "x" * 54}}, "54 characters"),
        ({**cluster(), "metadata": {"name": "Mine"}}, "lower case"),
        ({**cluster(), "spec": {}}, "no spec.headGroupSpec"),
        ("- 1\n- 2\n", "no Kubernetes object"),
    ],
)
def test_what_can_not_be_installed_is_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        read_manifest(given)


def test_two_clusters_or_two_namespaces_are_refused():
    with pytest.raises(ConfigurationError, match="RayCluster, RayCluster"):
        read_manifest({"kind": "List", "items": [cluster(), cluster()]})
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "elsewhere"}}
    with pytest.raises(ConfigurationError, match="elsewhere"):
        read_manifest({"kind": "List", "items": [cluster(), other]})


def test_versions():
    assert parse_version("v1.6.1") == (1, 6, 1)
    assert parse_version("2.60") == (2, 60, 0)
    assert parse_version("nightly") is None
