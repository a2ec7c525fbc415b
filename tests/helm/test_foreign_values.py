"""Values and specs as they come from elsewhere: numbers as text, defaults left to the definition, templates."""

from __future__ import annotations

import pytest

from ray_provider.clusters.kuberay.manifests import read_manifest

GROUP = {"containers": [{"name": "ray", "image": "rayproject/ray:2.60.0"}]}


def test_text_that_is_a_number_or_a_boolean_counts_as_one_where_one_is_wanted(helm):
    cluster = helm.template(
        {
            "head": {"enableInTreeAutoscaling": "true", "autoscalerOptions": {"idleTimeoutSeconds": "60"}},
            "worker": {"replicas": "2", "minReplicas": "1", "maxReplicas": "4", "disabled": "false"},
            "additionalWorkerGroups": {"off": {"disabled": "true"}},
            "networkPolicy": {"headPorts": ["8265"]},
        }
    ).cluster
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 1, 4)
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] == 60


def test_a_sample_of_kai_scheduler_passes_as_it_is(helm):
    """KubeRay's sample: the queue is a label of the RayCluster, and a group says no more than its minimum."""
    image = {"name": "ray", "image": "rayproject/ray:2.55.0"}
    template = {"spec": {"schedulerName": "kai-scheduler", "containers": [image]}}
    queue = {"kai.scheduler/queue": "team-a"}
    sample = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "team-queue", "labels": queue},
        "spec": {
            "rayVersion": "2.55.0",
            "headGroupSpec": {"template": template},
            "workerGroupSpecs": [{"groupName": "worker", "replicas": 2, "minReplicas": 2, "template": template}],
        },
    }
    values, _ = read_manifest(sample).to_values((1, 6, 1))
    made = helm.template(values).one("RayCluster")
    assert made["metadata"]["labels"].items() >= queue.items()
    (group,) = made["spec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2147483647)
    assert group["template"]["spec"]["schedulerName"] == "kai-scheduler"


def test_text_stays_text_in_environment_labels_annotations_and_tags(helm):
    text = {"replicas": "2", "suspend": "true"}
    objects = helm.template(
        {
            "image": {"tag": "2.60.0"},
            "podLabels": text,
            "podAnnotations": text,
            "head": {
                "containerEnv": [{"name": "suspend", "value": "true"}, {"name": "replicas", "value": "2"}],
                "nodeSelector": text,
                "rayStartParams": {"num-cpus": "0", "suspend": "true"},
            },
        }
    )
    head = objects.cluster["headGroupSpec"]
    meta, pod = head["template"]["metadata"], head["template"]["spec"]
    assert {key: meta["labels"][key] for key in text} == text
    assert meta["annotations"] == text
    assert pod["nodeSelector"] == text
    assert head["rayStartParams"] == {"num-cpus": "0", "suspend": "true"}
    assert [one["value"] for one in pod["containers"][0]["env"]] == ["true", "2"]


def test_a_ready_spec_says_of_replicas_what_the_definition_would_and_of_its_version_what_its_image_does(helm):
    groups = [
        {"groupName": "a", "replicas": 4, "template": {"spec": GROUP}},
        {"groupName": "b", "replicas": "2", "minReplicas": "2", "template": {"spec": GROUP}},
    ]
    spec = {"headGroupSpec": {"template": {"spec": GROUP}}, "workerGroupSpecs": groups}
    cluster = helm.template({"spec": spec}).cluster
    first, second = cluster["workerGroupSpecs"]
    assert (first["replicas"], first["minReplicas"], first["maxReplicas"]) == (4, 0, 2147483647)
    assert (second["replicas"], second["minReplicas"], second["maxReplicas"]) == (2, 2, 2147483647)
    assert (cluster["rayVersion"], cluster["authOptions"]) == ("2.60.0", {"mode": "token"})


@pytest.mark.parametrize("own", [True, False], ids=["values", "spec"])
def test_authentication_by_the_environment_is_left_alone(helm, own):
    env = [{"name": "RAY_AUTH_MODE", "value": "token"}]
    container = {**GROUP["containers"][0], "env": env}
    spec = {
        "rayVersion": "2.60.0",
        "headGroupSpec": {"serviceType": "LoadBalancer", "template": {"spec": {"containers": [container]}}},
    }
    given = {"head": {"containerEnv": env}, "service": {"type": "LoadBalancer"}} if own else {"spec": spec}
    cluster = helm.template({**given, "headOnly": True, "worker": {"disabled": True}}).cluster
    assert "authOptions" not in cluster


def test_what_is_common_is_in_all_groups_below_their_own(helm):
    own = {"name": "log-volume", "emptyDir": {"sizeLimit": "1Gi"}}
    cluster = helm.template(
        {
            "common": {
                "volumes": [{"name": "data", "emptyDir": {}}, {"name": "log-volume", "emptyDir": {}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "tolerations": [{"key": "ray", "operator": "Exists"}],
                "nodeSelector": {"pool": "ray", "arch": "any"},
                "podSpec": {"schedulerName": "kai-scheduler"},
            },
            "worker": {
                "volumes": [own],
                "nodeSelector": {"arch": "arm64"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
            },
        }
    ).cluster
    head = cluster["headGroupSpec"]["template"]["spec"]
    worker = cluster["workerGroupSpecs"][0]["template"]["spec"]
    assert [one["name"] for one in head["volumes"]] == ["data", "log-volume"]
    assert worker["volumes"] == [{"name": "data", "emptyDir": {}}, own]
    for pod in (head, worker):
        assert {"name": "data", "mountPath": "/data"} in pod["containers"][0]["volumeMounts"]
        assert pod["schedulerName"] == "kai-scheduler"
    assert head["nodeSelector"] == {"pool": "ray", "arch": "any"}
    assert worker["nodeSelector"] == {"pool": "ray", "arch": "arm64"}
    assert [one["key"] for one in worker["tolerations"]] == ["ray", "gpu"]


def test_extra_objects_are_templates_as_maps_and_as_text(helm):
    as_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-a"}}
    as_text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-b\n"
    objects = helm.template({"extraObjects": [as_map, as_text]}, release="mine")
    assert [one["metadata"]["name"] for one in objects.kind("ConfigMap")] == ["mine-a", "mine-b"]


def test_an_ingress_host_has_a_path_or_several(helm):
    hosts = [
        {"host": "one", "path": "/x"},
        {"host": "more", "paths": [{"path": "/a", "pathType": "Exact"}, "/b"]},
    ]
    rules = helm.template({"ingress": {"enabled": True, "hosts": hosts}}).one("Ingress")["spec"]["rules"]
    found = {rule["host"]: [(one["path"], one["pathType"]) for one in rule["http"]["paths"]] for rule in rules}
    assert found == {"one": [("/x", "Prefix")], "more": [("/a", "Exact"), ("/b", "Prefix")]}


def test_groups_of_parts_of_a_gpu_begin_at_none(helm):
    worker = {"resources": {"limits": {"nvidia.com/mig-1g.5gb": 1}}}
    (group,) = helm.template({"worker": worker, "head": {"enableInTreeAutoscaling": True}}).cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)


def test_documents_beside_the_cluster_stay_what_they_are_though_the_chart_renders_templates(helm):
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "{{ lookup }} {{x}}"}}
    cluster = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "mine"},
        "spec": {"headGroupSpec": {"template": {"spec": GROUP}}},
    }
    items = {"apiVersion": "v1", "kind": "List", "items": [cluster, other]}
    values, _ = read_manifest(items).to_values((1, 6, 1))
    assert helm.template(values).one("ConfigMap")["data"] == other["data"]
