"""RayCluster manifests: taken apart, checked, and secured."""

from __future__ import annotations

import re

import pytest

from ray_provider import operators
from ray_provider.clusters.kuberay.manifests import parse_version, read_manifest
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
        "apiVersion: ray.io/v1\nkind: RayCluster\nmetadata: {name: mine}\nspec: {rayVersion: 2.60.0, headGroupSpec: {}}\n---\n"
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
        ({}, (1, 4, 2), None, "older than 1.5.1"),
        ({"rayVersion": None}, (1, 4, 2), None, "older than 1.5.1"),
    ],
)
def test_a_manifest_that_says_nothing_is_secured_where_it_can_be(spec, kuberay, mode, said):
    values, notes = read_manifest(cluster(**spec)).to_values(kuberay)
    assert values["spec"].get("authOptions", {}).get("mode") == mode
    assert said in " ".join(notes)
    if mode is None:
        assert values["authOptions"] == {"mode": "disabled"}
        assert notes[0].startswith("WARNING")


def with_image(image: str, env: list | None = None, **spec):
    container = {"name": "ray-head", "image": image, "env": env or []}
    return cluster(headGroupSpec={"template": {"spec": {"containers": [container]}}}, **spec)


@pytest.mark.parametrize("said", [None, "", "nightly"])
@pytest.mark.parametrize(
    "image", ["rayproject/ray:2.60.0-py312", "registry.example.com:5000/team/train:2.60.0", "rayproject/ray-ml:2.60.0"]
)
def test_a_manifest_without_a_version_has_that_of_its_heads_image(said, image):
    values, notes = read_manifest(with_image(image, rayVersion=said)).to_values((1, 6, 1))
    assert values["spec"]["rayVersion"] == "2.60.0"
    assert values["spec"]["authOptions"] == {"mode": "token"}
    assert "as the tag of the head's image says" in notes[0]


@pytest.mark.parametrize(
    "image",
    ["train:1.1.2", "train:2026.3.1", "team/train:3.4.0", "train", "train:latest", "host:5000/train",
     "train@sha256:" + "0" * 64],
)  # fmt: skip
def test_a_manifest_of_which_nobody_can_tell_is_closed_or_refused(image):
    found = read_manifest(with_image(image, rayVersion=None))
    with pytest.raises(ConfigurationError, match="does not say which Ray it is") as caught:
        found.to_values((1, 6, 1))
    assert "authOptions.mode: disabled" in str(caught.value)
    # Switched off by name, in the manifest or beside it.
    values, _ = read_manifest(with_image(image, rayVersion=None, authOptions={"mode": "disabled"})).to_values((1, 6, 1))
    assert values["spec"]["authOptions"] == {"mode": "disabled"}
    values, _ = found.to_values((1, 6, 1), auth_is_said=True)
    assert "authOptions" not in values


@pytest.mark.parametrize(
    ("env", "exposed"),
    [
        ({"name": "RAY_AUTH_MODE", "value": "token"}, False),
        ({"name": "RAY_AUTH_MODE", "value": "disabled"}, True),
        ({"name": "RAY_ENABLE_K8S_TOKEN_AUTH", "value": "true"}, False),
    ],
)
def test_authentication_by_the_environment_is_left_alone(env, exposed):
    given = with_image("rayproject/ray:2.60.0", [env])
    given["spec"]["headGroupSpec"]["serviceType"] = "LoadBalancer"
    values, notes = read_manifest(given).to_values((1, 6, 1))
    assert "authOptions" not in values["spec"]
    assert values["authOptions"] == {"mode": "disabled"}
    assert env["name"] in notes[0]
    assert values.get("allowUnauthenticatedExposure", False) is exposed


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("rayVersion",), "${RAY_VERSION}", "spec.rayVersion is '${RAY_VERSION}'"),
        (("workerGroupSpecs",), [{"groupName": "g", "replicas": "${N:-1}"}], "spec.workerGroupSpecs[0].replicas"),
        (("headGroupSpec", "serviceType"), "<type>", "spec.headGroupSpec.serviceType is '<type>'"),
        (("headGroupSpec", "serviceType"), "{{ .Values.type }}", "spec.headGroupSpec.serviceType"),
    ],
)
def test_what_was_not_filled_in_is_named_by_its_place(where, value, said):
    given = with_image("rayproject/ray:2.60.0")
    place = given["spec"]
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises(ConfigurationError, match="is not filled in") as caught:
        read_manifest(given)
    assert said in str(caught.value)


def test_only_what_a_shell_or_a_program_reads_may_look_like_a_placeholder():
    env = [{"name": "URL", "value": "${HOME}/<x>"}]
    given = with_image("rayproject/ray:2.60.0", env)
    given["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["args"] = ["echo ${HOME} > /tmp/x <y>"]
    assert read_manifest(given).name == "mine"


def test_a_helm_template_is_named_by_its_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("apiVersion: ray.io/v1\nkind: RayCluster\nspec:\n  rayVersion: {{ .Values.image.tag }}\n")
    with pytest.raises(ConfigurationError, match=r"line 4 \(rayVersion\) has \{\{ .Values.image.tag \}\}"):
        read_manifest(str(path), render=lambda text: 1 / 0)


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


def test_the_way_out_for_another_kind_names_an_operator_that_there_is():
    """Before: RayJobOperator."""
    with pytest.raises(ConfigurationError) as refused:
        read_manifest({"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "x"}})
    named = re.findall(r"\b(?:Run|Submit|Setup|Delete|Ray)[A-Z]\w+", str(refused.value.hint))
    assert "RunRayJob" in named
    assert all(hasattr(operators, name) for name in named if name != "RayJob")


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
