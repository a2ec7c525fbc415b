"""What Helm is told of a Ray cluster: the user's values, and what a set-up adds to them."""

from __future__ import annotations

from typing import Any

import pytest

from ray_provider.clusters.kuberay.versions import KubeRay
from ray_provider.clusters.lifecycle.spec import ClusterRequest, chart_values
from ray_provider.exceptions import ConfigurationError

OWNER = {"dag_id": "dag", "run_id": "run", "task_id": "setup", "map_index": -1}
NEW, OLD = KubeRay((1, 6, 0)), KubeRay((1, 5, 9))
#: What our chart has keys for; a foreign one has fewer.
OURS = {
    "kuberayVersion": "",
    "upgradeStrategy": {},
    "strict": False,
    "fullnameOverride": "",
    "commonLabels": {},
    "commonAnnotations": {},
    "labels": {},
}


def told(given: Any = None, kuberay: KubeRay = NEW, defaults: Any = None, labels: Any = None, **spec: Any) -> Any:
    made = ClusterRequest(values=given, **{"owner": OWNER, "name": "mine", **spec}).spec()
    return chart_values(made, kuberay, OURS if defaults is None else defaults, labels)


def test_the_cluster_carries_whose_it_is() -> None:
    values, notes = told({"head": {"x": 1}, "commonLabels": {"team": "maps"}})
    assert values["commonLabels"]["airflow-ray/dag_id"] == "dag"
    assert values["commonLabels"]["team"] == "maps"
    assert values["commonAnnotations"]
    assert values["fullnameOverride"] == "mine"
    assert values["head"] == {"x": 1}
    assert notes == [] or all(note.startswith("WARNING: ") for note in notes)


def test_a_queue_is_a_label_of_the_raycluster_and_counts_more_than_the_values() -> None:
    queue, priority = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
    values, _ = told({"labels": {queue: "other", "team": "maps"}}, local_queue="gpus", priority_class="high")
    assert values["labels"] == {queue: "gpus", "team": "maps", priority: "high"}
    values, _ = told({"labels": {queue: "other"}})
    assert values["labels"] == {queue: "other"}
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "mine", "labels": {queue: "other", "team": "maps"}},
        "spec": {"rayVersion": "2.60.0", "headGroupSpec": {}},
    }
    values, _ = told(ray_cluster_yaml=manifest, local_queue="gpus")
    assert values["labels"] == {queue: "gpus", "team": "maps"}


def test_a_cluster_of_somebody_else_keeps_its_labels() -> None:
    values, _ = told(labels={"airflow-ray/dag_id": "theirs"})
    assert values["commonLabels"] == {"airflow-ray/dag_id": "theirs"}
    assert "commonAnnotations" not in values


@pytest.mark.parametrize(("kuberay", "strategy"), [(NEW, {"type": "Recreate"}), (OLD, None)])
def test_changes_are_rolled_out_where_kuberay_can(kuberay: KubeRay, strategy: Any) -> None:
    values, _ = told(kuberay=kuberay)
    assert values.get("upgradeStrategy") == strategy
    assert values["kuberayVersion"] == kuberay.text
    values, _ = told({"upgradeStrategy": {"type": "None"}}, kuberay=NEW)
    assert values["upgradeStrategy"] == {"type": "None"}, "the user's own wins"


def test_a_chart_without_a_key_is_not_told_it() -> None:
    values, _ = told({"head": {}}, defaults={})
    assert values == {"head": {}}
    values, _ = told({"head": {}}, defaults={"fullnameOverride": "", "kuberayVersion": ""})
    assert values == {"head": {}, "fullnameOverride": "mine", "kuberayVersion": "1.6.0"}


def test_the_values_are_the_callers_to_change() -> None:
    given = {"head": {"deep": [1]}}
    values, _ = told(given)
    values["head"]["deep"].append(2)
    assert given == {"head": {"deep": [1]}}


POD = {"spec": {"containers": [{"name": "ray-head", "image": "rayproject/ray:2.60.0"}]}}
MANIFEST = {
    "apiVersion": "ray.io/v1",
    "kind": "RayCluster",
    "metadata": {"name": "of-it", "namespace": "ns"},
    "spec": {"rayVersion": "2.60.0", "headGroupSpec": {"rayStartParams": {}, "template": POD}},
}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kuberay_operator": "maybe"}, "`kuberay_operator` is 'maybe'"),
        ({"lease_seconds": 0}, "`lease_seconds` is 0"),
        ({"access": "by-air"}, "`access` is 'by-air'"),
        (
            {"name": "a", "values": {"fullnameOverride": "b"}},
            "names the cluster 'a', and `values.fullnameOverride` 'b'",
        ),
        ({"ray_cluster_yaml": MANIFEST, "chart": "other"}, "`ray_cluster_yaml` and `chart` are both given"),
        ({"ray_cluster_yaml": MANIFEST, "chart_repo": "https://x"}, "`ray_cluster_yaml` and `chart` are both given"),
        ({"ray_cluster_yaml": MANIFEST, "profile": "cpu"}, "`ray_cluster_yaml` and `profile` are both given"),
        ({"ray_cluster_yaml": MANIFEST, "name": "b"}, "names the cluster 'b', and its manifest 'of-it'"),
        ({"ray_cluster_yaml": MANIFEST, "namespace": "b"}, "says namespace 'b', and its manifest 'ns'"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ClusterRequest(owner=OWNER, **given).spec()


def test_names_come_from_the_task_the_manifest_the_values_or_the_run() -> None:
    found = ClusterRequest(owner=OWNER, ray_cluster_yaml=MANIFEST).spec()
    assert (found.name, found.namespace, found.is_named) == ("of-it", "ns", True)
    assert ClusterRequest(owner=OWNER, ray_cluster_yaml=MANIFEST, name="of-it", namespace="ns").spec().name == "of-it"
    found = ClusterRequest(owner=OWNER, values={"fullnameOverride": "given"}, namespace="mine").spec()
    assert (found.name, found.namespace, found.is_named) == ("given", "mine", True)
    unique = ClusterRequest(owner=OWNER).spec()
    assert (unique.is_named, unique.name == ClusterRequest(owner=OWNER).spec().name) == (False, True)
    assert unique.name != ClusterRequest(owner={**OWNER, "run_id": "other"}).spec().name


def test_values_count_more_than_infrastructures_and_those_more_than_a_profiles() -> None:
    found = ClusterRequest(
        owner=OWNER, profile="cpu", infrastructure_values={"a": 1, "b": {"c": 1, "d": 1}}, values={"b": {"c": 2}}
    ).spec()
    assert (found.values["a"], found.values["b"]) == (1, {"c": 2, "d": 1})
    assert set(found.values) > {"a", "b"}, "the profile's"
